"""How likely given answers are, for one point or a population, with everything that makes label words fast.

The answer's tokens are given to the model behind the prompt (of a model of two stacks: to the decoder), and each is looked up
where it is predicted. Below the layers that candidates change, hidden states are computed once; passages lie end to end where
model and tunable allow it; only the places of answers reach the head. Where a model reads from left to right, what all passages begin
with and the prompt of several answers stand in a row once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tandemtune.evaluators.engine import CHUNKS, MEGABYTE, WORTH_SHARING, Engine
from tandemtune.evaluators.passages import PassageBatch, PassageGroup, end_to_end, sharing
from tandemtune.models.passages import PassageStack
from tandemtune.models.spans import share
from tandemtune.tunables.base import INPUT, Point

AT_HEAD, AT_HEAD_BACKWARD = 8, 16
"""Bytes that a word of the vocabulary takes where a target is looked up: its logit and its exponential; on the way back, their gradients
and the logits again."""


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
        pieces = self.pieces(batch)
        for group in pieces if _shared(pieces) else batch.groups:
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
        """Each group with the mean log-probabilities of its answers [B], with what a backward pass needs, which is to be taken before the
        next group is asked for: what it computes again needs the point, too."""
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
                    most=self._at_head(AT_HEAD_BACKWARD),
                )
                sums = torch.zeros(len(group.rows), device=found.device).index_add(0, group.owners, found)
                yield group, sums / batch.lengths[group.rows]

    def forget(self) -> None:
        """Drop all kept hidden states."""
        self._kept.clear()
        self._laid.clear()

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
            most=self._at_head(AT_HEAD),
        )
        return found.view(count, -1)

    def _add(self, sums: Tensor, group: PassageGroup, found: Tensor) -> None:
        sums.index_add_(1, group.rows[group.owners], found)

    def pieces(self, batch: PassageBatch) -> tuple[PassageGroup, ...]:
        """The passages as a population reads them: end to end where that may be, else of one length side by side."""
        stack = self.stack
        if not stack.packs or not batch.groups:
            return batch.groups
        longest = max(group.ids.shape[1] for group in batch.groups)
        if longest > (stack.longest_packed or longest):
            return batch.groups
        if batch not in self._laid:
            self._laid[batch] = self._in_rows(batch.groups)
        return self._laid[batch]

    def tokens(self, batch: PassageBatch) -> int:
        """Tokens of one stack, or of an encoder, that go through the model for one point; what passages of a row share goes once."""
        pieces = self.pieces(batch)
        return sum(piece.ids.numel() for piece in pieces) if _shared(pieces) else batch.read

    def _in_rows(self, groups: tuple[PassageGroup, ...]) -> tuple[PassageGroup, ...]:
        tunable, limit = self.tunable, min(self._most(1), max(CHUNKS))
        leading = 0 if tunable.token_wise else tunable.leading
        if self.stack.shares and leading is not None:
            made = sharing(groups, limit, leading)
            if made and _tokens(made) <= (1 - WORTH_SHARING) * _tokens(groups):
                return made
        return end_to_end(groups, limit) if tunable.token_wise and len(groups) > 1 else groups

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
        """Rows of a group, or candidates with one row each, that fit the memory bound."""
        places = -(-len(group.targets) // len(group.ids))
        width = group.ids.shape[1] + (0 if group.answers is None else group.answers.shape[1])
        return max(1, self._most(places / width) // width)

    def _most(self, share: float) -> int:
        """Tokens that fit the memory bound, where this share of them reaches the head."""
        engine, stack = self.engine, self.stack
        logits = share * AT_HEAD * stack.vocabulary if stack.trunk is None else 0  # no trunk, no chunks at the head
        tokens = int(engine.max_memory * MEGABYTE / (engine._bytes_per_token + logits))
        return max(1, min(tokens, engine.chunk_tokens or tokens))

    def _at_head(self, each: int) -> int:
        """Targets whose logits of all words fit the memory bound, at so many bytes a word."""
        return max(1, int(self.engine.max_memory * MEGABYTE / (each * self.stack.vocabulary)))


def _shared(pieces: Sequence[PassageGroup]) -> bool:
    return any(share(piece.spans) for piece in pieces)


def _tokens(groups: Sequence[PassageGroup]) -> int:
    return sum(group.ids.numel() for group in groups)
