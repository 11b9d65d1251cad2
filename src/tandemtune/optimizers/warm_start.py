"""A warm start: difference quotients along a few directions say where another optimizer begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandemtune.optimizers.base import Gradients, State, VectorAskTell, check_kind

Make = Callable[[NDArray[np.float64]], VectorAskTell]


class WarmStart(VectorAskTell):
    """One generation of antithetic pairs (SPSA, Spall 1992) before the generations of another optimizer.

    The pairs' mean slope is a direction; the other optimizer begins that way off, ``sigma * sqrt(d / pairs)`` from zero: about
    as far as a mean of so many samples lies. The rest of the first generation are plain samples, whose losses are not used.

    Args:
        d: number of coordinates.
        popsize: candidates in one generation.
        sigma: standard deviation of the pairs.
        seed: seed of the random stream.
        pairs: how many, at most half of popsize.
        make: makes the other optimizer around a mean [d].

    Raises:
        ValueError: the pairs do not fit one generation.
    """

    def __init__(self, d: int, popsize: int, sigma: float, seed: int, pairs: int, make: Make) -> None:
        if not 1 <= pairs <= popsize // 2:
            raise ValueError(f"expected 1 to {popsize // 2} pairs for a popsize of {popsize}, got {pairs}")
        self._d, self._popsize, self._sigma, self._pairs, self._make = d, popsize, sigma, pairs, make
        self._first = np.random.default_rng(seed).standard_normal((popsize - pairs, d)) * sigma
        self._mean = np.zeros(d)
        self._inner: VectorAskTell | None = None

    def _propose(self) -> NDArray[np.float64]:
        if self._inner is not None:
            return self._inner.ask()
        return np.concatenate([self._first, -self._first[: self._pairs]])

    def _learn(self, asked: NDArray[np.float64], losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        if self._inner is not None:
            self._inner.tell(losses)
            return
        plus, minus = losses[: self._pairs], losses[len(self._first) :]
        good = np.isfinite(plus) & np.isfinite(minus)
        slope = (plus[good] - minus[good]) @ self._first[: self._pairs][good]
        norm = float(np.linalg.norm(slope))
        if norm > 0:
            self._mean = -slope / norm * self._sigma * math.sqrt(self._d / self._pairs)
        self._inner = self._make(self._mean.copy())

    @property
    def point(self) -> NDArray[np.float64]:
        """Where the other optimizer is, or will begin [d]."""
        return self._mean.copy() if self._inner is None else self._inner.point  # type: ignore[attr-defined]

    @property
    def _kind(self) -> str:
        return f"WarmStart(d={self._d}, popsize={self._popsize}, pairs={self._pairs})"

    def _save(self) -> dict[str, Any]:
        return {
            "kind": self._kind,
            "first": self._first.copy(),
            "mean": self._mean.copy(),
            "inner": None if self._inner is None else self._inner.state(),
        }

    def _load(self, state: State) -> None:
        check_kind(self._kind, state)
        self._first, self._mean = np.array(state["first"]), np.array(state["mean"])
        self._inner = None
        if state["inner"] is not None:
            self._inner = self._make(self._mean.copy())
            self._inner.restore(state["inner"])
