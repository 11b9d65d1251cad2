"""What a worker does: it makes the run's evaluator once, and scores shards."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandemtune.errors import RunError
from tandemtune.executors.base import Elsewhere, scored
from tandemtune.executors.messages import Memory
from tandemtune.system import versions


@dataclass(frozen=True)
class Answer:
    """What a worker says of a shard.

    Args:
        losses: of its candidates [P].
        wrote: tokens that they wrote.
        seconds: that it took there.
    """

    losses: NDArray[np.float64]
    wrote: int
    seconds: float


class Worker:
    """One copy of a run's model.

    Args:
        wanted: versions of the run's process.
        elsewhere: an `Elsewhere` as bytes.

    Raises:
        RunError: this process has other versions, weights, rows or code than the run.
    """

    def __init__(self, wanted: dict[str, str], elsewhere: bytes) -> None:
        own = versions()  # before anything is read that other versions may have written in another way
        other = [
            f"{name} {wanted[name]} there, {own.get(name, 'none')} here"
            for name in wanted
            if own.get(name) != wanted[name]
        ]
        if other:
            raise RunError(f"other versions than those of the run: {', '.join(other)}")
        made: Elsewhere = pickle.loads(elsewhere)
        self._evaluators = made.evaluators()
        self._memory = Memory()

    def score(self, message: bytes) -> tuple[bytes, int, float]:
        """Score a shard.

        Args:
            message: what `Told.message` made.

        Returns:
            An `Answer`, as plain numbers.
        """
        begin = time.perf_counter()
        request = self._memory.request(message)
        losses, wrote = scored(self._evaluators[request.stretch], request.point, request.candidates, request.generation)
        return losses.astype(np.float64).tobytes(), wrote, time.perf_counter() - begin


def read(answer: tuple[bytes, int, float]) -> Answer:
    """An answer out of plain numbers."""
    losses, wrote, seconds = answer
    return Answer(np.frombuffer(losses, dtype=np.float64), wrote, seconds)
