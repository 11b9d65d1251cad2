"""Writes the answers of a whole population: one batch, one token at a time, keys and values kept.

Each candidate's rows see its own terms. Below the layers that candidates change, keys and values of the prompts (of a model of
two stacks: what the encoder makes of them) are computed once for all. Rows that have ended leave the batch. What is written is
what `generate` would write row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tandemtune.errors import ModelError
from tandemtune.evaluators.engine import MEGABYTE, Engine
from tandemtune.evaluators.likelihood import stack_of
from tandemtune.models.answers import AnswerCoder
from tandemtune.models.passages import joined, select
from tandemtune.models.survey import accepted, plain_ids, plain_inputs, text_config
from tandemtune.tunables.base import INPUT, Point
from tandemtune.types import Encoded, seed_for

ROOM = 4
"""Keys and values may take so many times the memory that activations may."""
LEAVING = 0.25
"""Rows that have ended leave when they are this share of the batch: to copy keys and values costs something."""
_TRIED = 3


@dataclass(frozen=True)
class Sampling:
    """Random numbers of sampled tokens: the same for all candidates, so that these differ by what they are alone.

    Args:
        temperature: of the softmax.
        seed: of the run.
        generation: number of the turn.
    """

    temperature: float
    seed: int
    generation: int

    def noise(self, row: int, place: int, words: int) -> Tensor:
        """Gumbel noise [V]: the most likely token after it is added is a sample (Maddison et al., arXiv 1411.0030)."""
        generator = torch.Generator().manual_seed(seed_for(self.seed, self.generation, row, place, 11))
        return -torch.empty(words).exponential_(generator=generator).log()


@dataclass(frozen=True)
class Text:
    """What one candidate wrote for one row.

    Args:
        ids: the tokens, without the mark at the end.
        tokens: how many were written, that mark included.
        end: that mark; None where the model wrote none (a text that is as long as may be, or ends by a stop text).
        broken: whether a token was no choice of the model's, since what it computed is no number.
    """

    ids: tuple[int, ...]
    tokens: int
    end: int | None = None
    broken: bool = False

    @property
    def with_end(self) -> tuple[int, ...]:
        """The tokens, and the mark at the end where there is one."""
        return self.ids if self.end is None else (*self.ids, self.end)


@dataclass
class _Batch:
    """Rows that are being written: [P * n], candidate by candidate; P of them are left, each with n rows.

    Args:
        candidates: numbers of the candidates that are left [P].
        rows: the prompt of each row [P * n].
        alive: which rows have not ended [P * n].
    """

    candidates: list[int]
    rows: list[int]
    alive: list[bool]

    def key(self, index: int) -> tuple[int, int]:
        """Candidate and prompt of a row."""
        return self.candidates[index // (len(self.rows) // len(self.candidates))], self.rows[index]


class Writer:
    """Writes answers.

    Args:
        engine: the evaluation engine, over a `PassageStack`.
        coder: what ends an answer.
    """

    def __init__(self, engine: Engine, coder: AnswerCoder) -> None:
        self.engine, self.stack, self.tunable, self.coder = engine, stack_of(engine), engine.tunable, coder
        if self.stack.encoder_layers is None:
            self._check_cache()
        self._fills = self._may_fill()

    def write(
        self,
        prompts: Sequence[Encoded],
        point: Point,
        candidates: Mapping[int, Tensor] | None = None,
        sampling: Sampling | None = None,
    ) -> list[list[Text]]:
        """What candidates write.

        Args:
            prompts: the prompts [N].
            point: the incumbent.
            candidates: block -> vectors [P, dim] in which they differ from it; None for the point alone.
            sampling: random numbers; None takes the most likely token.

        Returns:
            Texts [P][N].
        """
        count = 1 if candidates is None else len(next(iter(candidates.values())))
        found: list[list[Text | None]] = [[None] * len(prompts) for _ in range(count)]
        size = count if self.tunable.side_by_side else 1
        for rows in self.groups(prompts, size):
            width = max(len(prompts[row].ids) for row in rows)
            fitting = max(1, self._room(width) // len(rows))
            for first in range(0, count, min(size, fitting)):
                chosen = range(first, min(first + min(size, fitting), count))
                chunk = {b: v[chosen.start : chosen.stop] for b, v in (candidates or {}).items()}
                written = self._written([prompts[row] for row in rows], rows, point, chunk, len(chosen), sampling)
                for p, texts in zip(chosen, written, strict=True):
                    for row, text in zip(rows, texts, strict=True):
                        found[p][row] = text
        return found  # type: ignore[return-value]

    # ---- one batch ----

    def _written(
        self,
        prompts: Sequence[Encoded],
        numbers: Sequence[int],
        point: Point,
        chunk: Mapping[int, Tensor],
        count: int,
        sampling: Sampling | None,
    ) -> list[list[Text]]:
        """Texts [P][n] of prompts that are written together, for candidates that are."""
        n = len(prompts)
        batch = _Batch(list(range(count)), list(range(n)) * count, [True] * (n * count))
        said: dict[tuple[int, int], list[int]] = {(p, row): [] for p in range(count) for row in range(n)}
        ended: dict[tuple[int, int], Text] = {}
        begun = self._begun_decoder if self.stack.encoder_layers is not None else self._begun_causal
        logits, forward, keep = begun(prompts, point, chunk, count)
        broken: set[tuple[int, int]] = set()
        for place in range(self.coder.most):
            tokens, lost = self._chosen(logits, batch, numbers, place, sampling)
            broken |= {batch.key(index) for index in lost if batch.alive[index]}
            self._take(batch, tokens, said, ended)
            if not any(batch.alive) or place + 1 == self.coder.most:
                break
            kept = self._leave(batch)
            if kept is not None:
                keep(kept)
                tokens = [tokens[i] for i in kept.tolist()]
            ids = torch.tensor(tokens, device=self.stack.device).unsqueeze(1)
            here = {block: vectors[batch.candidates] for block, vectors in chunk.items()}
            with self.tunable.applied_behind({**point, **here}), self.stack.writing():
                logits = forward(ids, place)
        for key, tokens in said.items():
            ended.setdefault(key, Text(tuple(tokens), len(tokens)))
        ended |= {key: replace(ended[key], broken=True) for key in broken}
        return [[ended[p, row] for row in range(n)] for p in range(count)]

    def _take(
        self,
        batch: _Batch,
        tokens: Sequence[int],
        said: dict[tuple[int, int], list[int]],
        ended: dict[tuple[int, int], Text],
    ) -> None:
        """Put each row's token behind what it has said, and see which rows have ended."""
        for index, token in enumerate(tokens):
            if not batch.alive[index]:
                continue
            key = batch.key(index)
            if token in self.coder.ends or token == self.coder.forced_end:
                forced = token == self.coder.forced_end and len(said[key]) + 1 == self.coder.most
                ended[key] = Text(tuple(said[key]), len(said[key]) + 1, None if forced else token)
                batch.alive[index] = False
                continue
            said[key].append(token)
            if self.coder.stopped(said[key]):
                ended[key] = Text(tuple(said[key]), len(said[key]))
                batch.alive[index] = False

    def _leave(self, batch: _Batch) -> Tensor | None:
        """Which rows stay where enough have ended; equally many of each candidate that has one left, so some that have ended stay
        for company. None where all stay."""
        each = len(batch.rows) // len(batch.candidates)
        alive = [[i for i in range(p * each, (p + 1) * each) if batch.alive[i]] for p in range(len(batch.candidates))]
        most = max(map(len, alive))
        left = [p for p, rows in enumerate(alive) if rows]
        if most * len(left) > (1 - LEAVING) * len(batch.rows):
            return None
        kept: list[int] = []
        for p in left:
            others = [i for i in range(p * each, (p + 1) * each) if not batch.alive[i]]
            kept += sorted([*alive[p], *others[: most - len(alive[p])]])
        batch.candidates = [batch.candidates[p] for p in left]
        batch.rows, batch.alive = [batch.rows[i] for i in kept], [batch.alive[i] for i in kept]
        return torch.tensor(kept, device=self.stack.device)

    def _chosen(
        self, logits: Tensor, batch: _Batch, numbers: Sequence[int], place: int, sampling: Sampling | None
    ) -> tuple[list[int], list[int]]:
        """The next token of each row, and the places of rows whose logits are no numbers."""
        if self.coder.forced_end is not None and place + 1 == self.coder.most:
            return [self.coder.forced_end] * len(logits), []
        if sampling is not None:
            words = logits.shape[-1]
            noise = {row: sampling.noise(numbers[row], place, words) for row in dict.fromkeys(batch.rows)}
            added = torch.stack([noise[row] for row in batch.rows]).to(logits.device)
            logits = logits / sampling.temperature + added
        best = logits.argmax(dim=-1)  # of a row with NaN the place of one
        none = logits.gather(1, best.unsqueeze(1)).squeeze(1).isnan()
        tokens, lost = torch.stack([best, none.long()]).tolist()
        return tokens, [index for index, one in enumerate(lost) if one]

    def _widths(self, prompts: Sequence[Encoded]) -> tuple[Tensor, int, Tensor | None]:
        """Tokens of each prompt [n] and of the longest, and 0 for filling behind the others [n, T]; None if there is none."""
        lengths = torch.tensor([len(prompt.ids) for prompt in prompts], device=self.stack.device)
        width = int(lengths.max())
        filled = bool((lengths < width).any())
        places = torch.arange(width, device=self.stack.device)
        return lengths, width, (places < lengths.unsqueeze(1)).long() if filled else None

    # ---- models of one stack ----

    def _begun_causal(
        self, prompts: Sequence[Encoded], point: Point, chunk: Mapping[int, Tensor], count: int
    ) -> tuple[Tensor, Callable[[Tensor, int], Tensor], Callable[[Tensor], None]]:
        """Logits behind the prompts, what reads one more token, and what lets rows leave."""
        stack, device = self.stack, self.stack.device
        lengths, width, mask = self._widths(prompts)
        ids = torch.tensor([[*p.ids, *[p.ids[-1]] * (width - len(p.ids))] for p in prompts], device=device)
        start = max(0, self.tunable.first_layer(list(chunk))) if chunk and count > 1 else 0
        rows = torch.arange(len(prompts), device=device).repeat(count)
        cache, shared, states = stack.new_cache(), None, None
        if start > 0:
            with self.tunable.applied(point):
                shared, states = stack.prompts_kept(ids, mask, start)
        with self.tunable.applied({**point, **chunk}):
            logits = stack.first_logits(
                ids[rows],
                (lengths - 1)[rows],
                cache,
                mask=None if mask is None else mask[rows],
                start=start,
                states=None if states is None else states[rows],
            )
        if shared is not None:
            cache = joined(shared, cache, start, rows)
        held: dict[str, Any] = {"mask": None if mask is None else mask[rows], "lengths": lengths[rows]}

        def forward(tokens: Tensor, place: int) -> Tensor:
            positions = (held["lengths"] + place).unsqueeze(1)
            if held["mask"] is not None:
                held["mask"] = torch.cat([held["mask"], held["mask"].new_ones(len(tokens), 1)], dim=1)
            return stack.next_logits(tokens, cache, held["mask"], positions if held["mask"] is not None else None)

        def keep(kept: Tensor) -> None:
            select(cache, kept)
            held["lengths"] = held["lengths"][kept]
            held["mask"] = None if held["mask"] is None else held["mask"][kept]

        return logits, forward, keep

    # ---- models of two stacks ----

    def _begun_decoder(
        self, prompts: Sequence[Encoded], point: Point, chunk: Mapping[int, Tensor], count: int
    ) -> tuple[Tensor, Callable[[Tensor, int], Tensor], Callable[[Tensor], None]]:
        """The same for a decoder, whose encoder reads texts of one length at a time."""
        stack, device = self.stack, self.stack.device
        _, width, mask = self._widths(prompts)
        texts = self._encoded(prompts, point, chunk, count)
        text = texts[0].new_zeros(count, len(prompts), width, texts[0].shape[-1])
        for row, states in enumerate(texts):
            text[:, row, : states.shape[1]] = states
        held: dict[str, Any] = {
            "text": text.flatten(0, 1),
            "mask": None if mask is None else mask.repeat(count, 1),
        }
        cache = stack.new_cache()
        marks = torch.tensor([stack.begin], device=device).expand(count * len(prompts), -1)
        with self.tunable.applied_behind({**point, **chunk}), stack.writing():
            logits = stack.answer_logits(marks, cache, held["text"], held["mask"])

        def forward(tokens: Tensor, place: int) -> Tensor:
            return stack.answer_logits(tokens, cache, held["text"], held["mask"])

        def keep(kept: Tensor) -> None:
            select(cache, kept)
            held["text"] = held["text"][kept]
            held["mask"] = None if held["mask"] is None else held["mask"][kept]

        return logits, forward, keep

    def _encoded(
        self, prompts: Sequence[Encoded], point: Point, chunk: Mapping[int, Tensor], count: int
    ) -> list[Tensor]:
        """What the encoder makes of each prompt for each candidate [P, T, h]."""
        stack = self.stack
        layers = stack.encoder_layers or 0
        start = self.tunable.first_layer(list(chunk)) if chunk and count > 1 else INPUT
        by_length: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            by_length.setdefault(len(prompt.ids), []).append(row)
        found: dict[int, Tensor] = {}
        for length, rows in by_length.items():
            ids = torch.tensor([prompts[row].ids for row in rows], device=stack.device)
            below = min(max(start, 0), layers)
            states = None
            if below > 0:
                with self.tunable.applied(point):
                    states = stack.hidden(ids, below)
            if below == layers and states is not None:
                own = states[:, :length].expand(count, *states[:, :length].shape)
            else:
                with self.tunable.applied({**point, **chunk}):
                    entered = None if states is None else states.repeat(count, 1, 1)
                    whole = stack.hidden(ids.repeat(count, 1), layers, start=below, states=entered)
                own = whole[:, :length].view(count, len(rows), length, -1)
            found.update(zip(rows, own.unbind(1), strict=True))
        return [found[row] for row in range(len(prompts))]

    # ---- what goes together ----

    def groups(self, prompts: Sequence[Encoded], count: int) -> list[list[int]]:
        """Prompts that are written together: as many as fit; of one length where the model cannot do with filling."""
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row].ids))
        groups: list[list[int]] = []
        for row in order:
            length, last = len(prompts[row].ids), groups[-1] if groups else []
            same = bool(last) and length == len(prompts[last[0]].ids)
            fits = bool(last) and (len(last) + 1) <= max(1, self._room(length) // min(count, self._room(length)))
            if fits and (same or (self._fills and self._within(length))):
                last.append(row)
            else:
                groups.append([row])
        return groups

    def _within(self, length: int) -> bool:
        """Whether a row never becomes longer than what each token sees."""
        bound = self.stack.longest_packed
        return bound is None or length + self.coder.most < bound

    def _room(self, length: int) -> int:
        """Rows of so many prompt tokens whose keys and values, and logits, fit the memory bound."""
        config = text_config(self.stack.model)
        size = torch.empty(0, dtype=self.stack.dtype).element_size()
        heads = _widest(config, "num_key_value_heads") or _widest(config, "num_attention_heads")
        width = (
            _widest(config, "head_dim")
            or _widest(config, "d_kv")
            or config.hidden_size // _widest(config, "num_attention_heads")
        )
        layers = len(self.stack) - (self.stack.encoder_layers or 0)
        tokens = length + self.coder.most
        row = 2 * size * layers * int(heads) * int(width) * tokens + 8 * self.stack.vocabulary
        return max(1, int(ROOM * self.engine.max_memory * MEGABYTE / row))

    @torch.inference_mode()
    def _check_cache(self) -> None:
        """Make sure that a token behind others whose keys and values are kept, of a row that is left of several, is what it is behind
        these read anew. Found out by trying.

        Raises:
            ModelError: the model keeps what it has read in another way.
        """
        stack, reason = self.stack, ""
        ids = plain_ids(stack.model, 3 * _TRIED + 2).tolist()
        texts = [ids[:_TRIED], ids[_TRIED : 2 * _TRIED], ids[2 * _TRIED : 3 * _TRIED]]
        try:
            prompts = [Encoded(tuple(text), _TRIED - 1) for text in texts]
            _, forward, keep = self._begun_causal(prompts, {}, {}, 1)
            device = stack.device
            with stack.writing():
                forward(torch.full((len(texts), 1), ids[-2], device=device), 0)
                keep(torch.tensor([1, 2], device=device))
                found = forward(torch.full((2, 1), ids[-1], device=device), 1)
                whole = torch.tensor([[*text, *ids[-2:]] for text in texts[1:]], device=device)
                alone = stack.model(**plain_inputs(stack.model, whole, None)).logits[:, -1].float()
            if not stack.same(found, alone):
                reason = "with its cache it gives other words than without"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the code of a model says to this
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if reason:
            raise ModelError(
                f"{type(stack.model).__name__} does not keep what it has read as other decoders do, so it cannot write texts here ({reason}): "
                "choose another model, or a task that is answered with labels"
            )

    @torch.inference_mode()
    def _may_fill(self) -> bool:
        """Whether prompts of several lengths can be written side by side, filled up behind their ends. Found out by trying."""
        stack = self.stack
        if stack.encoder_layers is not None:
            return True
        if "attention_mask" not in accepted(stack.model):
            return False
        ids = plain_ids(stack.model, 2 * _TRIED + 2).tolist()
        texts = [ids[:_TRIED], ids[_TRIED : 2 * _TRIED + 1]]
        try:
            alone = torch.cat([self._trial([text], ids[-1]) for text in texts], dim=1)
            return stack.same(self._trial(texts, ids[-1]), alone)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever the code of a model says to this
            return False

    def _trial(self, texts: Sequence[Sequence[int]], token: int) -> Tensor:
        """Logits [2, n, V] behind texts, and behind one more token."""
        prompts = [Encoded(tuple(text), len(text) - 1) for text in texts]
        logits, forward, _ = self._begun_causal(prompts, {}, {}, 1)
        ids = torch.full((len(texts), 1), token, device=logits.device)
        with self.stack.writing():
            return torch.stack([logits, forward(ids, 0)])


def tokens_of(texts: Sequence[Sequence[Text]]) -> int:
    """How many tokens were written in all."""
    return sum(text.tokens for row in texts for text in row)


def mean_tokens(texts: Sequence[Sequence[Text]]) -> float:
    """How many tokens a text has on average; NaN without texts."""
    count = sum(len(row) for row in texts)
    return tokens_of(texts) / count if count else math.nan


def _widest(config: Any, name: str) -> Any:
    """A size of a model, the largest of its layers' where they differ; None where it has none of that name."""
    try:
        return getattr(config, name, None)
    except Exception:  # transformers' own, for a size that only single layers have
        return max(getattr(layer, name, None) or 0 for layer in config.per_layer_config)
