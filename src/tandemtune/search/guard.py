"""Who looks at dev, and says whether a point is to be kept: for a lower loss, or for a gain beyond its standard error."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tandemtune.evaluators.base import Evaluator
from tandemtune.runs.records import DIGITS, Evaluation, Gain
from tandemtune.search.state import SearchState
from tandemtune.tunables.base import Point


class Guard:
    """Looks at dev. With a guard, a point replaces the kept one only if it gains more than a standard error over rows.

    A search that scores its candidates on the training rows is accepted by others, so what it learns of its own rows by heart
    does not count. What is kept says itself where to go back to, and `patience` when to stop.

    Args:
        evaluator: measures points.
        on: whether gains are asked for.
    """

    def __init__(self, evaluator: Evaluator, on: bool) -> None:
        self._evaluator, self._on = evaluator, on
        self._kept: tuple[int, NDArray[np.float64]] | None = None  # record that found it, losses of its rows

    def begin(self, point: Point, record: int) -> Evaluation:
        """Dev's evaluation of a point that is kept for now, whose rows need not be looked at again then.

        Args:
            point: where a search begins.
            record: number of the journal's record that found it.
        """
        if not self._on:
            return self._evaluator.measure(point, "dev")
        found, losses = self._evaluator.dev_losses(point)
        self._kept = record, losses
        return found

    def look(self, state: SearchState, point: Point) -> tuple[Evaluation, Gain | None]:
        """Dev's evaluation of a point, and its gain over the kept one where there is a guard."""
        if not self._on:
            return self._evaluator.measure(point, "dev"), None
        if self._kept is None or self._kept[0] != state.best_record:
            self._kept = state.best_record, self._evaluator.dev_losses(state.best)[1]
        found, losses = self._evaluator.dev_losses(point)
        gain = gain_of(self._kept[1], losses)
        if gain.kept:
            self._kept = state.records, losses
        return found, gain


def gain_of(before: NDArray[np.float64], after: NDArray[np.float64]) -> Gain:
    """Mean difference of the losses [N] of two points on the same rows, kept if it exceeds its standard error.

    Losses that are no numbers are worse than all others.
    """
    rows = len(before)
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        better = bool(np.isfinite(after).sum() > np.isfinite(before).sum())
        return Gain(mean=0.0, standard_error=0.0, rows=rows, kept=better)
    gains = before - after
    mean, error = float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(rows)) if rows > 1 else 0.0
    kept = rows > 1 and mean > error
    return Gain(mean=round(mean, DIGITS), standard_error=round(error, DIGITS), rows=rows, kept=kept)
