"""SPSA (Spall, IEEE TAC 1992) as MeZO (Malladi et al., arXiv 2305.17333) uses it: gradients out of pairs of losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from tandemtune.optimizers.base import (
    Even,
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
from tandemtune.optimizers.descent import Algorithm, Descent, stream
from tandemtune.optimizers.directions import Directions, NoiseRank, rank_problems
from tandemtune.plugins import register

Distribution = Literal["gaussian", "rademacher"]


class SPSASearch(VectorAskTell):
    """Steps along the mean of projected gradients (arXiv 2305.17333, definitions 1 and 2).

    A generation is the current point plus epsilon times each direction, then the current point minus the same. A pair with
    a loss that is NaN or infinite is left out; without any pair the point stays, and the next directions are others.

    Args:
        d: number of coordinates.
        seed: seed of the random stream.
        lr: learning rate.
        epsilon: distance of a candidate from the point, in standard deviations of the directions.
        directions: pairs in one generation.
        distribution: entries of a direction, standard normal or +1 and -1.
        algorithm: "sgd" or "adam".
        start: starting point [d]; zeros if not given.

    Raises:
        ValueError: a setting is unknown or out of its range.
    """

    def __init__(
        self,
        d: int,
        seed: int,
        *,
        lr: float,
        epsilon: float = 1e-3,
        directions: int = 1,
        distribution: Distribution = "gaussian",
        algorithm: Algorithm = "sgd",
        start: ArrayLike | None = None,
    ) -> None:
        if not (0 < epsilon < np.inf and directions >= 1):
            raise ValueError(f"expected epsilon above 0 and directions of at least 1, got {epsilon} and {directions}")
        if distribution not in ("gaussian", "rademacher"):
            raise ValueError(f"expected distribution gaussian or rademacher, got {distribution!r}")
        self._d, self._seed, self._epsilon, self._directions = d, seed, epsilon, directions
        self._distribution, self._algorithm = distribution, algorithm
        self._descent = Descent(d, algorithm, lr)
        self._point = start_point(start, d)
        self._step = 0

    @property
    def point(self) -> NDArray[np.float64]:
        """The current point [d], a copy."""
        return self._point.copy()

    @property
    def step(self) -> int:
        """Generations that were answered; `direction(step)` belongs to the next or open one."""
        return self._step

    def direction(self, step: int) -> NDArray[np.float64]:
        """The directions of a generation, a function of the seed and the generation alone.

        Args:
            step: number of the generation, from 0.

        Returns:
            Directions [directions, d].
        """
        shape = (self._directions, self._d)
        rng = stream(self._seed, step)
        if self._distribution == "gaussian":
            return rng.standard_normal(shape)
        return 2.0 * rng.integers(0, 2, shape).astype(np.float64) - 1.0

    def _propose(self) -> NDArray[np.float64]:
        away = self._epsilon * self.direction(self._step)
        return np.concatenate([self._point + away, self._point - away])

    def _learn(self, asked: NDArray[np.float64], losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        plus, minus = losses[: self._directions], losses[self._directions :]
        good = np.isfinite(plus) & np.isfinite(minus)
        if good.any():
            slopes = (plus[good] - minus[good]) / (2.0 * self._epsilon)
            gradient = np.sum(slopes[:, np.newaxis] * self.direction(self._step)[good], axis=0) / good.sum()
            self._point = self._descent.step(self._point, gradient)
        self._step += 1

    @property
    def _kind(self) -> str:
        return f"SPSA(d={self._d}, directions={self._directions}, algorithm={self._algorithm!r})"

    def _save(self) -> dict[str, Any]:
        return {
            "kind": self._kind,
            "seed": self._seed,
            "step": self._step,
            "point": self._point.copy(),
            "descent": self._descent.state(),
        }

    def _load(self, state: State) -> None:
        check_kind(self._kind, state)
        self._seed, self._step, self._point = state["seed"], state["step"], np.array(state["point"])
        self._descent.restore(state["descent"])


@register
class SPSA(Optimizer):
    """Simultaneous perturbation, as MeZO uses it."""

    kind: ClassVar[str] = "spsa"
    summary: ClassVar[str] = "steps along random directions by the difference of two losses"
    source: ClassVar[str] = "arXiv 2305.17333"
    uses: ClassVar[Uses] = "estimator"
    lr_weights: ClassVar[float] = 1e-6

    popsize: Even = Field(default=20, description="candidates in one generation, in pairs")
    sigma: Size = Field(default=1.0, description="size of the steps aside (the paper's epsilon)")
    lr: LearningRate | None = Field(
        default=None,
        description="learning rate; if left out, a tenth of the embeddings' standard deviation for prompts, 1e-6 for full "
        "weights, 1e-3 else",
    )

    noise_rank: NoiseRank = None
    lazy: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1, description="generations over which one factor of low-rank noise stays the same (LOZO)"
    )

    def start(self, space: Space) -> VectorAskTell:
        """Around the space's start, or the coefficients of seeded directions."""
        if space.directions:
            return Directions(*space.directions, lr=space.lr, sigma=self.sigma, shaping="values")
        return SPSASearch(
            space.d, space.seed, lr=space.lr, epsilon=self.sigma, directions=self.popsize // 2, start=space.start
        )

    def problems(self, recipe: Any) -> Iterator[str]:
        """Low-rank noise where no matrices are, laziness without it."""
        yield from super().problems(recipe)
        yield from rank_problems(self.noise_rank, recipe)
        if self.lazy > 1 and self.noise_rank is None:
            yield f"[method] lazy: {self.lazy}, but only low-rank noise has a factor to keep: set noise_rank"
