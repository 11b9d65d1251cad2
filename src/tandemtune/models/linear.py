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
    made_of_others = hasattr(
        weight.data, "__tensor_flatten__"
    )  # torchao's tensors, which say that they are real numbers
    return made_of_others or tuple(weight.shape) != sizes(module)[::-1]


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


def in_few_bits(given: Tensor) -> bool:
    """Whether these are no numbers to multiply: whole ones, or real ones of 8 bits or fewer."""
    return not given.is_floating_point() or given.element_size() < 2


def why_rounded(name: str, module: nn.Module) -> str:
    """What to say of a map that is given numbers of a few bits: some models' code brings what enters a map into the format of its
    weights, as if these could not be packed."""
    return (
        f"the map {name} is quantized ({type(module).__name__}), and the model's code rounds what enters it to the few bits of its "
        "weights: take the model as it was before it was quantized; [model] quantize leaves such maps as they are"
    )


def _tells_widths(module: nn.Module) -> bool:
    widths = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return all(isinstance(width, int) for width in widths)
