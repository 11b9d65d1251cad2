"""Evolution strategies as OpenAI uses them (Salimans et al., arXiv 1703.03864), with full or low-rank noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

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
from tandemtune.optimizers.descent import Algorithm, Descent, centred_ranks, stream
from tandemtune.optimizers.directions import Directions, NoiseRank, rank_problems
from tandemtune.plugins import register


class EvolutionStrategy(VectorAskTell):
    """A step along the noise, weighted by centred ranks of the losses (arXiv 1703.03864, algorithm 1 and section 2.1).

    A generation is the current point plus sigma times each noise vector, then the current point minus the same. Losses
    that are NaN or infinite share the worst rank; equal losses share a rank, so that a flat function moves nothing.

    Args:
        d: number of coordinates.
        popsize: candidates in one generation, even.
        sigma: standard deviation of the noise, of the first generation's where it falls.
        seed: seed of the random stream.
        lr: learning rate.
        algorithm: "adam" or "sgd".
        weight_decay: times the point, added to the gradient as in the paper's code.
        shapes: shapes of the matrices that the vector is made of, in order; given with `rank`.
        rank: r of low-rank noise U V^T / sqrt(r) for each matrix, U and V standard normal (EGGROLL, arXiv 2511.16652);
            entries of other shapes than matrices get full noise. Full noise for all if not given.
        start: starting point [d]; zeros if not given.
        sigma_end: standard deviation of the noise in the last of `generations`, and of all later ones; on the way there each
            generation's is the same part of the one before. `sigma` throughout if not given.
        generations: how many it takes to `sigma_end`; at least 2.

    Raises:
        ValueError: a setting is unknown or out of its range, or the shapes do not add up to d.
    """

    def __init__(
        self,
        d: int,
        popsize: int,
        sigma: float,
        seed: int,
        *,
        lr: float,
        algorithm: Algorithm = "adam",
        weight_decay: float = 0.0,
        shapes: Sequence[tuple[int, ...]] | None = None,
        rank: int | None = None,
        start: ArrayLike | None = None,
        sigma_end: float | None = None,
        generations: int | None = None,
    ) -> None:
        if popsize < 2 or popsize % 2:
            raise ValueError(f"expected an even popsize of at least 2, got {popsize}")
        if not (0 < sigma < np.inf and 0 <= weight_decay < np.inf):
            raise ValueError(f"expected sigma above 0 and weight_decay of at least 0, got {sigma} and {weight_decay}")
        if (sigma_end is None) != (generations is None):
            raise ValueError("a sigma that falls needs both sigma_end and generations")
        if sigma_end is not None and not (0 < sigma_end < np.inf and (generations or 0) >= 2):
            raise ValueError(
                f"expected sigma_end above 0 and at least 2 generations, got {sigma_end} and {generations}"
            )
        if (shapes is None) != (rank is None):
            raise ValueError("low-rank noise needs both shapes and rank")
        if rank is not None and rank < 1:
            raise ValueError(f"expected rank of at least 1, got {rank}")
        if shapes is not None and sum(math.prod(shape) for shape in shapes) != d:
            raise ValueError(f"expected shapes of {d} entries in all, got {list(shapes)}")
        self._d, self._popsize, self._first, self._seed = d, popsize, sigma, seed
        self._last, self._generations = sigma_end, generations
        self._weight_decay, self._algorithm, self._rank = weight_decay, algorithm, rank
        self._shapes = None if shapes is None else [tuple(shape) for shape in shapes]
        self._descent = Descent(d, algorithm, lr)
        self._point = start_point(start, d)
        self._step = 0

    @property
    def point(self) -> NDArray[np.float64]:
        """The current point [d], a copy."""
        return self._point.copy()

    @property
    def step(self) -> int:
        """Generations that were answered; `noise(step)` belongs to the next or open one."""
        return self._step

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise in the next or open generation."""
        if self._last is None or self._generations is None:
            return self._first
        share = min(1.0, self._step / (self._generations - 1))
        return float(self._first * (self._last / self._first) ** share)

    def noise(self, step: int) -> NDArray[np.float64]:
        """The noise of a generation, a function of the seed and the generation alone.

        Args:
            step: number of the generation, from 0.

        Returns:
            Noise [P / 2, d], every entry of variance 1.
        """
        rng, half = stream(self._seed, step), self._popsize // 2
        if self._shapes is None or self._rank is None:
            return rng.standard_normal((half, self._d))
        parts = []
        for shape in self._shapes:
            if len(shape) == 2:
                u = rng.standard_normal((half, shape[0], 1, self._rank))
                v = rng.standard_normal((half, 1, shape[1], self._rank))
                noise = np.sum(u * v, axis=-1) / math.sqrt(self._rank)
            else:
                noise = rng.standard_normal((half, *shape))
            parts.append(noise.reshape(half, -1))
        return np.concatenate(parts, axis=1)

    def _propose(self) -> NDArray[np.float64]:
        away = self.sigma * self.noise(self._step)
        return np.concatenate([self._point + away, self._point - away])

    def _learn(self, asked: NDArray[np.float64], losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        ranks = centred_ranks(losses)
        if ranks.any():
            half = self._popsize // 2
            weights = (ranks[:half] - ranks[half:]) / (self._popsize * self.sigma)
            gradient = np.sum(weights[:, np.newaxis] * self.noise(self._step), axis=0)
            self._point = self._descent.step(self._point, gradient + self._weight_decay * self._point)
        self._step += 1

    @property
    def _kind(self) -> str:
        return f"ES(d={self._d}, popsize={self._popsize}, algorithm={self._algorithm!r}, rank={self._rank})"

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
class ES(Optimizer):
    """Evolution strategies: antithetic noise, weighted by ranks."""

    kind: ClassVar[str] = "es"
    summary: ClassVar[str] = "steps along antithetic noise, weighted by the ranks of its losses"
    source: ClassVar[str] = "arXiv 1703.03864"
    uses: ClassVar[Uses] = "estimator"
    lr_default: ClassVar[float] = 1e-2
    lr_weights: ClassVar[float] = 1e-3

    popsize: Even = Field(default=20, description="candidates in one generation, in pairs")
    sigma: Size = Field(default=1.0, description="standard deviation of the noise")
    sigma_end: Size | None = Field(
        default=None,
        description="standard deviation in the last generation, to which it falls by an equal part each time",
    )
    lr: LearningRate | None = Field(
        default=None, description="learning rate; 1e-2, or 1e-3 among all weights, if left out"
    )
    noise_rank: NoiseRank = None

    def start(self, space: Space) -> VectorAskTell:
        """Around the space's start, or the coefficients of seeded directions."""
        if space.directions:
            return Directions(*space.directions, lr=space.lr, sigma=self.sigma, shaping="ranks")
        falls = self.sigma_end is not None
        return EvolutionStrategy(
            space.d,
            self.popsize,
            self.sigma,
            space.seed,
            lr=space.lr,
            start=space.start,
            sigma_end=self.sigma_end,
            generations=max(2, space.generations or 2) if falls else None,
        )

    def problems(self, recipe: Any) -> Iterator[str]:
        """Low-rank noise where no matrices are, a sigma that falls to an end nobody knows."""
        yield from super().problems(recipe)
        yield from rank_problems(self.noise_rank, recipe)
        if self.sigma_end is not None and recipe.method.tunable.all_weights:
            yield "[method] sigma_end: full weights are searched with one sigma: leave it out"
        elif self.sigma_end is not None and self.sigma_end > self.sigma:
            yield f"[method] sigma_end: {self.sigma_end:g} is above sigma = {self.sigma:g}, and the noise falls to it: lower it, or raise sigma"
        elif self.sigma_end is not None and not recipe.length_known:
            yield (
                "[method] sigma_end: how many generations there will be is not known: set [method] budget or steps, or [run] "
                "max_forward_tokens"
            )
