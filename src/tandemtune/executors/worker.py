"""What a worker does: it makes the run's evaluator once, and scores shards."""

from __future__ import annotations

import pickle

import numpy as np

from tandemtune.errors import RunError
from tandemtune.evaluators.writing import Text
from tandemtune.executors.base import Answer, Elsewhere, scored
from tandemtune.executors.messages import Memory
from tandemtune.system import fingerprint

Plain = tuple[bytes, int, float, list[list[tuple[tuple[int, ...], int, int | None, bool]]] | None]
"""An `Answer` as plain numbers: losses, tokens, seconds; what each text is made of."""


class Worker:
    """One copy of a run's model.

    Args:
        wanted: versions of the run's process.
        elsewhere: an `Elsewhere` as bytes.

    Raises:
        RunError: this process has other versions, weights, rows or code than the run.
    """

    def __init__(self, wanted: dict[str, str], elsewhere: bytes) -> None:
        own = fingerprint()  # before anything is read that other versions may have written in another way
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

    def score(self, message: bytes) -> Plain:
        """Score a shard.

        Args:
            message: what `Told.message` made.

        Returns:
            An `Answer`, as plain numbers.
        """
        request = self._memory.request(message)
        return plain(scored(self._evaluators[request.stretch], request.point, request.candidates, request.generation))


def plain(answer: Answer) -> Plain:
    """An answer as plain numbers."""
    texts = None
    if answer.texts is not None:
        texts = [[(text.ids, text.tokens, text.end, text.broken) for text in each] for each in answer.texts]
    return answer.losses.astype(np.float64).tobytes(), answer.wrote, answer.seconds, texts


def read(answer: Plain) -> Answer:
    """An answer out of plain numbers."""
    losses, wrote, seconds, texts = answer
    written = None if texts is None else [[Text(*text) for text in each] for each in texts]
    return Answer(np.frombuffer(losses, dtype=np.float64), wrote, seconds, written)
