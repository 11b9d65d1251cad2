"""Models of the papers' sizes with random weights, made on the device that they are measured on, and rows of one length.

Speed and memory do not depend on the weights, so nothing is downloaded: a configuration, a tokenizer of whole words, and rows
of random words go into a folder, and the model is handed over beside it.
"""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tandemtune import autotune
from tandemtune.config import RunConfig, load_config
from tandemtune.models import load as loading
from tandemtune.models.backbone import Kind
from tandemtune.problem import Problem
from tandemtune.testing.tiny import WORDS, word_tokenizer

TEMPLATES: dict[str, str] = {"masked": "{text} it was {mask} .", "causal": "{text} it was {mask}"}
AROUND: dict[str, int] = {"masked": 6, "causal": 2}
"""Tokens of a prompt beside its text."""
LABELS = {"negative": "terrible", "positive": "great"}
DTYPES = {"float32": torch.float32, "float16": torch.float16}
"""Formats of weights; those that are not named are held in bfloat16."""


@dataclass(frozen=True)
class Shape:
    """A model by its configuration.

    Args:
        name: what tables call it.
        kind: "masked" or "causal".
        config: class of the configuration in `transformers`.
        options: what is given to it.
        small: the same for a run with tiny shapes.
    """

    name: str
    kind: Kind
    config: str
    options: Mapping[str, Any]
    small: Mapping[str, Any] = field(default_factory=dict)

    def tiny(self) -> Shape:
        """The same architecture, small enough for a processor."""
        return replace(self, options={**self.options, **self.small})


_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
ROBERTA_LARGE = Shape(
    "RoBERTa-large",
    "masked",
    "RobertaConfig",
    {
        "vocab_size": 50265,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        **_IDS,
    },
    _TINY,
)
GPT2_XL = Shape(
    "GPT2-XL",
    "causal",
    "GPT2Config",
    {"n_embd": 1600, "n_layer": 48, "n_head": 25, "bos_token_id": 2, "eos_token_id": 3},
    {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 64},
)
LLAMA_7B = Shape(
    "7B-shaped Llama",
    "causal",
    "LlamaConfig",
    {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        **_IDS,
    },
    _TINY,
)


@dataclass(frozen=True)
class Setting:
    """A model with rows.

    Args:
        shape: the model.
        dtype: number format as recipes name it.
        length: tokens of every prompt; (shortest, longest) for rows of many lengths.
        popsize: candidates in one generation.
        shots: rows of each of two labels.
        budget: candidates of a search.
        device: where the model lies.
        model: further settings of ``[model]``.
        run: settings of ``[run]``.
    """

    shape: Shape
    dtype: str = "bfloat16"
    length: int | tuple[int, int] = 47
    popsize: int = 20
    shots: int = 16
    budget: int = 2000
    device: str = "cuda"
    model: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, folder: Path) -> RunConfig:
        """The recipe over files that `written` has put into a folder."""
        longest = self.length if isinstance(self.length, int) else self.length[1]
        return load_config(
            {
                "model": {
                    "name": str(folder),
                    "kind": self.shape.kind,
                    "dtype": self.dtype,
                    "device": self.device,
                    **self.model,
                },
                "task": {
                    "name": "random-words",
                    "train": str(folder / "train.jsonl"),
                    "template": TEMPLATES[self.shape.kind],
                    "labels": LABELS,
                    "shots": self.shots,
                    "max_tokens": longest,
                },
                "method": {"budget": self.budget, "popsize": self.popsize, "layers": "all", "r": 2},
                "run": {**self.run},
            }
        )


def written(setting: Setting, folder: Path, seed: int = 0) -> Path:
    """Write configuration, tokenizer and rows of a setting; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _config(setting.shape).save_pretrained(folder)
    word_tokenizer(setting.shape.kind).save_pretrained(folder)
    lines = [json.dumps(row) + "\n" for row in _rows(setting, seed)]
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def made(setting: Setting, seed: int = 0) -> Any:
    """The model with random weights, made where it will lie."""
    import transformers

    auto = {"masked": transformers.AutoModelForMaskedLM, "causal": transformers.AutoModelForCausalLM}[
        setting.shape.kind
    ]
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(DTYPES.get(setting.dtype, torch.bfloat16))
    try:
        with torch.device(setting.device):
            model = auto.from_config(_config(setting.shape))
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def hand_over(setting: Setting, folder: Path, model: Any) -> RunConfig:
    """Have the next run of the setting's recipe take this model; returns the recipe."""
    loading.put(str(folder), setting.shape.kind, setting.dtype, model, word_tokenizer(setting.shape.kind))
    return setting.recipe(folder)


def built(setting: Setting, folder: Path, model: Any) -> Problem:
    """What a run of a setting begins with, all measured choices included."""
    return autotune.build(hand_over(setting, written(setting, folder), model), test=False)


def free() -> None:
    """Let go of a device's memory that nothing uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _config(shape: Shape) -> Any:
    import transformers

    found = getattr(transformers, shape.config)(**shape.options)
    named = {"masked": "ForMaskedLM", "causal": "LMHeadModel" if shape.config == "GPT2Config" else "ForCausalLM"}
    found.architectures = [shape.config.removesuffix("Config") + named[shape.kind]]
    return found


def _rows(setting: Setting, seed: int) -> Sequence[Mapping[str, str]]:
    """Rows for training and dev, of random words."""
    source = random.Random(seed)
    bounds = (setting.length, setting.length) if isinstance(setting.length, int) else setting.length
    around = AROUND[setting.shape.kind]
    found: dict[str, str] = {}
    while len(found) < 4 * setting.shots:
        words = source.choices(WORDS, k=source.randint(*bounds) - around)
        found.setdefault(" ".join(words), list(LABELS)[len(found) % 2])
    return [{"text": text, "label": label} for text, label in found.items()]
