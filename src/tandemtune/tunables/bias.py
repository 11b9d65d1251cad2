"""Bias terms of frozen maps, and nothing else (BitFit: Ben Zaken et al., arXiv 2106.10199).

Nothing is written into the model: hooks add a change of the bias to what the maps return. A map that has no bias (all of T5, most
of Llama) is treated as if it had one of zero, so such models are given biases that they did not have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tandemtune.errors import ModelError
from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import hooked
from tandemtune.models.linear import device_of, is_linear, sizes
from tandemtune.plugins import register
from tandemtune.tunables import storage
from tandemtune.tunables.base import LAST_THIRD, Given, Layers, Layerwise, Point, Tunable


class Bias(Layerwise):
    """Changes of the biases of some layers; one block is one layer.

    A block's vector holds the changes of all linear maps and normalisations of its layer, in the order in which the layer lists
    them. It is one row: what a map adds is no matrix, and the maps of an encoder's and a decoder's layers differ in number.

    Args:
        backbone: the model to tune.
        layers: layer indices that may change.
    """

    names = ("bias",)
    token_wise = True

    def __init__(self, backbone: Backbone, layers: Sequence[int]) -> None:
        self.blocks = tuple(sorted(layers))
        self._paths = {block: backbone.layer_path(block) for block in self.blocks}
        every = backbone.layers
        self._modules = {
            block: {name: module for name, module in every[block].named_modules() if _width(module)}
            for block in self.blocks
        }
        self.side_by_side = backbone.side_by_side(m for found in self._modules.values() for m in found.values())
        self._widths = {block: [_width(module) for module in self._modules[block].values()] for block in self.blocks}

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """One row."""
        return [(1, self.dim(block))]

    def dim(self, block: int) -> int:
        """Number of outputs of all maps of one layer."""
        return sum(self._widths[block])

    def initial(self) -> dict[int, Tensor]:
        """The pretrained model: no change."""
        return {block: torch.zeros(self.dim(block)) for block in self.blocks}

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Add the changes of `point` to what the maps return, until the context ends."""
        with ExitStack() as stack:
            for block, given in point.items():
                vector = given[0] if given.ndim == 2 and len(given) == 1 else given
                if vector.ndim == 1 and not vector.requires_grad and not vector.any():
                    continue
                for module, change in zip(self._modules[block].values(), self._cut(block, vector), strict=True):
                    stack.enter_context(hooked(module.register_forward_hook(_term(change.to(device_of(module))))))
            yield

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write ``bias.safetensors``, one change for each bias under the name that it has in the model, and ``bias.json``.

        Args:
            point: the changes to keep.
            folder: where the files go.
            base_model: name of the base model, for the record.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for block in self.blocks:
            tensors |= {n: c.clone() for n, c in zip(self._keys(block), self._cut(block, point[block]), strict=True)}
        save_file(tensors, folder / "bias.safetensors", metadata={"format": "pt"})
        content = {"base_model": base_model, "blocks": list(self.blocks), "changes": list(tensors)}
        (folder / "bias.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Read the changes back.

        Raises:
            RunError: the file is missing, damaged or made for another model or other layers.
        """
        path = folder / "bias.safetensors"
        tensors = storage.read(path, "biases")
        keys = {block: self._keys(block) for block in self.blocks}
        widths = {n: (width,) for b in self.blocks for n, width in zip(keys[b], self._widths[b], strict=True)}
        storage.check(tensors, widths, path, "biases")
        return {block: torch.cat([tensors[name].float() for name in keys[block]]) for block in self.blocks}

    def describe(self) -> dict[str, Any]:
        """Layers, maps and number of parameters."""
        return {
            "layers": list(self.blocks),
            "parameters": sum(self.dim(block) for block in self.blocks),
            "maps": list(dict.fromkeys(name for block in self.blocks for name in self._modules[block])),
        }

    def _keys(self, block: int) -> list[str]:
        """Names of one layer's biases in the model."""
        return [f"{self._paths[block]}.{name}.bias" for name in self._modules[block]]

    def _cut(self, block: int, vector: Tensor) -> tuple[Tensor, ...]:
        """The changes [..., n_out] of a layer's maps."""
        return torch.split(vector, self._widths[block], dim=-1)


def _width(module: nn.Module) -> int:
    """Outputs of a linear map or a normalisation; 0 for any other module."""
    if is_linear(module):
        return sizes(module)[1]
    weight = getattr(module, "weight", None)
    return len(weight) if isinstance(weight, Tensor) and weight.ndim == 1 else 0


def _term(change: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A forward hook that adds a change [n_out] in place to a map's fresh output.

    With changes [P, n_out] the rows are P equal parts, one for each candidate.
    """

    def shared(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.add_(change.to(output.dtype))

    def population(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        count = len(change)
        if len(output) % count:
            raise ModelError(
                f"a {type(module).__name__} whose bias is tuned also maps something that all rows share (shape "
                f"{tuple(output.shape)}), so {count} candidates cannot stand side by side: "
                "this architecture is not supported"
            )
        term = change.to(output.dtype).view(count, *[1] * (output.ndim - 1), -1)
        output.unflatten(0, (count, -1)).add_(term)  # type: ignore[no-untyped-call]
        return output

    return population if change.ndim == 2 else shared


@register
class Biases(Tunable):
    """Biases of some layers."""

    kind: ClassVar[str] = "bias"
    summary: ClassVar[str] = "biases alone (new ones where a model has none)"
    source: ClassVar[str] = "arXiv 2106.10199"
    card: ClassVar[str] = "Biases"

    layers: Layers = LAST_THIRD

    def make(self, given: Given) -> Bias:
        """No change at the start."""
        return Bias(given.backbone, given.layers(self.layers))
