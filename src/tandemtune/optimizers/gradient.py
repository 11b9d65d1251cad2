"""Gradient descent behind the same ask/tell: AdamW, Adam and SGD from torch.optim.

The one optimizer that knows torch, and it asks for it only when it is made. It holds a float32 point, as the parameters of
a model are; the float64 candidate that it proposes has exactly the same values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from tandemtune.optimizers.base import (
    Gradients,
    LearningRate,
    Optimizer,
    Positive,
    Space,
    State,
    Uses,
    VectorAskTell,
    check_kind,
    start_point,
)
from tandemtune.plugins import register

if TYPE_CHECKING:
    import torch

Algorithm = Literal["adamw", "adam", "sgd"]
Schedule = Literal["constant", "linear", "cosine"]


class Gradient(VectorAskTell):
    """Descent along gradients that are handed in: AdamW (arXiv 1711.05101), Adam (arXiv 1412.6980) or SGD.

    A loss or gradient that is NaN, infinite or too large for its square to be a float32 is left out and counted in
    `skipped`; if nothing else was told for a step, the point and the moments stay as they are. The schedule counts such
    a step all the same, so that it ends where it was planned to end.

    Args:
        start: starting point [d].
        algorithm: "adamw" (decoupled weight decay), "adam" (weight decay in the gradient) or "sgd".
        lr: learning rate at the top of the schedule.
        weight_decay: as the algorithm understands it.
        momentum: of "sgd"; the others have none.
        schedule: after the warm-up "constant", or down to 0 by a line or a half cosine.
        warmup: steps of the warm-up; step n of them (from 1) has lr * n / warmup.
        steps: length of the schedule, warm-up included; later steps have its last rate. "constant" needs none.
        clip: largest norm of a step's gradient; longer ones are scaled down.
        accumulate: calls of `tell` for one step, which takes the mean of their gradients.

    Raises:
        ValueError: a setting is unknown or out of its range.
    """

    wants_gradient: ClassVar[bool] = True

    def __init__(
        self,
        start: NDArray[np.float32],
        *,
        algorithm: Algorithm = "adamw",
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        schedule: Schedule = "constant",
        warmup: int = 0,
        steps: int = 0,
        clip: float | None = None,
        accumulate: int = 1,
    ) -> None:
        _check(algorithm, lr, weight_decay, momentum, schedule, warmup, steps, clip, accumulate)
        self._algorithm, self._lr, self._weight_decay, self._momentum = algorithm, lr, weight_decay, momentum
        self._schedule, self._warmup, self._steps = schedule, warmup, steps
        self._clip, self._accumulate = clip, accumulate
        self._begin(_point(start, np.size(start)))
        self._step = self._skipped = 0

    @property
    def point(self) -> NDArray[np.float32]:
        """The current point [d], a copy."""
        return np.array(self._parameter.detach().numpy())

    @property
    def step(self) -> int:
        """Steps of the schedule that are done."""
        return self._step

    @property
    def skipped(self) -> int:
        """Calls of `tell` that were left out for a loss or gradient that is no number."""
        return self._skipped

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self._lr * _factor(self._schedule, self._step, self._warmup, self._steps)

    def restart(self, point: ArrayLike, *, reset_moments: bool) -> None:
        """Go on from another point; gradients that were gathered at the old one are dropped.

        Args:
            point: [d].
            reset_moments: begin the moments and the schedule anew; otherwise both go on.

        Raises:
            RuntimeError: the last proposal has not been answered by `tell`.
            ValueError: the point has another shape or holds NaN or infinity.
        """
        if self._asked is not None:
            raise RuntimeError("restart() between ask() and tell(): tell() the loss of the last point first")
        start = _point(point, len(self._parameter))
        moments = {} if reset_moments else self._moments()
        self._begin(start)
        self._set_moments(moments)
        if reset_moments:
            self._step = 0

    def _begin(self, start: NDArray[np.float32]) -> None:
        """A fresh parameter and optimizer at a point that nobody else holds; nothing gathered."""
        import torch

        self._parameter = torch.nn.Parameter(torch.from_numpy(start))
        self._optimizer = self._make()
        self._sum = np.zeros(len(start) if self._accumulate > 1 else 0)
        self._told = self._good = 0

    def _make(self) -> torch.optim.Optimizer:
        import torch

        one, decay = [self._parameter], self._weight_decay
        if self._algorithm == "adamw":
            return torch.optim.AdamW(one, lr=self._lr, weight_decay=decay, foreach=False)
        if self._algorithm == "adam":
            return torch.optim.Adam(one, lr=self._lr, weight_decay=decay, foreach=False)
        return torch.optim.SGD(one, lr=self._lr, momentum=self._momentum, weight_decay=decay, foreach=False)

    def _propose(self) -> NDArray[Any]:
        return self.point[np.newaxis]

    def _learn(self, asked: NDArray[np.float64], losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        with np.errstate(over="ignore"):
            gradient = np.asarray(gradients, dtype=np.float32)[0]
            steepest = max(abs(gradient.max()), abs(gradient.min()))
            good = bool(np.isfinite(losses[0]) and np.isfinite(np.square(steepest)))
        if good and self._accumulate > 1:
            self._sum += gradient
        self._told += 1
        self._good += good
        self._skipped += not good
        if self._told < self._accumulate:
            return
        if self._good:
            self._take_step(gradient if self._accumulate == 1 else self._sum / self._good)
        self._step += 1
        self._sum.fill(0.0)
        self._told = self._good = 0

    def _take_step(self, gradient: Gradients) -> None:
        import torch

        if self._clip is not None:
            norm = float(np.sqrt(np.sum(np.square(gradient), dtype=np.float64)))
            if norm > self._clip:
                gradient = gradient * (self._clip / norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr
        self._parameter.grad = torch.from_numpy(np.require(gradient, np.float32, ["C", "W"]))
        self._optimizer.step()
        self._parameter.grad = None

    def _handed_out(self, asked: NDArray[Any]) -> NDArray[np.float64]:
        return asked.astype(np.float64)  # kept in float32: it may be as long as the model

    def _as_batch(self, asked: Any) -> NDArray[Any]:
        return np.array(asked, dtype=np.float32)

    @property
    def _kind(self) -> str:
        return f"Gradient(d={len(self._parameter)}, algorithm={self._algorithm!r}, accumulate={self._accumulate})"

    def _moments(self) -> dict[str, NDArray[Any]]:
        state = self._optimizer.state[self._parameter]
        return {name: np.array(value.numpy()) for name, value in state.items() if value is not None}

    def _set_moments(self, moments: dict[str, Any]) -> None:
        import torch

        state = {name: torch.from_numpy(np.array(value)) for name, value in moments.items()}
        self._optimizer.state[self._parameter] = state

    def _save(self) -> dict[str, Any]:
        counts = {"step": self._step, "skipped": self._skipped, "told": self._told, "good": self._good}
        return {"kind": self._kind, "point": self.point, "moments": self._moments(), "sum": self._sum.copy(), **counts}

    def _load(self, state: State) -> None:
        check_kind(self._kind, state)
        self._begin(np.array(state["point"], dtype=np.float32))
        self._set_moments(state["moments"])
        self._sum = np.array(state["sum"], dtype=np.float64)
        self._step, self._skipped, self._told, self._good = (state[k] for k in ("step", "skipped", "told", "good"))


def _point(start: ArrayLike, d: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        point = start_point(start, d).astype(np.float32)
    if not np.isfinite(point).all():
        raise ValueError("the starting point does not fit float32")
    return point


def _factor(schedule: Schedule, step: int, warmup: int, steps: int) -> float:
    """Share of the top learning rate at a step (from 0)."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    gone = min(1.0, (step - warmup) / (steps - warmup))
    return 1.0 - gone if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * gone))


