"""Mixed precision for ranking candidates: weights of 16 bits, products in 16 bits, everything else computed in 32.

Candidates of one generation differ little, so a hidden state that is rounded to 16 bits after every layer drowns the difference.
The products are where the time goes; kept alone in 16 bits they round what is added to the hidden state, not the hidden state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tandemtune.models.linear import is_linear


def mix(model: nn.Module, layers: Sequence[str], low: torch.dtype = torch.bfloat16) -> None:
    """Let the linear maps of all layers multiply in `low`, and everything else compute in float32.

    Args:
        model: the model; its layers' linear weights are held in `low` afterwards, everything else in float32.
        layers: paths of the lists of layers.
        low: a 16-bit number format.
    """
    paths = tuple(f"{path}." for path in layers)
    inside = {module for name, module in model.named_modules() if name.startswith(paths) and is_linear(module)}
    for module in model.modules():
        wanted = low if module in inside else torch.float32
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(wanted)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(torch.float32))
    for module in inside:
        module.__dict__["forward"] = _in_format(module.forward, low)


def _in_format(forward: Callable[[Tensor], Tensor], low: torch.dtype) -> Callable[[Tensor], Tensor]:
    def product(hidden: Tensor) -> Tensor:
        return forward(hidden.to(low)).float()

    return product
