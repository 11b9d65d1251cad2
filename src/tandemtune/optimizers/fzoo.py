"""FZOO (arXiv 2506.09034): one-sided differences along a batch of signs, in steps divided by the spread of the batch's losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from tandemtune.optimizers.base import (
    Gradients,
    LearningRate,
    Optimizer,
    Size,
    Space,
    State,
    Uses,
    VectorAskTell,
    check_kind,
    start_point,
)
from tandemtune.optimizers.descent import stream
from tandemtune.plugins import register


class FZOOSearch(VectorAskTell):
    """Steps along the mean of one-sided differences, divided by the standard deviation of their losses (arXiv 2506.09034).

    A generation is the current point, and then the point plus epsilon times each of N directions of signs u_i. With their losses
    l_0 and l_i the step is ``-lr * g / s``, where ``g = sum_i (l_i - l_0) u_i / (epsilon N)`` and s is the standard deviation of
    the l_i (over N - 1). Each coordinate moves by about ``lr / (epsilon sqrt(N))``, however steep the function. Losses that are
    NaN or infinite are left out; where fewer than two are left, the point's own is none, or all are equal, the point stays.

    Args:
        d: number of coordinates.
        popsize: candidates in one generation, N + 1.
        seed: seed of the random stream.
        lr: learning rate.
        epsilon: distance of a candidate from the point in each coordinate.
        start: starting point [d]; zeros if not given.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self, d: int, popsize: int, seed: int, *, lr: float, epsilon: float = 1e-3, start: ArrayLike | None = None
    ) -> None:
        if popsize < 3:
            raise ValueError(f"expected a popsize of at least 3, the point and two directions, got {popsize}")
        if not (0 < epsilon < np.inf and 0 < lr < np.inf):
            raise ValueError(f"expected epsilon and lr above 0, got {epsilon} and {lr}")
        self._d, self._popsize, self._seed, self._lr, self._epsilon = d, popsize, seed, lr, epsilon
        self._point = start_point(start, d)
        self._step = 0

    @property
    def point(self) -> NDArray[np.float64]:
        """The current point [d], a copy."""
        return self._point.copy()

    def directions(self, step: int) -> NDArray[np.float64]:
        """The directions u [N, d] of a generation: +1 and -1, a function of the seed and the generation alone."""
        shape = (self._popsize - 1, self._d)
        return 2.0 * stream(self._seed, step).integers(0, 2, shape).astype(np.float64) - 1.0

    def _propose(self) -> NDArray[np.float64]:
        away = self._epsilon * self.directions(self._step)
        candidates: NDArray[np.float64] = self._point + np.concatenate([np.zeros((1, self._d)), away])
        return candidates

    def _learn(self, asked: NDArray[np.float64], losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        here, there = losses[0], losses[1:]
        good = np.isfinite(there)
        spread = float(np.std(there[good], ddof=1)) if good.sum() > 1 else 0.0
        if np.isfinite(here) and spread > 0:
            differences = there[good] - here
            slope = np.sum(differences[:, np.newaxis] * self.directions(self._step)[good], axis=0)
            self._point = self._point - self._lr * slope / (self._epsilon * good.sum() * spread)
        self._step += 1

    @property
    def _kind(self) -> str:
        return f"FZOO(d={self._d}, popsize={self._popsize})"

    def _save(self) -> dict[str, Any]:
        return {"kind": self._kind, "seed": self._seed, "step": self._step, "point": self._point.copy()}

    def _load(self, state: State) -> None:
        check_kind(self._kind, state)
        self._seed, self._step, self._point = state["seed"], state["step"], np.array(state["point"])


@register
class FZOO(Optimizer):
    """One-sided differences in steps of a fixed size."""

    kind: ClassVar[str] = "fzoo"
    summary: ClassVar[str] = "steps along one-sided differences, divided by the standard deviation of their losses"
    source: ClassVar[str] = "arXiv 2506.09034"
    uses: ClassVar[Uses] = "estimator"
    lr_default: ClassVar[float] = 1e-2

    popsize: Annotated[int, Field(ge=3, le=10_000)] = Field(
        default=9, description="candidates in one generation: the point itself and the directions"
    )
    sigma: Size = Field(default=1.0, description="size of the steps aside (the paper's epsilon)")
    lr: LearningRate | None = Field(
        default=None, description="learning rate; a coordinate moves by about lr / (sigma sqrt(popsize - 1))"
    )

    def start(self, space: Space) -> VectorAskTell:
        """Around the space's start."""
        return FZOOSearch(space.d, self.popsize, space.seed, lr=space.lr, epsilon=self.sigma, start=space.start)

    def problems(self, recipe: Any) -> Iterator[str]:
        """All weights of a model, whose directions are other ones."""
        yield from super().problems(recipe)
        if recipe.method.tunable.all_weights:
            yield (
                f"[method] optimizer: {self.kind} moves along signs, and the directions of {recipe.method.tunable.kind} are normal: "
                "choose es or spsa, or another tunable"
            )
