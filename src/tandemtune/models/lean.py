"""Less memory traffic for passes without gradient: freed memory is kept, wide tensors are changed in place, and what a model
writes as many small steps may be compiled to one.

A population's widest tensors have tens of megabytes. The C library gives such blocks back to the system when they are freed and
has them zeroed, page by page, when they are asked for again, which takes longer than what is computed on them.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tandemtune.models.linear import sizes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings in its malloc.h."""
LARGEST, MOST = 1 << 26, 1 << 28
"""Blocks up to this size are kept by the process when they are freed, and at most so many bytes of them."""


def keep_freed_memory() -> bool:
    """Let this process keep large blocks that it frees, to use them again; only where the C library is glibc.

    Returns:
        Whether it was possible.
    """
    mallopt = _of_glibc("mallopt")
    return bool(mallopt and mallopt(_M_MMAP_THRESHOLD, LARGEST) and mallopt(_M_TRIM_THRESHOLD, MOST))


def return_freed_memory() -> None:
    """Give back to the system what `keep_freed_memory` has kept so far."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where that is not glibc."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None


def lean_forward(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """A forward of a gated feed-forward part that gives the same bits but changes its widest tensor in place.

    Args:
        module: any module; it is left as it is.

    Returns:
        The forward, for passes without gradient; None for a module of another form, found out by trying.
    """
    if not _is_gated(module):
        return None
    in_place = _IN_PLACE.get(type(module.act_fn).__name__, module.act_fn)
    forward = _gated(module, lambda gate, up: in_place(gate).mul_(up))  # type: ignore[operator]
    gate: Any = module.gate_proj
    kind = gate.weight.dtype if gate.weight.is_floating_point() else torch.float32
    try:
        with torch.inference_mode():
            trial = torch.linspace(-2, 2, 3 * sizes(gate)[0], dtype=kind, device=gate.weight.device).view(1, 3, -1)
            same = torch.equal(forward(trial), module(trial))
    except (RuntimeError, TypeError):
        return None
    return forward if same else None


def compiled(modules: Iterable[nn.Module]) -> dict[nn.Module, Callable[..., Any]]:
    """Forwards of norms and gated feed-forward parts whose small steps go through `torch.compile`, to one pass over memory;
    it needs a C++ compiler where the model is on a processor.

    RMSNorm as models write it reads and writes the hidden states five times over. Norms that are kernels of PyTorch's own are
    left as they are. Modules of one class share what is compiled. Results differ in the last bits.

    Args:
        modules: modules of the layers; others are left out.

    Returns:
        Modules with their new forwards. They compile when they are first called, and raise what the compiler raises.
    """
    found: dict[nn.Module, Callable[..., Any]] = {}
    shared: dict[Any, Callable[..., Any]] = {}
    for module in modules:
        if lean_forward(module) is not None:
            activation: Any = module.act_fn
            if type(activation) not in shared:
                shared[type(activation)] = torch.compile(_product(activation), dynamic=True)
            found[module] = _gated(module, shared[type(activation)])
        elif _is_written_norm(module):
            if type(module) not in shared:
                shared[type(module)] = torch.compile(type(module).forward, dynamic=True)
            found[module] = partial(shared[type(module)], module)
    return found


@contextmanager
def compiled_rotation(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Let the layers' rotary positions go through `torch.compile`, too, until the context ends."""
    homes = {type(part).__module__ for layer in layers for part in layer.modules()}
    before = {home: getattr(sys.modules[home], _ROTATION) for home in homes if hasattr(sys.modules[home], _ROTATION)}
    for home, function in before.items():
        if function not in _ROTATIONS:
            _ROTATIONS[function] = torch.compile(function, dynamic=True)
        setattr(sys.modules[home], _ROTATION, _ROTATIONS[function])
    try:
        yield
    finally:
        for home, function in before.items():
            setattr(sys.modules[home], _ROTATION, function)


_ROTATION = "apply_rotary_pos_emb"
"""What `transformers` calls it wherever it is."""
_ROTATIONS: dict[Callable[..., Any], Callable[..., Any]] = {}
_GATED = ("gate_proj", "up_proj", "down_proj")
_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "SiLUActivation": lambda gate: functional.silu(gate, inplace=True),
    "SiLU": lambda gate: functional.silu(gate, inplace=True),
    "GELUTanh": lambda gate: torch.ops.aten.gelu_(gate, approximate="tanh"),
}


def _is_gated(module: nn.Module) -> bool:
    return hasattr(module, "act_fn") and all(isinstance(getattr(module, name, None), nn.Linear) for name in _GATED)


def _is_written_norm(module: nn.Module) -> bool:
    if not type(module).__name__.endswith("Norm") or isinstance(module, nn.LayerNorm):
        return False
    parameters = dict(module.named_parameters())
    return list(parameters) == ["weight"] and parameters["weight"].ndim == 1


def _product(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda gate, up: activation(gate) * up


def _gated(module: nn.Module, product: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    parts: Any = module

    def forward(hidden: Tensor) -> Tensor:
        result: Tensor = parts.down_proj(product(parts.gate_proj(hidden), parts.up_proj(hidden)))
        return result

    return forward
