"""What the layers of a model cost beside each other, by the sizes of their matrices."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from torch import nn

from tandemtune.models.linear import is_linear, is_transposed, sizes


def layer_costs(
    layers: Sequence[nn.Module], encoder_layers: int | None, reads: Collection[nn.Module], marks: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What each layer costs, as a share of what one token of the text costs in the first one: for each token of the text (a
    decoder's layer maps it to keys and values only), and for each prompt, whose answer's marks go through a decoder's layers.

    Args:
        layers: all layers, those of a decoder last.
        encoder_layers: how many stand before the decoder; None in a model of one stack.
        reads: maps that read the text in a decoder's layers.
        marks: tokens that a decoder is given before its answer.
    """
    if encoder_layers is None:
        return (1.0,) * len(layers), (0.0,) * len(layers)
    whole = sum(_weights(part) for part in _linear(layers[0]))
    decoding = layers[encoder_layers:]
    text = [sum(_weights(p) for p in _linear(layer) if p in reads) / whole for layer in decoding]
    answer = [sum(_weights(p) for p in _linear(layer) if p not in reads) * marks / whole for layer in decoding]
    return (1.0,) * encoder_layers + tuple(text), (0.0,) * encoder_layers + tuple(answer)


def _linear(layer: nn.Module) -> Iterator[nn.Module]:
    return (part for part in layer.modules() if is_linear(part) and not is_transposed(part))


def _weights(module: nn.Module) -> int:
    return math.prod(sizes(module))
