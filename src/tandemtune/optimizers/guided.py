"""MeZO-GV (arXiv 2601.04710): differences along a guiding vector, the contrast of low and high losses of random perturbations."""

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


class GuidedSPSA(VectorAskTell):
    """Steps along a guiding vector by the difference of two losses (arXiv 2601.04710).

    Of M normal perturbations z_i of the point, those with the lowest losses are the elite, and the guiding vector is the mean of
    the elite minus the mean of all others. With the losses at the point plus and minus epsilon v, the step is SPSA's along v.
    In the paper the pair is scored when v is known; here a generation is one batch, so the pair is scored with the next
    perturbations: v is a step old where its slope is measured, and every batch is full. The first pair is along a normal direction.

    Args:
        d: number of coordinates.
        popsize: candidates in one generation, M + 2.
        seed: seed of the random stream.
        lr: learning rate.
        epsilon: distance of a candidate from the point, in standard deviations of the perturbations.
        share: part of the perturbations that is the elite.
        start: starting point [d]; zeros if not given.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        d: int,
        popsize: int,
        seed: int,
        *,
        lr: float,
        epsilon: float = 1e-3,
        share: float = 0.5,
        start: ArrayLike | None = None,
    ) -> None:
        if popsize < 4:
            raise ValueError(f"expected a popsize of at least 4, a pair and two perturbations, got {popsize}")
        if not (0 < epsilon < np.inf and 0 < lr < np.inf and 0 < share < 1):
            raise ValueError(f"expected epsilon and lr above 0 and 0 < share < 1, got {epsilon}, {lr} and {share}")
        self._d, self._seed, self._lr, self._epsilon = d, seed, lr, epsilon
        self._pool = popsize - 2
        self._elite = min(self._pool - 1, max(1, int(share * self._pool)))
        self._point = start_point(start, d)
        self._guide = stream(seed, 0).standard_normal(d)
        self._step = 0

    @property
    def point(self) -> NDArray[np.float64]:
        """The current point [d], a copy."""
        return self._point.copy()

    def perturbations(self, step: int) -> NDArray[np.float64]:
        """The perturbations z [M, d] of a generation, a function of the seed and the generation alone."""
        return stream(self._seed, step + 1).standard_normal((self._pool, self._d))

    def _propose(self) -> NDArray[np.float64]:
        guide = self._guide[np.newaxis]
        return self._point + self._epsilon * np.concatenate([guide, -guide, self.perturbations(self._step)])

    def _learn(self, asked: NDArray[np.float64], losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        plus, minus, pool = losses[0], losses[1], losses[2:]
        if np.isfinite(plus) and np.isfinite(minus):
            self._point = self._point - self._lr * (plus - minus) / (2.0 * self._epsilon) * self._guide
        z = self.perturbations(self._step)
        ranked = np.argsort(pool, kind="stable")
        if np.isfinite(pool).any():
            self._guide = z[ranked[: self._elite]].mean(axis=0) - z[ranked[self._elite :]].mean(axis=0)
        else:
            self._guide = z[0]
        self._step += 1

    @property
    def _kind(self) -> str:
        return f"GuidedSPSA(d={self._d}, pool={self._pool}, elite={self._elite})"

    def _save(self) -> dict[str, Any]:
        arrays = {"point": self._point.copy(), "guide": self._guide.copy()}
        return {"kind": self._kind, "seed": self._seed, "step": self._step, **arrays}

    def _load(self, state: State) -> None:
        check_kind(self._kind, state)
        self._seed, self._step = state["seed"], state["step"]
        self._point, self._guide = np.array(state["point"]), np.array(state["guide"])


@register
class GuidedMeZO(Optimizer):
    """SPSA along a guiding vector."""

    kind: ClassVar[str] = "guided-spsa"
    summary: ClassVar[str] = "steps along the contrast of low and high losses, by the difference of two losses"
    source: ClassVar[str] = "arXiv 2601.04710 (MeZO-GV)"
    uses: ClassVar[Uses] = "estimator"

    popsize: Annotated[int, Field(ge=4, le=10_000)] = Field(
        default=10, description="candidates in one generation: a pair and the perturbations that guide the next one"
    )
    sigma: Size = Field(default=1.0, description="size of the steps aside (the paper's epsilon)")
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="part of the perturbations, with the lowest losses, that the guiding vector points to"
    )
    lr: LearningRate | None = Field(
        default=None,
        description="learning rate; if left out, a tenth of the embeddings' standard deviation for prompts, 1e-3 else",
    )

    def start(self, space: Space) -> VectorAskTell:
        """Around the space's start."""
        return GuidedSPSA(
            space.d, self.popsize, space.seed, lr=space.lr, epsilon=self.sigma, share=self.share, start=space.start
        )

    def problems(self, recipe: Any) -> Iterator[str]:
        """All weights of a model, which no mean of directions is kept for."""
        yield from super().problems(recipe)
        if recipe.method.tunable.all_weights:
            yield (
                f"[method] optimizer: {self.kind} needs its directions again when it knows their losses, and those of "
                f"{recipe.method.tunable.kind} are used once: choose es or spsa, or another tunable"
            )
