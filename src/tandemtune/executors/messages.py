"""What is sent to a worker, without what it knows already: short vectors in place of parameters, blocks that have changed in place of
whole points, and of long vectors the numbers that differ from the incumbent's.

Everything arrives as it was, to the bit.
"""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.evaluators.candidates import Candidates, Short
from tandemtune.subspace import RandomProjection
from tandemtune.tunables.base import Point

POINT, ORIGIN, PROJECTION = "point", "origin", "projection"
PAIR = 8
"""Bytes of one number that is sent with its place; one of a whole vector has half as many."""


@dataclass(frozen=True)
class Request:
    """A shard that is to be scored.

    Args:
        point: the incumbent.
        candidates: of the shard.
        generation: as in `Evaluator.evaluate`.
        work: about what it costs, in any unit.
        stretch: number of the search that it belongs to, from 0, in a run of several.
    """

    point: Point
    candidates: Mapping[int, Tensor]
    generation: int | None
    work: float = 1.0
    stretch: int = 0


Named = Mapping[Hashable, tuple[int, Any]]
"""Values under names, each with the number of its last change."""


class Catalogue:
    """Values that workers are told once, under names, and again when they have changed."""

    def __init__(self) -> None:
        self._values: dict[Hashable, tuple[int, Any]] = {}

    def of(self, request: Request) -> Named:
        """What a request needs to be known."""
        values: dict[Hashable, Any] = {(POINT, block): vector for block, vector in request.point.items()}
        if isinstance(request.candidates, Candidates):
            short = request.candidates.short
            values |= {(ORIGIN, block): short.origin[block] for block in short.projections}
            values |= {(PROJECTION, block): projection for block, projection in short.projections.items()}
        for name, value in values.items():
            number, before = self._values.get(name, (0, None))
            if before is None or not _same(before, value):
                kept = value.clone() if isinstance(value, Tensor) else value
                self._values[name] = number + 1, kept
        return {name: self._values[name] for name in values}


class Told:
    """What one worker has been told."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def message(self, request: Request, needed: Named) -> bytes:
        """A request as bytes, with what the worker does not know yet.

        Args:
            request: a shard.
            needed: what the catalogue says of it, or of another shard of the same generation.
        """
        new = {name: value for name, (number, value) in needed.items() if self._numbers.get(name) != number}
        self._numbers |= {name: number for name, (number, _) in needed.items()}
        plain = {name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in new.items()}
        return pickle.dumps((plain, _made(request), request.generation, request.stretch), protocol=5)


def _made(request: Request) -> _Made:
    candidates = request.candidates
    if isinstance(candidates, Candidates):
        short = candidates.short
        return _Projected(tuple(short.projections), short.z, short.incumbent)
    return _Written({block: _encoded(vectors, request.point[block]) for block, vectors in candidates.items()})


class Memory:
    """What a worker has been told, from its own side."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}

    def request(self, message: bytes) -> Request:
        """A request out of what `Told.message` made."""
        new, how, generation, stretch = pickle.loads(message)
        for name, value in new.items():
            self._known[name] = torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        point = {name[1]: value for name, value in self._known.items() if name[0] == POINT}  # type: ignore[index]
        return Request(point, how.vectors(self._known, point), generation, stretch=stretch)


class _Made(Protocol):
    """What vectors are made of."""

    def vectors(self, known: Mapping[Hashable, Any], point: Point) -> dict[int, Tensor]:
        """They by block [P, dim]."""
        ...


@dataclass(frozen=True)
class _Projected:
    """Short vectors z of blocks in random subspaces, and whether the incumbent is one more candidate."""

    blocks: tuple[int, ...]
    z: NDArray[np.float32]
    incumbent: bool

    def vectors(self, known: Mapping[Hashable, Any], point: Point) -> dict[int, Tensor]:
        projections: dict[int, RandomProjection] = {block: known[PROJECTION, block] for block in self.blocks}
        origin = {block: known[ORIGIN, block] for block in self.blocks}
        return Short(self.z, projections, origin, self.incumbent).vectors(point)


@dataclass(frozen=True)
class _Written:
    """Vectors of each block, whole or by their differences."""

    blocks: Mapping[int, NDArray[np.float32] | _Differences]

    def vectors(self, known: Mapping[Hashable, Any], point: Point) -> dict[int, Tensor]:
        return {
            block: found.applied(point[block]) if isinstance(found, _Differences) else torch.from_numpy(found.copy())
            for block, found in self.blocks.items()
        }


@dataclass(frozen=True)
class _Differences:
    """Vectors [P, dim] that differ from one vector in some places only: the place of each number in all of them, and the number."""

    count: int
    places: NDArray[np.uint32]
    numbers: NDArray[np.float32]

    def applied(self, vector: Tensor) -> Tensor:
        found = vector.repeat(self.count, 1)
        found.view(-1)[torch.from_numpy(self.places.astype(np.int64))] = torch.from_numpy(self.numbers.copy())
        return found


def _encoded(vectors: Tensor, vector: Tensor) -> NDArray[np.float32] | _Differences:
    """Vectors [P, dim] in as few bytes as they take beside a vector that is known [dim]."""
    whole = vectors.detach().cpu().float().contiguous()
    differ = (_bits(whole) != _bits(vector)).view(-1)
    places = differ.nonzero().squeeze(1)
    if PAIR * len(places) >= 4 * whole.numel() or whole.numel() >= 2**32:
        return np.asarray(whole.numpy())
    return _Differences(len(whole), places.numpy().astype(np.uint32), whole.view(-1)[places].numpy())


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same, to the bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(_bits(one), _bits(other))
    return bool(one == other)


def _bits(vector: Tensor) -> Tensor:
    return vector.detach().cpu().float().contiguous().view(torch.int32)
