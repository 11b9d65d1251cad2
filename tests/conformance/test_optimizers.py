"""What every optimizer over vectors promises: one table row each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from tandemtune.optimizers.base import AskTell
from tandemtune.optimizers.cmaes import CMAESSearch
from tandemtune.optimizers.es import EvolutionStrategy
from tandemtune.optimizers.fireworks import FireworksSearch
from tandemtune.optimizers.gradient import Gradient
from tandemtune.optimizers.random_search import RandomSampling
from tandemtune.optimizers.spsa import SPSASearch
from tandemtune.optimizers.warm_start import WarmStart
from tandemtune.runs import checkpoint

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


def made_up(row):
    return np.arange(float(row.popsize))


def same(one, other):
    """Equality to the bit, through nested plain data."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and (one == other or one != one)


def spoil(state):
    for value in state.values():
        if isinstance(value, Mapping):
            spoil(value)
        elif isinstance(value, np.ndarray):
            value[...] = 7


def test_shapes_and_a_constant_number_of_candidates(make, row):
    optimizer = make()
    for _ in range(7):
        candidates, _ = step(optimizer, ELLIPSOID)
        assert candidates.shape == (row.popsize, D)
        assert candidates.dtype == np.float64
        if row.distinct:
            assert len({candidate.tobytes() for candidate in candidates}) == row.popsize


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_improves_on_a_sphere(make, row, seed):
    assert best(make(seed), SPHERE, row.generations) < SPHERE(START) / row.sphere


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


def test_ask_twice_is_refused(make):
    optimizer = make()
    optimizer.ask()
    with pytest.raises(RuntimeError, match="twice"):
        optimizer.ask()


def test_tell_without_ask_is_refused(make, row):
    optimizer = make()
    with pytest.raises(RuntimeError, match="before ask"):
        optimizer.tell(np.zeros(row.popsize), np.zeros((row.popsize, D)))
    step(optimizer)
    with pytest.raises(RuntimeError, match="before ask"):
        optimizer.tell(np.zeros(row.popsize), np.zeros((row.popsize, D)))


@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_number_of_losses_is_refused_and_can_be_mended(make, row, change):
    optimizer, other = make(), make()
    candidates = optimizer.ask()
    for shape in [(row.popsize + change,), (row.popsize, 1), (2, row.popsize), ()]:
        with pytest.raises(ValueError, match="expected losses"):
            answer(optimizer, candidates, np.zeros(shape))
    answer(optimizer, candidates, made_up(row))
    answer(other, other.ask(), made_up(row))
    assert same(optimizer.ask(), other.ask())


def test_gradients_are_wanted_or_not_looked_at(make, row):
    optimizer, other = make(), make()
    candidates = optimizer.ask()
    other.ask()
    if optimizer.wants_gradient:
        with pytest.raises(ValueError, match="follows gradients"):
            optimizer.tell(made_up(row))
        with pytest.raises(ValueError, match="expected gradients"):
            optimizer.tell(made_up(row), np.zeros(D))
        optimizer.tell(made_up(row), SPHERE.gradients(candidates))
    else:
        optimizer.tell(made_up(row))
        other.tell(made_up(row), np.full((1, 1), np.nan))
        assert same(optimizer.ask(), other.ask())


@pytest.mark.parametrize("between", [False, True], ids=["after-tell", "between-ask-and-tell"])
def test_goes_on_to_the_bit_through_the_checkpoint_file(make, row, between, tmp_path):
    whole, part, fresh = make(), make(), make(99)
    for turn in range(12):
        candidates = whole.ask()
        assert same(part.ask(), candidates)
        if turn == 5 and between:
            part = through_file(part, fresh, tmp_path)
            with pytest.raises(RuntimeError):
                part.ask()
        losses = ELLIPSOID(candidates)
        losses[turn % row.popsize] = np.nan if turn % 4 == 3 else losses[turn % row.popsize]
        answer(whole, candidates, losses, ELLIPSOID)
        answer(part, candidates, losses, ELLIPSOID)
        if turn == 5 and not between:
            part = through_file(part, fresh, tmp_path)
    assert same(part.state(), whole.state())


