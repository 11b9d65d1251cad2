"""Ways to do the same on a device, timed side by side: attention of rows of many lengths, and low-rank terms."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tandemtune.models import packing, spans

Parts = Mapping[str, Callable[[], Any]]


def milliseconds(parts: Parts, repeats: int = 5, calls: int = 5) -> dict[str, float]:
    """Median milliseconds of a call of each part, the parts in turn; one that fails is left out.

    Args:
        parts: by name.
        repeats: turns.
        calls: of each part in one turn.
    """
    times: dict[str, list[float]] = {}
    for name, call in parts.items():
        try:
            call()
            call()
            times[name] = []
        except Exception as error:  # what this device or this torch does not have
            print(f"  {name}: {type(error).__name__}: {str(error).splitlines()[0][:120]}", flush=True)
    for _ in range(repeats):
        for name in times:
            wait()
            begin = time.perf_counter()
            for _ in range(calls):
                parts[name]()
            wait()
            times[name].append((time.perf_counter() - begin) / calls * 1e3)
    return {name: sorted(found)[len(found) // 2] for name, found in times.items()}


def wait() -> None:
    """Wait for what a device still does."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def attention(
    lengths: Sequence[int], count: int, heads: int, width: int, causal: bool, device: str, dtype: torch.dtype
) -> dict[str, float]:
    """Attention of prompts of many lengths that lie end to end, `count` rows of them.

    Args:
        lengths: tokens of each prompt, in order.
        count: rows, one for each candidate.
        heads: of the attention.
        width: of a head.
        causal: whether tokens see those before them only.
        device: where.
        dtype: number format.
    """
    tokens = sum(lengths)
    prompts = tuple(spans.Span(1, length) for length in lengths)
    shape = (count, tokens, heads, width)  # as projections give them
    query, key, value = (torch.randn(shape, device=device, dtype=dtype).transpose(1, 2) for _ in range(3))

    def by_length() -> Tensor:
        found = []
        first = 0
        for length in lengths:
            cut = slice(first, first + length)
            here = functional.scaled_dot_product_attention(
                query[:, :, cut], key[:, :, cut], value[:, :, cut], is_causal=causal
            )
            found.append(here.transpose(1, 2))
            first += length
        return torch.cat(found, dim=1)

    places, back, mask = spans.padded_places(prompts, torch.device(device))
    rows, longest = len(lengths), max(lengths)

    def filled() -> Tensor:
        one, other, third = (
            each.transpose(1, 2).index_select(1, places).view(count * rows, longest, heads, width).transpose(1, 2)
            for each in (query, key, value)
        )
        shown = None if causal else mask.repeat(count, 1, 1, 1)
        found = functional.scaled_dot_product_attention(one, other, third, attn_mask=shown, is_causal=causal)
        return found.transpose(1, 2).reshape(count, rows * longest, heads, width).index_select(1, back)

    def grouped() -> Tensor:
        same = tokens // rows
        one, other, third = (
            each.transpose(1, 2)[:, : same * rows].reshape(count * rows, same, heads, width).transpose(1, 2)
            for each in (query, key, value)
        )
        return functional.scaled_dot_product_attention(one, other, third, is_causal=causal)

    return milliseconds(
        {
            "length by length": by_length,
            "filled up": filled,
            "by bounds (FlashAttention)": lambda: packing.by_bounds(prompts, query, key, value, causal),
            "all equally long": grouped,
        }
    )


def terms(rows: int, count: int, width: int, rank: int, device: str, dtype: torch.dtype) -> dict[str, float]:
    """Ways to add low-rank terms to a projection's output, beside the projection itself.

    Args:
        rows: tokens of one candidate.
        count: candidates.
        width: of the hidden states.
        rank: of the terms.
        device: where.
        dtype: number format.
    """
    hidden = torch.randn(count, rows, width, device=device, dtype=dtype)
    flat = hidden.view(-1, width)
    weight, bias = torch.randn(width, width, device=device, dtype=dtype), torch.randn(width, device=device, dtype=dtype)
    out = torch.empty(count, rows, width, device=device, dtype=dtype)
    outs = out.view(-1, width)
    scale = 0.01

    def factors(r: int, many: int) -> tuple[Tensor, Tensor]:
        a = torch.randn(many, width, r, device=device) * scale
        return a.to(dtype), torch.randn(many, r, width, device=device).to(dtype)

    parts: dict[str, Callable[[], Any]] = {"projection": lambda: functional.linear(flat, weight, bias)}
    for r in (rank, 8, 16):
        a, b = factors(r, count)
        parts[f"{count} terms, rank {r}"] = lambda a=a, b=b: out.baddbmm_(hidden @ a, b)  # type: ignore[misc]
        parts[f"{count} terms, rank {r}, x A alone"] = lambda a=a: hidden @ a  # type: ignore[misc]
        turned = a.transpose(1, 2).contiguous().transpose(1, 2)
        parts[f"{count} terms, rank {r}, A lies by rank"] = lambda a=turned, b=b: out.baddbmm_(hidden @ a, b)  # type: ignore[misc]
        one, other = factors(r, 1)
        parts[f"one term, rank {r}"] = lambda a=one[0], b=other[0]: outs.addmm_(flat @ a, b)  # type: ignore[misc]
        parts[f"one term, rank {r}, x A alone"] = lambda a=one[0]: flat @ a  # type: ignore[misc]
    return milliseconds(parts)
