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
    "c-lora": MethodRow(
        summary="LoRA on query and key, searched with forward passes only",
        tunable="LoRA",
        optimizer="CMA-ES, one for each layer",
        order="layers in turn",
        source="arXiv 2403.01754",
    ),
    "lora": MethodRow(
        summary="LoRA on query and key, trained",
        tunable="LoRA",
        optimizer="AdamW",
        order="one phase",
        source="arXiv 2106.09685",
        settings={"method": {"optimizer": "adamw", "steps": 60, "layers": "all"}},
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
}
