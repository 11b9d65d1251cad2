"""Descent along directions that somebody else makes: every coordinate is asked about once, and never again."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

from tandemtune.optimizers.directions import Directions
from tandemtune.optimizers.es import EvolutionStrategy
from tandemtune.optimizers.spsa import SPSASearch
from tandemtune.runs import checkpoint

GROUPS, GROUP, D = 4, 3, 12
SHAPINGS = ("values", "ranks")
SLOPE = np.random.default_rng(0).standard_normal(D)


@pytest.fixture(params=SHAPINGS)
def shaping(request):
    return request.param


def make(shaping="values", lr=0.1, sigma=0.01, groups=GROUPS, group=GROUP):
    return Directions(groups, group, lr=lr, sigma=sigma, shaping=shaping)


def sphere(x):
    return np.sum((x - 1.0) ** 2, axis=-1)


def step(optimizer, function=sphere):
    candidates = optimizer.ask()
    optimizer.tell(function(candidates))
    return candidates


def test_a_generation_is_pairs_around_the_point_in_one_group(shaping):
    optimizer = make(shaping)
    for turn in range(GROUPS):
        assert optimizer.step == turn
        point, away = optimizer.point, np.zeros((GROUP, D))
        for row in range(GROUP):
            away[row, turn * GROUP + row] = 0.01
        candidates = step(optimizer)
        assert candidates.shape == (2 * GROUP, D) and candidates.dtype == np.float64
        np.testing.assert_array_equal(candidates, np.concatenate([point + away, point - away]))


def test_what_is_settled_stays(shaping):
    optimizer = make(shaping)
    for turn in range(GROUPS):
        before = optimizer.point
        step(optimizer)
        settled = slice(turn * GROUP, (turn + 1) * GROUP)
        assert (optimizer.point[: settled.start] == before[: settled.start]).all()
        assert optimizer.point[settled].all()
        assert not optimizer.point[settled.stop :].any()


def test_values_step_along_the_slopes():
    optimizer = make()
    for _ in range(GROUPS):
        step(optimizer, lambda x: x @ SLOPE)
    np.testing.assert_allclose(optimizer.point, -0.1 * SLOPE / GROUP, atol=1e-12)


def as_weights(candidates, point, directions):
    """Candidates as settings of a model whose directions are given: coefficients times directions."""
    return point + candidates @ directions


def test_values_are_spsa_on_the_weights():
    """The same losses, and the weights go where SPSA's go."""
    model = SPSASearch(5, 7, lr=0.1, epsilon=0.01, directions=GROUP)
    directions = np.concatenate([model.direction(turn) for turn in range(GROUPS)])
    optimizer = make()
    for _ in range(GROUPS):
        own, theirs = as_weights(optimizer.ask(), np.zeros(5), directions), model.ask()
        np.testing.assert_allclose(own, theirs, atol=1e-12)
        optimizer.tell(sphere(theirs))
        model.tell(sphere(theirs))
        np.testing.assert_allclose(optimizer.point @ directions, model.point, atol=1e-12)


