"""Metrics against hand-computed cases and a plain second implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemtune.errors import UsageError
from tandemtune.tasks.metrics import METRICS, Metric, accuracy, f1, get, macro_f1, score

pairs = st.integers(2, 5).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), min_size=1, max_size=40),
    )
)


def plain_f1(predictions, gold, positive):
    tp = sum(p == positive and g == positive for p, g in zip(predictions, gold, strict=True))
    fp = sum(p == positive and g != positive for p, g in zip(predictions, gold, strict=True))
    fn = sum(p != positive and g == positive for p, g in zip(predictions, gold, strict=True))
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(pairs)
def test_against_a_plain_implementation(case):
    n, rows = case
    predictions, gold = [p for p, _ in rows], [g for _, g in rows]
    assert score("accuracy", predictions, gold, n) == pytest.approx(sum(p == g for p, g in rows) / len(rows))
    for label in range(n):
        assert score("f1", predictions, gold, n, label) == pytest.approx(plain_f1(predictions, gold, label))
    mean = sum(plain_f1(predictions, gold, label) for label in range(n)) / n
    assert score("macro_f1", predictions, gold, n) == pytest.approx(mean)


@given(pairs)
def test_bounds_and_perfect_score(case):
    n, rows = case
    predictions, gold = [p for p, _ in rows], [g for _, g in rows]
    for metric in METRICS:
        assert 0 <= score(metric, predictions, gold, n, 0) <= 1
    assert score("accuracy", gold, gold, n) == 1


@pytest.mark.parametrize(
    ("predictions", "gold", "positive", "expected"),
    [
        ([1, 1, 0, 0], [1, 0, 1, 0], 1, 0.5),
        ([1, 1, 1, 1], [1, 1, 1, 0], 1, 6 / 7),
        ([1, 1, 1, 1], [1, 1, 1, 0], 0, 0.0),
        ([0, 0, 0], [0, 0, 0], 1, 0.0),
        ([0, 0, 0], [1, 0, 0], 1, 0.0),
        ([1, 0, 0], [0, 0, 0], 1, 0.0),
        ([2, 2, 1, 0], [2, 1, 1, 0], 2, 2 / 3),
        ([1], [1], 1, 1.0),
    ],
)
def test_f1_by_hand(predictions, gold, positive, expected):
    assert f1(predictions, gold, positive) == pytest.approx(expected)


def test_others_by_hand():
    assert accuracy([0, 1, 2, 2], [0, 1, 1, 2]) == 0.75
    # F1 of 0 is 1, of 1 is 2/3, of 2 is 2/3; a fourth class that never occurs counts 0.
    assert macro_f1([0, 1, 2, 2], [0, 1, 1, 2], 3) == pytest.approx(7 / 9)
    assert macro_f1([0, 1, 2, 2], [0, 1, 1, 2], 4) == pytest.approx(7 / 12)
    assert accuracy([], []) == 0 and f1([], [], 1) == 0
    assert score("accuracy", np.array([1, 0]), np.array([1, 1], dtype=np.uint8), 2) == 0.5
    assert type(score("accuracy", [1], [1], 2)) is float


@pytest.mark.parametrize(
    ("metric", "predictions", "gold", "positive", "said"),
    [
        ("f2", [0], [0], None, "unknown metric 'f2', expected accuracy, f1, macro_f1"),
        ("f1", [0], [0], None, "needs a positive label"),
        ("f1", [0], [0], 2, "positive class 2"),
        ("accuracy", [], [], None, "no rows"),
        ("accuracy", [0, 1], [0], None, "2 predictions for 1 gold"),
        ("accuracy", [0, 2], [0, 1], None, "prediction 2 of row 2: expected 0 to 1"),
        ("accuracy", [0, 1], [0, -1], None, "gold class -1 of row 2"),
        ("accuracy", [0.5], [0], None, "integers"),
        ("accuracy", [[0]], [[0]], None, "flat list"),
    ],
)
def test_misuse(metric, predictions, gold, positive, said):
    with pytest.raises(UsageError, match=said):
        score(metric, predictions, gold, 2, positive)


def test_macro_f1_needs_classes():
    with pytest.raises(UsageError, match="at least 1"):
        macro_f1([], [], 0)


def test_every_metric_says_what_it_is():
    for name, metric in METRICS.items():
        assert metric.name == name and metric.summary and (metric.lower, metric.upper) == (0, 1)
    assert [metric.name for metric in METRICS.values() if metric.needs_positive] == ["f1"]


@given(pairs)
def test_a_function_of_label_names_is_a_metric(case):
    n, rows = case
    predictions, gold = [p for p, _ in rows], [g for _, g in rows]
    labels = [f"label {index}" for index in range(n)]

    def same(predictions, gold):
        assert all(type(label) is str for label in (*predictions, *gold))
        return sum(p == g for p, g in zip(predictions, gold, strict=True)) / len(gold)

    assert get(same)(predictions, gold, labels) == pytest.approx(score("accuracy", predictions, gold, n))


def test_a_function_gives_its_name_and_its_first_line():
    def mine(predictions, gold):
        """Always the same.

        More of it.
        """
        return 3

    metric = Metric.of(mine, upper=5)
    assert (metric.name, metric.summary, metric.upper) == ("mine", "Always the same.", 5)
    assert metric([0], [0], ["a", "b"]) == 3.0
    assert Metric.of(mine, name="other").name == "other" and get(metric) is metric


@pytest.mark.parametrize("found", [float("nan"), float("inf"), 1.01, -0.1, None, "x", [1]])
def test_a_function_that_gives_no_score(found):
    with pytest.raises(UsageError, match=r"metric 'mine' gave .*from 0 to 1"):
        Metric.of(lambda predictions, gold: found, name="mine")([0], [0], ["a", "b"])


def test_a_function_that_fails():
    with pytest.raises(UsageError, match=r"metric 'mine' failed \(KeyError: 'x'\)"):
        Metric.of(lambda predictions, gold: {}["x"], name="mine")([0], [0], ["a", "b"])
