"""Scores of predicted classes, each between 0 and 1; where a ratio has nothing to divide by it is 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tandemtune.errors import UsageError

Classes = Sequence[int] | NDArray[np.integer]


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


def _f1_of_positive(predictions: Classes, gold: Classes, n_labels: int, positive: int | None) -> float:
    if positive is None:
        raise UsageError("metric 'f1' needs a positive label: name it, or use 'macro_f1'")
    return f1(predictions, gold, positive)


Metric = Callable[[Classes, Classes, int, int | None], float]
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "accuracy": lambda predictions, gold, n_labels, positive: accuracy(predictions, gold),
        "f1": _f1_of_positive,
        "macro_f1": lambda predictions, gold, n_labels, positive: macro_f1(predictions, gold, n_labels),
    }
)


def score(metric: str, predictions: Classes, gold: Classes, n_labels: int, positive: int | None = None) -> float:
    """Score predictions with a metric chosen by name.

    Args:
        metric: a name in `METRICS`.
        predictions: predicted class of each row, from 0 to ``n_labels - 1``.
        gold: true class of each row, likewise.
        n_labels: number of classes.
        positive: the class that "f1" counts; ignored by the other metrics.

    Returns:
        A number from 0 to 1.

    Raises:
        UsageError: unknown metric, no rows, lengths that differ, a class out of range, no positive class.
    """
    if metric not in METRICS:
        raise UsageError(f"unknown metric {metric!r}, expected one of {', '.join(METRICS)}")
    guess, truth = _pair(predictions, gold)
    if not truth.size:
        raise UsageError(f"metric {metric!r} has no rows to score, expected at least one")
    for what, classes in (("prediction", guess), ("gold class", truth)):
        outside = np.flatnonzero((classes < 0) | (classes >= n_labels))
        if outside.size:
            row = int(outside[0])
            raise UsageError(f"{what} {classes[row]} of row {row + 1}: expected 0 to {n_labels - 1}")
    if positive is not None and not 0 <= positive < n_labels:
        raise UsageError(f"positive class {positive}: expected 0 to {n_labels - 1}")
    return METRICS[metric](guess, truth, n_labels, positive)


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
