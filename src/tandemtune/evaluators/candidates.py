"""Candidates that know what they were made of, so that a few numbers can stand for them where they are sent somewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.subspace import RandomProjection
from tandemtune.tunables.base import Point


@dataclass(frozen=True)
class Short:
    """What candidates in random subspaces are made of.

    Args:
        z: short vectors [P', d], float32.
        projections: block -> its subspace.
        origin: the point that z = 0 stands for.
        incumbent: whether one more candidate stands behind these, which is the incumbent itself.
    """

    z: NDArray[Any]
    projections: Mapping[int, RandomProjection]
    origin: Point
    incumbent: bool = False

    def __len__(self) -> int:
        return len(self.z) + self.incumbent

    def vectors(
        self, point: Point, matrices: Mapping[int, Sequence[NDArray[np.float32]]] | None = None
    ) -> dict[int, Tensor]:
        """The candidates: block -> vectors [P, dim].

        Args:
            point: the incumbent.
            matrices: of each block's projection, where they have been drawn already.
        """
        found = {}
        for block, projection in self.projections.items():
            moved = projection.up(self.z, (matrices or {}).get(block, ()))
            made = self.origin[block].to(moved.device) + moved
            found[block] = torch.cat([made, point[block].to(moved.device).unsqueeze(0)]) if self.incumbent else made
        return found

    def rows(self, first: int, stop: int) -> Short:
        """Some of the candidates, one after another."""
        return replace(self, z=self.z[first:stop], incumbent=self.incumbent and stop > len(self.z))

    def picked(self, rows: Sequence[int]) -> Short:
        """Some of the candidates, in any order; the incumbent, if it is one of them, as the last."""
        own = [row for row in rows if row < len(self.z)]
        return replace(self, z=self.z[own], incumbent=len(own) < len(rows))


class Candidates(dict[int, Tensor]):
    """Candidates as an evaluator takes them: block -> vectors [P, dim].

    Args:
        vectors: by block.
        short: what they were made of.
    """

    def __init__(self, vectors: Mapping[int, Tensor], short: Short) -> None:
        super().__init__(vectors)
        self.short = short


def count_of(candidates: Mapping[int, Tensor]) -> int:
    """How many there are."""
    return len(next(iter(candidates.values())))


def rows_of(candidates: Mapping[int, Tensor], first: int, stop: int) -> Mapping[int, Tensor]:
    """Some of the candidates, one after another."""
    some = {block: vectors[first:stop] for block, vectors in candidates.items()}
    return Candidates(some, candidates.short.rows(first, stop)) if isinstance(candidates, Candidates) else some


def picked(candidates: Mapping[int, Tensor], rows: Sequence[int]) -> Mapping[int, Tensor]:
    """Some of the candidates, in any order; an incumbent that stands behind them, if it is wanted, as the last."""
    some = {block: vectors[list(rows)] for block, vectors in candidates.items()}
    return Candidates(some, candidates.short.picked(rows)) if isinstance(candidates, Candidates) else some


def with_incumbent(candidates: Mapping[int, Tensor], point: Point) -> Mapping[int, Tensor]:
    """The candidates, and the incumbent as one more of them."""
    here = {block: point[block].to(vectors.device).unsqueeze(0) for block, vectors in candidates.items()}
    more = {block: torch.cat([vectors, here[block]]) for block, vectors in candidates.items()}
    return Candidates(more, replace(candidates.short, incumbent=True)) if isinstance(candidates, Candidates) else more