def through_file(one, fresh, folder):
    """The same optimizer after a process died; the new one was used before."""
    step(fresh)
    checkpoint.save(folder / "checkpoint", {"optimizers": {"3": one.state()}})
    fresh.restore(checkpoint.load(folder / "checkpoint")["optimizers"]["3"])
    return fresh


def test_restore_rewinds_a_used_object(make):
    optimizer = make()
    step(optimizer)
    state = optimizer.state()
    first = [step(optimizer)[0] for _ in range(3)]
    optimizer.ask()
    optimizer.restore(state)
    assert same([step(optimizer)[0] for _ in range(3)], first)
    optimizer.restore(state)  # a state may be used again
    assert same([step(optimizer)[0] for _ in range(3)], first)


def test_the_state_of_another_kind_is_refused(row, make):
    optimizer, untouched = make(), make()
    for other in OPTIMIZERS.values():
        if other is not row:
            with pytest.raises(ValueError, match="the state was saved"):
                optimizer.restore(other.make(1).state())
    assert same(optimizer.ask(), untouched.ask())


def test_state_is_a_snapshot(make, row):
    optimizer = make()
    step(optimizer)
    candidates = optimizer.ask()
    state = optimizer.state()
    kept = copy.deepcopy(state)
    answer(optimizer, candidates, made_up(row))
    for _ in range(3):
        step(optimizer)
    assert same(state, kept)


def test_state_is_plain_data(make):
    def plain(value):
        if isinstance(value, Mapping):
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        if isinstance(value, list | tuple):
            return all(plain(item) for item in value)
        if isinstance(value, np.ndarray):
            return value.dtype != object
        return value is None or isinstance(value, bool | int | float | str | np.generic)

    optimizer = make()
    assert plain(optimizer.state())
    step(optimizer)
    optimizer.ask()
    assert plain(optimizer.state())


def test_what_was_handed_in_stays_unchanged_and_is_not_held(make, row):
    optimizer, other = make(), make()
    candidates = optimizer.ask()
    other.ask()
    losses, gradients = made_up(row)[::-1].copy(), SPHERE.gradients(candidates)
    losses[0] = np.nan if row.popsize > 1 else 0.0
    kept = losses.copy(), gradients.copy()
    optimizer.tell(losses, gradients)
    assert same((losses, gradients), kept)
    losses[:], gradients[:] = 1e6, 1e6
    other.tell(*kept)
    for _ in range(4):
        assert same(step(optimizer)[0], step(other)[0])


def test_what_was_returned_stays_unchanged_and_is_not_read_back(make):
    optimizer, other = make(), make()
    candidates, spoilt = optimizer.ask(), other.ask()
    kept = candidates.copy()
    spoilt[:] = 1e3
    answer(optimizer, kept, SPHERE(kept))
    answer(other, kept, SPHERE(kept))
    assert same(candidates, kept)
    spoil(other.state())
    for _ in range(4):
        assert same(step(optimizer)[0], step(other)[0])
    assert same(candidates, kept)


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


def test_same_seed_same_candidates_whatever_numpys_own_seed(make):
    np.random.seed(5)
    first = [step(make(4))[0] for _ in range(2)]
    one, other = make(4), make(4)
    assert same(first[0], first[1])
    for _ in range(5):
        np.random.seed(None)
        assert same(step(one)[0], step(other)[0])


def test_different_seeds_differ(make, row):
    assert same(make(1).ask(), make(2).ask()) is not row.seeded


def test_integer_losses_and_lists_are_taken(make, row):
    one, other = make(), make()
    candidates = one.ask()
    other.ask()
    answer(one, candidates, list(range(row.popsize)))
    answer(other, candidates, made_up(row))
    assert same(one.ask(), other.ask())
