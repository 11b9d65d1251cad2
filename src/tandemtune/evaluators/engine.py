"""Scores a population of candidates in one pass over an unmodified model.

What makes it fast, and equal to scoring them one by one:

* candidates that differ from layer i on share the hidden states that enter layer i; those are computed once and kept until
  the tunable says that something below has changed;
* the candidates of a chunk are one batch, each with its own low-rank terms beside the shared projections;
* where candidates differ in a decoder only, keys and values of its attention to the text are made once and kept, too;
* there is no padding: prompts are laid end to end in one row of tokens, or grouped by length where a model or a tunable does
  not allow that; the head sees the answer position and the label words only;
* where a model reads from left to right, a long beginning that all prompts share (an instruction, demonstrations, a prompt that is
  tuned) stands in such a row once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tandemtune.evaluators.batch import Batch, Group, end_to_end, shared_beginning
from tandemtune.evaluators.past import Past
from tandemtune.evaluators.views import MEAN, View
from tandemtune.models.layers import LayerStack
from tandemtune.models.linear import sizes
from tandemtune.models.reading import Reading
from tandemtune.models.spans import prompts_of
from tandemtune.models.survey import text_config
from tandemtune.tunables.base import INPUT, Parameters, Point

MEGABYTE = 1_000_000
CHUNKS, GPU_CHUNKS = (4096, 1024), (65536, 32768, 16384)
"""Tokens of a chunk that are tried beside what the memory bound allows: what suits a processor's caches, and what fills a GPU."""
CLEARLY, ON_GPU = 0.95, 1.02
"""A smaller chunk is chosen where it takes at most this share of a larger one's time; on a GPU, where it saves memory, of the
fastest one's."""
WORTH_SHARING = 0.25
"""Tokens of a pass that have to go for prompts to share their beginning, as a share of all: there every timed turn was faster by
more than turns differ (docs/experiments/engine.md)."""


@dataclass(frozen=True)
class _Prefix:
    """Hidden states that enter one layer, piece by piece, and the point they were computed with."""

    layer: int
    states: list[Tensor]
    point: Past


@dataclass(frozen=True)
class _Read:
    """Keys and values of all texts of a batch, piece by piece, and the point that the encoder had."""

    readings: list[Reading]
    point: Past


