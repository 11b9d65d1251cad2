"""A point as it was when something was computed with it, to be asked later whether that still holds."""

from __future__ import annotations

from torch import Tensor

from tandemtune.tunables.base import Point


class Past:
    """A point as it was; vectors of its blocks may be changed in place afterwards.

    Args:
        point: the point.
    """

    def __init__(self, point: Point) -> None:
        self._copies = {block: vector.clone() for block, vector in point.items()}
        self._vectors = {block: (vector, _version(vector)) for block, vector in point.items()}

    def beside(self, point: Point) -> Point:
        """The point as it was, to be compared with another one: of vectors that are in both, and as they were, the same tensors."""
        found = dict(self._copies)
        for block, (vector, version) in self._vectors.items():
            if version is not None and point.get(block) is vector and vector._version == version:
                found[block] = vector
        return found


def _version(vector: Tensor) -> int | None:
    """How often a tensor has been changed in place; None where nobody counts."""
    return None if vector.is_inference() else vector._version
