"""Prompts of any lengths laid end to end, as one row of tokens, through an unmodified `transformers` model.

Everything in a layer but its attention maps each token by itself, so it does not matter which prompt a token belongs to. One
row of all tokens gives matrix products as many rows as there are, however many lengths the prompts have; attention goes prompt
by prompt, by the function that the model would use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from tandemtune.models.survey import accepted, plain_ids, plain_inputs, text_config

Spans = tuple[tuple[int, int], ...]
"""What lies end to end in a row, in order: (prompts, tokens of each)."""
FITTING = "sdpa"
"""The attention of `transformers` that needs no mask where a row is one prompt."""
_NAME = "tandemtune-end-to-end"
_TRIED: Spans = ((1, 3), (2, 4))
"""What the trial lays end to end."""


@dataclass
class _Packing:
    """What the attention function needs to know, and how often it was asked."""

    spans: Spans
    own: Callable[..., Any]
    calls: int = 0


_PACKING: ContextVar[_Packing] = ContextVar("packing")


@contextmanager
def end_to_end(model: nn.Module, spans: Spans) -> Iterator[_Packing]:
    """Have every attention of a model keep prompts apart that lie end to end, until the context ends.

    Args:
        model: a model for which `packs` says yes.
        spans: the prompts in a row of the batch; all rows are cut alike.
    """
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    AttentionInterface.register(_NAME, _attention)
    config: Any = model.config
    before = config._attn_implementation
    packing = _Packing(spans, ALL_ATTENTION_FUNCTIONS[before])
    token = _PACKING.set(packing)
    config._attn_implementation = _NAME
    try:
        yield packing
    finally:
        config._attn_implementation = before
        _PACKING.reset(token)


def first_position(model: nn.Module, layers: int, same: Callable[[Tensor, Tensor], bool]) -> int | None:
    """What a model calls the first position of a text, if prompts may be laid end to end in it: it lets itself be told
    positions, hands the attention of each layer to a function that can be chosen, and gives each prompt's own logits then.
    Found out by trying.

    Args:
        model: a masked or causal language model.
        layers: how many layers it has.
        same: whether two tensors of logits are equal up to rounding.

    Returns:
        The position; None where prompts cannot be laid end to end.
    """
    if "position_ids" not in accepted(model):
        return None
    if getattr(model.config, "_attn_implementation", None) != FITTING:
        return None
    ids = plain_ids(model, sum(rows * length for rows, length in _TRIED)).unsqueeze(0)
    lengths = [length for rows, length in _TRIED for _ in range(rows)]
    padding = getattr(text_config(model), "pad_token_id", None)
    begins = [0] if padding is None else [0, int(padding) + 1]
    try:
        with torch.inference_mode():
            own = [model(**plain_inputs(model, part, None)).logits for part in torch.split(ids, lengths, dim=1)]
            for first in begins:
                with end_to_end(model, _TRIED) as packing:
                    told = positions(_TRIED, first, ids.device)
                    found = model(**plain_inputs(model, ids, None), position_ids=told).logits
                if packing.calls == layers and same(found, torch.cat(own, dim=1)):
                    return first
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model of another form says to this
        return None
    return None


def longest(model: nn.Module) -> int | None:
    """Tokens up to which each one sees all of its prompt (or all before it); None for no bound."""
    config = text_config(model)
    bounds = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((int(bound) for bound in bounds if bound is not None), default=None)


@lru_cache(maxsize=64)
def positions(spans: Spans, first: int, device: torch.device) -> Tensor:
    """Position ids [1, tokens] of prompts that lie end to end.

    Args:
        spans: the prompts.
        first: what the model calls the first position.
        device: where the model lies.
    """
    with torch.inference_mode(False):  # kept for later calls, whatever their mode
        found = torch.cat([torch.arange(first, first + length).repeat(rows) for rows, length in spans])
        return found.unsqueeze(0).to(device)


@lru_cache(maxsize=64)
def homes(spans: Spans, device: torch.device) -> Tensor:
    """For each token the number of the prompt that it belongs to [tokens]."""
    lengths = [length for rows, length in spans for _ in range(rows)]
    with torch.inference_mode(False):
        return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention inside each prompt: queries, keys and values [n, heads, tokens, width] to [n, tokens, heads, width]."""
    packing = _PACKING.get()
    packing.calls += 1
    found: list[Tensor] = []
    first = 0
    for rows, length in packing.spans:
        behind = first + rows * length
        parts = (_apart(tensor[:, :, first:behind], rows) for tensor in (query, key, value))
        output, _ = packing.own(module, *parts, None, **kwargs)
        found.append(output.reshape(len(query), rows * length, *output.shape[2:]))
        first = behind
    return torch.cat(found, dim=1), None


def _apart(tensor: Tensor, rows: int) -> Tensor:
    """[n, heads, rows * length, width] -> [n * rows, heads, length, width]."""
    return tensor if rows == 1 else tensor.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1)  # type: ignore[no-untyped-call]


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
