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
        answering: further settings by how a task is answered, see `ANSWERS`; they lie above the others.
    """

    name: str
    summary: str
    source: str
    settings: dict[str, dict[str, Any]]
    answering: dict[str, dict[str, Any]]

    def settings_for(self, answers: str) -> dict[str, dict[str, Any]]:
        """Sections of a recipe for a task that is answered in one of the ways of `ANSWERS`."""
        return _over(self.settings, {k: v for k, v in self.answering.get(answers, {}).items() if isinstance(v, dict)})

    def without_gradients(self, answers: str) -> str | None:
        """The method whose parts are taken where a backward pass does not fit; None where nothing is said of that."""
        return self.answering.get(answers, {}).get(_WITHOUT)


ANSWERS = ("words", "whole", "reward")
"""How a task is answered: by label words, by whole answers (choices, or texts with references), or by texts that only a reward
judges. A method's file has a table for each in which it differs."""
_WITHOUT = "without_gradients"


def _read(path: Path) -> Method:
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    tables = {key: value for key, value in found.items() if isinstance(value, dict)}
    answering = {kind: tables.pop(kind) for kind in ANSWERS if kind in tables}
    return Method(path.stem, found["summary"], found["source"], tables, answering)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables with others laid over them."""
    both = {
        key: _over(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return {**below, **above, **both}


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
