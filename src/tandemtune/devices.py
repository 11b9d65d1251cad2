"""Where a model lies: the device that a recipe means, and the memory that is there for it."""

from __future__ import annotations

import torch
from torch import Tensor

from tandemtune.errors import UsageError
from tandemtune.system import free_memory_mb

BACKWARD = 4.0
"""Memory that training may take, in sizes of the model's files: these may hold 16 bits, and the weights and activations take 32."""
PROCESSOR_MEMORY = 256.0
"""Megabytes of activations that suit a processor's caches."""
SINGLE = {"mps"}
"""Types of devices that have no float64."""


def exact(numbers: Tensor) -> Tensor:
    """Numbers in float64, where they lie; on the processor where their device has none of these (Apple's)."""
    return (numbers.cpu() if numbers.device.type in SINGLE else numbers).double()


def default_memory(device: str) -> float:
    """Megabytes for the activations of scored candidates: what suits a processor's caches, or half of what an accelerator has
    left beside the weights; the other half is for what a layer needs beside them, and for what others take meanwhile."""
    if torch.device(device).type != "cuda":
        return PROCESSOR_MEMORY
    torch.cuda.empty_cache()  # what loading has freed counts as free
    return round(max(PROCESSOR_MEMORY, (free_memory(device) or 0.0) / 2))


def free_memory(device: str) -> float | None:
    """Megabytes that are free where the model will lie; None where nobody says."""
    if torch.device(device).type != "cuda":
        return free_memory_mb()
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return free / 1e6


def return_memory() -> None:
    """Give back what an accelerator that this process has opened holds for later, and count its peak from here."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_accelerator(wanted: str) -> bool:
    """Whether the device that a recipe means is another one than the processor.

    A card is not opened where PYTORCH_NVML_BASED_CUDA_CHECK is set: a fork of this process could not use it then.

    Raises:
        RuntimeError: it is no name of a device.
    """
    return torch.device(find_device(wanted) if wanted == "auto" else wanted).type != "cpu"


def find_device(wanted: str) -> str:
    """The device that a recipe means.

    Raises:
        UsageError: it cannot be used here.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"[model] device: {wanted!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return wanted
