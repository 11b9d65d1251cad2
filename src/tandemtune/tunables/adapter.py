"""Bottleneck adapters (Houlsby et al., arXiv 1902.00751), one a layer behind its feed-forward part (Pfeiffer et al., arXiv
2005.00247): the hidden state h that leaves a layer becomes ``h + gelu(h W_down + b_down) W_up + b_up``.

"Behind" means at the very end, after the layer's last residual sum and, where it has one there, its last normalisation; so the
same holds for every architecture, and no normalisation stands between an adapter and the next layer. PEFT has no adapter of
this form, and the `adapters` package (1.3.0) asks for transformers 4.57, so the adapter lives here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import replaced_forward
from tandemtune.plugins import register
from tandemtune.tunables import storage
from tandemtune.tunables.base import LAST_THIRD, Given, Layers, Layerwise, Point, Tunable
from tandemtune.types import seed_for

PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")
"""What a block's vector holds, in order, as two linear maps would call it."""


class Adapter(Layerwise):
    """An adapter behind some layers; one block is one layer.

    A block's vector holds W_down [h, width], b_down [1, width], W_up [width, h] and b_up [1, h], row by row.

    Args:
        backbone: the model to tune.
        width: width of the bottleneck.
        layers: layer indices that get an adapter.
        start_seed: draws W_down at the start, for gradients, of which only b_up has one where everything is zero; W_up and
            the biases are zero, so the first point is the pretrained model all the same.
        seed: draws W_down where a later optimizer finds everything zero.
    """

    names = ("down", "up")
    side_by_side = True
    token_wise = True

    def __init__(
        self, backbone: Backbone, width: int, layers: Sequence[int], start_seed: int | None = None, seed: int = 0
    ) -> None:
        self.width, self._seed = width, seed
        self.blocks = tuple(sorted(layers))
        self._start_seed = start_seed
        self._hidden = backbone.width
        self._paths = {block: backbone.layer_path(block) for block in self.blocks}
        every = backbone.layers
        self._layers = {block: every[block] for block in self.blocks}

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """Shapes of W_down, b_down, W_up and b_up."""
        return [(self._hidden, self.width), (1, self.width), (self.width, self._hidden), (1, self._hidden)]

    def dim(self, block: int) -> int:
        """Number of parameters of one adapter."""
        return sum(math.prod(shape) for shape in self.shapes(block))

    def initial(self) -> dict[int, Tensor]:
        """The pretrained model: all zero, or W_down drawn (uniform, within ``1 / sqrt(h)``)."""
        point = {block: torch.zeros(self.dim(block)) for block in self.blocks}
        if self._start_seed is not None:
            generator = torch.Generator().manual_seed(self._start_seed)
            bound = 1 / math.sqrt(self._hidden)
            for block, vector in point.items():
                self._cut(block, vector)[0].uniform_(-bound, bound, generator=generator)  # a view
        return point

    def movable(self, point: Point) -> dict[int, Tensor]:
        """The same adapters, with W_down drawn where everything is zero."""
        found = {block: vector.clone() for block, vector in point.items()}
        bound = 1 / math.sqrt(self._hidden)
        for block in self.blocks:
            if not found[block].any():
                generator = torch.Generator().manual_seed(seed_for(self._seed, block))
                self._cut(block, found[block])[0].uniform_(-bound, bound, generator=generator)  # a view
        return found

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Put the adapters of `point` behind their layers, until the context ends.

        They are part of the layer's forward and no hook, so that a layer that is stepped over loses its adapter, too.
        """
        with ExitStack() as stack:
            for block, given in point.items():
                vector = given[0] if given.ndim == 2 and len(given) == 1 else given
                if vector.ndim == 1 and not vector.requires_grad and not vector.any():
                    continue
                layer = self._layers[block]
                matrices = self._cut(block, vector.to(next(layer.parameters()).device))
                stack.enter_context(replaced_forward(layer, _adapted(layer.forward, matrices)))
            yield

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write ``adapter.safetensors``, two linear maps for each layer as torch keeps them, and ``adapter.json``.

        Args:
            point: the adapters to keep.
            folder: where the files go.
            base_model: name of the base model, for the record.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for block in self.blocks:
            for name, matrix in zip(self._keys(block), self._cut(block, point[block]), strict=True):
                tensors[name] = matrix.t().contiguous() if name.endswith("weight") else matrix[0].clone()
        save_file(tensors, folder / "adapter.safetensors", metadata={"format": "pt"})
        content = {
            "base_model": base_model,
            "blocks": list(self.blocks),
            "layers": list(self._paths.values()),
            "width": self.width,
            "activation": "gelu",
        }
        (folder / "adapter.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Read the adapters back.

        Raises:
            RunError: the file is missing, damaged or made for another model, width or other layers.
        """
        path = folder / "adapter.safetensors"
        tensors = storage.read(path, "adapter")
        expected: dict[str, tuple[int, ...]] = {}
        for block in self.blocks:
            for name, (rows, columns) in zip(self._keys(block), self.shapes(block), strict=True):
                expected[name] = (columns, rows) if name.endswith("weight") else (columns,)
        storage.check(tensors, expected, path, "adapter")
        return {
            block: torch.cat([tensors[n].t().float().reshape(-1) for n in self._keys(block)]) for block in self.blocks
        }

    def describe(self) -> dict[str, Any]:
        """Width, layers and number of parameters."""
        return {
            "width": self.width,
            "layers": list(self.blocks),
            "parameters": sum(self.dim(block) for block in self.blocks),
        }

    def _keys(self, block: int) -> list[str]:
        """Names of one adapter's tensors in a file."""
        return [f"{self._paths[block]}.adapter.{part}" for part in PARTS]

    def _cut(self, block: int, vector: Tensor) -> list[Tensor]:
        """W_down, b_down, W_up and b_up of a vector [dim] or [P, dim]; views, each of its shape or [P, *shape]."""
        shapes = self.shapes(block)
        pieces = torch.split(vector, [math.prod(shape) for shape in shapes], dim=-1)
        return [piece.unflatten(-1, shape) for piece, shape in zip(pieces, shapes, strict=True)]  # type: ignore[no-untyped-call]


def _adapted(forward: Callable[..., Any], matrices: Sequence[Tensor]) -> Callable[..., Any]:
    """A layer's forward with an adapter behind it.

    With matrices [P, ...] the rows are P equal parts, one for each candidate.
    """

    def behind(hidden: Tensor) -> Tensor:
        down, b_down, up, b_up = (matrix.to(hidden.dtype) for matrix in matrices)
        parts = hidden.reshape(*down.shape[:-2], -1, hidden.shape[-1])
        return hidden + (functional.gelu(parts @ down + b_down) @ up + b_up).reshape(hidden.shape)

    @wraps(forward)
    def adapted(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        return (behind(output[0]), *output[1:]) if isinstance(output, tuple) else behind(output)

    return adapted


@register
class BottleneckAdapter(Tunable):
    """A bottleneck behind some layers."""

    kind: ClassVar[str] = "adapter"
    summary: ClassVar[str] = "a bottleneck behind every layer"
    source: ClassVar[str] = "arXiv 1902.00751"
    card: ClassVar[str] = "Bottleneck adapters"

    width: Annotated[int, Field(ge=1, le=4096)] = Field(default=8, description="bottleneck of an adapter")
    layers: Layers = LAST_THIRD

    def make(self, given: Given) -> Adapter:
        """Zero for samplers in a subspace; W_down drawn for all others."""
        return Adapter(
            given.backbone, self.width, given.layers(self.layers), given.start_seed(), seed_for(given.seed, 6)
        )
