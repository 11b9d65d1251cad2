"""Random subspaces: a short vector z is mapped to a block's parameters by fixed random matrices.

Each part of z belongs to one factor (QA, QB, KA, KB). The matrices are drawn anew from their seed whenever they are
needed; an artefact keeps seed and rule, never the matrices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tandemtune.plugins import Member, register

MATRICES = 2 << 30
"""Bytes that matrices which are kept on an accelerator take at most."""
Rule = Literal["activation", "hidden_state", "normal"]


@dataclass(frozen=True)
class LayerStatistics:
    """What was measured on the training batch at one layer, with the pretrained weights and no padding.

    Args:
        hidden_sd: standard deviation of the hidden states that enter the layer, after 5 rounds of clipping to
            mean +- 3 standard deviations.
        x_rms: root mean square of each projection's input, by projection name.
        y_sd: standard deviation of each projection's output, by projection name.
    """

    hidden_sd: float
    x_rms: Mapping[str, float]
    y_sd: Mapping[str, float]


def scales(
    rule: Rule,
    statistics: LayerStatistics,
    names: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    *,
    d: int,
    alpha: float,
    sigma: float,
) -> list[float]:
    """Standard deviation of the projection matrices' entries, one for each factor.

    With n = d / (number of factors) coordinates of z behind each entry, and z of standard deviation sigma:

    * ``hidden_state`` (arXiv 2403.01754): ``alpha * hidden_sd / (sqrt(n) * sigma)`` for every factor.
    * ``activation``: A such that ``x A`` has unit standard deviation, B such that the added term has
      ``alpha`` times the standard deviation of the projection's own output. Where A was drawn once, uniform within
      ``1 / sqrt(n_in)``, and B alone is searched, ``x A`` has the standard deviation ``x_rms / sqrt(3)``.
    * ``normal``: ``alpha / sqrt(n)``, blind to the model.

    Args:
        rule: name of the rule.
        statistics: measurements of the layer.
        names: projection names in order.
        shapes: factor shapes in order A, B, A, B, ..., or of B alone.
        d: length of z.
        alpha: size of the first steps; see the rules.
        sigma: the optimizer's initial step size.
    """
    n = d // len(shapes)
    if rule == "hidden_state":
        return [alpha * statistics.hidden_sd / (math.sqrt(n) * sigma)] * len(shapes)
    if rule == "normal":
        return [alpha / math.sqrt(n)] * len(shapes)
    result: list[float] = []
    if len(shapes) == len(names):
        for name, (rank, _) in zip(names, shapes, strict=True):
            entering = statistics.x_rms[name] / math.sqrt(3)
            result.append(alpha * statistics.y_sd[name] / (entering * math.sqrt(rank) * math.sqrt(n) * sigma))
        return result
    for index, name in enumerate(names):
        n_in, rank = shapes[2 * index]
        result.append(1.0 / (math.sqrt(n_in) * statistics.x_rms[name] * math.sqrt(n) * sigma))
        result.append(alpha * statistics.y_sd[name] / (math.sqrt(rank) * math.sqrt(n) * sigma))
    return result


@dataclass
class Matrices:
    """Random matrices that have been sent to an accelerator, to be used again; those that come when there is no more room are
    drawn and sent whenever they are needed.

    Args:
        device: where they lie.
        room: bytes that they may take together.
    """

    device: torch.device
    room: int = field(compare=False)
    _kept: dict[tuple[tuple[int, ...], int, int], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process, they are those of its own accelerator, drawn anew there."""
        return _of_this_process, (self.device.type,)

    @classmethod
    def on(cls, device: torch.device) -> Matrices | None:
        """Those of a GPU with float64; None for a processor, which draws them as fast as it reads them, and for other devices."""
        if device.type != "cuda":
            return None
        return cls(device, min(MATRICES, torch.cuda.mem_get_info(device)[0] // 8))

    def drawn(self, seed: tuple[int, ...], rows: int, columns: int) -> Tensor:
        """The matrix of a random stream on the device [rows, columns], the same that `draw` gives."""
        name = (seed, rows, columns)
        if name not in self._kept:
            size = 4 * rows * columns
            made = torch.from_numpy(draw(seed, rows, columns)).to(self.device)
            if size > self.room:
                return made
            self.room -= size
            self._kept[name] = made
        return self._kept[name]


@functools.cache
def _of_this_process(kind: str) -> Matrices | None:
    """The matrices of a process that was sent projections; one for all of them."""
    return Matrices.on(torch.device(kind))


def draw(seed: Sequence[int], rows: int, columns: int) -> NDArray[np.float32]:
    """Standard normal numbers of a random stream [rows, columns]."""
    return np.random.default_rng(list(seed)).standard_normal((rows, columns), dtype=np.float32)


@dataclass(frozen=True)
class RandomProjection:
    """The map of one block: z [P, d] -> parameters [P, dim].

    Args:
        shapes: factor shapes of the block.
        d: length of z, a multiple of the number of factors.
        scales: standard deviation of each factor's matrix.
        seed: numbers that name the random stream, for example (run seed, block).
        kept: where an accelerator's matrices are kept; None maps on the processor.
    """

    shapes: tuple[tuple[int, int], ...]
    d: int
    scales: tuple[float, ...]
    seed: tuple[int, ...]
    kept: Matrices | None = None

    def __post_init__(self) -> None:
        if self.d % len(self.shapes):
            raise ValueError(f"d = {self.d} cannot be cut into {len(self.shapes)} equal parts, one for each factor")

    def matrices(self) -> list[NDArray[np.float32]]:
        """The matrix of each factor, drawn from its random stream; empty where an accelerator keeps them."""
        n = self.d // len(self.shapes)
        streams = enumerate(self.shapes) if self.kept is None else ()
        return [draw((*self.seed, index), n, math.prod(shape)) for index, shape in streams]

    def up(self, z: NDArray[np.float64], matrices: Sequence[NDArray[np.float32]] = ()) -> Tensor:
        """Map short vectors to parameters.

        Args:
            z: vectors [P, d].
            matrices: what `matrices` has drawn, to be used several times; drawn now if left out.

        Returns:
            Float32 parameters [P, dim], on the accelerator where there is one.
        """
        if self.kept is not None:
            return self._up_on_device(z, self.kept)
        n = self.d // len(self.shapes)
        parts: list[Tensor] = []
        drawn = zip(matrices or self.matrices(), self.scales, strict=True)
        for index, (matrix, scale) in enumerate(drawn):
            piece = np.asarray(z[:, index * n : (index + 1) * n], dtype=np.float32)
            parts.append(torch.from_numpy(piece) @ torch.from_numpy(matrix) * scale)
        return torch.cat(parts, dim=1)

    def _up_on_device(self, z: NDArray[np.float64], kept: Matrices) -> Tensor:
        """The same point up to rounding: short vectors are sent once, and meet matrices that lie there. Products are summed in
        float64, which TF32 does not touch."""
        n = self.d // len(self.shapes)
        sent = torch.from_numpy(np.asarray(z, dtype=np.float32)).to(kept.device).double()
        parts = [
            (sent[:, index * n : (index + 1) * n] @ kept.drawn((*self.seed, index), n, math.prod(shape)).double())
            * scale
            for index, (shape, scale) in enumerate(zip(self.shapes, self.scales, strict=True))
        ]
        return torch.cat(parts, dim=1).float()


class Subspace(Member):
    """Base of what a recipe's ``[method.subspace]`` may be.

    Attributes:
        projects: whether search vectors are mapped to parameters by projections.
    """

    noun: ClassVar[str] = "subspace"
    projects: ClassVar[bool] = False
    d: int = 0
    alpha: float = 0.0
    scale: Rule = "normal"


@register
class RandomSubspace(Subspace):
    """A random subspace of each block."""

    kind: ClassVar[str] = "random"
    summary: ClassVar[str] = "short vectors, mapped to each block's parameters by fixed random matrices"
    source: ClassVar[str] = "arXiv 2403.01754"
    projects: ClassVar[bool] = True

    d: Annotated[int, Field(ge=2, le=10_000)] = Field(default=100, description="length of one block's search vector")
    alpha: Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)] = Field(
        default=0.2, description="size of the first steps, see scale"
    )
    scale: Rule = Field(default="activation", description="rule that scales the random projections")


@register
class WholeSpace(Subspace):
    """The parameters themselves."""

    kind: ClassVar[str] = "none"
    summary: ClassVar[str] = "the optimizer moves the parameters themselves"

    d: Literal[0] = Field(default=0, exclude=True, repr=False)
    alpha: Literal[0] = Field(default=0, exclude=True, repr=False)
    scale: Literal["normal"] = Field(default="normal", exclude=True, repr=False)
