"""A control of a mentor that is told the trajectory: what was tried stays, and losses and scores change hands among the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from tandemtune.plugins import register
from tandemtune.proposers.base import Asked, Draft, Proposal, Source, TriedWords
from tandemtune.proposers.mentored import MentorProposer
from tandemtune.tunables.base import Point


class Permuted:
    """A mentor that is told wrong losses.

    Args:
        mentor: who is asked.
        seed: of the run.
    """

    def __init__(self, mentor: Any, seed: int) -> None:
        self._mentor, self._seed = mentor, seed

    def look(self, point: Point) -> None:
        """See how the tuned model does where the search stands, as the mentor does."""
        self._mentor.look(point)

    def propose(self, round: int, tried: Sequence[TriedWords], known: Sequence[TriedWords]) -> Proposal:
        """What the mentor proposes after a permuted trajectory, worst first by what it is told."""
        order = np.random.default_rng([self._seed, round, 3]).permutation(len(tried)).tolist()
        told = [
            replace(entry, loss=tried[other].loss, score=tried[other].score, trained=tried[other].trained)
            for entry, other in zip(tried, order, strict=True)
        ]
        proposal: Proposal = self._mentor.propose(round, sorted(told, key=lambda entry: -entry.loss), known)
        return proposal

    def vector(self, draft: Draft, incumbent: Tensor) -> Tensor:
        """The embeddings of the draft's tokens."""
        found: Tensor = self._mentor.vector(draft, incumbent)
        return found


@register
class PermutedLosses(MentorProposer):
    """The mentor of ``[mentor]``, told permuted losses."""

    kind: ClassVar[str] = "permuted-losses"
    summary: ClassVar[str] = "a language model that is told a trajectory with permuted losses"

    @contextmanager
    def open(self, asked: Asked) -> Iterator[Source]:
        """Connect to the mentor, and stand between."""
        with super().open(asked) as mentor:
            yield Permuted(mentor, asked.seed)