def _check(
    algorithm: str,
    lr: float,
    weight_decay: float,
    momentum: float,
    schedule: str,
    warmup: int,
    steps: int,
    clip: float | None,
    accumulate: int,
) -> None:
    if algorithm not in ("adamw", "adam", "sgd"):
        raise ValueError(f"expected algorithm adamw, adam or sgd, got {algorithm!r}")
    if schedule not in ("constant", "linear", "cosine"):
        raise ValueError(f"expected schedule constant, linear or cosine, got {schedule!r}")
    if not (math.isfinite(lr) and lr >= 0 and math.isfinite(weight_decay) and weight_decay >= 0 and 0 <= momentum < 1):
        raise ValueError(
            f"expected lr >= 0, weight_decay >= 0 and 0 <= momentum < 1, got {lr}, {weight_decay} and {momentum}"
        )
    if warmup < 0 or (schedule != "constant" and steps <= warmup):
        raise ValueError(f"expected a schedule longer than its warm-up, got steps = {steps}, warmup = {warmup}")
    if clip is not None and not clip > 0:
        raise ValueError(f"expected clip above 0, or None, got {clip}")
    if accumulate < 1:
        raise ValueError(f"expected accumulate of at least 1, got {accumulate}")


class Descending(Optimizer):
    """Base of the optimizers that follow gradients of all blocks at once.

    Attributes:
        algorithm: what `Gradient` calls it.
    """

    uses: ClassVar[Uses] = "gradient"
    algorithm: ClassVar[Algorithm]

    lr: LearningRate | None = Field(
        default=None,
        description="learning rate; if left out, a tenth of the embeddings' standard deviation for prompts, 1e-4 for full "
        "weights, 1e-3 else",
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(default=8, description="training rows of one gradient step")
    schedule: Schedule = Field(default="constant", description="how the learning rate falls")
    warmup: Annotated[int, Field(ge=0)] = Field(default=0, description="steps in which the learning rate rises")
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(default=0.0, description="of the weights")
    clip: Positive | None = Field(default=1.0, description="largest norm of a gradient")
    accumulate: Annotated[int, Field(ge=1)] = Field(default=1, description="batches whose gradients make one step")

    def start(self, space: Space) -> Gradient:
        """From the space's start, float32 [d]."""
        if space.start is None:
            raise ValueError("descent along gradients needs a starting point")
        return Gradient(
            np.asarray(space.start, dtype=np.float32),
            algorithm=self.algorithm,
            lr=space.lr,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            steps=space.steps // self.accumulate,
            clip=self.clip,
            accumulate=self.accumulate,
        )

    def problems(self, recipe: Any) -> Iterator[str]:
        """A schedule that is all warm-up."""
        yield from super().problems(recipe)
        lengths = recipe.schedule_lengths
        if lengths and min(lengths) < self.accumulate:
            yield (
                f"[method] accumulate: a step takes {self.accumulate} batches, and the shortest stretch or round has {min(lengths)}, so "
                "nothing would be tuned there: choose fewer, or more steps"
            )
        if self.schedule != "constant" and lengths and min(lengths) // self.accumulate <= self.warmup:
            yield (
                f"[method] warmup: {self.warmup} steps leave none of a schedule of {min(lengths)}: choose a shorter warmup, "
                "or a constant schedule"
            )


@register
class AdamW(Descending):
    """Adam with decoupled weight decay."""

    kind: ClassVar[str] = "adamw"
    summary: ClassVar[str] = "follows gradients; decoupled weight decay"
    source: ClassVar[str] = "arXiv 1711.05101"
    algorithm: ClassVar[Algorithm] = "adamw"


@register
class Adam(Descending):
    """Adam; weight decay is part of the gradient."""

    kind: ClassVar[str] = "adam"
    summary: ClassVar[str] = "follows gradients with moments of the first and second order"
    source: ClassVar[str] = "arXiv 1412.6980"
    algorithm: ClassVar[Algorithm] = "adam"


@register
class SGD(Descending):
    """Stochastic gradient descent with momentum."""

    kind: ClassVar[str] = "sgd"
    summary: ClassVar[str] = "follows gradients with momentum"
    source: ClassVar[str] = "Robbins and Monro 1951"
    algorithm: ClassVar[Algorithm] = "sgd"
