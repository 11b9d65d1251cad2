"""Prompts grouped by length: every row once, nothing padded."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tandemtune.objective.batch import collate
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
