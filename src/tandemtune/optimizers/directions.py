"""Descent along directions that somebody else makes: one group of coefficients in each generation, and none of them twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tandemtune.optimizers.base import Gradients, State, VectorAskTell, check_kind
from tandemtune.optimizers.descent import centred_ranks

Shaping = Literal["values", "ranks"]
NoiseRank = Annotated[
    Annotated[int, Field(ge=1, le=64)] | None,
    Field(description="noise of this rank on full weights instead of full noise"),
]
"""Option of optimizers that settle directions."""


def rank_problems(noise_rank: int | None, recipe: Any) -> Iterator[str]:
    """Low-rank noise where no matrices are."""
    method = recipe.method
    if noise_rank is not None and not method.tunable.all_weights:
        yield (
            f"[method] noise_rank: {noise_rank}, but only {method.optimizer.kind} on full weights knows low-rank noise: "
            "set tunable to full"
        )


class Directions(VectorAskTell):
    """Settles the coefficients of one group of directions after the other, for seeded noise on all weights of a model.

    Generation g is the current point plus sigma on each coordinate of group g, then the current point minus the same. With
    "values" the step is SPSA's (arXiv 2305.17333, definitions 1 and 2): -lr times the slope along each direction, over the
    number of pairs; a pair with a loss that is NaN or infinite is left out. With "ranks" it is that of evolution strategies
    (arXiv 1703.03864, algorithm 1 and section 2.1): centred ranks of the losses, where NaN and infinity share the worst.

    Args:
        groups: generations there are directions for.
        group: directions in one generation; d is their product.
        lr: learning rate.
        sigma: distance of a candidate from the point, in standard deviations of the directions.
        shaping: "values" or "ranks".

    Raises:
        ValueError: a setting is unknown or out of its range.
    """

    def __init__(self, groups: int, group: int, *, lr: float, sigma: float, shaping: Shaping = "values") -> None:
        if groups < 1 or group < 1:
            raise ValueError(f"expected at least 1 group of at least 1 direction, got {groups} and {group}")
        if not (0 < lr < np.inf and 0 < sigma < np.inf):
            raise ValueError(f"expected lr and sigma above 0, got {lr} and {sigma}")
        if shaping not in ("values", "ranks"):
            raise ValueError(f"expected shaping values or ranks, got {shaping!r}")
        self._groups, self._group, self._lr, self._sigma, self._shaping = groups, group, lr, sigma, shaping
        self._point = np.zeros(groups * group)
        self._step = 0

    @property
    def point(self) -> NDArray[np.float64]:
        """The current point [d], a copy."""
        return self._point.copy()

    @property
    def step(self) -> int:
        """Generations that were answered: the group that the next or open one is about."""
        return self._step

    def _propose(self) -> NDArray[np.float64]:
        if self._step == self._groups:
            raise RuntimeError(
                f"all {self._groups} groups of directions are settled: a longer search has to be planned with more groups"
            )
        candidates = np.tile(self._point, (2 * self._group, 1))
        rows, columns = np.arange(self._group), self._step * self._group + np.arange(self._group)
        candidates[rows, columns] += self._sigma
        candidates[self._group + rows, columns] -= self._sigma
        return candidates

    def _learn(self, asked: NDArray[np.float64], losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        settled = slice(self._step * self._group, (self._step + 1) * self._group)
        self._point[settled] = -self._lr * (self._slopes(losses) if self._shaping == "values" else self._ranked(losses))
        self._step += 1

    def _slopes(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each direction's part of the mean projected gradient [group]."""
        plus, minus = losses[: self._group], losses[self._group :]
        good = np.isfinite(plus) & np.isfinite(minus)
        slopes = np.zeros(self._group)
        slopes[good] = (plus[good] - minus[good]) / (2.0 * self._sigma)
        return slopes / max(1, int(good.sum()))

    def _ranked(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same out of ranks."""
        ranks = centred_ranks(losses)
        slopes: NDArray[np.float64] = (ranks[: self._group] - ranks[self._group :]) / (2 * self._group * self._sigma)
        return slopes

    @property
    def _kind(self) -> str:
        return f"Directions(groups={self._groups}, group={self._group}, shaping={self._shaping!r})"

    def _save(self) -> dict[str, Any]:
        return {"kind": self._kind, "step": self._step, "point": self._point.copy()}

    def _load(self, state: State) -> None:
        check_kind(self._kind, state)
        self._step, self._point = state["step"], np.array(state["point"])
