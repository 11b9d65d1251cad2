"""Named methods: one TOML file each, data and no code. A method's settings lie under those that a recipe gives itself."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Method:
    """A named method.

    Args:
        name: the file's name.
        summary: one line for lists.
        source: the paper.
        settings: sections of a recipe.
        without_gradients: the method whose parts are taken where a backward pass does not fit.
    """

    name: str
    summary: str
    source: str
    settings: dict[str, dict[str, Any]]
    without_gradients: str | None = None


def _read(path: Path) -> Method:
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    settings = {key: value for key, value in found.items() if isinstance(value, dict)}
    return Method(path.stem, found["summary"], found["source"], settings, found.get("without_gradients"))


WHERE_NOTHING_IS_SAID = "auto"
"""What is done where a recipe says nothing of a method."""
DEFAULT = "c-lora"
"""What a recipe changes that has settings of a method, but names none."""
_ORDER = [
    "auto",
    "manual",
    "icl",
    "label-bias",
    "readout",
    "c-lora",
    "c-lora-calibrated",
    "f-lora",
    "mezo",
    "mezo-gv",
    "lozo",
    "fzoo",
    "es",
    "es-lora",
    "random-search",
    "lora",
    "bitfit",
    "adapter",
    "full",
    "prompt-tuning",
    "p-tuning-v2",
    "bbt",
    "bbtv2",
    "gap3",
    "maao",
    "maao-race",
    "opro",
    "tandem",
]
_FOUND = {path.stem: _read(path) for path in sorted(Path(__file__).parent.glob("*.toml"))}
METHODS: dict[str, Method] = {name: _FOUND[name] for name in sorted(_FOUND, key=lambda n: [*_ORDER, n].index(n))}
