"""Prompts of any lengths laid end to end, as one row of tokens, through an unmodified `transformers` model.

Everything in a layer but its attention maps each token by itself, so it does not matter which prompt a token belongs to. One
row of all tokens gives matrix products as many rows as there are, however many lengths the prompts have; attention goes prompt
by prompt, by the function that the model would use. On a GPU all prompts share one call: of a kernel that is told where each of
them begins where there is one for it, else of the model's own, filled up.

In a model that reads from left to right, tokens that several prompts begin with are the same for all of them in every layer: they
stand in the row once, and each of these prompts attends to them and to its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tandemtune.models import spans as laid
from tandemtune.models.spans import Span, Spans
from tandemtune.models.survey import accepted, plain_ids, plain_inputs, text_config

FITTING = "sdpa"
"""The attention of `transformers` that needs no mask where a row is one prompt."""
_NAME = "tandemtune-end-to-end"
_TRIED: Spans = (Span(1, 3), Span(2, 4))
"""What the trial lays end to end."""
_TRIED_BEHIND: Spans = (Span(1, 2, head=True), Span(1, 3, ((0, 2),)), Span(2, 4, ((0, 2),)))
"""The same behind tokens that all of them begin with."""
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
    padding = getattr(text_config(model), "pad_token_id", None)
    begins = [0] if padding is None else [0, int(padding) + 1]
    return next((first for first in begins if _agrees(model, _TRIED, first, layers, same)), None)


def shares(model: nn.Module, first: int, layers: int, same: Callable[[Tensor, Tensor], bool]) -> bool:
    """Whether prompts that lie end to end in a model may share the tokens that they begin with: each token sees those before it
    only, and the logits of each prompt stay its own. Found out by trying.

    Args:
        model: one that `first_position` found a position for.
        first: that position.
        layers: how many layers it has.
        same: whether two tensors of logits are equal up to rounding.
    """
    return _agrees(model, _TRIED_BEHIND, first, layers, same)


def _agrees(model: nn.Module, spans: Spans, first: int, layers: int, same: Callable[[Tensor, Tensor], bool]) -> bool:
    """Whether prompts that lie end to end get the logits that each of them gets alone."""
    ids = plain_ids(model, sum(span.tokens for span in spans)).unsqueeze(0)
    parts = zip(laid.reads(spans), laid.each(spans), strict=True)
    try:
        with torch.inference_mode():
            alone = [
                model(**plain_inputs(model, ids[:, read.to(ids.device)], None)).logits[:, span.before :]
                for read, span in parts
            ]
            with end_to_end(model, spans) as packing:
                told = laid.positions(spans, first, ids.device)
                found = model(**plain_inputs(model, ids, None), position_ids=told).logits
            return packing.calls == layers and same(found, torch.cat(alone, dim=1))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model of another form says to this
        return False


def longest(model: nn.Module) -> int | None:
    """Tokens up to which each one sees all of its prompt (or all before it); None for no bound."""
    config = text_config(model)
    bounds = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if getattr(config, "attention_types", None):  # GPT-Neo, whose local layers count places and not tokens
        bounds.append(getattr(config, "window_size", None))
    rope: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) == "longrope":  # beyond it a whole batch is turned by other angles
        name = "original_max_position_embeddings"
        bounds.append(rope.get(name, getattr(config, name, None)))
    return min((int(bound) for bound in bounds if bound is not None), default=None)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention inside each prompt: queries, keys and values [n, heads, tokens, width] to [n, tokens, heads, width]."""
    packing = _PACKING.get()
    packing.calls += 1
    causal = kwargs.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    if laid.share(packing.spans) and not causal:
        raise ValueError("what a model that looks ahead makes of the beginning of a prompt depends on its end")
    if len(packing.spans) > 1 and _in_one_call(query.device):
        if _has_bounds(packing.spans, query, key, value, causal, kwargs):
            return by_bounds(packing.spans, query, key, value, causal, kwargs.get("scaling")), None
        return _filled(packing, module, query, key, value, causal, kwargs), None
    found: list[Tensor] = []
    first = 0
    for span in packing.spans:
        stop = first + span.tokens
        parts = [_apart(tensor[:, :, first:stop], span.rows) for tensor in (query, key, value)]
        given, mask = kwargs, None
        if span.behind:
            parts[1:] = [_with_shared(whole, own, span) for whole, own in zip((key, value), parts[1:], strict=True)]
            given = {**kwargs, "is_causal": False}
            mask = laid.seen(span.length, span.before, query.device) if span.length > 1 else None
        output, _ = packing.own(module, *parts, mask, **given)
        found.append(output.reshape(len(query), span.tokens, *output.shape[2:]))
        first = stop
    return torch.cat(found, dim=1), None


