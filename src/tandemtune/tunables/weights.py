"""The weights of a model that may be changed in place, and where their pretrained values can be read again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tandemtune.errors import ModelError, RunError
from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import hooked
from tandemtune.models.linear import is_linear
from tandemtune.models.survey import plain_inputs

Reload = Callable[[], Iterator[tuple[str, Tensor]]]
"""Yields the pretrained weights, one at a time: their names in the model, and their values."""


@dataclass(frozen=True)
class Weight:
    """One tensor of a model.

    Args:
        index: its number among those that are tuned.
        name: its name in the model.
        tensor: the model's own.
        matrix: whether it is the matrix of a linear map.
    """

    index: int
    name: str
    tensor: nn.Parameter
    matrix: bool


@dataclass(frozen=True)
class Owner:
    """A module with weights of its own: name inside the module -> weight."""

    module: nn.Module
    weights: dict[str, Weight]


def owners(backbone: Backbone) -> list[Owner]:
    """Modules whose weights are tuned: all inside the transformer layers and the norms behind the last ones.

    Left alone are embedding tables, the head, whatever shares a tensor with them, and modules that the model does not call. A
    tensor with several owners is one weight.

    Raises:
        ModelError: a weight is not held in plain float32.
    """
    called = _called(backbone)
    chosen = {name: module for name, module in called.items() if _is_tuned(name, module, list(called), backbone)}
    outside = {
        id(tensor)
        for name, module in backbone.model.named_modules()
        if name not in chosen
        for tensor in module.parameters(recurse=False)
    }
    found: dict[int, Weight] = {}
    result: list[Owner] = []
    for path, module in chosen.items():
        inside: dict[str, Weight] = {}
        for name, tensor in module.named_parameters(recurse=False):
            if id(tensor) in outside:
                continue
            if tensor.dtype != torch.float32 or type(tensor.data) is not Tensor:
                raise ModelError(
                    f"{path}.{name} of {backbone.name} is held in {_held_in(tensor)}, where small steps of the weights "
                    'themselves vanish: set [model] dtype to "float32", without quantize'
                )
            matrix = is_linear(module) and tensor.ndim == 2
            inside[name] = found.setdefault(id(tensor), Weight(len(found), f"{path}.{name}", tensor, matrix))
        if inside:
            result.append(Owner(module, inside))
    return result


def from_disk(backbone: Backbone, weights: Sequence[Weight]) -> Reload | None:
    """Read pretrained weights from the folder that the model was loaded from (safetensors, mapped into memory).

    Args:
        backbone: a model that nobody has changed yet.
        weights: what is to be read.

    Returns:
        The reader; None where the model has no such folder, or its files do not hold just these weights. It raises RunError
        if the files are others when it is called.
    """
    place = str(getattr(backbone.model, "name_or_path", ""))
    if not place or not Path(place).is_dir():
        return None
    folder = Path(place).resolve()
    prefix = str(getattr(backbone.model, "base_model_prefix", ""))
    files = _files(folder)
    where: dict[Path, dict[str, str]] = {}
    for weight in weights:
        keys = (weight.name, f"{prefix}.{weight.name}", weight.name.removeprefix(f"{prefix}."))
        key = next((key for key in keys if key in files), None)
        if key is None:
            return None
        where.setdefault(files[key], {})[weight.name] = key
    stamps = {path: _stamp(path) for path in where}

    def read() -> Iterator[tuple[str, Tensor]]:
        for path, inside in where.items():
            if _stamp(path) != stamps[path]:
                raise RunError(
                    f"{path} was changed or removed since the model was loaded, so its pretrained weights cannot be had "
                    "back: leave a model's files alone while it is tuned, and start again"
                )
            for name, key in inside.items():
                with safe_open(path, framework="pt") as opened:  # anew, so that what was read is let go
                    yield name, opened.get_tensor(key)

    own = {weight.name: weight.tensor for weight in weights}
    same = all(torch.equal(tensor.float(), own[name].detach().cpu()) for name, tensor in read())
    return read if same else None


def from_memory(weights: Sequence[Weight]) -> Reload:
    """Keep a copy of the weights: as much memory again as they take."""
    copies = {weight.name: weight.tensor.detach().clone() for weight in weights}
    return lambda: iter(copies.items())


def _is_tuned(name: str, module: nn.Module, order: list[str], backbone: Backbone) -> bool:
    """Whether a module lies in the layers, or is a norm beside a list of layers that is called after the last of them."""
    if isinstance(module, nn.Embedding):
        return False
    for path in backbone.architecture.paths:
        if name.startswith(f"{path}."):
            return True
        beside = name.rpartition(".")[0] == path.rpartition(".")[0]
        before = order[: order.index(name)]
        behind = not any(other.startswith(f"{path}.") for other in order[len(before) :])
        if beside and behind and all(tensor.ndim == 1 for tensor in module.parameters()):
            return True
    return False


@torch.inference_mode()
def _called(backbone: Backbone) -> dict[str, nn.Module]:
    """Modules that the model calls, in the order in which it does so first."""
    found: dict[str, nn.Module] = {}
    model: Any = backbone.model
    ids = torch.tensor([backbone.tokenizer("a")["input_ids"][:1]], device=backbone.device)
    decoder = torch.tensor([backbone.prefix], device=backbone.device) if backbone.prefix else None

    def note(name: str) -> Callable[..., None]:
        def seen(module: nn.Module, args: Any) -> None:
            found.setdefault(name, module)

        return seen

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.enter_context(hooked(module.register_forward_pre_hook(note(name))))
        model(**plain_inputs(model, ids, decoder))
    return found


def _files(folder: Path) -> dict[str, Path]:
    """Which file of a saved model holds which tensor; empty where there are none to be read."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    try:
        if index.is_file():
            return {key: folder / file for key, file in json.loads(index.read_bytes())["weight_map"].items()}
        with safe_open(single, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), single)
    except Exception:  # safetensors raises its own, undocumented types
        return {}


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change; None for a file that is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _held_in(tensor: nn.Parameter) -> str:
    plain = type(tensor.data) is Tensor
    return str(tensor.dtype).removeprefix("torch.") if plain else type(tensor.data).__name__
