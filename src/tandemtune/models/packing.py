"""Prompts of any lengths laid end to end, as one row of tokens, through an unmodified `transformers` model.

Everything in a layer but its attention maps each token by itself, so it does not matter which prompt a token belongs to. One
row of all tokens gives matrix products as many rows as there are, however many lengths the prompts have; attention goes prompt
by prompt, by the function that the model would use. On a GPU all prompts share one call: of a kernel that is told where each of
them begins where there is one for it, else of the model's own, filled up.
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
from torch.nn import functional

from tandemtune.models.survey import accepted, plain_ids, plain_inputs, text_config

Spans = tuple[tuple[int, int], ...]
"""What lies end to end in a row, in order: (prompts, tokens of each)."""
FITTING = "sdpa"
"""The attention of `transformers` that needs no mask where a row is one prompt."""
_NAME = "tandemtune-end-to-end"
_TRIED: Spans = ((1, 3), (2, 4))
"""What the trial lays end to end."""
_BEYOND = ("position_bias", "softcap", "s_aux", "cache")
"""What an attention may be given that no kernel of `by_bounds` takes."""
_NEAR = 3e-2
"""How far such a kernel may lie from float32."""


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
        causal = kwargs.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
        if _has_bounds(query, key, value, causal, kwargs):
            return by_bounds(packing.spans, query, key, value, causal, kwargs.get("scaling")), None
        return _filled(packing, module, query, key, value, causal, kwargs), None
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


def _has_bounds(query: Tensor, key: Tensor, value: Tensor, causal: bool, kwargs: dict[str, Any]) -> bool:
    """Whether a kernel that is told where prompts begin says the same: one without anything added to the scores."""
    if any(kwargs.get(name) is not None for name in _BEYOND) or kwargs.get("dropout") or query.requires_grad:
        return False
    fits = query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] == value.shape[-1]
    heads = query.shape[1], key.shape[1]
    return fits and _bounds_work(query.device, query.dtype, heads, query.shape[-1], causal)


@lru_cache(maxsize=64)
def _bounds_work(device: torch.device, dtype: torch.dtype, heads: tuple[int, int], width: int, causal: bool) -> bool:
    """Whether this device has that kernel for heads of this form. Found out by trying."""
    lengths = [length for rows, length in _TRIED for _ in range(rows)]
    with torch.inference_mode():
        wave = torch.arange(3 * max(heads) * sum(lengths) * width, device=device).sin().to(dtype)
        whole = wave.view(3, 1, max(heads), sum(lengths), width)
        query, key, value = (part[:, :count] for part, count in zip(whole, (heads[0], *heads[1:] * 2), strict=True))
        try:
            found = by_bounds(_TRIED, query, key, value, causal)
            each = zip(*(torch.split(part, lengths, dim=2) for part in (query, key, value)), strict=True)
            own = [_plain(one, other, third, causal) for one, other, third in each]
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a device or another torch says to this
            return False
        return torch.allclose(found.float(), torch.cat(own, dim=2).transpose(1, 2), atol=_NEAR, rtol=_NEAR)


def _plain(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Attention of one prompt in float32; heads share keys and values in turn where there are fewer of these."""
    shared = query.shape[1] // key.shape[1]
    keys, values = (each.float().repeat_interleave(shared, dim=1) for each in (key, value))
    return functional.scaled_dot_product_attention(query.float(), keys, values, is_causal=causal)


def by_bounds(
    spans: Spans, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None = None
) -> Tensor:
    """The same in one call and without filling: the kernel is told where each prompt begins.

    Args:
        spans: the prompts in each row.
        query: [n, heads, tokens, width]; keys and values may have fewer heads.
        key: as `query`.
        value: as `query`.
        causal: whether tokens see those before them only.
        scale: of the scores; None for the root of the width.

    Returns:
        [n, tokens, heads, width].
    """
    rows, heads, tokens, width = query.shape
    one, other, third = (each.transpose(1, 2).reshape(rows * tokens, -1, width) for each in (query, key, value))
    begins, longest = bounds(spans, rows, query.device), max(length for _, length in spans)
    found = _with_bounds(one, other, third, begins, longest, causal, scale)
    return found.view(rows, tokens, heads, width)


def _with_bounds(
    query: Tensor, key: Tensor, value: Tensor, begins: Tensor, longest: int, causal: bool, scale: float | None
) -> Tensor:
    """FlashAttention of prompts that lie end to end: [tokens, heads, width], by arguments that it has in all versions of torch."""
    found: Tensor = torch.ops.aten._flash_attention_forward(
        query, key, value, begins, begins, longest, longest, 0.0, causal, False, scale=scale
    )[0]
    return found


@lru_cache(maxsize=64)
def bounds(spans: Spans, rows: int, device: torch.device) -> Tensor:
    """Where each prompt begins if rows of the same prompts lie end to end, and where the last one ends [rows * prompts + 1].

    Args:
        spans: the prompts of a row.
        rows: how many rows there are.
        device: where the model lies.
    """
    lengths = torch.tensor([0, *[length for count, length in spans for _ in range(count)] * rows])
    with torch.inference_mode(False):
        return lengths.cumsum(0).to(torch.int32).to(device)


def _filled(
    packing: _Packing,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    kwargs: dict[str, Any],
) -> Tensor:
    """The same in one call: prompts are filled up to the longest, and the filling is masked where anything would look at it.

    A few large kernels in place of some for each length, which a GPU would wait for.
    """
    places, back, mask = padded_places(packing.spans, query.device)
    prompts = len(mask)
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
