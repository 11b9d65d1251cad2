"""One step down an estimated gradient, in numpy: SGD and Adam, for the optimizers that estimate it themselves."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tandemtune.optimizers.base import State

Algorithm = Literal["sgd", "adam"]
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Descent:
    """SGD or Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1).

    Args:
        d: number of coordinates.
        algorithm: "sgd" or "adam".
        lr: learning rate.

    Raises:
        ValueError: a setting is unknown or out of its range.
    """

    def __init__(self, d: int, algorithm: Algorithm, lr: float) -> None:
        if algorithm not in ("sgd", "adam"):
            raise ValueError(f"expected algorithm sgd or adam, got {algorithm!r}")
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"expected lr above 0, got {lr}")
        self._algorithm, self._lr = algorithm, lr
        self._m, self._v, self._t = np.zeros(d), np.zeros(d), 0

    def step(self, point: NDArray[np.float64], gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """The point after a step.

        Args:
            point: [d].
            gradient: [d]; one with an entry whose square is NaN or infinite moves nothing and is forgotten.

        Returns:
            A new point [d].
        """
        with np.errstate(over="ignore"):
            if not np.isfinite(np.square(gradient)).all():
                return point.copy()
        if self._algorithm == "sgd":
            return point - self._lr * gradient
        self._t += 1
        self._m = _BETA1 * self._m + (1 - _BETA1) * gradient
        self._v = _BETA2 * self._v + (1 - _BETA2) * np.square(gradient)
        m, v = self._m / (1 - _BETA1**self._t), self._v / (1 - _BETA2**self._t)
        return point - self._lr * m / (np.sqrt(v) + _EPSILON)

    def state(self) -> dict[str, Any]:
        """The moments, as a snapshot."""
        return {"m": self._m.copy(), "v": self._v.copy(), "t": self._t}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""
        self._m, self._v, self._t = np.array(state["m"]), np.array(state["v"]), state["t"]


def stream(seed: int, step: int) -> np.random.Generator:
    """The random stream of one step: a function of the seed and the step alone."""
    return np.random.default_rng([seed, step])


def centred_ranks(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from -0.5 (lowest) to 0.5; equal losses share the mean of theirs."""
    _, which, counts = np.unique(losses, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - 0.5 * (counts + 1)
    return np.asarray(ranks[which] / (len(losses) - 1) - 0.5, dtype=np.float64)
