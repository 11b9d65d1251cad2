"""What every optimizer over vectors promises: one table row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from tandemtune.optimizers.base import AskTell
from tandemtune.optimizers.cmaes import CMAESSearch
from tandemtune.optimizers.es import EvolutionStrategy
from tandemtune.optimizers.fireworks import FireworksSearch
from tandemtune.optimizers.fzoo import FZOOSearch
from tandemtune.optimizers.gradient import Gradient
from tandemtune.optimizers.guided import GuidedSPSA
from tandemtune.optimizers.random_search import RandomSampling
from tandemtune.optimizers.spsa import SPSASearch
from tandemtune.optimizers.warm_start import WarmStart
from tandemtune.testing import OPTIMIZER_PROMISES, OptimizerCase
from tandemtune.testing.promises import same

D = 8


@dataclass(frozen=True)
class Row:
    """How to make an optimizer around zero, and how far it must come."""

    make: Callable[[int], AskTell]  # of a seed
    popsize: int
    generations: int
    sphere: float  # factor by which the loss at zero must fall
    ellipsoid: float
    spread: float | None = None  # standard deviation of the first generation
    ranks: bool = True  # only the order of the losses counts
    seeded: bool = True
    distinct: bool = True  # all candidates of a generation differ
    learns: bool = True  # later candidates are better ones


def cmaes(covariance):
    return lambda seed: CMAESSearch(D, 12, 0.5, seed, covariance)


def warm_cmaes(seed):
    return WarmStart(D, 12, 0.5, seed, 5, lambda mean: CMAESSearch(D, 12, 0.5, seed, "full", mean))


def fireworks(popsize, **settings):
    return lambda seed: FireworksSearch(D, popsize, seed, start=np.zeros(D), **settings)


def es(**settings):
    return lambda seed: EvolutionStrategy(D, 12, 0.1, seed, lr=0.1, **settings)


def spsa(**settings):
    return lambda seed: SPSASearch(D, seed, directions=6, **settings)


def gradient(**settings):
    return lambda seed: Gradient(np.zeros(D, dtype=np.float32), **settings)


FOLLOWS = {"popsize": 1, "ranks": False, "seeded": False}
OPTIMIZERS = {
    "cmaes-full": Row(cmaes("full"), 12, 120, 1e8, 1e4, spread=0.5),
    "cmaes-separable": Row(cmaes("separable"), 12, 120, 1e8, 3e1, spread=0.5),
    "cmaes-warm": Row(warm_cmaes, 12, 120, 1e8, 1e4, ranks=False),
    "lotfwa": Row(fireworks(24, fireworks=2, g_max=150), 24, 150, 1e3, 1e2),
    "lotfwa-one": Row(fireworks(12, amplitude=1.0, remeasure=True), 12, 150, 3e3, 1e2),
    "gfwa": Row(fireworks(12, variant="gfwa"), 12, 150, 3e2, 1e2),
    "bbfwa": Row(fireworks(12, variant="bbfwa", amplitude=2.0), 12, 150, 3e3, 1e2),
    "dynfwa": Row(fireworks(24, variant="dynfwa", fireworks=3, remeasure=True), 24, 150, 1e2, 1e2, ranks=False),
    "es": Row(es(), 12, 250, 1e2, 1e2, spread=0.1),
    "es-low-rank": Row(es(shapes=[(2, 3), (2,)], rank=1, weight_decay=1e-6), 12, 250, 2e2, 1e2, spread=0.1),
    "spsa": Row(spsa(lr=0.003, distribution="rademacher"), 12, 400, 3e1, 1e3, ranks=False, distinct=False),
    "spsa-adam": Row(spsa(lr=0.05, algorithm="adam"), 12, 250, 1e5, 1e2, ranks=False),
    "fzoo": Row(lambda seed: FZOOSearch(D, 9, seed, lr=1e-3, epsilon=0.01), 9, 250, 2e1, 1e1, ranks=False, distinct=False),
    "guided-spsa": Row(lambda seed: GuidedSPSA(D, 10, seed, lr=0.002, epsilon=0.1), 10, 300, 1e2, 1e2, ranks=False),
    "random-steps": Row(lambda seed: RandomSampling(D, 12, seed, sigma=0.3), 12, 150, 2e1, 1e1),
    "random-remeasured": Row(lambda seed: RandomSampling(D, 16, seed, sigma=0.3, remeasure=True), 16, 150, 2e1, 1e1),
    "random-box": Row(lambda seed: RandomSampling(D, 12, seed, box=(-1.0, 3.0)), 12, 150, 2, 2, learns=False),
    "adamw": Row(gradient(lr=0.1, schedule="linear", warmup=5, steps=200), generations=200, sphere=1e6, ellipsoid=3e3, **FOLLOWS),
    "adam-accumulated": Row(gradient(algorithm="adam", lr=0.1, accumulate=3, clip=5.0), generations=300, sphere=1e4, ellipsoid=1e2, **FOLLOWS),
    "sgd": Row(gradient(algorithm="sgd", lr=0.004, schedule="cosine", steps=200), generations=200, sphere=1e3, ellipsoid=1e2, **FOLLOWS),
}  # fmt: skip


@pytest.fixture(params=OPTIMIZERS, ids=str)
def row(request):
    return OPTIMIZERS[request.param]


@pytest.fixture
def make(row):
    return lambda seed=1: row.make(seed)


class Sphere:
    def __call__(self, x):
        return np.sum((x - 1.0) ** 2, axis=-1)

    def gradients(self, x):
        return 2.0 * (x - 1.0)


class TurnedEllipsoid:
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((D, D)))[0]
    weights = 100.0 ** (np.arange(D) / (D - 1))

    def __call__(self, x):
        return np.sum(self.weights * ((x - 1.0) @ self.turn.T) ** 2, axis=-1)

    def gradients(self, x):
        return 2.0 * (self.weights * ((x - 1.0) @ self.turn.T)) @ self.turn


class FirstCoordinate:
    def __call__(self, x):
        return x[..., 0].copy()

    def gradients(self, x):
        return np.eye(D)[np.zeros(len(x), dtype=int)]


class Flat:
    """Losses that were made up; the gradient is zero."""

    def gradients(self, x):
        return np.zeros_like(x)


SPHERE, ELLIPSOID, START = Sphere(), TurnedEllipsoid(), np.zeros(D)


def answer(optimizer, candidates, losses, function=SPHERE):
    optimizer.tell(losses, function.gradients(candidates) if optimizer.wants_gradient else None)


def step(optimizer, function=SPHERE):
    candidates = optimizer.ask()
    losses = function(candidates)
    answer(optimizer, candidates, losses, function)
    return candidates, losses


def best(optimizer, function, generations):
    return min(step(optimizer, function)[1].min() for _ in range(generations))


def test_shapes_and_a_constant_number_of_candidates(make, row):
    optimizer = make()
    for _ in range(7):
        candidates, _ = step(optimizer, ELLIPSOID)
        assert candidates.shape == (row.popsize, D)
        assert candidates.dtype == np.float64
        if row.distinct:
            assert len({candidate.tobytes() for candidate in candidates}) == row.popsize


@pytest.mark.parametrize("promise", OPTIMIZER_PROMISES, ids=lambda promise: promise.__name__)
def test_keeps_its_promises(row, promise):
    """The suite that others run on optimizers of their own."""
    case = OptimizerCase(row.make, D, row.popsize, row.generations, row.sphere, seeded=row.seeded)
    promise(case)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_improves_on_a_turned_ellipsoid(make, row, seed):
    assert best(make(seed), ELLIPSOID, row.generations) < ELLIPSOID(START) / row.ellipsoid


@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if row.learns])
def test_minimises_and_does_not_maximise(name):
    row, function = OPTIMIZERS[name], FirstCoordinate()
    optimizer = row.make(1)
    first = step(optimizer, function)[0]
    for _ in range(row.generations):
        last = step(optimizer, function)[0]
    assert last[:, 0].mean() < first[:, 0].mean() - 0.3


@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if row.spread])
def test_first_generation_has_the_stated_step_size(name):
    row = OPTIMIZERS[name]
    candidates = np.concatenate([row.make(seed).ask() for seed in range(40)])
    assert abs(candidates.std() / row.spread - 1) < 0.05
    assert np.abs(candidates.mean(axis=0)).max() < 0.3 * row.spread


def test_the_state_of_another_kind_is_refused(row, make):
    optimizer, untouched = make(), make()
    for other in OPTIMIZERS.values():
        if other is not row:
            with pytest.raises(ValueError, match="the state was saved"):
                optimizer.restore(other.make(1).state())
    assert same(optimizer.ask(), untouched.ask())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_count_as_worst(make, row, bad):
    """For ranks the same as any other loss above all the rest; for differences it says nothing, and nothing breaks."""
    optimizer, other = make(), make()
    for turn in range(6):
        candidates, expected = optimizer.ask(), other.ask()
        losses, clean = SPHERE(candidates), SPHERE(expected)
        losses[turn % row.popsize] = bad
        clean[turn % row.popsize] = 1e6
        answer(optimizer, candidates, losses)
        answer(other, expected, clean)
        if row.ranks:
            assert same(candidates, expected)
    assert best(optimizer, SPHERE, row.generations) < SPHERE(START) / row.sphere**0.5


@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if row.learns])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_candidate_is_never_gone_after(name, bad):
    """Where the function has no value there is nothing to be had: half of the space is closed."""
    optimizer = OPTIMIZERS[name].make(1)
    for _ in range(40):
        candidates = optimizer.ask()
        answer(optimizer, candidates, np.where(candidates[:, 0] < -0.2, bad, SPHERE(candidates)))
    assert (optimizer.ask()[:, 0] > -0.2).mean() > 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_generation_without_one_good_loss_breaks_nothing(make, row, bad):
    optimizer = make()
    for _ in range(3):
        answer(optimizer, optimizer.ask(), np.full(row.popsize, bad))
    candidates = optimizer.ask()
    assert np.isfinite(candidates).all()
    answer(optimizer, candidates, np.full(row.popsize, 1e3), Flat())
    assert best(optimizer, SPHERE, row.generations) < SPHERE(START) / min(row.sphere, 1e3)
