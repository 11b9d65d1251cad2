"""What a tuned model says of its test rows: confusion matrix, scores of each class, confident errors; intervals of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandemtune.runs.records import PredictionRecord

WORST = 10
"""Errors that a report shows."""
SAMPLES = 2000
"""Resampled test sets of a bootstrap interval."""
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How well one class is told apart; a ratio without anything to divide by is 0.

    Args:
        label: the class.
        rows: test rows that belong to it.
        predicted: test rows that are said to.
        precision: share of these that do.
        recall: share of its rows that are found.
        f1: harmonic mean of both.
    """

    label: str
    rows: int
    predicted: int
    precision: float
    recall: float
    f1: float


def confusion(rows: Sequence[PredictionRecord], labels: Sequence[str]) -> list[list[int]]:
    """Counts of gold (rows) against predicted labels (columns); rows whose gold label is unknown are left out."""
    places = {label: place for place, label in enumerate(labels)}
    counts = [[0] * len(labels) for _ in labels]
    for row in rows:
        if row.gold in places and row.label in places:
            counts[places[row.gold]][places[row.label]] += 1
    return counts


def class_scores(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[ClassScore]:
    """Precision, recall and F1 of every class."""
    found = []
    for place, label in enumerate(labels):
        hits, rows, predicted = counts[place][place], sum(counts[place]), sum(row[place] for row in counts)
        found.append(
            ClassScore(
                label,
                rows,
                predicted,
                hits / max(predicted, 1),
                hits / max(rows, 1),
                2 * hits / max(rows + predicted, 1),
            )
        )
    return found


def labels_of(rows: Sequence[PredictionRecord], known: Mapping[str, object]) -> list[str]:
    """Labels in the task's order, then any others that occur."""
    seen = [label for row in rows for label in (row.gold, row.label) if label is not None]
    return list(dict.fromkeys([*known, *sorted(set(seen))]))


def confident_errors(rows: Sequence[PredictionRecord]) -> list[tuple[int, PredictionRecord]]:
    """The wrong predictions with the highest probability, and their numbers among the test rows, from 1."""
    wrong = [(place, row) for place, row in enumerate(rows, 1) if row.gold is not None and row.gold != row.label]
    return sorted(wrong, key=lambda entry: -(entry[1].probabilities.get(entry[1].label) or 0.0))[:WORST]


def share_interval(share: float, rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of so many rows, such as an accuracy."""
    middle = (share + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
    half = _Z / (1 + _Z**2 / rows) * math.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def f1_interval(counts: Sequence[Sequence[int]], positive: int | None = None) -> tuple[float, float] | None:
    """A 95 % bootstrap interval of F1, out of resampled confusion matrices.

    Args:
        counts: gold against predicted.
        positive: the class that counts; None for the mean over all classes (macro F1).

    Returns:
        The ends; None without rows.
    """
    table: NDArray[np.float64] = np.asarray(counts, dtype=float)
    total = int(table.sum())
    if not total:
        return None
    drawn = np.random.default_rng(0).multinomial(total, table.ravel() / total, size=SAMPLES)
    drawn = drawn.reshape(SAMPLES, *table.shape)
    hits = np.diagonal(drawn, axis1=1, axis2=2)
    named = drawn.sum(axis=1) + drawn.sum(axis=2)
    scores = np.where(named > 0, 2 * hits / np.maximum(named, 1), 0.0)
    values = scores.mean(axis=1) if positive is None else scores[:, positive]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
