"""Prompts with answers behind them as tensors: grouped by length, or end to end in one row of tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tandemtune.models.passages import PassageStack
from tandemtune.models.spans import Span, Spans, alike, lay
from tandemtune.types import Encoded

STRETCH = 1.5
"""Rows up to this many times as long as the shortest share a batch where one point is read or differentiated."""


@dataclass(frozen=True)
class Passage:
    """A prompt and an answer.

    Args:
        prompt: the prompt.
        answer: tokens of the answer, the mark at its end included.
    """

    prompt: Encoded
    answer: tuple[int, ...]


@dataclass(frozen=True)
class PassageGroup:
    """Passages that go through the model together.

    Args:
        ids: token ids [B, T]; [1, T] where passages lie end to end.
        answers: what a decoder is given [B, D]; None in a model of one stack.
        places: where each target is predicted [K].
        targets: tokens of the answers [K].
        owners: the passage of each target, counted in this group [K].
        rows: where each passage stands in the whole batch [B].
        mask: 1 for tokens and 0 for filling [B, T]; None where nobody looks at filling.
        spans: where they lie end to end, in order.
    """

    ids: Tensor
    answers: Tensor | None
    places: Tensor
    targets: Tensor
    owners: Tensor
    rows: Tensor
    mask: Tensor | None = None
    spans: Spans = ()

    def part(self, first: int, stop: int) -> PassageGroup:
        """Some of the passages, of those that have rows of their own."""
        chosen = (self.owners >= first) & (self.owners < stop)
        return replace(
            self,
            ids=self.ids[first:stop],
            answers=None if self.answers is None else self.answers[first:stop],
            places=self.places[chosen],
            targets=self.targets[chosen],
            owners=self.owners[chosen] - first,
            rows=self.rows[first:stop],
            mask=None if self.mask is None else self.mask[first:stop],
        )


@dataclass(frozen=True, eq=False)
class PassageBatch:
    """All passages that are scored together.

    Args:
        groups: the passages by length.
        lengths: tokens of each answer [S].
        read: tokens that one stack reads, or the encoder of a model of two.
        answered: tokens that a decoder is given.
    """

    groups: tuple[PassageGroup, ...]
    lengths: Tensor
    read: int
    answered: int

    def __len__(self) -> int:
        return len(self.lengths)


def collate_passages(
    passages: Sequence[Passage],
    stack: PassageStack,
    *,
    stretch: float = 1.0,
    max_rows: int = 256,
    units: Sequence[Sequence[int]] | None = None,
) -> PassageBatch:
    """Group passages by what the model reads of them before it may look behind.

    Args:
        passages: prompts with answers.
        stack: the model.
        stretch: rows up to this many times as long as the shortest share a group, filled up; 1 fills nothing.
        max_rows: longest group.
        units: passages that stay in one group, one behind the other; None for each alone.
    """
    decodes = stack.encoder_layers is not None
    read = [_read(passage, decodes) for passage in passages]
    each = units or [(index,) for index in range(len(passages))]
    longest = [max((len(read[i]), len(passages[i].answer)) for i in unit) for unit in each]
    groups: list[list[int]] = []
    shortest = 0
    for number in sorted(range(len(each)), key=longest.__getitem__):
        length, unit = longest[number][0], each[number]
        if not groups or length > shortest * stretch or len(groups[-1]) + len(unit) > max_rows:
            groups.append([])
            shortest = length
        groups[-1].extend(unit)
    made = tuple(_group([passages[i] for i in rows], rows, stack) for rows in groups)
    lengths = torch.tensor([len(passage.answer) for passage in passages], device=stack.device)
    behind = sum(len(stack.begin) + len(passage.answer) - 1 for passage in passages) if decodes else 0
    return PassageBatch(made, lengths, sum(map(len, read)), behind)


def _read(passage: Passage, decodes: bool) -> tuple[int, ...]:
    """What stands in the passage's row: the last token of the answer predicts nothing."""
    return passage.prompt.ids if decodes else passage.prompt.ids + passage.answer[:-1]


def _group(passages: Sequence[Passage], rows: Sequence[int], stack: PassageStack) -> PassageGroup:
    decodes, device = stack.encoder_layers is not None, stack.device
    read = [_read(passage, decodes) for passage in passages]
    begin = tuple(stack.begin)
    written = [begin + passage.answer[:-1] for passage in passages] if decodes else []
    first = [len(begin) - 1 if decodes else len(passage.prompt.ids) - 1 for passage in passages]
    places = [begin + i for begin, passage in zip(first, passages, strict=True) for i in range(len(passage.answer))]
    owners = [i for i, passage in enumerate(passages) for _ in passage.answer]
    lengths = torch.tensor([len(ids) for ids in read])
    width = int(lengths.max())
    filled = decodes and bool((lengths < width).any())
    return PassageGroup(
        _rows(read, device),
        _rows(written, device) if decodes else None,
        torch.tensor(places, device=device),
        torch.tensor([token for passage in passages for token in passage.answer], device=device),
        torch.tensor(owners, device=device),
        torch.tensor(rows, device=device),
        (torch.arange(width) < lengths.unsqueeze(1)).long().to(device) if filled else None,
    )


