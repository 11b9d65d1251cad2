"""Gradient steps against the formulas of the papers, and what only this optimizer does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tandemtune.optimizers.cmaes import CMAESSearch
from tandemtune.optimizers.gradient import Gradient

START = np.array([1.0, -2.0, 0.5], dtype=np.float32)
GRADIENTS = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)


def told(optimizer, gradients, losses=None):
    """The points that follow each gradient [T, d]."""
    points = []
    for i, gradient in enumerate(gradients):
        optimizer.ask()
        optimizer.tell([1.0 if losses is None else losses[i]], gradient[np.newaxis])
        points.append(optimizer.point)
    return np.array(points)


def adam(gradients, lr, decay=0.0, decoupled=True):
    """Adam (1412.6980, algorithm 1) and AdamW (1711.05101, algorithm 2) in float64."""
    x, m, v, points = START.astype(float), 0.0, 0.0, []
    for t, g in enumerate(gradients.astype(float), start=1):
        g = g + (0.0 if decoupled else decay) * x
        x = x - (lr * decay * x if decoupled else 0.0)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        points.append(x)
    return np.array(points)


def sgd(gradients, lr, momentum, decay=0.0):
    x, moved, points = START.astype(float), 0.0, []
    for g in gradients.astype(float):
        moved = momentum * moved + g + decay * x
        x = x - lr * moved
        points.append(x)
    return np.array(points)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"algorithm": "adamw", "lr": 0.1, "weight_decay": 0.3}, adam(GRADIENTS, 0.1, 0.3)),
        ({"algorithm": "adam", "lr": 0.1, "weight_decay": 0.3}, adam(GRADIENTS, 0.1, 0.3, decoupled=False)),
        ({"algorithm": "sgd", "lr": 0.1, "weight_decay": 0.3}, sgd(GRADIENTS, 0.1, 0.9, 0.3)),
        ({"algorithm": "sgd", "lr": 0.1, "momentum": 0.0}, sgd(GRADIENTS, 0.1, 0.0)),
    ],
)
def test_formulas(settings, expected):
    np.testing.assert_allclose(told(Gradient(START, **settings), GRADIENTS), expected, rtol=0, atol=2e-6)


def test_proposes_the_float32_point_exactly():
    optimizer = Gradient(START, lr=0.1)
    told(optimizer, GRADIENTS[:2])
    asked = optimizer.ask()
    assert asked.shape == (1, 3)
    assert asked.dtype == np.float64
    assert (asked[0] == optimizer.point).all()
    assert optimizer.point.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_of_both_widths(dtype):
    one, other = (Gradient(START, lr=0.1) for _ in range(2))
    assert told(one, GRADIENTS).tobytes() == told(other, GRADIENTS.astype(dtype)).tobytes()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25, 0, 0]),
        ("cosine", [0.25, 0.5, 0.75, 1, 1, *[0.5 + 0.5 * math.cos(math.pi * i / 4) for i in (1, 2, 3)], 0, 0]),
    ],
)
def test_schedules(schedule, expected):
    optimizer = Gradient(START, algorithm="sgd", momentum=0.0, lr=2.0, schedule=schedule, warmup=4, steps=8)
    for factor in expected:
        before = optimizer.point
        assert optimizer.lr == pytest.approx(2.0 * factor)
        told(optimizer, np.ones((1, 3)))
        np.testing.assert_allclose(before - optimizer.point, 2.0 * factor, atol=1e-6)
    assert optimizer.step == len(expected)


def test_clips_the_norm():
    optimizer = Gradient(START, algorithm="sgd", momentum=0.0, lr=1.0, clip=0.5)
    points = told(optimizer, np.array([[3.0, 4.0, 0.0], [0.03, 0.04, 0.0]]))
    np.testing.assert_allclose(points[0] - START, [-0.3, -0.4, 0.0], atol=1e-6)
    np.testing.assert_allclose(points[1] - points[0], [-0.03, -0.04, 0.0], atol=1e-6)


def test_accumulates_means():
    one = Gradient(START, lr=0.1, accumulate=3)
    other = Gradient(START, lr=0.1)
    points = told(one, GRADIENTS)
    expected = told(other, GRADIENTS.astype(float).reshape(3, 3, 3).mean(axis=1))
    assert (points[[2, 5, 8]] == expected).all()
    assert (points[:2] == START).all()
    assert (points[3:5] == points[2]).all()
    assert one.step == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, 1e300])
@pytest.mark.parametrize("algorithm", ["adamw", "adam", "sgd"])
def test_bad_gradients_and_losses_are_skipped(algorithm, bad):
    optimizer, other = (Gradient(START, algorithm=algorithm, lr=0.1) for _ in range(2))
    told(optimizer, GRADIENTS[:2])
    expected = told(other, GRADIENTS[:2])
    told(optimizer, np.array([[0.0, bad, 0.0]]))
    if not np.isfinite(bad):
        told(optimizer, GRADIENTS[5:6], [bad])
    assert (optimizer.point == expected[-1]).all()
    assert optimizer.skipped == (1 if np.isfinite(bad) else 2)
    assert (told(optimizer, GRADIENTS[2:]) == told(other, GRADIENTS[2:])).all()


def test_the_schedule_counts_a_skipped_step():
    optimizer = Gradient(START, lr=1.0, schedule="linear", steps=4)
    told(optimizer, GRADIENTS[:2], [np.nan, 1.0])
    assert (optimizer.step, optimizer.skipped, optimizer.lr) == (2, 1, 0.5)


def test_a_bad_gradient_is_left_out_of_the_mean():
    one, other = (Gradient(START, lr=0.1, accumulate=k) for k in (3, 2))
    points = told(one, GRADIENTS[:3], [1.0, np.nan, 1.0])
    assert (points[-1] == told(other, GRADIENTS[[0, 2]])[-1]).all()
    assert one.skipped == 1


def test_restart_keeps_or_resets_the_moments():
    new = np.array([5.0, 6.0, 7.0])
    kept, reset, plain = (Gradient(START, lr=0.1, schedule="linear", steps=20) for _ in range(3))
    points = {}
    for name, optimizer in {"kept": kept, "reset": reset}.items():
        told(optimizer, GRADIENTS[:4])
        optimizer.restart(new, reset_moments=name == "reset")
        assert (optimizer.ask()[0] == new).all()
        optimizer.tell([1.0], GRADIENTS[4:5])
        points[name] = told(optimizer, GRADIENTS[5:])
    assert (kept.step, reset.step) == (9, 5)
    plain.restart(new, reset_moments=False)
    assert (told(plain, GRADIENTS[4:])[1:] == points["reset"]).all()
    straight = told(Gradient(START, lr=0.1, schedule="linear", steps=20), GRADIENTS)
    moved = np.diff(np.concatenate([new[np.newaxis], points["kept"]]), axis=0)
    np.testing.assert_allclose(moved[1:], np.diff(straight[4:], axis=0)[1:], atol=2e-6)  # the moments went on


def test_restart_drops_what_was_gathered_and_holds_nothing():
    one, other = (Gradient(START, lr=0.1, accumulate=2) for _ in range(2))
    told(one, GRADIENTS[:1])
    point = np.zeros(3, dtype=np.float32)
    one.restart(point, reset_moments=False)
    point[:] = 9
    other.restart(np.zeros(3), reset_moments=False)
    assert (told(one, GRADIENTS[1:3]) == told(other, GRADIENTS[1:3])).all()


def test_restart_is_refused():
    optimizer = Gradient(START, lr=0.1)
    with pytest.raises(ValueError, match="shape"):
        optimizer.restart(np.zeros(4), reset_moments=False)
    with pytest.raises(ValueError, match="float32"):
        optimizer.restart(np.full(3, 1e200), reset_moments=False)
    assert (optimizer.ask()[0] == START).all()
    with pytest.raises(RuntimeError, match="between"):
        optimizer.restart(np.zeros(3), reset_moments=False)


def test_the_start_is_not_held():
    start = START.copy()
    optimizer = Gradient(start, lr=0.1)
    told(optimizer, GRADIENTS)
    assert (start == START).all()
    start[:] = 9
    optimizer.point[:] = 9
    assert (optimizer.ask() != 9).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "adagrad"},
        {"schedule": "step"},
        {"schedule": "linear"},
        {"schedule": "cosine", "warmup": 5, "steps": 5},
        {"warmup": -1},
        {"lr": -0.1},
        {"lr": np.nan},
        {"weight_decay": -1.0},
        {"momentum": 1.0},
        {"clip": 0.0},
        {"accumulate": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        Gradient(START, **{"lr": 0.1, **settings})


def test_cmaes_starts_where_it_is_told():
    mean = np.array([3.0, -4.0, 5.0])
    zero, moved = CMAESSearch(3, 8, 0.1, 1), CMAESSearch(3, 8, 0.1, 1, mean=mean)
    np.testing.assert_allclose(moved.ask(), zero.ask() + mean, atol=1e-12)
    mean[:] = 0
    moved.tell(np.arange(8.0))
    assert np.abs(moved.ask().mean(axis=0)).min() > 2
    with pytest.raises(ValueError, match="shape"):
        CMAESSearch(3, 8, 0.1, 1, mean=np.zeros(4))
