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
    if len(packing.spans) > 1 and _in_one_call(query.device):
        return _filled(packing, module, query, key, value, kwargs), None
    found: list[Tensor] = []
    first = 0
    for rows, length in packing.spans:
        behind = first + rows * length
        parts = (_apart(tensor[:, :, first:behind], rows) for tensor in (query, key, value))
        output, _ = packing.own(module, *parts, None, **kwargs)
        found.append(output.reshape(len(query), rows * length, *output.shape[2:]))
        first = behind
    return torch.cat(found, dim=1), None


def _in_one_call(device: torch.device) -> bool:
    """Whether prompts of all lengths share one call, with filling: a processor is faster without it."""
    return device.type != "cpu"


def _filled(
    packing: _Packing, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, kwargs: dict[str, Any]
) -> Tensor:
    """The same in one call: prompts are filled up to the longest, and the filling is masked where anything would look at it.

    A few large kernels in place of some for each length, which a GPU would wait for.
    """
    places, back, mask = padded_places(packing.spans, query.device)
    prompts = len(mask)
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    parts = [
        each.transpose(1, 2).index_select(1, places).unflatten(1, (prompts, -1)).flatten(0, 1).transpose(1, 2)  # type: ignore[no-untyped-call]
        for each in (query, key, value)
    ]
    output, _ = packing.own(module, *parts, None if causal else mask.repeat(len(query), 1, 1, 1), **kwargs)
    return output.reshape(len(query), -1, *output.shape[2:]).index_select(1, back)  # type: ignore[no-any-return]


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
    lengths = [length for rows, length in spans for _ in range(rows)]
    with torch.inference_mode(False):
        count, longest = torch.tensor(lengths).unsqueeze(1), max(lengths)
        place = torch.arange(longest).unsqueeze(0)
        begins = count.cumsum(0) - count
        places = begins + torch.minimum(place, count - 1)
        real = place < count
        back = real.flatten().nonzero().flatten()
        return places.flatten().to(device), back.to(device), real[:, None, None].to(device)


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
