"""The interface of everything that can be tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tandemtune.types import Encoded

INPUT = -1
"""The block of the input embeddings, below layer 0."""

Point = Mapping[int, Tensor]
"""One setting of a tunable: block -> float32 vector [dim], or [P, dim] where P candidates differ in that block."""


class Layerwise:
    """Base of tunables whose blocks are layers (and, for prompts, `INPUT`): what a block changes, only its layer and those
    above it see."""

    blocks: tuple[int, ...]

    def reserve(self, prompt: Encoded) -> Encoded:
        """The prompt as it is."""
        return prompt

    def first_layer(self, blocks: Sequence[int]) -> int:
        """The lowest block; `INPUT` is before the first layer."""
        return min(blocks)

    def same_below(self, layer: int, one: Point, other: Point) -> bool:
        """Hidden states entering a layer depend on the blocks below it only."""
        return all(torch.equal(one[block], other[block]) for block in self.blocks if block < layer)


class Tunable(Protocol):
    """Parameters that live beside an unmodified model, cut into blocks (usually one block a layer)."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks in the order in which the model meets them."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the matrices' groups, for example the projections that LoRA is put on."""
        ...

    @property
    def side_by_side(self) -> bool:
        """Whether several candidates can be applied at once, as equal parts of one batch."""
        ...

    @property
    def token_wise(self) -> bool:
        """Whether it does the same to every token, wherever that stands, so that prompts may lie end to end in one row."""
        ...

    def shapes(self, block: int) -> Sequence[tuple[int, int]]:
        """Matrices that the block's flat vector is made of, in order."""
        ...

    def dim(self, block: int) -> int:
        """Length of the block's flat vector."""
        ...

    def initial(self) -> dict[int, Tensor]:
        """The point that a search begins with."""
        ...

    def reserve(self, prompt: Encoded) -> Encoded:
        """The prompt with room for what the tunable puts into it."""
        ...

    def applied(self, point: Point) -> AbstractContextManager[None]:
        """Make the model behave as `point` says until the context ends.

        Where a block holds [P, dim], the model's batch must hold P equal parts, candidate by candidate.
        """
        ...

    def first_layer(self, blocks: Sequence[int]) -> int:
        """The lowest layer whose output depends on any of the blocks, so that hidden states entering it stay valid; `INPUT`
        if the input embeddings change."""
        ...

    def same_below(self, layer: int, one: Point, other: Point) -> bool:
        """Whether two points give the same hidden states entering `layer`."""
        ...

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write the point as an artefact that other tools can read."""
        ...

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Read a point that `save` wrote."""
        ...

    def describe(self) -> dict[str, Any]:
        """Sizes to show and to record."""
        ...
