"""A device that is none, to find where tensors of a model and of the processor are mixed, without a GPU.

    python -m pytest -p elsewhere tests/test_readout_runs.py

As a plugin of pytest it puts every model of a run on the device "elsewhere" (`[model] device = "auto"`). Its tensors lie in
ordinary memory, but an operation that mixes them with others fails as it would on a GPU, and they cannot be read as arrays.
With SINGLE=1 in the environment it has no float64, as Apple's GPUs have none.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import safetensors.torch
import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "elsewhere"
SINGLE = bool(os.environ.get("SINGLE"))
aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)


class There(torch.Tensor):
    """A tensor on that device."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> There:
        if SINGLE and inner.dtype == torch.float64:
            raise TypeError(f"{NAME} has no float64")
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.detach().inner.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.inner!r})"


class Elsewhere(TorchDispatchMode):
    """While it is on, tensors can be made there and moved."""

    def __enter__(self) -> Any:
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=NAME) makes it here, then moves it
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(False)
        super().__exit__(*args)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation; fails where a GPU's would."""
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    if func not in MOVES:
        _refuse_mixing(func, args, tensors)
    here, named = tree_map(_inside, (args, kwargs))
    if func is aten.copy_.default:
        here[0].copy_(here[1])
        return args[0]
    out = func(*here, **named)
    for tensor in tensors if func._schema.is_mutable else ():
        if out is _inside(tensor):
            return tensor
    wanted = kwargs.get("device")
    there = any(isinstance(each, There) for each in tensors) if wanted is None else torch.device(wanted).type == NAME
    return tree_map(lambda each: There(each) if isinstance(each, torch.Tensor) else each, out) if there else out


def _refuse_mixing(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    there = [each for each in tensors if isinstance(each, There)]
    mixed = bool(there) and any(not isinstance(each, There) and each.ndim for each in tensors)
    if func in INDEXED:  # indices may lie on the processor; what is put in may not
        mixed = bool(there) and (
            not isinstance(args[0], There) or (len(args) > 2 and not isinstance(args[2], There) and args[2].ndim > 0)
        )
    if mixed:
        raise RuntimeError(f"{func}: expected all tensors on one device, found {NAME} and cpu")


def _inside(each: Any) -> Any:
    if isinstance(each, There):
        return each.inner
    return torch.device("cpu") if isinstance(each, torch.device) and each.type == NAME else each


class _Nothing(contextlib.ContextDecorator):
    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *args: Any) -> None:
        return None


def _without_gradients(mode: Any = True) -> Any:
    """In place of `torch.inference_mode`, which subclasses of tensors do not take part in."""
    if callable(mode):
        return torch.no_grad()(mode)
    return torch.no_grad() if mode else _Nothing()


def _save_file(tensors: dict[str, torch.Tensor], *args: Any, **options: Any) -> None:
    _SAVE({name: _inside(tensor.detach()).contiguous() for name, tensor in tensors.items()}, *args, **options)


_SAVE = safetensors.torch.save_file


def pytest_configure(config: Any) -> None:
    """Put models there, before anything of the package is imported."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    torch.inference_mode = _without_gradients  # type: ignore[misc, assignment]
    safetensors.torch.save_file = _save_file
    from tandemtune import devices, subspace

    if SINGLE:
        devices.SINGLE.add(NAME)
    devices.find_device = lambda wanted: NAME if wanted == "auto" else wanted
    own = subspace.Matrices
    own.on = classmethod(lambda cls, device: None if SINGLE or device.type == "cpu" else cls(device, 10**8))  # type: ignore[method-assign, assignment]
    Elsewhere().__enter__()
