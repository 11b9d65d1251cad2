"""Evaluators and executors of tests: workers in this process, on a clock that they are told."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from tandemtune.evaluators.base import Evaluator
from tandemtune.executors.base import Answer, Elsewhere, Executor, Shard, Tell
from tandemtune.executors.messages import Request
from tandemtune.executors.pool import Pool
from tandemtune.executors.shared import Shared, here
from tandemtune.executors.worker import Worker
from tandemtune.runs.records import Costs
from tandemtune.system import fingerprint
from virtual_cluster import Behaviour, VirtualCluster


class Sums:
    """An evaluator whose losses say what it was asked."""

    depth = 4.0

    def evaluate(self, point: Any, candidates: Mapping[int, torch.Tensor], generation: int | None = None) -> Any:
        """Sums of candidates and point, and the generation."""
        total = sum(vector.double().sum() for vector in point.values())
        each = sum(vectors.double().sum(dim=1) for vectors in candidates.values())
        return (each + 1000.0 * total + (generation or 0)).numpy()

    def cost(self, blocks: Any, count: int, generation: int | None = None, kept: int | None = None) -> Costs:
        """One a candidate."""
        return Costs(candidates=count, forward=count)


class MadeElsewhere:
    """Makes `Sums`; refuses with a message where there is one."""

    resources = (1, "cpu")

    def evaluators(self) -> Any:
        """A new one."""
        return [Sums()]


def requests(count: int, generation: int = 1) -> list[Request]:
    """Shards of two candidates each."""
    point = {0: torch.full((3,), 0.5), 1: torch.ones(3)}
    return [Request(point, {1: torch.randn(2, 3)}, generation) for _ in range(count)]


def expected(wanted: Sequence[Request]) -> list[list[float]]:
    """What they should come to."""
    return [Sums().evaluate(r.point, r.candidates, r.generation).tolist() for r in wanted]


def losses(answers: Sequence[Answer]) -> list[list[float]]:
    """As lists."""
    return [answer.losses.tolist() for answer in answers]


def worker_of(elsewhere: Elsewhere) -> Worker:
    """A worker in this process; everything goes through bytes."""
    return Worker(fingerprint(), pickle.dumps(elsewhere))


def pool_of(count: int, *behaviours: Behaviour, seconds: float = 0.1, told: list[str] | None = None) -> Pool:
    """A pool of workers that add up."""
    cluster = VirtualCluster(lambda: worker_of(MadeElsewhere()).score, behaviours, lambda message: seconds)
    return Pool(cluster, count, 3.0, here([Sums()]), (told if told is not None else []).append)  # type: ignore[arg-type]


class Virtual(Executor):
    """Workers of a whole run, in this process."""

    kind: ClassVar[str] = "virtual"
    shard: Shard | None = 2
    workers: int = 3
    dies: float = -1.0

    @contextmanager
    def opened(
        self, evaluators: Sequence[Evaluator], elsewhere: Elsewhere, tell: Tell
    ) -> Iterator[Sequence[Evaluator]]:
        """As Ray's does it."""
        behaviours = [Behaviour(dies=self.dies)] if self.dies >= 0 else []
        cluster = VirtualCluster(lambda: worker_of(elsewhere).score, behaviours)
        pool = Pool(cluster, self.workers, 3.0, _not_here, tell)
        pool.begin(60.0)
        yield [Shared(evaluator, self.shard, pool, number) for number, evaluator in enumerate(evaluators)]
        pool.close()


def _not_here(request: Request) -> Answer:
    raise AssertionError("workers are there")
