"""Drawing few-shot rows: exact counts, no shared text, decided by the seed alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandemtune.errors import DataError
from tandemtune.tasks.fewshot import draw, everything, hold_out, shared, shared_out, split, subsample, text_key
from tandemtune.types import Example

LABELS = ("a", "b", "c")
FIXED_TRAIN = ["a3", "b5", "c3", "a6", "b1", "c1"]
FIXED_DEV = ["a2", "b2", "c8", "a0", "b4", "c5"]


def rows(per_class: int, labels=LABELS, prefix: str = "") -> list[Example]:
    return [Example({"text": f"{prefix}{label}{i}"}, label) for i in range(per_class) for label in labels]


def texts(examples) -> list[str]:
    return [example.fields["text"] for example in examples]


@given(
    k=st.integers(1, 6),
    dev_k=st.one_of(st.none(), st.integers(0, 6)),
    seed=st.integers(0, 10_000),
    extra=st.lists(st.sampled_from(LABELS), max_size=20),
    copies=st.lists(st.integers(0, 30), max_size=10),
)
def test_split_has_exact_counts_and_no_text_twice(k, dev_k, seed, extra, copies):
    wanted_dev = k if dev_k is None else dev_k
    pool = rows(k + wanted_dev) + [Example({"text": f"extra{i}"}, label) for i, label in enumerate(extra)]
    pool += [pool[i % len(pool)] for i in copies]
    drawn = split(pool, LABELS, k, seed, dev_k=dev_k)
    assert Counter(row.label for row in drawn.train) == dict.fromkeys(LABELS, k)
    assert Counter(row.label for row in drawn.dev) == Counter(dict.fromkeys(LABELS, wanted_dev))
    everything = texts(drawn.train + drawn.dev)
    assert len(set(everything)) == len(everything)
    assert all(row in pool for row in drawn.train + drawn.dev)
    assert drawn == split(list(pool), LABELS, k, seed, dev_k=dev_k)


def test_classes_are_interleaved_in_their_fixed_order():
    drawn = split(rows(20), LABELS, 4, 13)
    assert [row.label for row in drawn.train] == list(LABELS) * 4
    assert [row.label for row in drawn.dev] == list(LABELS) * 4


def test_seeds_differ():
    pool = rows(50)
    drawn = {tuple(texts(split(pool, LABELS, 8, seed).train)) for seed in (0, 1, 13, 21, 42, 87, 100)}
    assert len(drawn) == 7


def test_the_drawn_rows_are_fixed_for_good():
    drawn = split(rows(10), LABELS, 2, 13)
    assert texts(drawn.train) == FIXED_TRAIN
    assert texts(drawn.dev) == FIXED_DEV


def test_the_first_k_do_not_depend_on_the_size_of_dev():
    pool = rows(30)
    assert split(pool, LABELS, 4, 13).train == split(pool, LABELS, 4, 13, dev_k=0).train
    assert split(pool, LABELS, 4, 13).train == draw(pool, LABELS, 4, 13)
    assert split(pool, LABELS, 4, 13, dev_k=0).dev == ()


@settings(max_examples=50)
@given(seed=st.integers(0, 1000), order=st.integers(0, 1000))
def test_order_of_the_input_matters_only_through_the_shuffle(seed, order):
    # The positions drawn are those of the shuffle: relabel the texts and the same positions come out.
    pool = rows(12)
    other = rows(12, prefix="other ")
    assert texts(split(other, LABELS, 3, seed).train) == [
        f"other {text}" for text in texts(split(pool, LABELS, 3, seed).train)
    ]
    moved = pool.copy()
    random.Random(order).shuffle(moved)
    drawn = split(moved, LABELS, 3, seed)
    assert Counter(row.label for row in drawn.train) == dict.fromkeys(LABELS, 3)


def test_global_random_state_is_neither_used_nor_moved():
    random.seed(1)
    before = random.getstate()
    first = split(rows(10), LABELS, 2, 13)
    assert random.getstate() == before
    random.seed(2)
    assert split(rows(10), LABELS, 2, 13) == first


def test_pairs_are_identical_only_if_every_field_is():
    pool = [Example({"a": "same", "b": str(i)}, label) for i, label in enumerate(["a", "b"] * 4)]
    assert len(split(pool, ("a", "b"), 2, 0).train) == 4


def test_all_short_classes_are_named_with_what_they_have():
    pool = rows(10, ("a",)) + rows(3, ("b",)) + [Example({"text": "one"}, "c")] * 9
    with pytest.raises(DataError) as caught:
        split(pool, LABELS, 4, 0)
    message = str(caught.value)
    assert "'b' has 3" in message and "'c' has 1" in message and "'a'" not in message
    assert "needs 8 (4 shots and 4 dev_shots): lower shots or dev_shots" in message and "\n" not in message


@pytest.mark.parametrize(("k", "dev_k", "seed"), [(0, None, 1), (-1, None, 1), (1, -1, 1), (1, 1, -1)])
def test_impossible_numbers(k, dev_k, seed):
    with pytest.raises(DataError, match="expected"):
        split(rows(9), LABELS, k, seed, dev_k=dev_k)


@pytest.mark.parametrize("label", [None, "d"])
def test_unknown_labels(label):
    with pytest.raises(DataError, match="example 28"):
        split([*rows(9), Example({"text": "x"}, label)], LABELS, 1, 0)


def test_draw_avoids_texts():
    pool = rows(10)
    train = draw(pool, LABELS, 5, 3)
    dev = draw(pool, LABELS, 5, 3, avoid=train)
    assert not set(texts(train)) & set(texts(dev))
    with pytest.raises(DataError, match="'a' has 5"):
        draw(pool, LABELS, 6, 3, avoid=train)
    with pytest.raises(DataError, match="at least 1"):
        draw(pool, LABELS, 0, 3)


@given(n=st.integers(1, 40), size=st.integers(0, 30), seed=st.integers(0, 99))
def test_subsample_keeps_order_and_count(n, size, seed):
    pool = [Example({"text": str(i)}) for i in range(size)]
    kept = [int(text) for text in texts(subsample(pool, n, seed))]
    assert len(kept) == min(n, size) and kept == sorted(set(kept))
    assert kept == [int(text) for text in texts(subsample(pool, n, seed))]


def test_subsample_edges():
    pool = [Example({"text": str(i)}) for i in range(100)]
    assert subsample(pool, None, 0) == pool
    assert subsample(pool, 10, 0) != subsample(pool, 10, 1)
    with pytest.raises(DataError, match="at least 1"):
        subsample(pool, 0, 0)


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    n=st.integers(1, 60),
    seed=st.integers(0, 99),
    order=st.integers(0, 9),
)
def test_subsample_keeps_the_share_of_every_label(sizes, n, seed, order):
    pool = [Example({"text": f"{label} {i}"}, str(label)) for label, size in enumerate(sizes) for i in range(size)]
    random.Random(order).shuffle(pool)
    kept = subsample(pool, n, seed)
    assert len(kept) == min(n, len(pool)) and kept == [row for row in pool if row in kept]
    found = Counter(row.label for row in kept)
    for label, size in enumerate(sizes):
        exact = min(n, len(pool)) * size / max(len(pool), 1)
        assert abs(found[str(label)] - exact) < 1


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6),
    n=st.integers(1, 200),
    least=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_subsample_keeps_so_many_rows_of_rare_labels(sizes, n, least, seed):
    pool = [Example({"text": f"{label} {i}"}, str(label)) for label, size in enumerate(sizes) for i in range(size)]
    found = Counter(row.label for row in subsample(pool, n, seed, least))
    floors = [min(least, size) for size in sizes]
    assert all(found[str(label)] >= floor for label, floor in enumerate(floors))
    assert sum(found.values()) == min(len(pool), max(n, sum(floors)))
    if all(count >= floor for count, floor in zip(shared(min(n, len(pool)), sizes), floors, strict=True)):
        assert found == Counter(row.label for row in subsample(pool, n, seed))


def test_all_rows_are_each_once():
    """A row whose copy stayed would be no row that is left out; one text with two answers is no copy."""
    rows = [
        Example({"text": "so good"}, "a"),
        Example({"text": "so  good "}, "a"),
        Example({"text": "so good"}, "b"),
        Example({"text": "bad"}, "b"),
        Example({"text": "bad"}, "b"),
    ]
    found = everything(rows, ["a", "b"], 0, 3).train
    assert Counter((text_key(row), row.label) for row in found) == Counter(
        {(text_key(row), row.label): 1 for row in rows}
    )


@pytest.mark.parametrize("k", [1, "all"])
def test_no_row_of_dev_stands_in_train_with_other_blanks(k):
    rows = [
        Example({"text": f"{text}{blank}"}, label) for text, label in ("xa", "yb", "za", "wb") for blank in ("", " ")
    ]
    labels = ["a", "b"]
    found = everything(rows, labels, 1, 5) if k == "all" else split(rows, labels, k, 5)
    assert not {text_key(row) for row in found.train} & {text_key(row) for row in found.dev}


def test_subsample_of_rows_without_labels_is_fixed_for_good():
    assert texts(subsample([Example({"text": str(i)}) for i in range(20)], 5, 13)) == ["4", "6", "9", "16", "18"]


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(2, 25), min_size=2, max_size=4),
    copies=st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["", " ", "  \u00e9"]), st.booleans()), max_size=15),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_held_out_rows_are_a_share_of_every_label_and_share_no_text(sizes, copies, share, seed):
    labels = [str(label) for label in range(len(sizes))]
    pool = [Example({"text": f"{label} {i} e\u0301"}, labels[label]) for label, n in enumerate(sizes) for i in range(n)]
    for at, mark, other in copies:
        row = pool[at % len(pool)]
        text = row.fields["text"].replace("e\u0301", "\u00e9") + mark.rstrip("\u00e9")
        pool.append(Example({"text": text}, labels[0] if other else row.label))
    rest, test = hold_out(pool, labels, share, seed)
    assert Counter(map(id, (*rest, *test))) == Counter(map(id, pool))
    assert not {text_key(row) for row in rest} & {text_key(row) for row in test}
    assert {row.label for row in rest} >= set(labels) and {row.label for row in test} >= set(labels)
    assert (rest, test) == hold_out(list(pool), labels, share, seed)
    if not copies:
        for label, size in zip(labels, sizes, strict=True):
            taken = sum(row.label == label for row in test)
            assert abs(taken - share * size) <= 1


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none(share):
    with pytest.raises(DataError, match=r"test_share.*between 0 and 1"):
        hold_out(rows(9), LABELS, share, 0)


def test_a_class_of_one_text_cannot_be_divided():
    pool = [*rows(9, ("a", "b")), *[Example({"text": "one"}, "c"), Example({"text": " one "}, "c")]]
    with pytest.raises(DataError, match=r"'c' has 1, each class needs 2.*test_share"):
        hold_out(pool, LABELS, 0.5, 0)


def test_all_other_rows_beside_a_dev_of_their_own():
    pool, dev = rows(10), rows(10, prefix="dev ")
    drawn = everything(pool, LABELS, 2, 13, dev=[*dev, *pool[:3]])
    assert len(drawn.dev) == 6 and not set(texts(drawn.train)) & set(texts(drawn.dev))
    with pytest.raises(DataError, match=r"11 dev_shots\): lower dev_shots"):
        everything(pool, LABELS, 11, 13)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4).filter(lambda sizes: max(sizes) > 1),
    k=st.one_of(st.just("all"), st.integers(1, 12)),
    dev_k=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_classes_with_few_rows_give_half_of_them_to_dev_at_most(sizes, k, dev_k, seed):
    labels = LABELS[:2] if len(sizes) == 2 else tuple("abcd"[: len(sizes)])
    pool = [row for label, size in zip(labels, sizes, strict=True) for row in rows(size, (label,))]
    drawn = shared_out(pool, labels, k, dev_k, seed)
    dev, train = (Counter(row.label for row in part) for part in (drawn.dev, drawn.train))
    for label, size in zip(labels, sizes, strict=True):
        assert dev[label] == min(dev_k, size // 2)
        assert train[label] == (size - dev[label] if k == "all" else min(k, size - dev[label]))
    assert not set(texts(drawn.train)) & set(texts(drawn.dev))
    assert drawn == shared_out(list(pool), labels, k, dev_k, seed)


def test_too_few_rows_to_train_on_and_to_choose_by():
    with pytest.raises(DataError, match="none of 'c': add rows"):
        shared_out(rows(9, ("a", "b")), LABELS, "all", 2, 13)
    with pytest.raises(DataError, match="one of each class: add rows"):
        shared_out(rows(1), LABELS, "all", 2, 13)
    with pytest.raises(DataError, match="none is left to train on: lower dev_shots"):
        everything(rows(2), LABELS, 2, 13)
