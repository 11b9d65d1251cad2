"""Confusion, scores of classes, confident errors, and intervals, by hand and against a second implementation."""

from __future__ import annotations

import random

import pytest
from made import predictions

from tandemtune.report.predictions import (
    class_scores,
    confident_errors,
    confusion,
    f1_interval,
    labels_of,
    share_interval,
)
from tandemtune.runs.records import PredictionRecord


def row(gold: str | None, label: str, p: float | None = 0.9) -> PredictionRecord:
    return PredictionRecord(fields={"text": "x"}, gold=gold, label=label, probabilities={label: p})


ROWS = [row("a", "a"), row("a", "a"), row("a", "b"), row("b", "b"), row("b", "a"), row(None, "a"), row("a", "a")]


def test_confusion_and_classes_by_hand():
    counts = confusion(ROWS, ["a", "b", "c"])
    assert counts == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]
    a, b, c = class_scores(counts, ["a", "b", "c"])
    assert (a.rows, a.predicted, a.precision, a.recall, a.f1) == (4, 4, 0.75, 0.75, 0.75)
    assert (b.precision, b.recall, b.f1) == (0.5, 0.5, 0.5)
    assert (c.rows, c.precision, c.recall, c.f1) == (0, 0.0, 0.0, 0.0)


def test_labels_are_in_the_task_s_order_and_complete():
    assert labels_of(ROWS, {"b": 0, "z": 0}) == ["b", "z", "a"]


def test_the_most_confident_errors_come_first():
    found = confident_errors(predictions(right=20, rows=40))
    assert len(found) == 10 and [place for place, _ in found] == list(range(1, 11))
    assert all(entry.gold != entry.label for _, entry in found)
    assert confident_errors([row("a", "b", None), row("a", "b", 0.6), row("a", "a"), row(None, "b")]) == [
        (2, row("a", "b", 0.6)),
        (1, row("a", "b", None)),
    ]


@pytest.mark.parametrize(
    ("share", "rows", "low", "high"),
    [(0.5, 10, 0.2366, 0.7634), (0.9, 100, 0.8256, 0.9448), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0)],
)
def test_wilson_s_interval(share, rows, low, high):
    assert share_interval(share, rows) == pytest.approx((low, high), abs=1e-4)


def test_bootstrap_intervals_of_f1_agree_with_resampled_rows():
    counts = [[40, 10], [20, 30]]
    pairs = [(g, p) for g in (0, 1) for p in (0, 1) for _ in range(counts[g][p])]
    source = random.Random(1)
    macro, positive = [], []
    for _ in range(1500):
        drawn = [source.choice(pairs) for _ in pairs]
        f1s = []
        for label in (0, 1):
            hits = sum(g == p == label for g, p in drawn)
            f1s.append(2 * hits / (sum(g == label for g, _ in drawn) + sum(p == label for _, p in drawn)))
        macro.append(sum(f1s) / 2)
        positive.append(f1s[1])
    for values, place in ((macro, None), (positive, 1)):
        ordered = sorted(values)
        low, high = f1_interval(counts, place) or (0.0, 0.0)
        assert (low, high) == pytest.approx((ordered[37], ordered[1462]), abs=0.02)
    assert f1_interval(counts) == f1_interval(counts) and f1_interval([[0, 0], [0, 0]]) is None