def test_ranks_are_an_evolution_strategy_on_the_weights():
    model = EvolutionStrategy(5, 2 * GROUP, 0.01, 7, lr=0.1, algorithm="sgd")
    directions = np.concatenate([model.noise(turn) for turn in range(GROUPS)])
    optimizer = make("ranks")
    for turn in range(GROUPS):
        own, theirs = as_weights(optimizer.ask(), np.zeros(5), directions), model.ask()
        np.testing.assert_allclose(own, theirs, atol=1e-12)
        losses = sphere(theirs)
        losses[turn] = np.nan
        optimizer.tell(losses)
        model.tell(losses)
        np.testing.assert_allclose(optimizer.point @ directions, model.point, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_leave_out_pairs_without_a_slope(bad):
    optimizer = make()
    losses = optimizer.ask() @ SLOPE
    losses[1] = bad  # the second pair's plus
    optimizer.tell(losses)
    np.testing.assert_allclose(optimizer.point[:GROUP], -0.1 * SLOPE[:GROUP] * [1, 0, 1] / 2, atol=1e-12)


@pytest.mark.parametrize("losses", [[np.nan, np.inf, -np.inf, np.nan, np.inf, np.nan], [2.0] * 6])
def test_a_generation_that_says_nothing_moves_nothing(shaping, losses):
    optimizer = make(shaping)
    step(optimizer)
    before = optimizer.point
    optimizer.ask()
    optimizer.tell(losses)
    assert (optimizer.point == before).all() and optimizer.step == 2


def test_it_minimises(shaping):
    optimizer = make(shaping, lr=0.5 if shaping == "values" else 0.01, groups=12, group=1)
    found = [sphere(optimizer.point)]
    for _ in range(12):
        step(optimizer)
        found.append(sphere(optimizer.point))
    assert all(after < before for before, after in itertools.pairwise(found))
    assert found[-1] < 0.6 * found[0]


def test_after_the_last_group_there_is_nothing_to_ask(shaping):
    optimizer = make(shaping)
    for _ in range(GROUPS):
        step(optimizer)
    point = optimizer.point
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"all 4 groups .* more groups"):
            optimizer.ask()
    with pytest.raises(RuntimeError, match="before ask"):
        optimizer.tell(np.zeros(2 * GROUP))
    assert (optimizer.point == point).all()


def test_order_and_shapes_are_enforced(shaping):
    optimizer = make(shaping)
    with pytest.raises(RuntimeError, match="before ask"):
        optimizer.tell(np.zeros(2 * GROUP))
    candidates = optimizer.ask()
    with pytest.raises(RuntimeError, match="twice"):
        optimizer.ask()
    for wrong in ((2 * GROUP - 1,), (2 * GROUP, 1), ()):
        with pytest.raises(ValueError, match="expected losses"):
            optimizer.tell(np.zeros(wrong))
    candidates[:] = 7.0
    optimizer.point[:] = 7.0
    optimizer.tell(np.arange(2.0 * GROUP))
    assert np.abs(optimizer.point).max() < 7


@pytest.mark.parametrize("between", [False, True], ids=["after-tell", "between-ask-and-tell"])
def test_goes_on_to_the_bit_through_the_checkpoint_file(shaping, between, tmp_path):
    whole, part, used = make(shaping), make(shaping), make(shaping)
    step(used)
    step(used)
    for turn in range(GROUPS):
        candidates = whole.ask()
        assert candidates.tobytes() == part.ask().tobytes()
        losses = sphere(candidates)
        if not between:
            part.tell(losses)
        if turn == 1:
            kept = part.state()
            snapshot = copy.deepcopy(kept)
            checkpoint.save(tmp_path / "checkpoint", {"optimizers": {"-1": kept}})
            if not between:
                step(part)
                assert all(np.array_equal(kept[key], snapshot[key]) for key in kept), "a state is a snapshot"
            part = used
            part.restore(checkpoint.load(tmp_path / "checkpoint")["optimizers"]["-1"])
        if between:
            part.tell(losses)
        whole.tell(losses)
        assert whole.point.tobytes() == part.point.tobytes() and whole.step == part.step


def test_the_state_of_another_kind_is_refused(shaping):
    optimizer = make(shaping)
    others = [
        make(next(other for other in SHAPINGS if other != shaping)),
        make(shaping, groups=5),
        make(shaping, group=2),
    ]
    for other in [*others, SPSASearch(D, 1, lr=0.1)]:
        with pytest.raises(ValueError, match="the state was saved by"):
            optimizer.restore(other.state())
    assert optimizer.step == 0 and not optimizer.point.any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"groups": 0},
        {"group": 0},
        {"lr": 0.0},
        {"lr": np.nan},
        {"sigma": -1.0},
        {"sigma": np.inf},
        {"shaping": "signs"},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        make(**wrong)