def _rows(ids: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Rows filled up with their last token."""
    width = max(map(len, ids))
    return torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in ids], device=device)


def end_to_end(groups: Sequence[PassageGroup], limit: int) -> tuple[PassageGroup, ...]:
    """Lay the passages of several groups end to end, in rows of at most `limit` tokens (a longer one has its own)."""
    where = [(group, row) for group in groups for row in range(len(group.ids))]
    made: list[PassageGroup] = []
    for members in lay([group.ids.shape[1] for group, _ in where], limit):
        chosen = [where[index] for index in members]
        lengths = [group.ids.shape[1] for group, _ in chosen]
        begins = [0, *itertools.accumulate(lengths[:-1])]
        own = [group.owners == row for group, row in chosen]
        counts = torch.tensor([int(mask.sum()) for mask in own])
        made.append(
            PassageGroup(
                torch.cat([group.ids[row] for group, row in chosen]).unsqueeze(0),
                None,
                torch.cat([g.places[mask] + begin for (g, _), mask, begin in zip(chosen, own, begins, strict=True)]),
                torch.cat([g.targets[mask] for (g, _), mask in zip(chosen, own, strict=True)]),
                torch.arange(len(chosen)).repeat_interleave(counts).to(chosen[0][0].ids.device),
                torch.stack([group.rows[row] for group, row in chosen]),
                spans=_in_spans(lengths),
            )
        )
    return tuple(made)


def sharing(groups: Sequence[PassageGroup], limit: int, leading: int = 0) -> tuple[PassageGroup, ...]:
    """The same for a model that reads from left to right, where what all passages begin with stands in each row once, and the prompt
    of several answers once before them.

    Args:
        groups: passages grouped by length.
        limit: bound on the tokens of a row.
        leading: what all passages have to begin with at least.

    Returns:
        The rows; none where passages have less in common, or the answers of one prompt are longer than a row.
    """
    prompts: dict[tuple[int, ...], list[_Whole]] = {}
    for whole in _whole(groups):
        prompts.setdefault(whole.ids[: whole.places[0] + 1], []).append(whole)
    shared = alike(list(prompts))
    sizes = [
        len(prompt) - shared + sum(len(one.ids) - len(prompt) for one in those) for prompt, those in prompts.items()
    ]
    if shared < leading or max(sizes) > limit - shared:
        return ()
    each = list(prompts.items())
    return tuple(_row([each[index] for index in members], shared) for members in lay(sizes, limit - shared))


@dataclass(frozen=True)
class _Whole:
    """A passage without filling: its tokens, where its targets are predicted, the targets, and where it stands in the batch."""

    ids: tuple[int, ...]
    places: list[int]
    targets: list[int]
    row: Tensor


def _whole(groups: Sequence[PassageGroup]) -> Iterator[_Whole]:
    for group in groups:
        for index, (ids, row) in enumerate(zip(group.ids.tolist(), group.rows, strict=True)):
            own = group.owners == index
            places = group.places[own].tolist()
            yield _Whole(tuple(ids[: places[-1] + 1]), places, group.targets[own].tolist(), row)


def _row(prompts: Sequence[tuple[tuple[int, ...], list[_Whole]]], shared: int) -> PassageGroup:
    """One row of prompts, each with its answers behind it, all of which begin with `shared` tokens."""
    ids = list(prompts[0][0][:shared])
    spans = [Span(1, shared, head=True)] if shared else []
    all_read = ((0, shared),) if shared else ()
    chosen: list[_Whole] = []
    places: list[int] = []
    for prompt, those in prompts:
        first, behind, own = len(ids), all_read, prompt[shared:]
        ids += own
        if own:
            spans.append(Span(1, len(own), all_read, head=True))
            behind = (*all_read, (first, len(ids)))
        those = sorted(those, key=lambda one: len(one.ids))
        for one in those:
            begin = len(ids) - len(prompt)
            places += [
                begin + place if place >= len(prompt) else first + place - shared if place >= shared else place
                for place in one.places
            ]
            ids += one.ids[len(prompt) :]
        spans += _in_spans([len(one.ids) - len(prompt) for one in those if len(one.ids) > len(prompt)], behind)
        chosen += those
    rows = torch.stack([one.row for one in chosen])
    counts = torch.tensor([len(one.targets) for one in chosen])
    return PassageGroup(
        torch.tensor([ids], device=rows.device),
        None,
        torch.tensor(places, device=rows.device),
        torch.tensor([token for one in chosen for token in one.targets], device=rows.device),
        torch.arange(len(chosen)).repeat_interleave(counts).to(rows.device),
        rows,
        spans=tuple(spans),
    )


def _in_spans(lengths: Sequence[int], behind: tuple[tuple[int, int], ...] = ()) -> Spans:
    return tuple(Span(len(list(same)), length, behind) for length, same in itertools.groupby(lengths))
