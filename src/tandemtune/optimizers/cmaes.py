"""CMA-ES (Hansen, arXiv 1604.00772) and its separable variant, from the `cmaes` library behind one seam.

The library keeps its state in plain attributes but drops its random generator when it is pickled; here the attributes and
the generator are read and written whole, so that a restored optimizer goes on to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from cmaes import CMA, SepCMA
from numpy.typing import NDArray
from pydantic import Field

from tandemtune.optimizers.base import Gradients, Optimizer, Size, Space, State, Uses, VectorAskTell, start_point
from tandemtune.optimizers.warm_start import WarmStart
from tandemtune.plugins import register

Covariance = Literal["full", "separable"]
FULL_LIMIT = 2000
"""Longest search vector with a full covariance: beyond, one eigendecomposition costs more than a generation."""
_WORST = 1e300


class CMAESSearch(VectorAskTell):
    """CMA-ES over R^d.

    Args:
        d: number of coordinates (at least 2).
        popsize: candidates in one generation.
        sigma: initial step size.
        seed: seed of the random stream.
        covariance: "full" learns a d x d matrix, "separable" its diagonal only.
        mean: starting point [d]; zeros if not given.
    """

    def __init__(
        self,
        d: int,
        popsize: int,
        sigma: float,
        seed: int,
        covariance: Covariance = "full",
        mean: NDArray[np.float64] | None = None,
    ) -> None:
        make = CMA if covariance == "full" else SepCMA
        self._inner: Any = make(mean=start_point(mean, d), sigma=sigma, population_size=popsize, seed=seed)
        self._inner._funhist_values.fill(0.0)  # the library leaves it uninitialised, and it is part of the state
        self._popsize = popsize

    @property
    def point(self) -> NDArray[np.float64]:
        """The mean of the distribution [d], a copy."""
        return np.array(self._inner._mean, dtype=np.float64)

    def _propose(self) -> NDArray[np.float64]:
        return np.stack([self._inner.ask() for _ in range(self._popsize)])

    def _learn(self, asked: NDArray[np.float64], losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        if not np.isfinite(losses).any():
            return  # a ranking of equals would move the mean at random
        finite = np.where(np.isfinite(losses), losses, _WORST)
        self._inner.tell([(x, float(loss)) for x, loss in zip(asked, finite, strict=True)])

    def _save(self) -> dict[str, Any]:
        """All attributes of the library's object and its generator's state."""
        inner = {k: v for k, v in vars(self._inner).items() if not isinstance(v, np.random.RandomState)}
        name, keys, position, has_gauss, gauss = self._inner._rng.get_state()
        generator = {"name": name, "keys": keys, "position": position, "has_gauss": has_gauss, "gauss": gauss}
        return {"inner": _copied(inner), "generator": _copied(generator)}

    def _load(self, state: State) -> None:
        if "inner" not in state or "generator" not in state:
            raise ValueError("the state was saved by another kind of optimizer, not by CMAES")
        mine, theirs = vars(self._inner), state["inner"]
        for name, what in (("_n_dim", "d"), ("_popsize", "popsize")):
            if mine[name] != theirs[name]:
                raise ValueError(f"this optimizer has {what} = {mine[name]}, the state was saved with {theirs[name]}")
        if np.shape(mine["_C"]) != np.shape(theirs["_C"]):
            raise ValueError("the state was saved with another kind of covariance")
        vars(self._inner).update(_copied(state["inner"]))
        g = state["generator"]
        self._inner._rng.set_state((g["name"], g["keys"], g["position"], g["has_gauss"], g["gauss"]))


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in values.items()}


@register
class CMAES(Optimizer):
    """CMA-ES in a subspace or among the parameters themselves."""

    kind: ClassVar[str] = "cma-es"
    summary: ClassVar[str] = "learns a step size and a covariance from ranks; keeps its best candidate"
    source: ClassVar[str] = "arXiv 1604.00772"
    uses: ClassVar[Uses] = "sampler"

    popsize: Annotated[int, Field(ge=4, le=10_000)] = Field(default=20, description="candidates in one generation")
    sigma: Size = Field(default=1.0, description="initial step size")
    covariance: Covariance = Field(default="full", description="what it learns: a d x d matrix, or its diagonal only")
    incumbent: Literal["best", "mean"] = Field(
        default="best",
        description="what layers above, dev and the result see: the best candidate, or the mean of the distribution",
    )
    warm_start: Annotated[int, Field(ge=0)] = Field(
        default=0, description="pairs of candidates whose difference quotients choose where each search begins"
    )

    @property
    def keeps_best(self) -> bool:
        """Not where the mean is followed."""
        return self.incumbent == "best"

    def start(self, space: Space) -> VectorAskTell:
        """CMA-ES around the space's start, after a generation of differences where that is wanted."""

        def around(mean: NDArray[np.float64] | None) -> CMAESSearch:
            return CMAESSearch(space.d, self.popsize, self.sigma, space.seed, self.covariance, mean)

        if not self.warm_start:
            return around(space.start)
        return WarmStart(space.d, self.popsize, self.sigma, space.seed, self.warm_start, around)

    def problems(self, recipe: Any) -> Iterator[str]:
        """A covariance that is too large, a warm start that has nowhere to begin."""
        yield from super().problems(recipe)
        subspace = recipe.method.subspace
        if self.covariance == "full" and subspace.projects and subspace.d > FULL_LIMIT:
            yield (
                f"[method] d: {subspace.d} is too long for a full covariance (at most {FULL_LIMIT}): set covariance to separable"
            )
        if self.warm_start and not subspace.projects:
            yield "[method] warm_start: only cma-es in a subspace begins somewhere else"
        if self.warm_start and recipe.method.tunable.even:
            b_alone = 'factors = "b", or ' if hasattr(recipe.method.tunable, "factors") else ""
            yield (
                f"[method] warm_start: with {recipe.method.tunable.kind} both signs of a step have the same loss where a search "
                f"begins, so differences say nothing: set {b_alone}warm_start = 0"
            )
        if self.warm_start > self.popsize // 2:
            yield f"[method] warm_start: {self.warm_start} pairs are more than one generation of {self.popsize} holds"
