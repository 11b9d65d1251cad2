"""The optimizers that estimate a gradient themselves: by hand, in a few dimensions; and random search."""

from __future__ import annotations

import numpy as np
import pytest

from tandemtune.optimizers.descent import Descent
from tandemtune.optimizers.es import EvolutionStrategy
from tandemtune.optimizers.random_search import RandomSampling
from tandemtune.optimizers.spsa import SPSASearch

SLOPE = np.array([1.0, -2.0, 0.5, 3.0, 0.0])
START = np.arange(5.0)


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_spsa_proposes_pairs_and_steps_along_the_mean_projected_gradient(distribution):
    optimizer = SPSASearch(5, 7, lr=0.1, epsilon=0.01, directions=3, distribution=distribution, start=START)
    point = START
    for step in range(3):
        z = optimizer.direction(step)
        candidates = optimizer.ask()
        np.testing.assert_allclose(candidates, np.concatenate([point + 0.01 * z, point - 0.01 * z]), atol=1e-15)
        optimizer.tell(candidates @ SLOPE)
        point = point - 0.1 * np.mean((z @ SLOPE)[:, None] * z, axis=0)
        np.testing.assert_allclose(optimizer.point, point, atol=1e-10)
    assert optimizer.step == 3


def test_spsa_directions_depend_on_the_seed_and_the_step_alone():
    one, other = (
        SPSASearch(50, 3, lr=0.1, directions=2),
        SPSASearch(50, 3, lr=0.9, epsilon=1.0, directions=2, start=np.ones(50)),
    )
    for _ in range(4):
        one.tell(np.sum(one.ask() ** 2, axis=1))
    assert all((one.direction(step) == other.direction(step)).all() for step in range(5))
    assert not (one.direction(0) == one.direction(1)).any()
    assert not (one.direction(0) == SPSASearch(50, 4, lr=0.1, directions=2).direction(0)).any()


def test_spsa_distributions():
    z = SPSASearch(40_000, 1, lr=1.0).direction(0)
    assert z.shape == (1, 40_000)
    assert (abs(z.mean()), abs(z.std() - 1)) < (0.02, 0.02)
    z = SPSASearch(40_000, 1, lr=1.0, distribution="rademacher").direction(0)
    assert set(np.unique(z)) == {-1.0, 1.0}
    assert abs(z.mean()) < 0.02


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_spsa_leaves_out_pairs_without_a_slope(bad):
    optimizer = SPSASearch(5, 7, lr=0.1, epsilon=0.01, directions=3, start=START)
    z = optimizer.direction(0)
    losses = optimizer.ask() @ SLOPE
    losses[1] = losses[5] = bad  # the second pair's plus, the third one's minus
    optimizer.tell(losses)
    np.testing.assert_allclose(optimizer.point, START - 0.1 * (z[0] @ SLOPE) * z[0], atol=1e-10)
    kept = optimizer.point
    optimizer.ask()
    optimizer.tell([bad, 1, 1, 1, bad, bad])
    assert (optimizer.point == kept).all()
    assert optimizer.step == 2


def test_es_steps_along_the_noise_weighted_by_ranks():
    optimizer = EvolutionStrategy(5, 6, 0.1, 7, lr=0.3, algorithm="sgd", weight_decay=0.01, start=START)
    z, candidates = optimizer.noise(0), optimizer.ask()
    np.testing.assert_allclose(candidates, np.concatenate([START + 0.1 * z, START - 0.1 * z]), atol=1e-15)
    optimizer.tell([5.0, 1e9, 1.0, 2.0, 3.0, 4.0])  # ranks 4 5 0 1 2 3
    weights = (np.array([4, 5, 0]) - np.array([1, 2, 3])) / 5
    expected = START - 0.3 * (weights @ z / (6 * 0.1) + 0.01 * START)
    np.testing.assert_allclose(optimizer.point, expected, atol=1e-12)


def test_es_sigma_falls_by_equal_parts_and_stays_at_its_end():
    optimizer = EvolutionStrategy(5, 4, 0.8, 7, lr=0.3, algorithm="sgd", sigma_end=0.1, generations=4)
    for sigma in (0.8, 0.4, 0.2, 0.1, 0.1):
        before, z = optimizer.point, optimizer.noise(optimizer.step)
        state = optimizer.state()
        np.testing.assert_allclose(
            optimizer.ask(), np.concatenate([before + sigma * z, before - sigma * z]), atol=1e-12
        )
        again = EvolutionStrategy(5, 4, 0.8, 7, lr=0.3, algorithm="sgd", sigma_end=0.1, generations=4)
        again.restore(state)
        assert again.sigma == pytest.approx(sigma)
        optimizer.tell([1.0, 2.0, 3.0, 4.0])  # ranks 0 1 2 3
        np.testing.assert_allclose(optimizer.point, before - 0.3 * np.array([-2, -2]) / 3 @ z / (4 * sigma), atol=1e-12)


def test_es_does_not_move_where_all_is_equal():
    optimizer = EvolutionStrategy(5, 6, 0.1, 7, lr=0.3, weight_decay=0.5, start=START)
    for losses in (np.ones(6), np.full(6, np.nan), [np.nan, np.inf, -np.inf, np.nan, np.inf, np.nan]):
        optimizer.ask()
        optimizer.tell(losses)
    assert (optimizer.point == START).all()


