"""Prompts as tensors, grouped by length: rows of one group have equally many tokens, so no row ever meets padding.

Rows that are scored at one point only, not multiplied by a population, may share a group with longer ones: the shorter ones
are filled up, and masked where the model would look at that.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandemtune.models.spans import Span, Spans, alike, lay
from tandemtune.types import Encoded


@dataclass(frozen=True)
class Group:
    """Prompts that go through the model together: of one length, or of any lengths and laid end to end in one row.

    Args:
        ids: token ids [B, T]; [1, T] where they lie end to end.
        answer: answer position of each prompt [B], counted from the beginning of its row.
        rows: where each prompt stands in the whole batch [B].
        mask: 1 for tokens and 0 for filling [B, T]; None where the rows are equally long or the model never looks back.
        spans: where they lie end to end, in order; empty where each has a row of its own.
    """

    ids: Tensor
    answer: Tensor
    rows: Tensor
    mask: Tensor | None = None
    spans: Spans = ()


@dataclass(frozen=True, eq=False)
class Batch:
    """All prompts that are scored together.

    Args:
        groups: the prompts by length, shortest first.
        labels: gold labels [N], or -1 where unknown.
        tokens: number of tokens in all groups.
    """

    groups: tuple[Group, ...]
    labels: Tensor
    tokens: int

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self) -> tuple[Tensor, ...]:
        """All tensors that say what the rows are, labels first."""
        return (self.labels, *(part for g in self.groups for part in (g.ids, g.answer, g.rows)))


def collate(
    prompts: Sequence[Encoded],
    labels: Sequence[int],
    device: torch.device,
    max_rows: int = 256,
    stretch: float = 1.0,
    masked: bool = True,
) -> Batch:
    """Group prompts by length.

    Args:
        prompts: encoded prompts [N].
        labels: gold labels [N], -1 where unknown.
        device: where the model lies.
        max_rows: longest group; longer ones are cut in several.
        stretch: rows up to this many times as long as the shortest share its group; shorter ones repeat their last token.
        masked: whether filled-up rows need a mask; a causal model never looks behind the answer position.
    """
    by_length: dict[int, list[int]] = {}
    shortest = 0
    for index in sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids)):
        length = len(prompts[index].ids)
        if not by_length or length > shortest * stretch:
            shortest = length
        by_length.setdefault(shortest, []).append(index)
    groups: list[Group] = []
    for members in by_length.values():
        for first in range(0, len(members), max_rows):
            rows = members[first : first + max_rows]
            width = max(len(prompts[i].ids) for i in rows)
            ids = torch.tensor([_filled(prompts[i].ids, width) for i in rows], device=device)
            answer = torch.tensor([prompts[i].answer for i in rows], device=device)
            lengths = torch.tensor([len(prompts[i].ids) for i in rows], device=device).unsqueeze(1)
            mask = (
                (torch.arange(width, device=device) < lengths).long()
                if masked and bool((lengths < width).any())
                else None
            )
            groups.append(Group(ids, answer, torch.tensor(rows, device=device), mask))
    gold = torch.tensor(list(labels), dtype=torch.long, device=device)
    return Batch(tuple(groups), gold, sum(len(p.ids) for p in prompts))


def end_to_end(groups: Sequence[Group], limit: int, shared: int = 0) -> list[Group]:
    """Lay the prompts of several groups end to end, in as few rows as have at most `limit` tokens (a longer prompt has its own).

    Args:
        groups: prompts grouped by length, without filling.
        limit: bound on the tokens of a row.
        shared: how many tokens at the beginning of all prompts stand in each row once.
    """
    where = [(group, row) for group in groups for row in range(len(group.ids))]
    head = (Span(1, shared, head=True),) if shared else ()
    behind = ((0, shared),) if shared else ()
    made: list[Group] = []
    for members in lay([group.ids.shape[1] - shared for group, _ in where], limit - shared):
        chosen = [where[index] for index in members]
        lengths = [group.ids.shape[1] - shared for group, _ in chosen]
        begins = torch.tensor([0, *itertools.accumulate(lengths[:-1])]).to(chosen[0][0].ids.device)
        first = [chosen[0][0].ids[0, :shared]] if shared else []
        made.append(
            Group(
                torch.cat([*first, *(group.ids[row, shared:] for group, row in chosen)]).unsqueeze(0),
                torch.stack([group.answer[row] for group, row in chosen]) + begins,
                torch.stack([group.rows[row] for group, row in chosen]),
                spans=(*head, *(Span(len(list(same)), length, behind) for length, same in itertools.groupby(lengths))),
            )
        )
    return made


def shared_beginning(groups: Sequence[Group]) -> int:
    """How many tokens all prompts begin with; they end before any answer position."""
    return alike([tuple(ids[:end]) for g in groups for ids, end in zip(g.ids.tolist(), g.answer.tolist(), strict=True)])


def _filled(ids: tuple[int, ...], width: int) -> tuple[int, ...]:
    return ids + ids[-1:] * (width - len(ids))
