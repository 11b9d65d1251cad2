"""What every optimizer promises: one table row each."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import pytest

from tandemtune.optimizers.cmaes import CMAES

D, POPSIZE = 8, 12

# name -> (maker of (d, popsize, sigma, seed), generations, factor on the sphere, factor on the turned ellipsoid)
OPTIMIZERS = {
    "cmaes-full": (lambda d, p, sigma, seed: CMAES(d, p, sigma, seed, "full"), 120, 1e8, 1e4),
    "cmaes-separable": (lambda d, p, sigma, seed: CMAES(d, p, sigma, seed, "separable"), 120, 1e8, 3e1),
}


@pytest.fixture(params=OPTIMIZERS, ids=str)
def row(request):
    return OPTIMIZERS[request.param]


@pytest.fixture
def make(row):
    return lambda seed=1, d=D, popsize=POPSIZE, sigma=0.5: row[0](d, popsize, sigma, seed)


def sphere(x):
    return float(np.sum((x - 1.0) ** 2))


def turned_ellipsoid(x):
    turn, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((len(x), len(x))))
    return float(np.sum(100.0 ** (np.arange(len(x)) / (len(x) - 1)) * (turn @ (x - 1.0)) ** 2))


def step(optimizer, function=sphere):
    candidates = optimizer.ask()
    losses = np.array([function(x) for x in candidates])
    optimizer.tell(losses)
    return candidates, losses


def best(optimizer, function, generations):
    return min(step(optimizer, function)[1].min() for _ in range(generations))


def same(one, other):
    """Equality to the bit, through nested plain data."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and (one == other or one != one)


def test_shapes(make):
    candidates = make().ask()
    assert candidates.shape == (POPSIZE, D)
    assert candidates.dtype == np.float64
    assert len({row.tobytes() for row in candidates}) == POPSIZE


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_improves_on_a_sphere(make, row, seed):
    assert best(make(seed), sphere, row[1]) < sphere(np.zeros(D)) / row[2]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_improves_on_a_turned_ellipsoid(make, row, seed):
    assert best(make(seed), turned_ellipsoid, row[1]) < turned_ellipsoid(np.zeros(D)) / row[3]


def test_minimises_and_does_not_maximise(make):
    optimizer = make()
    first = step(optimizer, lambda x: float(x[0]))[0]
    for _ in range(10):
        last = step(optimizer, lambda x: float(x[0]))[0]
    assert last[:, 0].mean() < first[:, 0].mean() - 0.5


def test_first_generation_has_the_stated_step_size(make):
    candidates = make(popsize=400, sigma=0.7).ask()
    assert abs(candidates.std() / 0.7 - 1) < 0.05
    assert np.abs(candidates.mean(axis=0)).max() < 0.2


def test_ask_twice_is_refused(make):
    optimizer = make()
    optimizer.ask()
    with pytest.raises(RuntimeError, match="twice"):
        optimizer.ask()


def test_tell_without_ask_is_refused(make):
    optimizer = make()
    with pytest.raises(RuntimeError, match="before ask"):
        optimizer.tell(np.zeros(POPSIZE))
    step(optimizer)
    with pytest.raises(RuntimeError, match="before ask"):
        optimizer.tell(np.zeros(POPSIZE))


@pytest.mark.parametrize("shape", [(POPSIZE - 1,), (POPSIZE + 1,), (POPSIZE, 1), (1, POPSIZE), ()])
def test_wrong_number_of_losses_is_refused_and_can_be_mended(make, shape):
    optimizer, other = make(), make()
    optimizer.ask()
    with pytest.raises(ValueError, match="expected losses"):
        optimizer.tell(np.zeros(shape))
    losses = np.arange(float(POPSIZE))
    optimizer.tell(losses)
    other.ask()
    other.tell(losses)
    assert same(optimizer.ask(), other.ask())


@pytest.mark.parametrize("between", [False, True], ids=["after-tell", "between-ask-and-tell"])
def test_goes_on_to_the_bit(make, between):
    whole, part = make(), make()
    expected = [step(whole, turned_ellipsoid)[0] for _ in range(10)]
    seen = [step(part, turned_ellipsoid)[0] for _ in range(5)]
    if between:
        asked = part.ask()
        state = part.state()
        fresh = make(seed=99)
        fresh.restore(state)
        with pytest.raises(RuntimeError):
            fresh.ask()
        fresh.tell(np.array([turned_ellipsoid(x) for x in asked]))
        seen.append(asked)
    else:
        fresh = make(seed=99)
        fresh.restore(part.state())
    seen += [step(fresh, turned_ellipsoid)[0] for _ in range(10 - len(seen))]
    assert same(seen, expected)


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


def test_state_is_a_snapshot(make):
    optimizer = make()
    step(optimizer)
    optimizer.ask()
    state = optimizer.state()
    kept = copy.deepcopy(state)
    optimizer.tell(np.arange(float(POPSIZE)))
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


def test_what_was_handed_in_stays_unchanged(make):
    optimizer = make()
    optimizer.ask()
    losses = np.arange(float(POPSIZE))[::-1].copy()
    losses[3] = np.nan
    kept = losses.copy()
    optimizer.tell(losses)
    assert same(losses, kept)


def test_what_was_returned_stays_unchanged_and_is_not_read_back(make):
    optimizer, other = make(), make()
    candidates, spoilt = optimizer.ask(), other.ask()
    kept = candidates.copy()
    losses = np.array([sphere(x) for x in candidates])
    spoilt[:] = 1e3
    optimizer.tell(losses)
    other.tell(losses)
    assert same(candidates, kept)
    assert same(step(optimizer)[0], step(other)[0])
    assert same(candidates, kept)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_count_as_worst(make, bad):
    """The same as any other loss above all the rest."""
    optimizer, other = make(), make()
    for turn in range(5):
        candidates = optimizer.ask()
        assert same(candidates, other.ask())
        losses = np.array([sphere(x) for x in candidates])
        losses[turn] = bad
        optimizer.tell(losses)
        losses[turn] = 1e6
        other.tell(losses)
    assert same(optimizer.ask(), other.ask())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_generation_without_one_good_loss_breaks_nothing(make, row, bad):
    optimizer = make()
    for _ in range(3):
        optimizer.ask()
        optimizer.tell(np.full(POPSIZE, bad))
    assert np.isfinite(optimizer.ask()).all()
    optimizer.tell(np.zeros(POPSIZE))
    assert best(optimizer, sphere, row[1]) < sphere(np.zeros(D)) / 1e3


def test_same_seed_same_candidates_whatever_numpys_own_seed(make):
    np.random.seed(5)
    first = [step(make(4))[0] for _ in range(2)]
    one, other = make(4), make(4)
    assert same(first[0], first[1])
    for _ in range(5):
        np.random.seed(None)
        assert same(step(one)[0], step(other)[0])


def test_different_seeds_differ(make):
    assert not same(make(1).ask(), make(2).ask())


def test_integer_losses_and_lists_are_taken(make):
    one, other = make(), make()
    one.ask()
    other.ask()
    one.tell(list(range(POPSIZE)))
    other.tell(np.arange(float(POPSIZE)))
    assert same(one.ask(), other.ask())
