"""A warm start points downhill."""

from __future__ import annotations

import numpy as np
import pytest

from tandemtune.optimizers.cmaes import CMAESSearch
from tandemtune.optimizers.warm_start import WarmStart

D, P = 20, 16


def made(seed, pairs=8):
    return WarmStart(D, P, 0.5, seed, pairs, lambda mean: CMAESSearch(D, P, 0.5, seed, "full", mean))


def test_the_second_generation_lies_downhill():
    slope = np.random.default_rng(0).standard_normal(D)
    gains = []
    for seed in range(20):
        optimizer = made(seed)
        optimizer.tell(optimizer.ask() @ slope)
        gains.append(float(np.mean(optimizer.ask() @ slope)))
    assert np.mean(gains) < -0.35 * np.linalg.norm(slope)
    assert max(gains) < 0


def test_pairs_lie_opposite():
    asked = made(1, pairs=3).ask()
    assert asked.shape == (P, D)
    assert np.array_equal(asked[:3], -asked[-3:])


def test_without_any_number_it_begins_at_zero():
    optimizer = made(1)
    optimizer.ask()
    optimizer.tell(np.full(P, np.nan))
    assert np.abs(optimizer.ask().mean(axis=0)).max() < 0.5


@pytest.mark.parametrize("pairs", [0, 9])
def test_pairs_that_do_not_fit(pairs):
    with pytest.raises(ValueError, match="expected 1 to 8 pairs"):
        made(1, pairs)


def test_another_kind_of_state_is_refused():
    with pytest.raises(ValueError, match="saved by"):
        made(1).restore({**made(1, pairs=3).state()})
