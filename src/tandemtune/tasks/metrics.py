"""Metrics: what scores predicted classes, each with what a user may know of it. Higher is better, everywhere.

A ratio that has nothing to divide by is 0. A metric of one's own is a function of label names (`Metric.of`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tandemtune import plugins
from tandemtune.errors import UsageError
from tandemtune.plugins import register

Classes = Sequence[int] | NDArray[np.integer]
OwnMetric = Callable[[list[str], list[str]], float]
"""A function ``(predictions, gold) -> number`` of label names."""


@dataclass(frozen=True)
class Rated:
    """What a metric is given, checked already.

    Args:
        predictions: predicted class of each row [N], from 0 to ``len(labels) - 1``.
        gold: true class of each row [N], likewise.
        labels: names of the classes.
        positive: the class that counts; None where none was named.
    """

    predictions: NDArray[np.int64]
    gold: NDArray[np.int64]
    labels: Sequence[str]
    positive: int | None


@dataclass(frozen=True)
class Metric:
    """A metric and what others need to know of it.

    Args:
        name: what recipes and reports call it.
        summary: one line on what it measures.
        compute: gives the score.
        needs_positive: it counts one class, which has to be named.
        lower: no score is below it.
        upper: no score is above it.
    """

    name: str
    summary: str
    compute: Callable[[Rated], float]
    needs_positive: bool = False
    lower: float = 0.0
    upper: float = 1.0

    @classmethod
    def of(
        cls,
        function: OwnMetric,
        *,
        name: str | None = None,
        summary: str | None = None,
        lower: float = 0.0,
        upper: float = 1.0,
    ) -> Metric:
        """Make a metric of a Python function.

        Args:
            function: takes the predicted and the true labels by name, two lists of one length; higher is better.
            name: None takes the function's.
            summary: None takes the first line of the function's docstring.
            lower: no score is below it; may be ``-math.inf``.
            upper: no score is above it; may be ``math.inf``.
        """
        said = (function.__doc__ or "").strip().splitlines()

        def compute(rated: Rated) -> float:
            predictions = [rated.labels[index] for index in rated.predictions]
            return function(predictions, [rated.labels[index] for index in rated.gold])

        own = name or str(getattr(function, "__name__", type(function).__name__))
        return cls(own, summary or (said[0] if said else f"the function {own}"), compute, False, lower, upper)

    def __call__(
        self, predictions: Classes, gold: Classes, labels: Sequence[str], positive: int | None = None
    ) -> float:
        """Score predictions.

        Args:
            predictions: predicted class of each row [N], from 0 to ``len(labels) - 1``.
            gold: true class of each row [N], likewise.
            labels: names of the classes.
            positive: the class that counts, where the metric needs one.

        Raises:
            UsageError: no rows, lengths that differ, a class out of range, no positive class, or a function of the user's
                that failed or gave no number within the metric's bounds.
        """
        guess, truth = _pair(predictions, gold)
        if not truth.size:
            raise UsageError(f"metric {self.name!r} has no rows to score, expected at least one")
        for what, classes in (("prediction", guess), ("gold class", truth)):
            outside = np.flatnonzero((classes < 0) | (classes >= len(labels)))
            if outside.size:
                row = int(outside[0])
                raise UsageError(f"{what} {classes[row]} of row {row + 1}: expected 0 to {len(labels) - 1}")
        if positive is not None and not 0 <= positive < len(labels):
            raise UsageError(f"positive class {positive}: expected 0 to {len(labels) - 1}")
        if self.needs_positive and positive is None:
            raise UsageError(f"metric {self.name!r} needs a positive label: name it, or use 'macro_f1'")
        return self._number(Rated(guess, truth, labels, positive))

    def _number(self, rated: Rated) -> float:
        try:
            found = self.compute(rated)
        except Exception as error:
            raise UsageError(
                f"metric {self.name!r} failed ({type(error).__name__}: {error}): correct the function"
            ) from error
        try:
            number = float(found)
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and self.lower <= number <= self.upper):
            raise UsageError(
                f"metric {self.name!r} gave {found!r}, expected a number from {self.lower:g} to {self.upper:g}"
            )
        return number


def accuracy(predictions: Classes, gold: Classes) -> float:
    """Share of predictions that are right.

    Args:
        predictions: predicted class of each row.
        gold: true class of each row.

    Returns:
        Right ones divided by rows; 0 without rows.

    Raises:
        UsageError: the lengths differ or a class is no integer.
    """
    guess, truth = _pair(predictions, gold)
    return float(np.mean(guess == truth)) if truth.size else 0.0


def f1(predictions: Classes, gold: Classes, positive: int) -> float:
    """F1 of one class against all others.

    Args:
        predictions: predicted class of each row.
        gold: true class of each row.
        positive: the class that counts.

    Returns:
        Harmonic mean of its precision and recall; 0 if it is neither predicted nor true anywhere.

    Raises:
        UsageError: the lengths differ or a class is no integer.
    """
    guess, truth = _pair(predictions, gold)
    hits = int(np.sum((guess == positive) & (truth == positive)))
    named = int(np.sum(guess == positive)) + int(np.sum(truth == positive))
    return 2 * hits / named if named else 0.0


def macro_f1(predictions: Classes, gold: Classes, n_labels: int) -> float:
    """Mean of the F1 of every class, also of classes that never occur (they count 0).

    Args:
        predictions: predicted class of each row.
        gold: true class of each row.
        n_labels: number of classes.

    Returns:
        The plain mean over all `n_labels` classes.

    Raises:
        UsageError: the lengths differ, a class is no integer, or there are no classes.
    """
    if n_labels < 1:
        raise UsageError(f"macro_f1 over {n_labels} classes: expected at least 1")
    return float(np.mean([f1(predictions, gold, label) for label in range(n_labels)]))


def _f1_of_positive(rated: Rated) -> float:
    assert rated.positive is not None  # `Metric` refused to go on without
    return f1(rated.predictions, rated.gold, rated.positive)


_METRICS = (
    Metric("accuracy", "share of rows that are right", lambda rated: accuracy(rated.predictions, rated.gold)),
    Metric("f1", "F1 of the positive label against all others", _f1_of_positive, needs_positive=True),
    Metric(
        "macro_f1",
        "mean of the F1 of every label, each counting the same however rare",
        lambda rated: macro_f1(rated.predictions, rated.gold, len(rated.labels)),
    ),
)
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _METRICS})
for _metric in _METRICS:
    register("metric", _metric.name)(_metric)


def get(metric: str | Metric | OwnMetric) -> Metric:
    """A metric by its name, or made of a function.

    Args:
        metric: a registered name, ``module:function``, a metric, or a function of label names.

    Raises:
        UsageError: there is no metric of that name; suggests the nearest.
    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return Metric.of(metric)
    found = METRICS.get(metric) or plugins.find("metric", metric)
    return found if isinstance(found, Metric) else Metric.of(found)


