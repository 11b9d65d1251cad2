"""What tells one set of weights from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A hash over the names, shapes and sums of bits of all tensors."""
    found = hashlib.sha256()
    for name, tensor in _plain(weights):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size())
        if type(tensor) is Tensor and whole is not None and tensor.is_contiguous():
            bits = tensor.detach().view(whole).reshape(-1)
            found.update(f"{int(bits.sum(dtype=torch.int64))} {int(bits[::7].sum(dtype=torch.int64))}".encode())
    return found.hexdigest()


def _plain(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors, and of those that a quantization library packs, the ones that they are made of."""
    for name, tensor in weights.items():
        yield name, tensor
        if type(tensor) is not Tensor and hasattr(tensor, "__tensor_flatten__"):
            inside, _ = tensor.__tensor_flatten__()
            yield from _plain({f"{name}.{part}": getattr(tensor, part) for part in inside})
