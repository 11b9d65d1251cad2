"""Rewards of a run: each is asked once about the same texts, however many want to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tandemtune.rewards.base import Reward, Written

Said = TypeVar("Said")


class Once(Generic[Said]):
    """Somebody who judges texts, and is not asked again about the last ones: a metric may be searched for, too, and is wanted as a score
    and row by row. A function that is slow takes no longer so, and one that varies says one thing.

    Args:
        ask: judges texts.
    """

    def __init__(self, ask: Callable[[Written], Said]) -> None:
        self.ask = ask
        self._last: tuple[Written, Said] | None = None

    def __call__(self, written: Written) -> Said:
        """What was said of these texts."""
        last = self._last
        if last is None or last[0] is not written:
            last = self._last = written, self.ask(written)
        return last[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Once) and self.ask == other.ask

    def __hash__(self) -> int:
        return hash(Once)


def asked_once(reward: Reward, beside: Reward | None = None) -> Reward:
    """A reward that is asked once about the same texts.

    Args:
        reward: the reward.
        beside: another one of this kind, which is asked together with it where both are the same function.
    """
    if isinstance(reward.rows, Once):
        return reward
    rows, corpus = Once(reward.rows), None if reward.corpus is None else Once(reward.corpus)
    if beside is not None and beside.rows == rows:
        return replace(reward, rows=beside.rows, corpus=beside.corpus)
    return replace(reward, rows=rows, corpus=corpus)


ScoreOfRows = Callable[[NDArray[np.int64]], float]
"""Numbers of rows, each as often as it counts -> their score."""


@runtime_checkable
class InParts(Protocol):
    """A score of all rows together that looks at the texts once for the scores of any of them."""

    def of_parts(self, written: Written) -> ScoreOfRows:
        """What gives the score of some rows."""
        ...


def score_of_rows(reward: Reward, written: Written) -> ScoreOfRows:
    """What gives the score of some rows of texts, which a bootstrap asks for a thousand times.

    Args:
        reward: judges them.
        written: the texts.
    """
    corpus = reward.corpus.ask if isinstance(reward.corpus, Once) else reward.corpus
    if isinstance(corpus, InParts):
        return corpus.of_parts(written)
    if corpus is not None:
        return lambda rows: reward.score(written.of(rows.tolist()))
    each = np.array(reward.each(written))
    return lambda rows: float(each[rows].mean())
