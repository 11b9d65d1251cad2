"""Random search: the yardstick that any other optimizer has to beat."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from tandemtune.optimizers.base import (
    Gradients,
    Optimizer,
    Size,
    Space,
    State,
    Uses,
    VectorAskTell,
    check_kind,
    start_point,
)
from tandemtune.plugins import register


class RandomSampling(VectorAskTell):
    """Gaussian steps of a fixed size around the best point so far, or points anywhere in a box.

    Around the best point, that point itself is part of the batch as long as its loss is not known; where the search's incumbent
    is told, it is the best point, and never part of the batch.

    Args:
        d: number of coordinates.
        popsize: candidates in one generation, at least 2.
        seed: seed of the random stream.
        sigma: standard deviation of the steps; give this or `box`.
        box: bounds of every coordinate, for points anywhere between them.
        start: first best point [d] of the steps; zeros if not given.
        remeasure: score the best point again with every generation, for a function that changes in between.
        told: the best point is the search's incumbent, which is told with every generation; in place of `remeasure`.

    Raises:
        ValueError: not exactly one of `sigma` and `box` is given, or a setting is out of its range.
    """

    def __init__(
        self,
        d: int,
        popsize: int,
        seed: int,
        *,
        sigma: float | None = None,
        box: tuple[float, float] | None = None,
        start: ArrayLike | None = None,
        remeasure: bool = False,
        told: bool = False,
    ) -> None:
        if (sigma is None) == (box is None) or (box is not None and (start is not None or remeasure or told)):
            raise ValueError("give either sigma (with start, and remeasure or told) or box")
        if popsize < 2 or (sigma is not None and not 0 < sigma < np.inf):
            raise ValueError(f"expected popsize of at least 2 and sigma above 0, got {popsize} and {sigma}")
        if box is not None and not -np.inf < box[0] < box[1] < np.inf:
            raise ValueError(f"expected a box (low, high), got {box}")
        self._d, self._popsize, self._sigma, self._box, self._remeasure = d, popsize, sigma or 0.0, box, remeasure
        self._rng = np.random.default_rng(seed)
        self._best, self._loss = start_point(start, d), np.inf
        self._known, self.wants_incumbent = box is not None or told, told

    @property
    def best(self) -> tuple[NDArray[np.float64], float]:
        """The best point [d] and its loss, infinite as long as nothing was told."""
        return self._best.copy(), self._loss

    def _propose(self) -> NDArray[np.float64]:
        shape = (self._popsize, self._d)
        if self._box is not None:
            return self._rng.uniform(*self._box, shape)
        candidates = self._best + self._sigma * self._rng.standard_normal(shape)
        if self._scores_best:
            candidates[0] = self._best
        return candidates

    def _learn(self, asked: NDArray[np.float64], losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        if self.wants_incumbent and self._incumbent is not None:
            taken, self._loss = self._incumbent.taken, self._incumbent.loss
            if taken is not None:
                self._best, self._loss = asked[taken].copy(), float(losses[taken])
            return
        if self._scores_best:
            self._loss = float(losses[0])
        self._known = True
        best = int(np.argmin(losses))
        if losses[best] < self._loss:
            self._best, self._loss = asked[best].copy(), float(losses[best])

    @property
    def _scores_best(self) -> bool:
        """Whether the best point is one of the candidates of the next or open generation."""
        return not self.wants_incumbent and (self._remeasure or not self._known)

    @property
    def _kind(self) -> str:
        return f"RandomSearch(d={self._d}, popsize={self._popsize}, {'box' if self._box else 'sigma'})"

    def _save(self) -> dict[str, Any]:
        numbers = {"loss": self._loss, "known": self._known}
        return {"kind": self._kind, "best": self._best.copy(), **numbers, "rng": self._rng.bit_generator.state}

    def _load(self, state: State) -> None:
        check_kind(self._kind, state)
        self._best, self._loss, self._known = np.array(state["best"]), float(state["loss"]), bool(state["known"])
        self._rng.bit_generator.state = state["rng"]


@register
class RandomSearch(Optimizer):
    """Random steps around the best point."""

    kind: ClassVar[str] = "random"
    summary: ClassVar[str] = "random steps around the best candidate so far: what any search has to beat"
    source: ClassVar[str] = "Rastrigin 1963"
    uses: ClassVar[Uses] = "sampler"

    popsize: Annotated[int, Field(ge=4, le=10_000)] = Field(default=20, description="candidates in one generation")
    sigma: Size = Field(default=1.0, description="standard deviation of the steps")

    def start(self, space: Space) -> VectorAskTell:
        """Steps around the space's start."""
        return RandomSampling(
            space.d,
            self.popsize,
            space.seed,
            sigma=self.sigma,
            start=space.start,
            remeasure=not space.told,
            told=space.told,
        )