def of_run(name: str) -> Metric:
    """The metric of a run that has ended: one whose code has gone since says so when it is asked.

    Args:
        name: as in the recipe.
    """
    try:
        return get(name)
    except UsageError as error:
        gone = str(error)

    def compute(rated: Rated) -> float:
        raise UsageError(gone)

    return Metric(name.rpartition(":")[2], "a function that has gone", compute)


def score(
    metric: str | Metric, predictions: Classes, gold: Classes, n_labels: int, positive: int | None = None
) -> float:
    """Score predictions where the labels' names do not matter.

    Args:
        metric: a name in `METRICS`, or a metric.
        predictions: predicted class of each row, from 0 to ``n_labels - 1``.
        gold: true class of each row, likewise.
        n_labels: number of classes.
        positive: the class that "f1" counts; ignored by the other metrics.

    Returns:
        A number within the metric's bounds.

    Raises:
        UsageError: unknown metric, no rows, lengths that differ, a class out of range, no positive class.
    """
    return get(metric)(predictions, gold, [str(label) for label in range(n_labels)], positive)


def _pair(predictions: Classes, gold: Classes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    guess, truth = _classes("predictions", predictions), _classes("gold classes", gold)
    if guess.shape != truth.shape:
        raise UsageError(f"{guess.size} predictions for {truth.size} gold classes: expected as many of each")
    return guess, truth


def _classes(what: str, values: Classes) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise UsageError(f"{what}: expected a flat list of integers, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)