class Engine:
    """Label logits of candidates.

    Args:
        stack: the model as a pipeline of layers.
        tunable: what the candidates change.
        averaging: matrix [W, C] from label-word logits to label logits.
        max_memory: bound on the activations of one chunk of candidates, and on the keys and values that are kept, in megabytes.
        chunk_tokens: tokens of one chunk, within that bound; None for as many as it allows.

    Attributes:
        no_adapter: why a readout of what it reads is no change of the output embedding; empty where it is one.
        further_views: what a readout may read of each row beside the answer, one of them, where it chooses for itself.
    """

    no_adapter = ""
    further_views: tuple[View, ...] = (MEAN,)

    def __init__(
        self,
        stack: LayerStack,
        tunable: Parameters,
        averaging: Tensor,
        max_memory: float = 256.0,
        chunk_tokens: int | None = None,
    ) -> None:
        self.stack = stack
        self.tunable = tunable
        if tunable.replaced:
            stack.widen(tunable.replaced)
        self.averaging = averaging.to(stack.device, torch.float32)
        self.max_memory = max_memory
        self.chunk_tokens = chunk_tokens
        self._bytes_per_token = bytes_per_token(stack)
        self._prefixes: WeakKeyDictionary[Batch, list[_Prefix]] = WeakKeyDictionary()  # gone with the batch
        self._laid: WeakKeyDictionary[Batch, Sequence[Group]] = WeakKeyDictionary()
        self._read: WeakKeyDictionary[Batch, _Read] = WeakKeyDictionary()

    @classmethod
    def check_views(cls, views: Sequence[View], layers: int, encoder: int | None) -> None:
        """Refuse views of rows that there are not in a model with so many layers, see `View.layer_among`.

        Raises:
            UsageError: the model has no such view.
        """
        for view in views:
            view.layer_among(layers, encoder)

    def logits(self, batch: Batch, point: Point) -> Tensor:
        """Label logits [N, C] of one point, through the whole model."""
        result = self._empty(batch, 1)
        with self.tunable.applied(point):
            for part in self.parts(batch):
                words = self.stack.logits(part.ids, part.answer, mask=part.mask, spans=part.spans)
                result[0, part.rows] = self.gathered(words)
        return result[0]

    def gradient_logits(self, group: Group, point: Point) -> Tensor:
        """Label logits [B, C] of one group at one point, with what a backward pass to the point's tensors needs."""
        with self.tunable.applied(point):
            words = self.stack.logits(group.ids, group.answer, gradient=True, mask=group.mask)
        return self.gathered(words)

    def population_logits(self, batch: Batch, point: Point, candidates: Mapping[int, Tensor]) -> Tensor:
        """Label logits of candidates that differ from `point` in some blocks.

        Args:
            batch: prompts; hidden states below the candidates' first layer are kept for the next call.
            point: the incumbent, one vector for every block.
            candidates: block -> vectors [P, dim]; all blocks have the same P.

        Returns:
            Float32 logits [P, N, C].
        """
        count = len(next(iter(candidates.values())))
        start = self.tunable.first_layer(list(candidates))
        if self.reads_once(list(candidates)):
            return self._decoded(batch, point, candidates, start)
        pieces = self.pieces(batch)
        kept_states: Sequence[Tensor | None] = [None] * len(pieces)
        if start > INPUT:
            kept_states = self._prefix(batch, point, start).states
        result = self._empty(batch, count)
        around = self.tunable.seen_from(start, point)
        for whole, kept in zip(pieces, kept_states, strict=True):
            fitting = self._rows_per_chunk(whole.ids.shape[1])
            parts = _row_chunks(whole, fitting)
            for group, states in zip(parts, _split(kept, fitting, len(parts)), strict=True):
                rows = len(group.rows)
                first = 0
                for here in self.chunks(group, count):
                    chunk = {block: vectors[first : first + here] for block, vectors in candidates.items()}
                    with self.tunable.applied({**around, **chunk}):
                        words = self.stack.logits(
                            group.ids.repeat(here, 1),
                            group.answer if group.spans else group.answer.repeat(here),
                            start=max(start, 0),
                            states=None if states is None else states.repeat(here, 1, 1),
                            spans=group.spans,
                        )
                    result[first : first + here, group.rows] = self.gathered(words).view(here, rows, -1)
                    first += here
        return result

    def reads_once(self, blocks: Sequence[int]) -> bool:
        """Whether candidates that differ in these blocks share the keys and values of a decoder's attention to the text."""
        first = self.stack.encoder_layers
        if first is None or not self.stack.readers or self.tunable.first_layer(blocks) < first:
            return False
        return self.tunable.side_by_side and self.tunable.hung_on(blocks) is not None

    def keeps_read(self, batch: Batch) -> bool:
        """Whether these keys and values are few enough to be kept from one call to the next."""
        return batch.tokens * self._bytes_kept() <= self.max_memory * MEGABYTE

    def work(
        self, batch: Batch, first: int = 0, stop: int | None = None, *, read: bool = True, apart: bool = False
    ) -> float:
        """What a pass over a batch costs, in the unit of `Costs.forward`: one token through one layer.

        Args:
            batch: the prompts.
            first: the first layer of the pass.
            stop: the layer that it ends before; None for all layers.
            read: whether a decoder's keys and values of the text are made in it.
            apart: whether each prompt goes through the model whole, as for gradients.
        """
        text, answer = (sum(costs[first:stop]) for costs in (self.stack.costs, self.stack.answer_costs))
        tokens = batch.tokens if apart else self.tokens(batch)
        return (tokens * text if read else 0.0) + len(batch) * answer

    def tokens(self, batch: Batch) -> int:
        """Tokens that go through the model for one point; what prompts of a row share goes once."""
        return batch.tokens - _tokens(batch.groups) + _tokens(self.pieces(batch))

    def work_to_read(self, batch: Batch) -> float:
        """What a decoder's keys and values of all texts cost, in the same unit."""
        return batch.tokens * sum(self.stack.costs[self.stack.encoder_layers or 0 :])

    def _decoded(self, batch: Batch, point: Point, candidates: Mapping[int, Tensor], start: int) -> Tensor:
        """What `population_logits` returns, for candidates that differ in a decoder only: texts of all lengths are one batch."""
        count = len(next(iter(candidates.values())))
        changed = self.tunable.hung_on(list(candidates)) or ()
        parted = [self.stack.parted(states) for states in self._prefix(batch, point, start).states]
        pieces = self._texts(batch)
        marks = torch.cat([own for _, own in parted]).split([len(piece.rows) for piece in pieces])  # type: ignore[no-untyped-call]
        result = self._empty(batch, count)
        around = self.tunable.seen_from(start, point)
        readings = self._readings(batch, point, [text for text, _ in parted])
        for piece, own, reading in zip(pieces, marks, readings, strict=True):
            rows = len(piece.rows)
            answer = torch.full((1,), self.stack.marks - 1, device=own.device)
            first = 0
            for here in self.in_chunks(self._tokens_decoded(piece), count):
                chunk = {block: vectors[first : first + here] for block, vectors in candidates.items()}
                with self.tunable.applied({**around, **chunk}):
                    words = self.stack.logits(
                        piece.ids[:, :1].expand(here * rows, 1),
                        answer.expand(here * rows),
                        start=start,
                        states=own.repeat(here, 1, 1),
                        reading=reading,
                        changed=changed,
                    )
                result[first : first + here, piece.rows] = self.gathered(words).view(here, rows, -1)
                first += here
        return result

    def _texts(self, batch: Batch) -> Sequence[Group]:
        """The texts as a decoder reads them: end to end."""
        if batch not in self._laid:
            limit = min(self._most() / 2, self.max_memory * MEGABYTE / self._bytes_kept())
            self._laid[batch] = end_to_end(batch.groups, int(limit))
        return self._laid[batch]

    def _readings(self, batch: Batch, point: Point, texts: Sequence[Tensor]) -> Iterator[Reading]:
        """Keys and values of the texts, whose states are [n, T, h] for each group; those kept if the tunable calls them valid."""
        kept, first = self._read.get(batch), self.stack.encoder_layers or 0
        if kept is not None and self.tunable.same_below(first, kept.point.beside(point), point):
            yield from kept.readings
            return
        self._read.pop(batch, None)
        whole = torch.cat([text.reshape(1, -1, text.shape[-1]) for text in texts], dim=1)
        pieces = self._texts(batch)
        parts = whole.split([piece.ids.shape[1] for piece in pieces], dim=1)  # type: ignore[no-untyped-call]
        made = (self.stack.read(part, piece.spans) for part, piece in zip(parts, pieces, strict=True))
        if not self.keeps_read(batch):
            yield from made
            return
        self._read[batch] = _Read(list(made), Past(point))
        yield from self._read[batch].readings

    @property
    def width(self) -> int:
        """Numbers that are kept of each row: one for each label."""
        return self.averaging.shape[1]

    def gathered(self, words: Tensor) -> Tensor:
        """What is kept [n, width] of the label words' logits [n, W]: their mean over the words of each label."""
        return words @ self.averaging

    def pieces(self, batch: Batch) -> Sequence[Group]:
        """The prompts as they go through the model: laid end to end where model and tunable allow it, else group by group."""
        if not self.stack.packs or not batch.groups:
            return batch.groups
        longest = max(group.ids.shape[1] for group in batch.groups)
        if longest > (self.stack.longest_packed or longest) or any(group.mask is not None for group in batch.groups):
            return batch.groups
        if batch not in self._laid:
            self._laid[batch] = self._in_rows(batch.groups)
        return self._laid[batch]

    def _in_rows(self, groups: Sequence[Group]) -> Sequence[Group]:
        """The same, of prompts that a model takes end to end."""
        tunable, limit = self.tunable, min(self._most(), self.longest_row)
        leading = 0 if tunable.token_wise else tunable.leading
        if self.stack.shares and leading is not None:
            shared = shared_beginning(groups)
            made = end_to_end(groups, limit, shared) if shared >= max(1, leading) else groups
            if _tokens(made) <= (1 - WORTH_SHARING) * _tokens(groups):
                return made
        return end_to_end(groups, limit) if tunable.token_wise and len(groups) > 1 else groups

    def parts(self, batch: Batch) -> Iterator[Group]:
        """The prompts as `logits` sends them through the model, one part after another."""
        for piece in self.pieces(batch):
            yield from _row_chunks(piece, self._rows_per_chunk(piece.ids.shape[1]))

    def chunks(self, group: Group, count: int) -> list[int]:
        """How many candidates go through the model together, chunk by chunk, for one piece of a batch."""
        rows, length = group.ids.shape
        size = max(1, self._rows_per_chunk(length) // rows) if self.tunable.side_by_side else 1
        return _cut(count, size)

    def in_chunks(self, tokens: int, count: int) -> list[int]:
        """How many candidates go through the model together, chunk by chunk, where each takes so many tokens."""
        return _cut(count, self._rows_per_chunk(tokens))

    def tokens_per_candidate(self, batch: Batch, blocks: Sequence[int]) -> list[int]:
        """Tokens that go through the layers for each candidate that differs in some blocks, piece by piece."""
        if self.reads_once(blocks):
            return [self._tokens_decoded(piece) for piece in self._texts(batch)]
        return [piece.ids.numel() for piece in self.pieces(batch)]

    def _tokens_decoded(self, piece: Group) -> int:
        """Tokens of a decoder that weigh as much as one candidate of texts that are read once: its marks, and its own keys and
        values in a layer that it changes."""
        own = piece.ids.shape[1] * self._bytes_kept() / sum(len(maps) > 0 for maps in self.stack.readers.values())
        return len(piece.rows) * self.stack.marks + round(own / self._bytes_per_token)

    def states(self, batch: Batch, point: Point, layer: int) -> list[Tensor]:
        """Hidden states [B, T, h] that enter `layer`, one tensor for each group of the batch."""
        states, pieces = self._prefix(batch, point, layer).states, self.pieces(batch)
        if not pieces or not pieces[0].spans:
            return states
        found: dict[int, Tensor] = {}
        for piece, kept in zip(pieces, states, strict=True):
            found.update(zip(piece.rows.tolist(), (one[0] for one in prompts_of(kept, piece.spans)), strict=True))
        return [torch.stack([found[row] for row in group.rows.tolist()]) for group in batch.groups]

    def run_layer(self, group: Group, layer: int, states: Tensor) -> None:
        """Run one layer on hidden states [B, T, h] that enter it, for those who watch its modules."""
        rows = self._rows_per_chunk(group.ids.shape[1])
        for part, here in zip(_row_chunks(group, rows), states.split(rows), strict=True):  # type: ignore[no-untyped-call]
            if layer + 1 < len(self.stack):
                self.stack.hidden(part.ids, layer + 1, start=layer, states=here)
            else:
                self.stack.logits(part.ids, part.answer, start=layer, states=here)

    def forget(self) -> None:
        """Drop all kept hidden states."""
        self._laid.clear()
        self._prefixes.clear()
        self._read.clear()

    def _prefix(self, batch: Batch, point: Point, layer: int) -> _Prefix:
        """Kept hidden states if the tunable calls them valid, else computed from the nearest valid ones below."""
        past = self._prefixes.get(batch, [])
        kept = [p for p in past if self.tunable.same_below(p.layer, p.point.beside(point), point)]
        usable = [p for p in kept if p.layer <= layer]
        nearest = max(usable, key=lambda p: p.layer, default=None)
        if nearest is not None and nearest.layer == layer:
            return nearest
        states: list[Tensor] = []
        with self.tunable.applied(point):
            for index, piece in enumerate(self.pieces(batch)):
                begin = nearest.states[index] if nearest else None
                start = nearest.layer if nearest else 0
                states.append(self._advance(piece, start, begin, layer))
        made = _Prefix(layer, states, Past(point))
        lowest = min([*kept, made], key=lambda p: p.layer)
        self._prefixes[batch] = [made] if lowest is made else [lowest, made]
        return made

    def _advance(self, group: Group, start: int, begin: Tensor | None, layer: int) -> Tensor:
        rows = self._rows_per_chunk(group.ids.shape[1])
        parts = [
            self.stack.hidden(
                group.ids[first : first + rows],
                layer,
                start=start,
                states=None if begin is None else begin[first : first + rows],
                spans=group.spans,
            )
            for first in range(0, len(group.ids), rows)
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def choose_chunk(self, batch: Batch, point: Point, candidates: Mapping[int, Tensor], repeats: int = 3) -> int:
        """Find by measuring how many tokens a chunk should have, and keep to it from now on.

        Sizes from the memory bound downwards take turns on the same candidates; a smaller one has to be clearly faster, on a GPU as
        fast.

        Args:
            batch: the prompts that will be scored.
            point: the incumbent.
            candidates: a few candidates.
            repeats: how often every size is timed; the fastest time counts.
        """
        count = len(next(iter(candidates.values())))
        one = max(self.tokens_per_candidate(batch, list(candidates)))
        cut = self.pieces(batch) is batch.groups and not self.reads_once(list(candidates))
        least = 0 if cut else one  # rows of several prompts are not cut
        most = self._most()
        sizes = [most] + [size for size in self._sizes if least <= size < min(most, one * count)]
        times = dict.fromkeys(sizes, float("inf"))
        for _ in range(repeats):
            for size in sizes:
                self.chunk_tokens = size
                begin = time.perf_counter()
                self.population_logits(batch, point, candidates).sum().item()  # waits for the device
                times[size] = min(times[size], time.perf_counter() - begin)
        self.chunk_tokens = most
        if self._on_gpu:
            self.chunk_tokens = min(size for size in sizes if times[size] <= ON_GPU * min(times.values()))
            return self.chunk_tokens
        for size in sizes[1:]:
            if times[size] < CLEARLY * times[self.chunk_tokens]:
                self.chunk_tokens = size
        return self.chunk_tokens

    @property
    def longest_row(self) -> int:
        """Tokens of prompts that lie end to end, at most."""
        return min(self._sizes) if self._on_gpu else max(self._sizes)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return GPU_CHUNKS if self._on_gpu else CHUNKS

    @property
    def _on_gpu(self) -> bool:
        return self.stack.device.type == "cuda"

    def _rows_per_chunk(self, length: int) -> int:
        """Rows of `length` tokens that fit the memory bound and the chosen chunk."""
        most = self._most()
        return max(1, min(most, self.chunk_tokens or most) // length)

    def _most(self) -> int:
        """Tokens whose activations fit the memory bound."""
        return int(self.max_memory * MEGABYTE / self._bytes_per_token)

    def _bytes_kept(self) -> int:
        """What is kept of one token of the text for a decoder: keys and values of all layers."""
        size = torch.empty(0, dtype=self.stack.dtype).element_size()
        return size * sum(sizes(each)[1] for maps in self.stack.readers.values() for each in maps)

    def _empty(self, batch: Batch, count: int) -> Tensor:
        return torch.empty(count, len(batch), self.width, dtype=torch.float32, device=self.stack.device)


def bytes_per_token(stack: LayerStack) -> int:
    """Upper estimate of the activations that one token holds at the widest place of a layer."""
    config = text_config(stack.model)
    hidden = int(config.hidden_size)
    wide = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None)
    wide = wide or getattr(config, "n_inner", None) or getattr(config, "hidden_dim", None) or 4 * hidden
    size = torch.empty(0, dtype=stack.dtype).element_size()
    return size * (8 * hidden + 4 * int(wide)) + 4 * hidden


def _tokens(groups: Sequence[Group]) -> int:
    return sum(group.ids.numel() for group in groups)


def _cut(count: int, size: int) -> list[int]:
    return [min(size, count - first) for first in range(0, count, size)]


def _split(states: Tensor | None, size: int, count: int) -> Sequence[Tensor | None]:
    return [None] * count if states is None else states.split(size)  # type: ignore[no-untyped-call]


def _row_chunks(group: Group, size: int) -> Sequence[Group]:
    if len(group.ids) <= size:
        return [group]
    cuts = [slice(first, first + size) for first in range(0, len(group.ids), size)]
    masks = [None if group.mask is None else group.mask[cut] for cut in cuts]
    return [Group(group.ids[cut], group.answer[cut], group.rows[cut], m) for cut, m in zip(cuts, masks, strict=True)]
