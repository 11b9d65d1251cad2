"""What is a linear map, whoever wrote it and however its weights are held."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_linear(module: nn.Module) -> bool:
    """Whether the module maps vectors by one weight matrix: `nn.Linear`, GPT-2's `Conv1D`, or a quantized map of any library, which
    tells its widths as `nn.Linear` does."""
    return (
        isinstance(module, nn.Linear) or is_transposed(module) or (_tells_widths(module) and not any(module.children()))
    )


def is_transposed(module: nn.Module) -> bool:
    """Whether the module keeps its matrix as [n_in, n_out]: GPT-2's `Conv1D`."""
    return type(module).__name__ == "Conv1D"


def is_packed(module: nn.Module) -> bool:
    """Whether the module's weights are held in a form that is not its matrix [n_out, n_in] of real numbers."""
    if not _tells_widths(module):
        return False
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        return True
    if hasattr(
        weight.data, "__tensor_flatten__"
    ):  # torchao's tensors say that they are real numbers and are made of others
        return True
    return tuple(weight.shape) != sizes(module)[::-1]


def sizes(module: nn.Module) -> tuple[int, int]:
    """Input and output width of a linear module."""
    if _tells_widths(module):
        return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    rows, columns = (int(n) for n in module.weight.shape)  # type: ignore[union-attr]
    return (rows, columns) if is_transposed(module) else (columns, rows)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's own tensors lie."""
    found = next(module.parameters(), None)
    return (next(module.buffers()) if found is None else found).device


def _tells_widths(module: nn.Module) -> bool:
    widths = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return all(isinstance(width, int) for width in widths)
