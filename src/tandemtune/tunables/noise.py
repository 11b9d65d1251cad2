"""Noise for weights that is never kept: a function of a seed and a number, made again in pieces wherever it is needed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

NoiseKind = Literal["gaussian", "low-rank"]
PIECE = 1 << 16
"""Entries that are made at once."""


@dataclass(frozen=True)
class Noise:
    """Directions in the space of all weights; every entry has mean 0 and variance 1.

    The numbers are drawn on the CPU whatever the model lies on, in pieces of whole rows, so that a direction is the same to
    the bit however it is used.

    Args:
        seed: of all directions.
        rank: r of the matrices that are made as U V^T / sqrt(r).
        lazy: groups of directions over which V stays, while U is drawn for each (LOZO, arXiv 2410.07698).
        group: directions in a group.
    """

    seed: int
    rank: int = 1
    lazy: int = 1
    group: int = 1

    def add(self, target: Tensor, coefficient: float, direction: int, index: int, factored: bool) -> None:
        """Add a direction to a weight, in place, with no more memory than one piece.

        Args:
            target: float32 weight of any shape and layout.
            coefficient: how much of it.
            direction: number of the direction.
            index: number of the weight.
            factored: make it as U V^T / sqrt(r); needs a matrix.
        """
        rows = target if target.ndim else target.view(1)
        for where, piece in self.pieces(rows.shape, direction, index, factored):
            rows[where] += piece.mul_(coefficient).to(target.device)

    def whole(self, shape: Sequence[int], direction: int, index: int, factored: bool) -> Tensor:
        """A direction's part for one weight, as it is added."""
        noise = torch.zeros(tuple(shape))
        self.add(noise, 1.0, direction, index, factored)
        return noise

    def pieces(
        self, shape: Sequence[int], direction: int, index: int, factored: bool
    ) -> Iterator[tuple[slice, Tensor]]:
        """A direction's part for one weight, piece by piece.

        Args:
            shape: shape of the weight, one dimension at least.
            direction: number of the direction.
            index: number of the weight.
            factored: make it as U V^T / sqrt(r); needs a matrix.

        Yields:
            Rows, and the noise for them [rows, ...]; a fresh tensor each time.
        """
        at_once = max(1, PIECE // max(1, math.prod(shape[1:])))
        cuts = [slice(first, min(first + at_once, shape[0])) for first in range(0, shape[0], at_once)]
        if not factored:
            stream = self._stream(direction, index)
            for where in cuts:
                yield where, torch.empty(where.stop - where.start, *shape[1:]).normal_(generator=stream)
            return
        u, v = self.factors(shape, direction, index)
        for where in cuts:
            piece = u[where, :1] * v[:, 0]
            for k in range(1, self.rank):
                piece.addcmul_(u[where, k : k + 1], v[:, k])
            yield where, piece

    def factors(self, shape: Sequence[int], direction: int, index: int) -> tuple[Tensor, Tensor]:
        """What a factored direction of one matrix is made of (arXiv 2511.16652; with V of an earlier group where it is lazy).

        Returns:
            U / sqrt(r) [rows, r] and V [columns, r].
        """
        stream = self._stream(direction, index)
        u, v = (torch.empty(size, self.rank).normal_(generator=stream) for size in shape)
        if self.lazy > 1:
            first = direction - direction // self.group % self.lazy * self.group
            v.normal_(generator=self._stream(first, index, 1))
        return u.div_(math.sqrt(self.rank)), v

    def _stream(self, direction: int, index: int, *more: int) -> torch.Generator:
        (state,) = np.random.SeedSequence([self.seed, direction, index, *more]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state >> np.uint64(1)))
