"""The evaluator of a search whose candidates are scored by workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.evaluators.base import Evaluator
from tandemtune.evaluators.candidates import count_of
from tandemtune.executors.base import Answer, Around, scored, shards, together
from tandemtune.executors.messages import Request
from tandemtune.executors.pool import Pool
from tandemtune.tunables.base import Point


class Shared(Around):
    """Scores a generation shard by shard, by many workers.

    Args:
        inner: the same evaluator in this process.
        shard: candidates in each shard; None for all of them.
        pool: the workers.
        stretch: number of the search that it scores for, from 0.
    """

    def __init__(self, inner: Evaluator, shard: int | None, pool: Pool, stretch: int = 0) -> None:
        super().__init__(inner)
        self.shard, self.pool, self.stretch = shard, pool, stretch

    def evaluate(
        self, point: Point, candidates: Mapping[int, Tensor], generation: int | None = None
    ) -> NDArray[np.float64]:
        """Training losses [P] of candidates, see `Evaluator.evaluate`."""
        each = self.inner.cost(list(candidates), 1, generation).forward
        parts = shards(candidates, self.shard or count_of(candidates))
        requests = [Request(point, part, generation, max(1.0, each * count_of(part)), self.stretch) for part in parts]
        return together(self.inner, self.pool.score(requests), generation)


def here(evaluators: Sequence[Evaluator]) -> Callable[[Request], Answer]:
    """What scores a shard in this process, with the evaluator of its search."""

    def score(request: Request) -> Answer:
        return scored(evaluators[request.stretch], request.point, request.candidates, request.generation)

    return score
