"""What the vector optimizers promise, for texts; and what only genetic search does."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest

from tandemtune.optimizers.genetic import GeneticSearch
from tandemtune.runs import checkpoint

TARGET = (3, 1, 4, 1, 5, 9, 2, 6)
START = [(0,) * 8, (7,) * 8, (1, 2, 3, 4, 5, 6, 7, 8)]


def replace_one(text, rng):
    """Another token at one place."""
    place = rng.integers(0, len(text))
    return (*text[:place], int(rng.integers(0, 10)), *text[place + 1 :])


def make(seed=1, start=START, popsize=10, mutate=replace_one, **settings):
    return GeneticSearch(start, popsize, mutate, seed, **settings)


def mismatches(texts):
    return np.array([sum(a != b for a, b in zip(text, TARGET, strict=True)) for text in texts], dtype=float)


def step(optimizer, function=mismatches):
    texts = optimizer.ask()
    losses = function(texts)
    optimizer.tell(losses)
    return texts, losses


@pytest.mark.parametrize("settings", [{}, {"crossover": 0.0, "mutation": 1.0}, {"mutation": 0.0}, {"tournament": 1}])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_finds_a_string(seed, settings):
    optimizer = make(seed, **settings)
    losses = [step(optimizer)[1].min() for _ in range(60 if settings.get("tournament") != 1 else 200)]
    assert min(losses) == 0
    assert optimizer.best == (TARGET, 0.0)


def test_beats_random_replacement_of_the_start():
    rng = np.random.default_rng(0)
    blind = min(mismatches([tuple(rng.integers(0, 10, 8)) for _ in range(600)]))
    assert blind > 0


def test_texts_are_tuples_of_ints_and_their_number_is_constant():
    optimizer = make(mutate=lambda text, rng: [*rng.integers(0, 99, 8)])
    for _ in range(5):
        texts, _ = step(optimizer)
        assert len(texts) == 10
        assert all(type(text) is tuple and all(type(token) is int for token in text) for text in texts)


def test_the_first_generation_is_the_start_and_mutants():
    texts = make(start=[*START, START[0]]).ask()
    assert texts[:3] == START
    assert all(min(sum(a != b for a, b in zip(text, one, strict=True)) for one in texts[:3]) < 8 for text in texts)


def test_more_starting_texts_than_one_generation_holds():
    start = [(i,) * 8 for i in range(13)]
    optimizer = make(start=start, popsize=5)
    texts = [text for _ in range(3) for text in step(optimizer)[0]]
    assert texts[:13] == start


def test_no_text_is_scored_twice_if_others_can_be_found():
    optimizer = make()
    texts = [text for _ in range(50) for text in step(optimizer)[0]]
    assert len(set(texts)) == len(texts) == 500


def test_goes_on_when_there_is_nothing_new():
    optimizer = make(start=[(0,)], popsize=7, mutate=lambda text, rng: (int(rng.integers(0, 4)),))
    texts = [text for _ in range(5) for text in step(optimizer, lambda t: np.array([x[0] for x in t]))[0]]
    assert len(texts) == 35
    assert set(texts) == {(0,), (1,), (2,), (3,)}
    assert optimizer.best == ((0,), 0.0)


def test_order_is_enforced():
    optimizer = make()
    with pytest.raises(RuntimeError, match="before ask"):
        optimizer.tell(np.zeros(10))
    optimizer.ask()
    with pytest.raises(RuntimeError, match="twice"):
        optimizer.ask()
    for shape in [(9,), (11,), (10, 1), ()]:
        with pytest.raises(ValueError, match="expected losses"):
            optimizer.tell(np.zeros(shape))
    optimizer.tell(np.zeros(10))
    with pytest.raises(RuntimeError, match="before ask"):
        optimizer.tell(np.zeros(10))


@pytest.mark.parametrize("between", [False, True], ids=["after-tell", "between-ask-and-tell"])
@pytest.mark.parametrize("at", [0, 1, 6])
def test_goes_on_to_the_bit_through_the_checkpoint_file(between, at, tmp_path):
    start = [(i,) * 8 for i in range(13)]
    whole, part, fresh = make(start=start), make(start=start), make(99, start=START)
    for turn in range(12):
        texts = whole.ask()
        assert part.ask() == texts
        if turn == at and between:
            part = through_file(part, fresh, tmp_path)
            with pytest.raises(RuntimeError):
                part.ask()
        losses = mismatches(texts)
        losses[3] = np.nan
        whole.tell(losses)
        part.tell(losses)
        if turn == at and not between:
            part = through_file(part, fresh, tmp_path)
    assert part.best == whole.best


def through_file(one, fresh, folder):
    step(fresh)
    checkpoint.save(folder / "checkpoint", one.state())
    fresh.restore(checkpoint.load(folder / "checkpoint"))
    return fresh


def test_state_is_a_snapshot_and_may_be_used_again():
    optimizer = make()
    step(optimizer)
    state = optimizer.state()
    kept = copy.deepcopy(state)
    first = [step(optimizer)[0] for _ in range(3)]
    assert str(state) == str(kept)
    for _ in range(2):
        optimizer.restore(state)
        assert [step(optimizer)[0] for _ in range(3)] == first
    with pytest.raises(ValueError, match="the state was saved by"):
        make(popsize=4).restore(state)


def test_what_was_handed_in_or_out_is_not_held():
    start = list(START)
    optimizer, other = make(start=start), make()
    start.clear()
    texts, losses = optimizer.ask(), np.arange(10.0)
    texts_kept = other.ask()
    texts[:] = [(9,) * 8] * 10
    optimizer.tell(losses)
    losses[:] = 0
    other.tell(np.arange(10.0))
    assert optimizer.ask() == other.ask()
    assert optimizer.best == (texts_kept[0], 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_count_as_worst(bad):
    one, other = make(), make()
    for turn in range(6):
        texts = one.ask()
        assert texts == other.ask()
        losses = mismatches(texts)
        losses[turn] = bad
        one.tell(losses)
        losses[turn] = 1e6
        other.tell(losses)
    assert one.best == other.best


def test_a_generation_without_one_good_loss_breaks_nothing():
    optimizer = make()
    for _ in range(3):
        optimizer.ask()
        optimizer.tell(np.full(10, np.nan))
    assert min(step(optimizer)[1].min() for _ in range(60)) == 0


def test_same_seed_same_texts():
    one, other, different = make(4), make(4), make(5)
    first = [step(one)[0] for _ in range(5)]
    assert first == [step(other)[0] for _ in range(5)]
    assert first != [step(different)[0] for _ in range(5)]


def test_the_elite_is_kept_as_parents():
    """With mutants that are all worse, children still come of the best text."""
    best = START[2]
    optimizer = make(start=[best], mutation=1.0, crossover=0.0, tournament=5, elite=1)
    for _ in range(10):
        texts, _ = step(optimizer, lambda texts: np.array([float(sum(a != b for a, b in zip(t, best))) for t in texts]))  # noqa: B905
    assert np.mean([sum(a != b for a, b in zip(text, best, strict=True)) for text in texts]) < 3


def test_crossover_keeps_places_and_lengths_between_the_parents():
    optimizer = make(start=[(1,) * 4, (2,) * 9], popsize=60, mutation=0.0, crossover=1.0, mutate=lambda text, rng: text)
    optimizer.tell(np.zeros(len(optimizer.ask())))
    children = {text for _ in range(5) for text in step(optimizer, lambda texts: np.zeros(len(texts)))[0]}
    mixed = [child for child in children if len(set(child)) == 2]
    assert mixed
    for child in children:
        assert len(child) in range(4, 10)
        assert sum(a != b for a, b in pairwise(child)) <= 3


@pytest.mark.parametrize(
    "settings",
    [
        {"start": []},
        {"popsize": 0},
        {"crossover": 1.1},
        {"mutation": -0.1},
        {"elite": -1},
        {"tournament": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        make(**settings)
