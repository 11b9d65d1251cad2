"""How likely given answers are, for one point or a population, with everything that makes label words fast.

The answer's tokens are given to the model behind the prompt (of a model of two stacks: to the decoder), and each is looked up
where it is predicted. Below the layers that candidates change, hidden states are computed once; passages lie end to end where
model and tunable allow it; only the places of answers reach the head.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tandemtune.evaluators.engine import CHUNKS, MEGABYTE, Engine
from tandemtune.models.packing import Spans, lay
from tandemtune.models.passages import PassageStack
from tandemtune.tunables.base import INPUT, Point
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
        spans: where they lie end to end, (passages, tokens of each) in order.
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


@dataclass(frozen=True)
class _Kept:
    """Hidden states that enter one layer, group by group, and the point they were computed with."""

    layer: int
    states: list[Tensor]
    point: dict[int, Tensor]


def stack_of(engine: Engine) -> PassageStack:
    """The model of an engine that reads and writes whole answers.

    Raises:
        TypeError: the engine reads label words.
    """
    if not isinstance(engine.stack, PassageStack):
        raise TypeError(f"expected an engine over a PassageStack, got one over a {type(engine.stack).__name__}")
    return engine.stack


def work_of(engine: Engine, read: int, answered: int, first: int = 0, stop: int | None = None) -> float:
    """What a pass costs, in the unit of `Costs.forward`.

    Args:
        engine: knows what a token costs in each layer.
        read: tokens of one stack, or those that an encoder reads.
        answered: tokens of a decoder.
        first: the first layer of the pass.
        stop: the layer that it ends before; None for all layers.
    """
    stack = engine.stack
    own = sum(stack.answer_costs[first:stop]) / max(1, stack.marks)
    return read * sum(stack.costs[first:stop]) + answered * own


class Likelihood:
    """Mean log-probabilities of answers' tokens.

    Args:
        engine: the evaluation engine, over a `PassageStack`; says how much goes through the model together.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.stack, self.tunable = engine, stack_of(engine), engine.tunable
        self._kept: WeakKeyDictionary[PassageBatch, _Kept] = WeakKeyDictionary()
        self._laid: WeakKeyDictionary[PassageBatch, tuple[PassageGroup, ...]] = WeakKeyDictionary()

    def of(self, batch: PassageBatch, point: Point) -> Tensor:
        """Mean log-probability of the tokens of each answer at one point, float32 [S]."""
        sums = torch.zeros(1, len(batch), device=self.stack.device)
        with self.tunable.applied(point):
            for part in self.parts(batch):
                self._add(sums, part, self._read(part))
        return (sums / batch.lengths)[0]

    def parts(self, batch: PassageBatch) -> Iterator[PassageGroup]:
        """The passages as they go through the model where one point is read."""
        for group in batch.groups:
            yield from self._parts(group, self._fitting(group))

    def of_population(self, batch: PassageBatch, point: Point, candidates: Mapping[int, Tensor]) -> Tensor:
        """The same for candidates that differ from a point in some blocks.

        Args:
            batch: the passages; hidden states below the candidates' first layer are kept for the next call.
            point: the incumbent.
            candidates: block -> vectors [P, dim].

        Returns:
            Float32 [P, S].
        """
        count = len(next(iter(candidates.values())))
        start = self.tunable.first_layer(list(candidates))
        groups = self.pieces(batch)
        kept: Sequence[Tensor | None] = [None] * len(groups)
        if start > INPUT:
            kept = self._entering(batch, groups, point, start)
        sums = torch.zeros(count, len(batch), device=self.stack.device)
        for group, states in zip(groups, kept, strict=True):
            fitting = self._fitting(group)
            for part, own in self._with_states(group, states, fitting):
                size = max(1, fitting // len(part.ids)) if self.tunable.side_by_side else 1
                for first in range(0, count, size):
                    here = min(size, count - first)
                    chunk = {block: vectors[first : first + here] for block, vectors in candidates.items()}
                    with self.tunable.applied({**point, **chunk}):
                        found = self._read(part, here, max(start, 0), own)
                    self._add(sums[first : first + here], part, found)
        return sums / batch.lengths

    def gradients(self, batch: PassageBatch, point: Point) -> Iterator[tuple[PassageGroup, Tensor]]:
        """Each group with the mean log-probabilities of its answers [B], with what a backward pass needs."""
        for group in batch.groups:
            with self.tunable.applied(point):
                found = self.stack.log_probabilities(
                    group.ids,
                    group.places,
                    group.targets,
                    owners=group.owners,
                    answers=group.answers,
                    gradient=True,
                    mask=group.mask,
                )
            sums = torch.zeros(len(group.rows), device=found.device).index_add(0, group.owners, found)
            yield group, sums / batch.lengths[group.rows]

    def forget(self) -> None:
        """Drop all kept hidden states."""
        self._kept.clear()

    def _read(self, group: PassageGroup, count: int = 1, start: int = 0, states: Tensor | None = None) -> Tensor:
        """Log-probabilities [count, K] of a group's targets, for so many candidates side by side."""
        rows, device = len(group.ids), group.ids.device
        owners = None
        if not group.spans:
            owners = (torch.arange(count, device=device).unsqueeze(1) * rows + group.owners).reshape(-1)
        found = self.stack.log_probabilities(
            group.ids.repeat(count, 1),
            group.places if group.spans else group.places.repeat(count),
            group.targets if group.spans else group.targets.repeat(count),
            owners=owners,
            answers=None if group.answers is None else group.answers.repeat(count, 1),
            start=start,
            states=None if states is None else states.repeat(count, 1, 1),
            mask=None if group.mask is None else group.mask.repeat(count, 1),
            spans=group.spans,
        )
        return found.view(count, -1)

    def _add(self, sums: Tensor, group: PassageGroup, found: Tensor) -> None:
        sums.index_add_(1, group.rows[group.owners], found)

    def pieces(self, batch: PassageBatch) -> tuple[PassageGroup, ...]:
        """The passages as a population reads them: end to end where that may be, else of one length side by side."""
        stack = self.stack
        if not (stack.packs and self.tunable.token_wise) or len(batch.groups) < 2:
            return batch.groups
        longest = max(group.ids.shape[1] for group in batch.groups)
        if longest > (stack.longest_packed or longest):
            return batch.groups
        if batch not in self._laid:
            self._laid[batch] = _end_to_end(batch.groups, min(self._most(1), max(CHUNKS)))
        return self._laid[batch]

    def _entering(self, batch: PassageBatch, groups: Sequence[PassageGroup], point: Point, layer: int) -> list[Tensor]:
        """Hidden states that enter a layer, kept as long as the tunable calls them valid."""
        kept = self._kept.get(batch)
        if kept is not None and not (kept.layer <= layer and self.tunable.same_below(kept.layer, kept.point, point)):
            kept = None
        if kept is not None and kept.layer == layer:
            return kept.states
        states: list[Tensor] = []
        with self.tunable.applied(point):
            for index, group in enumerate(groups):
                parts = [
                    self.stack.entering(
                        part.ids,
                        layer,
                        answers=part.answers,
                        start=kept.layer if kept else 0,
                        states=own,
                        spans=part.spans,
                    )
                    for part, own in self._with_states(
                        group, kept.states[index] if kept else None, self._fitting(group)
                    )
                ]
                states.append(torch.cat(parts))
        self._kept[batch] = _Kept(layer, states, {block: vector.clone() for block, vector in point.items()})
        return states

    def _with_states(
        self, group: PassageGroup, states: Tensor | None, size: int
    ) -> Iterator[tuple[PassageGroup, Tensor | None]]:
        first = 0
        for part in self._parts(group, size):
            yield part, None if states is None else states[first : first + len(part.ids)]
            first += len(part.ids)

    def _parts(self, group: PassageGroup, size: int) -> Iterator[PassageGroup]:
        if len(group.ids) <= size:
            yield group
            return
        for first in range(0, len(group.ids), size):
            yield group.part(first, min(first + size, len(group.ids)))

    def _fitting(self, group: PassageGroup) -> int:
        """Rows of a group, or candidates with one row each, that fit the memory bound: layers and logits of all words."""
        places = -(-len(group.targets) // len(group.ids))
        width = group.ids.shape[1] + (0 if group.answers is None else group.answers.shape[1])
        return max(1, self._most(places / width) // width)

    def _most(self, share: float) -> int:
        """Tokens that fit, where this share of them reaches the head."""
        engine = self.engine
        tokens = int(engine.max_memory * MEGABYTE / (engine._bytes_per_token + share * 8 * self.stack.vocabulary))
        return max(1, min(tokens, engine.chunk_tokens or tokens))


def _end_to_end(groups: Sequence[PassageGroup], limit: int) -> tuple[PassageGroup, ...]:
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
                spans=tuple((len(list(same)), length) for length, same in itertools.groupby(lengths)),
            )
        )
    return tuple(made)
