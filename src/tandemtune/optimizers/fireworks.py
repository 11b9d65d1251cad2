"""Fireworks algorithms over a box: LoTFWA and its relatives GFWA, BBFWA and dynFWA.

One generation is one batch. A guiding spark is made out of the losses of its generation's sparks, so it is scored with the
next batch, beside the next sparks, and joins that selection: every batch is full. At equal numbers of evaluations the errors are
2 to 8 % above those of guiding sparks in a batch of their own (CEC-2013 F6, F12, F14 and F17, 51 runs of LoTFWA, by
`benchmarks/fireworks.py`). A firework whose loss is not known (at the start and after a restart) is part of the batch too.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from tandemtune.optimizers.base import (
    Gradients,
    Optimizer,
    Positive,
    Size,
    Space,
    State,
    Uses,
    VectorAskTell,
    check_kind,
    start_point,
)
from tandemtune.plugins import register

BOX = 5.0
"""Half the width of the box, in units of sigma."""
Variant = Literal["lotfwa", "gfwa", "bbfwa", "dynfwa"]
_FIREWORK, _GUIDE, _SPARK = 0, 1, 2
_LEAST, _MOST = 0.04, 0.8  # dynFWA: bounds of a firework's share of the sparks
_SPREAD = 0.2  # dynFWA: amplitude that the other fireworks share, as a part of the box (40 in [-100, 100])


class FireworksSearch(VectorAskTell):
    """Fireworks algorithm: sparks uniform in a box around each firework, whose amplitude learns from success.

    "lotfwa" (Li and Tan, IEEE TEVC 2018): independent fireworks with guiding sparks; one that will not catch up with the
    best one by the last generation is restarted at random. "gfwa" (Li, Zheng and Tan, IEEE TEVC 2017): a guiding spark and
    no restarts. "bbfwa" (Li and Tan, Applied Soft Computing 2018): the bare bones, neither of both. "dynfwa" (Zheng,
    Janecek, Li and Tan, CEC 2014): better fireworks get more sparks and less amplitude, the best one a dynamic amplitude,
    a spark moves in about half of the coordinates, and the next fireworks are the best and random ones of all candidates.

    Args:
        d: number of coordinates.
        popsize: candidates in one generation, at least 4 for each firework.
        seed: seed of the random stream.
        variant: which of the algorithms.
        fireworks: how many; by default one for every 20 candidates, at most 5 (published: 5 for 300 candidates), and
            one for "gfwa" and "bbfwa".
        box: bounds of every coordinate; a coordinate that leaves them is drawn anew between them.
        amplitude: first amplitude, and that of a restarted firework; the width of the box (as published) by default.
        start: first firework [d]; the others are drawn at random. If not given, the first one is, too.
        g_max: generations that are planned, for the loser-out tournament; nobody is restarted if it is not given.
        share: part of a firework's sparks that counts as best, and as worst, for its guiding spark.
        grow: factor of the amplitude after a success.
        shrink: factor of the amplitude after a failure.
        remeasure: score the fireworks again with every generation, for a function that changes in between.
        told: one firework, at first the one at `start`, is the search's incumbent, which is told with every generation, so that
            it never is part of the batch; it moves where the search takes one of its candidates, or to another firework.

    Raises:
        ValueError: a setting is unknown or out of its range.
    """

    def __init__(
        self,
        d: int,
        popsize: int,
        seed: int,
        *,
        variant: Variant = "lotfwa",
        fireworks: int | None = None,
        box: tuple[float, float] = (-5.0, 5.0),
        amplitude: float | None = None,
        start: ArrayLike | None = None,
        g_max: int | None = None,
        share: float = 0.2,
        grow: float = 1.2,
        shrink: float = 0.9,
        remeasure: bool = False,
        told: bool = False,
    ) -> None:
        if variant not in ("lotfwa", "gfwa", "bbfwa", "dynfwa"):
            raise ValueError(f"expected variant lotfwa, gfwa, bbfwa or dynfwa, got {variant!r}")
        if fireworks is None:
            fireworks = 1 if variant in ("gfwa", "bbfwa") else min(5, max(1, popsize // 20))
        if fireworks < 1 or popsize < 4 * fireworks:
            raise ValueError(f"expected at least 4 candidates for each firework, got {popsize} for {fireworks}")
        if not -np.inf < box[0] < box[1] < np.inf:
            raise ValueError(f"expected a box (low, high), got {box}")
        if not (0 < share <= 0.5 and grow >= 1 and 0 < shrink <= 1):
            raise ValueError(f"expected 0 < share <= 0.5, grow >= 1, 0 < shrink <= 1, got {share}, {grow} and {shrink}")
        self._low, self._high = box
        self._amplitude = float(box[1] - box[0] if amplitude is None else amplitude)
        if not 0 < self._amplitude < np.inf:
            raise ValueError(f"expected an amplitude above 0, got {amplitude}")
        self._d, self._popsize, self._variant, self._mu = d, popsize, variant, fireworks
        self._share, self._grow, self._shrink, self._g_max, self._remeasure = share, grow, shrink, g_max, remeasure
        self._rng = np.random.default_rng(seed)
        self._x = self._anywhere((fireworks, d))
        if start is not None:
            self._x[0] = start_point(start, d)
            if (self._x[0] < self._low).any() or (self._x[0] > self._high).any():
                raise ValueError(f"the starting point lies outside the box {box}")
        elif told:
            raise ValueError("an incumbent that is told needs a start")
        self.wants_incumbent, self._standing = told, 0
        self._loss = np.full(fireworks, np.inf)
        self._known = np.zeros(fireworks, dtype=bool)
        self._a = np.full(fireworks, self._amplitude)
        self._guide = np.zeros((fireworks, d))
        self._guided = np.zeros(fireworks, dtype=bool)
        self._g = 0
        self._kind_of = self._owner = np.zeros(0, dtype=np.int64)

    @property
    def best(self) -> tuple[NDArray[np.float64], float]:
        """The best firework [d] and its loss, infinite as long as nothing was told."""
        i = int(np.argmin(self._loss))
        return self._x[i].copy(), float(self._loss[i])

    def _propose(self) -> NDArray[np.float64]:
        unknown = np.arange(self._mu) if self._remeasure else np.flatnonzero(~self._known)
        if self.wants_incumbent:
            unknown = unknown[unknown != self._standing]
        guided = np.flatnonzero(self._guided)
        counts = self._split(self._popsize - len(unknown) - len(guided))
        sparks = np.repeat(np.arange(self._mu), counts)
        self._owner = np.concatenate([unknown, guided, sparks])
        self._kind_of = np.repeat([_FIREWORK, _GUIDE, _SPARK], [len(unknown), len(guided), len(sparks)])
        return np.concatenate([self._x[unknown], self._guide[guided], self._explode(sparks)])

    def _learn(self, asked: NDArray[np.float64], losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        self._g += 1
        measured = self._kind_of == _FIREWORK
        self._loss[self._owner[measured]] = losses[measured]
        if self.wants_incumbent and self._incumbent is not None:
            self._loss[self._standing] = self._incumbent.loss
        self._known[:] = True
        if self._variant == "dynfwa":
            self._select_together(asked, losses)
            return
        guides = self._guides(asked, losses) if self._variant != "bbfwa" else None
        before = self._loss.copy()
        for i in range(self._mu):
            self._select(i, asked, losses)
        if self._taken is not None:
            self._standing = int(self._owner[self._taken])
        if guides is not None:
            self._guide, self._guided = guides, np.ones(self._mu, dtype=bool)
        if self._variant == "lotfwa":
            self._loser_out(before)

    @property
    def _taken(self) -> int | None:
        """The candidate that is the search's incumbent from now on; None where it stays, or where nobody tells."""
        return self._incumbent.taken if self.wants_incumbent and self._incumbent is not None else None

    def _anywhere(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return self._rng.uniform(self._low, self._high, shape)

    def _mapped(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coordinates outside the box drawn anew."""
        return np.where((x < self._low) | (x > self._high), self._anywhere(x.shape), x)

    def _explode(self, owner: NDArray[np.int64]) -> NDArray[np.float64]:
        """One spark for each entry of `owner`."""
        shape = (len(owner), self._d)
        moves = self._rng.uniform(-1.0, 1.0, shape)
        if self._variant == "dynfwa":
            moves *= self._rng.random(shape) < 0.5
        return self._mapped(self._x[owner] + self._amplitudes()[owner, np.newaxis] * moves)

    def _split(self, sparks: int) -> NDArray[np.int64]:
        """How many sparks each firework gets: equally many, or in dynFWA more for better ones."""
        worst = self._loss.max()
        if self._variant != "dynfwa" or self._mu == 1 or not np.isfinite(worst) or worst == self._loss.min():
            quota = np.full(self._mu, sparks / self._mu)
        else:
            quota = sparks * np.clip((worst - self._loss) / np.sum(worst - self._loss), _LEAST, _MOST)
            quota *= sparks / quota.sum()
        counts: NDArray[np.int64] = np.floor(quota).astype(np.int64)
        rest = np.argsort(counts - quota, kind="stable")[: sparks - counts.sum()]
        counts[rest] += 1
        return counts

    def _amplitudes(self) -> NDArray[np.float64]:
        """Amplitude of each firework; in dynFWA that of the best one (the first, and any that is as good) is dynamic, the others share
        a sum."""
        if self._variant != "dynfwa" or not np.isfinite(self._loss).all():
            return self._a
        behind = self._loss - self._loss.min()
        total = behind.sum()
        shared = _SPREAD * (self._high - self._low) * behind / total if total > 0 else self._a
        return np.where((np.arange(self._mu) == 0) | (behind == 0), self._a, shared)

    def _guides(self, asked: NDArray[np.float64], losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Guiding sparks [mu, d]: from the firework along (mean of its best sparks) - (mean of its worst sparks)."""
        guides = np.empty_like(self._x)
        for i in range(self._mu):
            mine = (self._owner == i) & (self._kind_of == _SPARK)
            sparks = asked[mine][np.argsort(losses[mine], kind="stable")]
            k = max(1, int(self._share * len(sparks)))
            guides[i] = self._x[i] + sparks[:k].mean(axis=0) - sparks[-k:].mean(axis=0)
        return self._mapped(guides)

    def _select(self, i: int, asked: NDArray[np.float64], losses: NDArray[np.float64]) -> None:
        """The firework moves to its best candidate if that is better, or to the one that the search takes; its amplitude learns."""
        mine = np.flatnonzero((self._owner == i) & (self._kind_of != _FIREWORK))
        best, taken = mine[np.argmin(losses[mine])], self._taken
        better = losses[best] < self._loss[i]
        if taken is not None and self._owner[taken] == i:
            best, better = taken, self._kind_of[taken] != _FIREWORK
        elif taken is None and self.wants_incumbent and i == self._standing:
            better = False
        if better:
            self._x[i], self._loss[i] = asked[best], losses[best]
            self._a[i] *= self._grow
        else:
            self._a[i] *= self._shrink

    def _loser_out(self, before: NDArray[np.float64]) -> None:
        """Restart the fireworks that at their last pace will not reach the best one in time."""
        left = 0 if self._g_max is None else self._g_max - self._g
        if left <= 0:
            return
        pace, behind = np.zeros(self._mu), np.zeros(self._mu)
        np.subtract(before, self._loss, out=pace, where=np.isfinite(before) & np.isfinite(self._loss))
        np.subtract(self._loss, self._loss.min(), out=behind, where=np.isfinite(self._loss))
        losers = (pace > 0) & (pace * left < behind)
        if self.wants_incumbent:
            losers[self._standing] = False
        self._x[losers] = self._anywhere((int(losers.sum()), self._d))
        self._loss[losers], self._a[losers] = np.inf, self._amplitude
        self._known[losers] = self._guided[losers] = False

    def _select_together(self, asked: NDArray[np.float64], losses: NDArray[np.float64]) -> None:
        """dynFWA: the best of all becomes the first firework, random ones of the rest that have a loss the others."""
        fresh = np.flatnonzero(self._kind_of != _FIREWORK)
        x, loss = np.concatenate([self._x, asked[fresh]]), np.concatenate([self._loss, losses[fresh]])
        best, taken = int(np.argmin(loss)), self._taken
        if taken is not None:
            scored_again = self._kind_of[taken] == _FIREWORK
            best = int(self._owner[taken] if scored_again else self._mu + np.searchsorted(fresh, taken))
        elif self.wants_incumbent:
            best = self._standing
        self._a *= self._grow if loss[best] < self._loss.min() else self._shrink
        pool = np.delete(np.arange(len(loss)), best)
        finite = pool[np.isfinite(loss[pool])]
        others = self._rng.choice(finite if len(finite) >= self._mu - 1 else pool, self._mu - 1, replace=False)
        chosen = np.concatenate([[best], others]).astype(np.int64)
        self._x, self._loss = x[chosen], loss[chosen]

    @property
    def _kind(self) -> str:
        return f"Fireworks(d={self._d}, popsize={self._popsize}, variant={self._variant!r}, fireworks={self._mu})"

    def _save(self) -> dict[str, Any]:
        arrays = {name: getattr(self, name).copy() for name in _ARRAYS}
        numbers = {"g": self._g, "standing": self._standing}
        return {"kind": self._kind, "arrays": arrays, **numbers, "rng": self._rng.bit_generator.state}

    def _load(self, state: State) -> None:
        check_kind(self._kind, state)
        for name in _ARRAYS:
            setattr(self, name, np.array(state["arrays"][name]))
        self._g, self._standing = state["g"], state.get("standing", 0)
        self._rng.bit_generator.state = state["rng"]


_ARRAYS = ("_x", "_loss", "_known", "_a", "_guide", "_guided", "_kind_of", "_owner")


@register
class Fireworks(Optimizer):
    """Fireworks within a box around the start."""

    kind: ClassVar[str] = "fireworks"
    summary: ClassVar[str] = "sparks in boxes whose size learns from success; keeps its best candidate"
    source: ClassVar[str] = "Li and Tan, IEEE TEVC 2018 (LoTFWA)"
    uses: ClassVar[Uses] = "sampler"

    popsize: Annotated[int, Field(ge=4, le=10_000)] = Field(default=20, description="candidates in one generation")
    sigma: Size = Field(default=1.0, description="unit of amplitude, and of the box in a subspace")
    variant: Variant = Field(default="lotfwa", description="which fireworks algorithm")
    amplitude: Positive = Field(default=0.5, description="first amplitude of fireworks, in units of sigma")
    shrink: Annotated[float, Field(gt=0, le=1)] = Field(default=0.7, description="of the amplitude after a failure")

    def start(self, space: Space) -> VectorAskTell:
        """Fireworks around the space's start; the box is `BOX` sigma wide on either side of a subspace's origin."""
        start = np.zeros(space.d) if space.start is None else np.asarray(space.start)
        inside = BOX * self.sigma
        box = (-inside, inside) if space.start is None else (float(start.min()) - BOX, float(start.max()) + BOX)
        return FireworksSearch(
            space.d,
            self.popsize,
            space.seed,
            variant=self.variant,
            box=box,
            amplitude=self.amplitude * self.sigma,
            start=start,
            g_max=space.generations,
            shrink=self.shrink,
            remeasure=True,
            told=space.told,
        )