def test_es_equal_losses_share_a_rank():
    optimizer = EvolutionStrategy(5, 4, 0.1, 7, lr=0.3, algorithm="sgd")
    z = optimizer.noise(0)
    optimizer.ask()
    optimizer.tell([1.0, 2.0, 2.0, np.nan])  # ranks 0, 1.5, 1.5, 3
    np.testing.assert_allclose(optimizer.point, -0.3 * np.array([-1.5, -1.5]) / 3 @ z / 0.4, atol=1e-12)


def test_es_low_rank_noise():
    optimizer = EvolutionStrategy(6 * 8 + 5 + 7 * 9, 40, 0.1, 7, lr=0.1, shapes=[(6, 8), (5,), (7, 9)], rank=2)
    noise = optimizer.noise(3)
    assert noise.shape == (20, 6 * 8 + 5 + 7 * 9)
    for one in noise:
        assert np.linalg.matrix_rank(one[:48].reshape(6, 8)) == 2
        assert np.linalg.matrix_rank(one[53:].reshape(7, 9)) == 2
    many = np.concatenate([optimizer.noise(step) for step in range(100)])
    assert np.abs(many.std(axis=0) - 1).max() < 0.12
    assert np.abs(many.mean(axis=0)).max() < 0.1
    assert (optimizer.noise(3) == noise).all()


def test_adam_by_hand():
    descent, point, expected, m, v = Descent(5, "adam", 0.1), START, START, 0.0, 0.0
    for t in range(1, 4):
        point = descent.step(point, SLOPE * t)
        m, v = 0.9 * m + 0.1 * SLOPE * t, 0.999 * v + 0.001 * (SLOPE * t) ** 2
        expected = expected - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(point, expected, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_descent_forgets_a_gradient_that_is_no_number(bad):
    one, other = Descent(5, "adam", 0.1), Descent(5, "adam", 0.1)
    one.step(START, np.array([1.0, bad, 0, 0, 0]))
    assert (one.step(START, SLOPE) == other.step(START, SLOPE)).all()


def test_random_steps_keep_the_best_and_score_the_start_once():
    optimizer = RandomSampling(5, 10, 3, sigma=0.1, start=START)
    candidates = optimizer.ask()
    assert (candidates[0] == START).all()
    optimizer.tell([0.0, *range(1, 10)])
    assert optimizer.best[1] == 0.0
    assert (optimizer.best[0] == START).all()
    candidates = optimizer.ask()
    assert not (candidates == START).all(axis=1).any()
    optimizer.tell([1.0] * 9 + [-1.0])
    assert (optimizer.best[0] == candidates[9]).all()
    assert np.abs(optimizer.ask() - candidates[9]).max() < 0.6


def test_random_points_in_a_box():
    optimizer = RandomSampling(5, 1000, 3, box=(-2.0, 6.0))
    candidates = optimizer.ask()
    assert -2 <= candidates.min() < -1.9
    assert 5.9 < candidates.max() <= 6
    optimizer.tell(candidates[:, 0])
    assert optimizer.best[1] == candidates[:, 0].min()


@pytest.mark.parametrize(
    "make",
    [
        lambda: SPSASearch(5, 1, lr=0.1, epsilon=0.0),
        lambda: SPSASearch(5, 1, lr=0.1, directions=0),
        lambda: SPSASearch(5, 1, lr=0.1, distribution="uniform"),
        lambda: SPSASearch(5, 1, lr=0.1, algorithm="adamw"),
        lambda: SPSASearch(5, 1, lr=0.0),
        lambda: SPSASearch(5, 1, lr=0.1, start=np.zeros(4)),
        lambda: EvolutionStrategy(5, 5, 0.1, 1, lr=0.1),
        lambda: EvolutionStrategy(5, 4, 0.1, 1, lr=0.1, sigma_end=0.01),
        lambda: EvolutionStrategy(5, 4, 0.1, 1, lr=0.1, sigma_end=0.0, generations=9),
        lambda: EvolutionStrategy(5, 4, 0.1, 1, lr=0.1, sigma_end=0.01, generations=1),
        lambda: EvolutionStrategy(5, 4, 0.0, 1, lr=0.1),
        lambda: EvolutionStrategy(5, 4, 0.1, 1, lr=0.1, weight_decay=-1.0),
        lambda: EvolutionStrategy(5, 4, 0.1, 1, lr=0.1, rank=1),
        lambda: EvolutionStrategy(5, 4, 0.1, 1, lr=0.1, shapes=[(5,)]),
        lambda: EvolutionStrategy(5, 4, 0.1, 1, lr=0.1, shapes=[(2, 3)], rank=1),
        lambda: EvolutionStrategy(6, 4, 0.1, 1, lr=0.1, shapes=[(2, 3)], rank=0),
        lambda: RandomSampling(5, 4, 1),
        lambda: RandomSampling(5, 4, 1, sigma=0.1, box=(0.0, 1.0)),
        lambda: RandomSampling(5, 4, 1, box=(1.0, 0.0)),
        lambda: RandomSampling(5, 1, 1, sigma=0.1),
        lambda: RandomSampling(5, 4, 1, sigma=0.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="expected|needs|give"):  # noqa: RUF043
        make()
