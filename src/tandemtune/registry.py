"""Names that a recipe may use, and what they stand for. Importing this costs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MethodRow:
    """One tuning method: what is tuned, who tunes it, in what order.

    Args:
        summary: one line for lists.
        tunable: what may change.
        optimizer: who searches.
        order: how blocks take turns.
        source: the paper.
        settings: what the name sets in a recipe, by section and key; a recipe's own settings come first.
    """

    summary: str
    tunable: str
    optimizer: str
    order: str
    source: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_PROMPT = {"tunable": "prompt", "optimizer": "adamw", "steps": 60}
METHODS: dict[str, MethodRow] = {
    "manual": MethodRow(
        summary="template and label words as they are",
        tunable="nothing",
        optimizer="nobody",
        order="-",
        source="arXiv 2001.07676",
        settings={"method": {"tunable": "none", "optimizer": "none"}},
    ),
    "icl": MethodRow(
        summary="solved training rows before the text",
        tunable="nothing (demonstrations)",
        optimizer="nobody",
        order="-",
        source="arXiv 2005.14165",
        settings={"method": {"tunable": "demonstrations", "optimizer": "none"}},
    ),
    "c-lora": MethodRow(
        summary="LoRA on query and key, searched with forward passes only",
        tunable="LoRA",
        optimizer="CMA-ES, one for each layer",
        order="layers in turn",
        source="arXiv 2403.01754",
    ),
    "c-lora-calibrated": MethodRow(
        summary="C-LoRA on losses after contextual calibration, where dev says that these begin lower",
        tunable="LoRA",
        optimizer="CMA-ES, one for each layer",
        order="layers in turn",
        source="this project",
        settings={"method": {"calibrate": "auto"}},
    ),
    "f-lora": MethodRow(
        summary="LoRA on query and key, searched with forward passes only",
        tunable="LoRA",
        optimizer="fireworks, one swarm for each layer",
        order="layers in turn",
        source="arXiv 2403.01754",
        settings={"method": {"optimizer": "fireworks"}},
    ),
    "mezo": MethodRow(
        summary="steps along differences of two losses; tunable full needs no more memory than the model",
        tunable="LoRA (or full weights)",
        optimizer="SPSA",
        order="one phase",
        source="arXiv 2305.17333",
        settings={
            "method": {
                "layers": "all",
                "optimizer": "spsa",
                "order": "together",
                "subspace": "none",
                "popsize": 2,
                "sigma": 1e-3,
            }
        },
    ),
    "es": MethodRow(
        summary="steps along noise, weighted by the ranks of its losses",
        tunable="LoRA (or full weights)",
        optimizer="evolution strategy, antithetic",
        order="one phase",
        source="arXiv 1703.03864",
        settings={
            "method": {
                "layers": "all",
                "optimizer": "es",
                "order": "together",
                "subspace": "none",
                "sigma": 0.02,
            }
        },
    ),
    "random-search": MethodRow(
        summary="random steps around the best point: what any search has to beat",
        tunable="LoRA",
        optimizer="random search, one for each layer",
        order="layers in turn",
        source="Rastrigin 1963",
        settings={"method": {"optimizer": "random"}},
    ),
    "lora": MethodRow(
        summary="LoRA on query and key, trained",
        tunable="LoRA",
        optimizer="AdamW",
        order="one phase",
        source="arXiv 2106.09685",
        settings={"method": {"optimizer": "adamw", "steps": 60, "layers": "all"}},
    ),
    "bitfit": MethodRow(
        summary="biases alone, trained (new ones where a model has none)",
        tunable="biases",
        optimizer="AdamW",
        order="one phase",
        source="arXiv 2106.10199",
        settings={"method": {"tunable": "bias", "optimizer": "adamw", "steps": 60, "layers": "all"}},
    ),
    "adapter": MethodRow(
        summary="a bottleneck behind every layer, trained",
        tunable="bottleneck adapters",
        optimizer="AdamW",
        order="one phase",
        source="arXiv 1902.00751",
        settings={"method": {"tunable": "adapter", "optimizer": "adamw", "steps": 60, "layers": "all"}},
    ),
    "full": MethodRow(
        summary="all weights, trained",
        tunable="all weights",
        optimizer="AdamW",
        order="one phase",
        source="arXiv 1810.04805",
        settings={"method": {"tunable": "full", "optimizer": "adamw", "steps": 60, "layers": "all"}},
    ),
    "prompt-tuning": MethodRow(
        summary="vectors before the text, trained",
        tunable="soft prompt, input layer",
        optimizer="AdamW",
        order="one phase",
        source="arXiv 2104.08691",
        settings={"method": _PROMPT},
    ),
    "p-tuning-v2": MethodRow(
        summary="vectors before the text at every layer, trained",
        tunable="soft prompt, every layer",
        optimizer="AdamW",
        order="one phase",
        source="arXiv 2110.07602",
        settings={"method": {**_PROMPT, "tunable": "deep-prompt", "layers": "all"}},
    ),
    "bbt": MethodRow(
        summary="vectors before the text, searched with forward passes only",
        tunable="soft prompt, input layer",
        optimizer="CMA-ES in a random subspace",
        order="one phase",
        source="arXiv 2201.03514",
        settings={"method": {"tunable": "prompt", "alpha": 1.0}},
    ),
    "bbtv2": MethodRow(
        summary="vectors before the text at every layer, searched with forward passes only",
        tunable="soft prompt, every layer",
        optimizer="CMA-ES, one for each layer",
        order="layers in turn",
        source="arXiv 2205.11200",
        settings={"method": {"tunable": "deep-prompt", "layers": "all", "alpha": 1.0}},
    ),
    "gap3": MethodRow(
        summary="prompts of words that cross and mutate; the model itself names likely words",
        tunable="text prompt",
        optimizer="genetic",
        order="one phase",
        source="IJCAI 2023 (GAP3)",
        settings={"method": {"tunable": "text", "optimizer": "genetic"}},
    ),
    "maao": MethodRow(
        summary="a trained prompt and a language model that proposes where to go on, in turns",
        tunable="soft prompt, input layer",
        optimizer="AdamW <-> LLM mentor",
        order="alternating rounds",
        source="arXiv 2405.19732",
        settings={"method": _PROMPT, "alternate": {"rounds": 3, "accept": "always"}},
    ),
    "opro": MethodRow(
        summary="a language model alone proposes prompts of words; the best is kept",
        tunable="text prompt",
        optimizer="LLM mentor",
        order="one phase",
        source="arXiv 2309.03409",
        settings={"method": _PROMPT, "alternate": {"rounds": 10, "round_steps": 0, "final_steps": 0}},
    ),
    "tandem": MethodRow(
        summary="LoRA is searched with forward passes only while a language model proposes the text before the rows",
        tunable="LoRA + text prompt",
        optimizer="CMA-ES (or fireworks) <-> LLM mentor",
        order="alternating rounds",
        source="this project",
        settings={
            "method": {"tunable": "lora+prompt"},
            "alternate": {"rounds": 3, "round_steps": 20, "final_steps": 40, "snapshots": 2},
        },
    ),
}
