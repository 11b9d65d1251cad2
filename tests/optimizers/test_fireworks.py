"""Fireworks: published values, and the algorithm's parts."""

from __future__ import annotations

import numpy as np
import pytest

from tandemtune.optimizers.fireworks import FireworksSearch

VARIANTS = ["lotfwa", "gfwa", "bbfwa", "dynfwa"]


class Reversed(FireworksSearch):
    """The guiding vector from the best to the worst sparks, as two public releases have it."""

    def _guides(self, asked, losses):
        return super()._guides(asked, -losses)


def search(make, function, evaluations, **settings):
    optimizer = make(**settings)
    best = np.inf
    for _ in range(evaluations // settings["popsize"]):
        losses = function(optimizer.ask())
        optimizer.tell(losses)
        best = min(best, losses.min())
    return best


def centred_sphere(seed):
    centre = np.random.default_rng([seed, 10]).uniform(-80, 80, 10)
    return lambda x: np.sum((x - centre) ** 2, axis=1)


def bi_rastrigin(seed, d=30, mu=2.5):
    """CEC-2013 F17 with a shift of its own."""
    shift = np.random.default_rng([seed, 17]).uniform(-80, 80, d)
    s = 1 - 1 / (2 * np.sqrt(d + 20) - 8.2)
    ramp = 100.0 ** (np.arange(d) / (d - 1) / 2)

    def function(x):
        y = 0.2 * np.sign(shift) * (x - shift)
        near, far = np.sum(y**2, axis=1), np.sum((y + mu + np.sqrt((mu**2 - 1) / s)) ** 2, axis=1)
        return np.minimum(near, d + s * far) + 10 * (d - np.cos(2 * np.pi * y * ramp).sum(axis=1))

    return function


def on_spheres(make, fireworks):
    settings = {"d": 10, "popsize": 100, "fireworks": fireworks, "box": (-100.0, 100.0), "g_max": 300}
    return np.median([search(make, centred_sphere(s), 30_000, seed=s, **settings) for s in range(20)])


def test_the_published_value_on_a_sphere_and_not_that_of_the_reversed_sign():
    """4e-7 and 2e-5 (sphere in 10 dimensions, 30,000 evaluations, 100 sparks)."""
    assert 1e-7 < on_spheres(FireworksSearch, 1) < 1.5e-6
    assert on_spheres(Reversed, 1) > 1e-5


def test_several_fireworks_on_a_sphere():
    assert on_spheres(FireworksSearch, 3) < 1e-6 < 3e-6 < on_spheres(Reversed, 3)


@pytest.mark.slow
def test_the_published_value_on_f17_and_not_that_of_the_reversed_sign():
    """62 and about 140 (30 dimensions, 300,000 evaluations)."""
    settings = {"d": 30, "popsize": 300, "fireworks": 5, "box": (-100.0, 100.0), "g_max": 1000}
    means = {
        make: np.mean([search(make, bi_rastrigin(s), 300_000, seed=s, **settings) for s in range(3)])
        for make in (FireworksSearch, Reversed)
    }
    assert means[FireworksSearch] < 90 < 105 < means[Reversed]


@pytest.mark.parametrize("variant", VARIANTS)
def test_candidates_stay_in_the_box(variant):
    optimizer = FireworksSearch(6, 40, 1, variant=variant, fireworks=2, box=(-1.0, 0.5), g_max=30)
    for _ in range(30):
        candidates = optimizer.ask()
        assert candidates.shape == (40, 6)
        assert candidates.min() >= -1.0
        assert candidates.max() <= 0.5
        optimizer.tell(np.sum((candidates - 0.5) ** 2, axis=1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_start_is_the_first_candidate_and_its_sparks_are_around_it(variant):
    start = np.linspace(-1, 1, 50)
    optimizer = FireworksSearch(50, 20, 1, variant=variant, fireworks=1, amplitude=0.3, start=start)
    candidates = optimizer.ask()
    assert (candidates[0] == start).all()
    away = np.abs(candidates[1:] - start)
    assert away.max() <= 0.3
    assert away.max() > 0.28
    moved = (away > 0).mean()
    assert moved == 1 if variant != "dynfwa" else 0.4 < moved < 0.6


def test_guiding_spark_and_amplitude():
    """Second generation: the guiding spark of the first, then sparks around the new firework, further out after a success."""
    optimizer = FireworksSearch(4, 21, 3, amplitude=0.5, start=np.zeros(4))
    first = optimizer.ask()
    losses = np.sum((first - 2.0) ** 2, axis=1)
    sparks = first[1:][np.argsort(losses[1:])]
    optimizer.tell(losses)
    second = optimizer.ask()
    np.testing.assert_allclose(second[0], sparks[:4].mean(axis=0) - sparks[-4:].mean(axis=0), atol=1e-15)
    away = np.abs(second[1:] - sparks[0])
    assert 0.5 < away.max() <= 0.6
    optimizer.tell(np.full(21, 1e3))  # no success
    third = optimizer.ask()
    assert 0.5 < np.abs(third[1:] - sparks[0]).max() <= 0.54
    assert optimizer.best[1] == losses.min()
    assert (optimizer.best[0] == sparks[0]).all()


def test_a_guiding_spark_that_wins_is_the_next_firework():
    optimizer = FireworksSearch(4, 21, 3, amplitude=0.5, start=np.zeros(4))
    optimizer.tell(np.sum((optimizer.ask() - 2.0) ** 2, axis=1))
    guide = optimizer.ask()[0]
    optimizer.tell(np.arange(21.0) - 100.0)
    assert (optimizer.best[0] == guide).all()
    assert np.abs(optimizer.ask()[1:] - guide).max() <= 0.72


def test_bare_bones_have_no_guiding_spark():
    optimizer = FireworksSearch(4, 21, 3, variant="bbfwa", amplitude=0.01, start=np.zeros(4))
    for _ in range(3):
        candidates = optimizer.ask()
        assert np.abs(candidates - optimizer.best[0]).max() < 0.02
        optimizer.tell(np.sum((candidates - 2.0) ** 2, axis=1))


def far_candidates(g_max):
    """Candidates outside two basins, one of them worse by 50, after a firework has settled in each."""
    optimizer = FireworksSearch(
        3, 40, 1, fireworks=2, box=(-10.0, 10.0), amplitude=1.0, start=np.full(3, 7.0), g_max=g_max
    )
    optimizer._x[1] = -7.0
    far = 0
    for turn in range(100):
        candidates = optimizer.ask()
        deep, flat = np.sum((candidates - 8) ** 2, axis=1), np.sum((candidates + 8) ** 2, axis=1)
        optimizer.tell(np.minimum(deep, flat + 50))
        far += np.sum(np.minimum(deep, flat) > 20) if turn > 20 else 0
    return far


def test_losers_are_restarted_when_the_end_is_known():
    assert far_candidates(None) == 0
    assert far_candidates(100) > 20
    assert far_candidates(20) == 0  # and not once the end is past


@pytest.mark.parametrize("variant", VARIANTS)
def test_remeasured_fireworks_follow_a_function_that_gets_worse(variant):
    """Without it, losses of long ago can never be beaten."""
    ends = {}
    for remeasure in (False, True):
        settings = {"variant": variant, "fireworks": 2, "amplitude": 0.5, "remeasure": remeasure}
        optimizer = FireworksSearch(5, 40, 2, start=np.zeros(5), **settings)
        for turn in range(60):
            candidates = optimizer.ask()
            optimizer.tell(np.sum((candidates - 2.0) ** 2, axis=1) + 100.0 * turn)
        ends[remeasure] = np.sum((optimizer.best[0] - 2.0) ** 2)
    assert ends[True] < 0.1 < ends[False]


def test_remeasured_fireworks_are_part_of_the_batch():
    optimizer = FireworksSearch(5, 40, 2, fireworks=1, remeasure=True)
    for _ in range(5):
        best = optimizer.best[0]
        candidates = optimizer.ask()
        assert (candidates[0] == best).all()
        optimizer.tell(np.sum(candidates**2, axis=1))


@pytest.mark.parametrize(
    ("popsize", "variant", "expected"),
    [(20, "lotfwa", 1), (40, "lotfwa", 2), (300, "lotfwa", 5), (8, "lotfwa", 1), (300, "gfwa", 1), (300, "bbfwa", 1)],
)
def test_how_many_fireworks(popsize, variant, expected):
    first = FireworksSearch(3, popsize, 1, variant=variant, box=(0.0, 1.0), amplitude=1e-9).ask()
    assert len(np.unique(np.round(first, 6), axis=0)) == expected


def test_dynfwa_gives_the_best_most_sparks_and_the_worst_least():
    optimizer = FireworksSearch(3, 100, 1, variant="dynfwa", fireworks=3)
    optimizer._loss = np.array([1.0, 2.0, 5.0])
    assert optimizer._split(100).tolist() == [55, 41, 4]
    optimizer._loss = np.array([1.0, 5.0, 5.0])
    assert optimizer._split(100).tolist() == [91, 5, 4]
    optimizer._loss[2] = np.inf
    assert sorted(optimizer._split(100).tolist()) == [33, 33, 34]


@pytest.mark.parametrize(
    "settings",
    [
        {"variant": "fwa"},
        {"popsize": 7, "fireworks": 2},
        {"fireworks": 0},
        {"box": (1.0, -1.0)},
        {"box": (0.0, np.inf)},
        {"amplitude": 0.0},
        {"start": np.full(3, 6.0)},
        {"start": np.zeros(4)},
        {"start": np.full(3, np.nan)},
        {"share": 0.6},
        {"shrink": 1.1},
        {"grow": 0.9},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="expected|outside|NaN"):  # noqa: RUF043
        FireworksSearch(**{"d": 3, "popsize": 20, "seed": 1, **settings})
