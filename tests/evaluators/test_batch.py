"""Prompts grouped by length: every row once, nothing padded."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandemtune.evaluators.batch import collate
from tandemtune.types import Encoded

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(1, 5))
def test_every_row_is_there_once(lengths, max_rows):
    prompts = [Encoded(tuple(100 * i + j for j in range(n)), (i * 7) % n) for i, n in enumerate(lengths)]
    batch = collate(prompts, list(range(len(prompts))), CPU, max_rows)
    assert len(batch) == len(prompts)
    assert batch.labels.tolist() == list(range(len(prompts)))
    assert batch.tokens == sum(lengths) == sum(group.ids.numel() for group in batch.groups)
    seen = []
    for group in batch.groups:
        assert 1 <= len(group.ids) <= max_rows
        assert len(group.ids) == len(group.answer) == len(group.rows)
        for ids, answer, row in zip(group.ids.tolist(), group.answer.tolist(), group.rows.tolist(), strict=True):
            assert Encoded(tuple(ids), answer) == prompts[row]
            seen.append(row)
    assert sorted(seen) == list(range(len(prompts)))
    widths = [group.ids.shape[1] for group in batch.groups]
    assert widths == sorted(widths)


def test_rows_of_one_length_keep_their_order():
    prompts = [Encoded((1, 2), 0), Encoded((3,), 0), Encoded((4, 5), 1)]
    batch = collate(prompts, [1, 0, -1], CPU)
    assert [group.rows.tolist() for group in batch.groups] == [[1], [0, 2]]
    assert batch.groups[1].ids.tolist() == [[1, 2], [4, 5]]
    assert batch.groups[1].answer.tolist() == [0, 1]
    assert batch.labels.tolist() == [1, 0, -1]


def test_no_rows():
    batch = collate([], [], CPU)
    assert (len(batch), batch.tokens, batch.groups) == (0, 0, ())


def test_batches_are_told_apart_by_identity():
    prompts = [Encoded((1, 2), 0)]
    one, other = collate(prompts, [0], CPU), collate(prompts, [0], CPU)
    assert one != other
    assert len({one, other}) == 2


def rows_of(lengths):
    """Prompts of given lengths with no token twice, and answers all over them."""
    return [Encoded(tuple(1000 * i + j for j in range(n)), (i * 7) % n) for i, n in enumerate(lengths)]


@settings(max_examples=200)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.floats(1, 5), st.integers(1, 7), st.booleans())
def test_stretched_groups(lengths, stretch, max_rows, masked):
    """Every row once, filled up with its last token and masked there; what is in one group fits the stretch."""
    prompts = rows_of(lengths)
    batch = collate(prompts, list(range(len(prompts))), CPU, max_rows, stretch, masked)
    assert batch.labels.tolist() == list(range(len(prompts))) and batch.tokens == sum(lengths)
    seen, widths = [], []
    for group in batch.groups:
        count, width = group.ids.shape
        assert 1 <= count <= max_rows
        own = [len(prompts[row].ids) for row in group.rows.tolist()]
        assert width == max(own) <= min(own) * stretch and own == sorted(own)
        assert (group.mask is None) == (not masked or min(own) == width)
        for index, row in enumerate(group.rows.tolist()):
            ids, answer = prompts[row].ids, prompts[row].answer
            assert group.ids[index].tolist() == [*ids, *[ids[-1]] * (width - len(ids))]
            assert group.answer[index] == answer < len(ids)
            if group.mask is not None:
                assert group.mask[index].tolist() == [1] * len(ids) + [0] * (width - len(ids))
            seen.append(row)
        widths.append((min(own), width))
    assert sorted(seen) == list(range(len(prompts)))
    assert widths == sorted(widths)


@given(st.lists(st.integers(1, 12), max_size=20), st.integers(1, 5))
def test_without_stretch_there_is_no_mask(lengths, max_rows):
    prompts = rows_of(lengths)
    exact = collate(prompts, [0] * len(prompts), CPU, max_rows)
    named = collate(prompts, [0] * len(prompts), CPU, max_rows, stretch=1.0, masked=True)
    assert len(exact.groups) == len(named.groups)
    for one, other in zip(exact.groups, named.groups, strict=True):
        assert torch.equal(one.ids, other.ids) and torch.equal(one.rows, other.rows)
        assert one.mask is None and other.mask is None


@pytest.mark.parametrize(
    ("lengths", "stretch", "groups"),
    [
        ([10, 15, 16, 24, 11], 1.5, [[0, 4, 1], [2, 3]]),  # 15 is as much as 1.5 times 10 allows, 16 is more
        ([3, 5, 4, 5, 3], 1.0, [[0, 4], [2], [1, 3]]),
        ([3, 5, 4, 5, 3], 1.4, [[0, 4, 2], [1, 3]]),
        ([30, 1, 20], 100.0, [[1, 2, 0]]),
        ([5, 5, 5], 2.0, [[0, 1, 2]]),
        ([7], 3.0, [[0]]),
    ],
)
def test_who_shares_a_group(lengths, stretch, groups):
    """A stretch is measured from the shortest row of a group, rows of one length keep their order."""
    batch = collate(rows_of(lengths), [0] * len(lengths), CPU, stretch=stretch)
    assert [group.rows.tolist() for group in batch.groups] == groups


def test_a_cut_group_is_as_wide_as_its_own_rows():
    batch = collate(rows_of([4, 5, 6, 8]), [0] * 4, CPU, max_rows=2, stretch=2.0)
    assert [group.ids.shape for group in batch.groups] == [(2, 5), (2, 8)]
    assert [group.mask.tolist() for group in batch.groups] == [
        [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
        [[1] * 6 + [0] * 2, [1] * 8],
    ]


def test_no_rows_to_stretch():
    batch = collate([], [], CPU, stretch=1.5)
    assert (len(batch), batch.tokens, batch.groups) == (0, 0, ())
