"""How fast a model's layers are on this machine, told without loading it: its matrices by shape, and a product of each, timed."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn import functional

TOKENS = 256
"""Tokens that are multiplied at once; more are no faster by the token on ordinary processors."""
STRETCH = 0.5
"""Seconds that the timing of one number format takes; shapes that are not reached in it count as fast as the others."""


@dataclass(frozen=True)
class Matrices:
    """What can be read of a model's files without loading them.

    Args:
        weights: how many there are in all; 0 where the files are no safetensors, or cannot be read.
        layers: how often the layers that read a text have a matrix of each shape; without embeddings and head.
        reading: how many layers read a text; 0 where the configuration does not say.
        answering: how many layers of a decoder of its own come behind them.
        packed: bytes of weights that come quantized, and are not counted in `weights`.
    """

    weights: int
    layers: Mapping[tuple[int, int], int]
    reading: int = 0
    answering: int = 0
    packed: int = 0


def matrices(place: str | Path, config: Any) -> Matrices:
    """Read the shapes of a model's weights.

    Args:
        place: its folder; of a hub id nothing is read.
        config: its configuration, which says how many words it knows and whether a decoder of its own answers.
    """
    settings = config.get_text_config() if hasattr(config, "get_text_config") else config
    words, two = getattr(settings, "vocab_size", None), getattr(config, "is_encoder_decoder", False)
    answering = [getattr(config, name, None) for name in ("num_decoder_layers", "decoder_layers")] if two else []
    whole, packed, layers = 0, 0, Counter[tuple[int, int]]()
    for file in sorted(Path(place).glob("*.safetensors")) if Path(place).is_dir() else ():
        try:
            with safe_open(file, framework="pt") as opened:
                parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                packed += sum(_bytes_if_packed(part) for part in parts.values())
                shapes = {n: tuple(part.get_shape()) for n, part in parts.items() if not _bytes_if_packed(part)}
        except Exception:  # safetensors raises its own, undocumented types; a run will say what is wrong
            return Matrices(0, {})
        whole += sum(map(math.prod, shapes.values()))
        for name, shape in shapes.items():
            texts = not name.startswith("vision_model.") and not (two and "decoder." in name)
            if len(shape) == 2 and words not in shape and texts:
                layers[shape] += 1
    reading = getattr(settings, "num_hidden_layers", None) or 0
    return Matrices(whole, layers, reading, next(filter(None, answering), 0), packed)


def _bytes_if_packed(part: Any) -> int:
    """Bytes of a tensor of whole numbers in a file; 0 of any other."""
    kind = part.get_dtype()
    return math.prod(part.get_shape()) * int(kind[1:]) // 8 if kind[0] in "IU" else 0


def seconds_for_token(found: Matrices, dtype: torch.dtype, device: str = "cpu") -> float | None:
    """Seconds that a model's layers take for one token of a text, from their products and what stands between these, timed now.

    A stretch of time is measured, and not the fastest product of it, so that other programs count as they will beside a run.

    Args:
        found: the model's matrices.
        dtype: number format of the products; between them all is computed in float32.
        device: a torch device.

    Returns:
        None where the files do not tell the layers, or the device has no such products.
    """
    flops = {shape: count * math.prod(shape) for shape, count in found.layers.items()}
    if not flops or sum(flops.values()) < found.weights / 10:  # layers that lie in tensors of another form
        return None
    shapes = sorted(flops, key=flops.__getitem__, reverse=True)
    took, rounds = dict.fromkeys(shapes, 0.0), dict.fromkeys(shapes, 0)
    begin = time.perf_counter()
    try:
        while time.perf_counter() - begin < STRETCH:
            for shape in shapes:
                if time.perf_counter() - begin < STRETCH or not any(rounds.values()):
                    took[shape] += _seconds(shape, dtype, device)
                    rounds[shape] += 1
    except RuntimeError:
        return None
    timed = [shape for shape in shapes if rounds[shape]]
    seconds = sum(found.layers[shape] * took[shape] / rounds[shape] for shape in timed)
    return seconds / TOKENS * sum(flops.values()) / sum(flops[shape] for shape in timed)


def _seconds(shape: tuple[int, int], dtype: torch.dtype, device: str) -> float:
    """Seconds of a product of so many tokens, an activation and a norm; the first, slow one is not counted."""
    weight = torch.ones(shape, dtype=dtype, device=device)
    tokens = torch.ones(TOKENS, shape[1], device=device)

    def layer() -> float:
        begin = time.perf_counter()
        product = functional.silu(functional.linear(tokens.to(dtype), weight).float())
        functional.layer_norm(product, (shape[0],))[0, 0].item()
        return time.perf_counter() - begin

    layer()
    return layer()