def _with_shared(whole: Tensor, own: Tensor, span: Span) -> Tensor:
    """Keys or values of prompts [n * rows, heads, length, width], behind those that they share [n, heads, tokens, width]."""
    shared = [whole[:, None, :, first:end].expand(-1, span.rows, -1, -1, -1) for first, end in span.behind]
    return torch.cat([*shared, own.unflatten(0, (-1, span.rows))], dim=3).flatten(0, 1)  # type: ignore[no-untyped-call]


def _in_one_call(device: torch.device) -> bool:
    """Whether prompts of all lengths share one call, with filling: a processor is faster without it."""
    return device.type != "cpu"


def _has_bounds(spans: Spans, query: Tensor, key: Tensor, value: Tensor, causal: bool, kwargs: dict[str, Any]) -> bool:
    """Whether a kernel that is told where prompts begin says the same: one without anything added to the scores."""
    if any(kwargs.get(name) is not None for name in _BEYOND) or kwargs.get("dropout") or query.requires_grad:
        return False
    fits = query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] == value.shape[-1]
    heads = query.shape[1], key.shape[1]
    tried = _TRIED_BEHIND if laid.share(spans) else _TRIED
    return fits and _bounds_work(tried, query.device, query.dtype, heads, query.shape[-1], causal)


@lru_cache(maxsize=64)
def _bounds_work(
    spans: Spans, device: torch.device, dtype: torch.dtype, heads: tuple[int, int], width: int, causal: bool
) -> bool:
    """Whether this device has that kernel for prompts and heads of this form. Found out by trying."""
    tokens = sum(span.tokens for span in spans)
    with torch.inference_mode():
        wave = torch.arange(3 * max(heads) * tokens * width, device=device).sin().to(dtype)
        whole = wave.view(3, 1, max(heads), tokens, width)
        query, key, value = (part[:, :count] for part, count in zip(whole, (heads[0], *heads[1:] * 2), strict=True))
        try:
            found = by_bounds(spans, query, key, value, causal)
            own = [
                _plain(query[:, :, read[span.before :]], key[:, :, read], value[:, :, read], causal)
                for read, span in zip(laid.reads(spans), laid.each(spans), strict=True)
            ]
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a device or another torch says to this
            return False
        return torch.allclose(found.float(), torch.cat(own, dim=2).transpose(1, 2), atol=_NEAR, rtol=_NEAR)


def _plain(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Attention of one prompt in float32; heads share keys and values in turn where there are fewer of these."""
    shared = query.shape[1] // key.shape[1]
    keys, values = (each.float().repeat_interleave(shared, dim=1) for each in (key, value))
    own = query.shape[2]
    mask = laid.seen(own, keys.shape[2] - own, query.device) if causal else None
    return functional.scaled_dot_product_attention(query.float(), keys, values, attn_mask=mask)


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
    if laid.share(spans):
        read = laid.read_places(spans, query.device)
        key, value = key.index_select(2, read), value.index_select(2, read)
    one, other, third = (each.transpose(1, 2).flatten(0, 1) for each in (query, key, value))
    own, all_read = laid.bounds(spans, rows, query.device)
    most = max(span.length for span in spans), max(span.before + span.length for span in spans)
    found = _with_bounds(one, other, third, (own, all_read), most, causal, scale)
    return found.view(rows, tokens, heads, width)


def _with_bounds(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    begins: tuple[Tensor, Tensor],
    most: tuple[int, int],
    causal: bool,
    scale: float | None,
) -> Tensor:
    """FlashAttention of prompts that lie end to end: [tokens, heads, width], by arguments that it has in all versions of torch."""
    found: Tensor = torch.ops.aten._flash_attention_forward(
        query, key, value, *begins, *most, 0.0, causal, False, scale=scale
    )[0]
    return found


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
    own, back, real = laid.padded_places(packing.spans, query.device)
    prompts, read, mask = len(real), own, None if causal else real
    if laid.share(packing.spans):
        read, mask = laid.padded_reads(packing.spans, query.device)
    parts = [
        each.transpose(1, 2).index_select(1, places).unflatten(1, (prompts, -1)).flatten(0, 1).transpose(1, 2)  # type: ignore[no-untyped-call]
        for each, places in ((query, own), (key, read), (value, read))
    ]
    if mask is not None:
        mask, kwargs = mask.repeat(len(query), 1, 1, 1), {**kwargs, "is_causal": False}
    output, _ = packing.own(module, *parts, mask, **kwargs)
    return output.reshape(len(query), -1, *output.shape[2:]).index_select(1, back)  # type: ignore[no-any-return]


def _apart(tensor: Tensor, rows: int) -> Tensor:
    """[n, heads, rows * length, width] -> [n * rows, heads, length, width]."""
    return tensor if rows == 1 else tensor.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1)  # type: ignore[no-untyped-call]
