"""Nothing to tune: the pretrained model with its template, as a tunable without blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from tandemtune.errors import RunError
from tandemtune.optimizers.base import Uses
from tandemtune.plugins import register
from tandemtune.tunables.base import INPUT, Given, Parameters, Point, Tunable
from tandemtune.types import Encoded

FILE = "untouched.json"


class Identity(Parameters):
    """The model as it is."""

    blocks: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    side_by_side = True
    token_wise = True

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """There is no block."""
        raise KeyError(block)

    def dim(self, block: int) -> int:
        """There is no block."""
        raise KeyError(block)

    def initial(self) -> dict[int, Tensor]:
        """No parameters."""
        return {}

    def reserve(self, prompt: Encoded) -> Encoded:
        """The prompt as it is."""
        return prompt

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Change nothing."""
        yield

    def first_layer(self, blocks: Sequence[int]) -> int:
        """Before all layers."""
        return INPUT

    def same_below(self, layer: int, one: Point, other: Point) -> bool:
        """All points are one."""
        return True

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write the name of the model."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps({"base_model": base_model}, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Nothing to read.

        Raises:
            RunError: the folder holds something else.
        """
        if not (folder / FILE).is_file():
            raise RunError(f"{folder} holds no {FILE}: it was made by a method that tunes something")
        return {}

    def describe(self) -> dict[str, Any]:
        """No layers, no parameters."""
        return {"layers": [], "parameters": 0}


@register
class Nothing(Tunable):
    """Template and label words as they are."""

    kind: ClassVar[str] = "none"
    summary: ClassVar[str] = "the model as it is"
    source: ClassVar[str] = "arXiv 2001.07676"
    card: ClassVar[str] = "A template"
    searched_by: ClassVar[frozenset[Uses]] = frozenset({"none"})
    untouched: ClassVar[bool] = True

    def make(self, given: Given) -> Identity:
        """No parameters."""
        return Identity()
