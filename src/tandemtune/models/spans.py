"""Where prompts stand in a row of tokens that they lie in end to end, and which tokens of the row each of them reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """Prompts of one length, one behind the other.

    Args:
        rows: how many.
        length: tokens of each, without those that it shares with others.
        behind: where in the row the tokens lie that each of them begins with, (first, end), in order; they stand there once.
        head: whether these tokens are no prompt, but what prompts begin with.
    """

    rows: int
    length: int
    behind: tuple[tuple[int, int], ...] = ()
    head: bool = False

    @property
    def before(self) -> int:
        """Tokens that each of the prompts begins with and shares."""
        return sum(end - first for first, end in self.behind)

    @property
    def tokens(self) -> int:
        """Places in the row."""
        return self.rows * self.length


Spans = tuple[Span, ...]
"""What lies end to end in a row, in order."""


def share(spans: Spans) -> bool:
    """Whether prompts share tokens that they begin with."""
    return any(span.head for span in spans)


def each(spans: Spans) -> list[Span]:
    """One span for each prompt or head."""
    return [span for span in spans for _ in range(span.rows)]


@lru_cache(maxsize=64)
def positions(spans: Spans, first: int, device: torch.device) -> Tensor:
    """Position ids [1, tokens] of prompts that lie end to end.

    Args:
        spans: the prompts.
        first: what the model calls the first position.
        device: where the model lies.
    """
    with torch.inference_mode(False):  # kept for later calls, whatever their mode
        begins = [first + span.before for span in spans]
        found = [
            torch.arange(begin, begin + span.length).repeat(span.rows)
            for begin, span in zip(begins, spans, strict=True)
        ]
        return torch.cat(found).unsqueeze(0).to(device)


@lru_cache(maxsize=64)
def homes(spans: Spans, device: torch.device) -> Tensor:
    """For each token the number of the prompt that it belongs to [tokens]; any for what several share."""
    found: list[int] = []
    prompts = 0
    for span in each(spans):
        found += [0 if span.head else prompts] * span.length
        prompts += not span.head
    with torch.inference_mode(False):
        return torch.tensor(found).to(device)


def reads(spans: Spans) -> list[Tensor]:
    """For each prompt or head the tokens of the row that it reads, in order."""
    found: list[Tensor] = []
    first = 0
    for span in each(spans):
        shared = [torch.arange(begin, end) for begin, end in span.behind]
        found.append(torch.cat([*shared, torch.arange(first, first + span.length)]))
        first += span.length
    return found


@lru_cache(maxsize=64)
def read_places(spans: Spans, device: torch.device) -> Tensor:
    """The tokens that prompts read, prompt after prompt."""
    with torch.inference_mode(False):
        return torch.cat(reads(spans)).to(device)


def prompts_of(states: Tensor, spans: Spans) -> list[Tensor]:
    """States [n, T, h] of each prompt of a row [n, tokens, h], those of shared tokens included."""
    told = zip(reads(spans), each(spans), strict=True)
    return [states[:, places.to(states.device)] for places, span in told if not span.head]


@lru_cache(maxsize=64)
def bounds(spans: Spans, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each prompt begins if rows of the same prompts lie end to end, and where the last one ends [rows * prompts + 1]: by
    their own tokens, and by those that they read.

    Args:
        spans: the prompts of a row.
        rows: how many rows there are.
        device: where the model lies.
    """
    prompts = each(spans)
    own, read = [span.length for span in prompts], [span.before + span.length for span in prompts]
    with torch.inference_mode(False):
        made = [torch.tensor([0, *lengths * rows]).cumsum(0).to(torch.int32).to(device) for lengths in (own, read)]
        return made[0], made[1]


@lru_cache(maxsize=64)
def padded_places(spans: Spans, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Where tokens that lie end to end stand when every prompt is filled up to the longest.

    Args:
        spans: the prompts.
        device: where the model lies.

    Returns:
        For each place of each prompt the token that stands there, its last one in the filling [prompts * longest]; for each
        token its place [tokens]; and which places are no filling [prompts, 1, 1, longest].
    """
    lengths = [span.length for span in each(spans)]
    with torch.inference_mode(False):
        count, longest = torch.tensor(lengths).unsqueeze(1), max(lengths)
        place = torch.arange(longest).unsqueeze(0)
        begins = count.cumsum(0) - count
        places = begins + torch.minimum(place, count - 1)
        real = place < count
        back = real.flatten().nonzero().flatten()
        return places.flatten().to(device), back.to(device), real[:, None, None].to(device)


@lru_cache(maxsize=64)
def padded_reads(spans: Spans, device: torch.device) -> tuple[Tensor, Tensor]:
    """What each prompt reads when all read as many tokens as the one that reads most.

    Args:
        spans: the prompts.
        device: where the model lies.

    Returns:
        For each place of each prompt the token that stands there [prompts * most]; and which of them each of its own tokens sees,
        those before it and itself [prompts, 1, longest, most].
    """
    found = reads(spans)
    with torch.inference_mode(False):
        place = torch.arange(max(map(len, found)))
        places = torch.stack([tokens[place.clamp(max=len(tokens) - 1)] for tokens in found])
        before = torch.tensor([span.before for span in each(spans)]).view(-1, 1, 1)
        own = torch.arange(max(span.length for span in spans)).view(1, -1, 1)
        return places.flatten().to(device), (place <= before + own).unsqueeze(1).to(device)


@lru_cache(maxsize=256)
def seen(length: int, before: int, device: torch.device) -> Tensor:
    """Which of `before` tokens and its own each of `length` tokens behind them sees [1, 1, length, before + length]."""
    with torch.inference_mode(False):
        return torch.ones(1, 1, length, before + length, dtype=torch.bool).tril(before).to(device)


def alike(rows: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all rows begin with."""
    first, last = min(rows), max(rows)
    return next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))


def lay(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Which prompts lie end to end together: in order, as many as have at most `limit` tokens.

    Args:
        lengths: tokens of each prompt.
        limit: bound on the tokens of a row; a longer prompt is a row of its own.

    Returns:
        Indices of the prompts of each row.
    """
    made: list[list[int]] = []
    tokens = 0
    for index, length in enumerate(lengths):
        if not made or tokens + length > limit:
            made.append([])
            tokens = 0
        made[-1].append(index)
        tokens += length
    return made
