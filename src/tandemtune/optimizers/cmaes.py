"""CMA-ES (Hansen, arXiv 1604.00772) and its separable variant, from the `cmaes` library behind one seam.

The library keeps its state in plain attributes but drops its random generator when it is pickled; here the attributes and
the generator are read and written whole, so that a restored optimizer goes on to the bit.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from cmaes import CMA, SepCMA
from numpy.typing import NDArray

from tandemtune.optimizers.base import State

Covariance = Literal["full", "separable"]
_WORST = 1e300


class CMAES:
    """CMA-ES over R^d.

    Args:
        d: number of coordinates (at least 2).
        popsize: candidates in one generation.
        sigma: initial step size.
        seed: seed of the random stream.
        covariance: "full" learns a d x d matrix, "separable" its diagonal only.
    """

    def __init__(self, d: int, popsize: int, sigma: float, seed: int, covariance: Covariance = "full") -> None:
        make = CMA if covariance == "full" else SepCMA
        self._inner: Any = make(mean=np.zeros(d), sigma=sigma, population_size=popsize, seed=seed)
        self._popsize = popsize
        self._asked: NDArray[np.float64] | None = None

    def ask(self) -> NDArray[np.float64]:
        """Propose one generation [P, d]."""
        if self._asked is not None:
            raise RuntimeError("ask() was called twice: tell() the losses of the last generation first")
        self._asked = np.stack([self._inner.ask() for _ in range(self._popsize)])
        return self._asked.copy()

    def tell(self, losses: NDArray[np.float64]) -> None:
        """Report the generation's losses [P]; NaN and infinity count as worst."""
        if self._asked is None:
            raise RuntimeError("tell() was called before ask(): there are no candidates to judge")
        losses = np.asarray(losses, dtype=np.float64)
        if losses.shape != (self._popsize,):
            raise ValueError(f"expected losses of shape ({self._popsize},), got {losses.shape}")
        finite = np.where(np.isfinite(losses), losses, _WORST)
        pairs = [(x, float(loss)) for x, loss in zip(self._asked, finite, strict=True)]
        self._asked = None
        self._inner.tell(pairs)

    def state(self) -> State:
        """All attributes of the library's object, its generator's state, and an unanswered generation."""
        inner = {k: v for k, v in vars(self._inner).items() if not isinstance(v, np.random.RandomState)}
        name, keys, position, has_gauss, gauss = self._inner._rng.get_state()
        generator = {"name": name, "keys": keys, "position": position, "has_gauss": has_gauss, "gauss": gauss}
        asked = None if self._asked is None else self._asked.copy()
        return {"inner": _copied(inner), "generator": _copied(generator), "asked": asked}

    def restore(self, state: State) -> None:
        """Go on from `state`, to the bit.

        Raises:
            ValueError: the state belongs to another kind of optimizer.
        """
        mine, theirs = vars(self._inner), state["inner"]
        for name, what in (("_n_dim", "d"), ("_popsize", "popsize")):
            if mine[name] != theirs[name]:
                raise ValueError(f"this optimizer has {what} = {mine[name]}, the state was saved with {theirs[name]}")
        if np.shape(mine["_C"]) != np.shape(theirs["_C"]):
            raise ValueError("the state was saved with another kind of covariance")
        vars(self._inner).update(_copied(state["inner"]))
        g = state["generator"]
        self._inner._rng.set_state((g["name"], g["keys"], g["position"], g["has_gauss"], g["gauss"]))
        self._asked = None if state["asked"] is None else np.array(state["asked"])


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in values.items()}
