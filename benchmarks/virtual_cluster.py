"""A cluster that exists on paper: workers on a clock of its own, with what machines and networks do to them.

`ray_scaling.py` simulates hundreds of workers with it, and tests let workers die, hang and be refused. The pool that shares out
shards is the real one.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tandemtune.executors.base import Answer
from tandemtune.executors.pool import Call, WorkerLost, WorkerRefused
from tandemtune.executors.worker import Plain, read
from tandemtune.runs.records import Costs

Score = Callable[[bytes], Plain]


@dataclass(frozen=True)
class Network:
    """What sending costs.

    Args:
        call: seconds of the driver's own time for each call, there and back.
        latency: seconds that a message is on its way, each way.
        bytes_per_second: of the driver's connection.
    """

    call: float = 0.0
    latency: float = 0.0
    bytes_per_second: float = math.inf


@dataclass
class Behaviour:
    """What a worker is like.

    Args:
        ready: seconds until it is.
        dies: when, on the cluster's clock.
        refused: why it cannot be used; empty where it can.
        hangs: from which of its shards on it never answers.
        slow: everything takes so many times as long.
    """

    ready: float = 1.0
    dies: float = math.inf
    refused: str = ""
    hangs: int | None = None
    slow: float = 1.0


@dataclass(eq=False)
class _Worker:
    like: Behaviour
    score: Score
    free: float = 0.0
    shards: int = 0


@dataclass(eq=False)
class _Call:
    worker: _Worker
    message: bytes | None
    ends: float = math.inf
    lost: bool = False


@dataclass
class VirtualCluster:
    """Workers on a virtual clock.

    Args:
        make: what a new worker scores with.
        behaviours: of the workers in the order of their beginning; what comes later has the default.
        seconds: what a shard takes, by its message.
        network: what sending costs.
    """

    make: Callable[[], Score]
    behaviours: Sequence[Behaviour] = ()
    seconds: Callable[[bytes], float] = lambda message: 0.1
    network: Network = Network()
    clock: float = 0.0
    ended: list[Any] = field(default_factory=list)
    _count: Any = field(default_factory=itertools.count)
    _events: list[tuple[float, int, _Call]] = field(default_factory=list)

    def begin(self) -> tuple[Any, Call]:
        """A new worker."""
        number = next(self._count)
        like = self.behaviours[number] if number < len(self.behaviours) else Behaviour()
        worker = _Worker(like, self.make())
        worker.free = self.clock + like.ready
        return worker, self._expect(_Call(worker, None), worker.free)

    def score(self, worker: Any, message: bytes) -> Call:
        """Give a worker a shard."""
        self.clock += self.network.call + len(message) / self.network.bytes_per_second
        begin = max(self.clock + self.network.latency, worker.free)
        hangs = worker.like.hangs is not None and worker.shards >= worker.like.hangs
        worker.shards += 1
        worker.free = math.inf if hangs else begin + worker.like.slow * self.seconds(message)
        return self._expect(_Call(worker, message), worker.free + self.network.latency)

    def wait(self, calls: Collection[Call], seconds: float) -> Sequence[Call]:
        """Let time pass until a call ends, or so long."""
        until = self.clock + seconds
        while self._events and self._events[0][2] not in calls:
            heapq.heappop(self._events)
        if not self._events or self._events[0][0] > until:
            self.clock = until
            return []
        self.clock = max(self.clock, self._events[0][0])
        done = []
        while self._events and self._events[0][0] <= self.clock:
            call = heapq.heappop(self._events)[2]
            if call in calls:
                done.append(call)
        return done

    def answer(self, call: Call) -> Answer | str:
        """What a call has come to."""
        assert isinstance(call, _Call)
        if call.lost:
            raise WorkerLost("its machine is gone")
        if call.message is not None:
            answer = read(call.worker.score(call.message))
            return replace(answer, seconds=call.worker.like.slow * self.seconds(call.message))
        if call.worker.like.refused:
            raise WorkerRefused(call.worker.like.refused)
        return "on paper"

    def end(self, worker: Any) -> None:
        """Let a worker go."""
        self.ended.append(worker)

    def now(self) -> float:
        """Seconds."""
        return self.clock

    def _expect(self, call: _Call, ends: float) -> Call:
        dies = call.worker.like.dies
        call.lost, call.ends = ends > dies, max(self.clock, min(ends, dies))
        if math.isfinite(call.ends):
            heapq.heappush(self._events, (call.ends, next(self._count_events), call))
        return call

    _count_events: Any = field(default_factory=itertools.count)


def stragglers(seconds: float, spread: float, seed: int = 0) -> Callable[[bytes], float]:
    """What shards take where machines are not quite alike from one moment to the next: log-normal around a median.

    Args:
        seconds: the median.
        spread: standard deviation of the logarithm.
        seed: of the random stream.
    """
    source = random.Random(seed)
    return lambda message: seconds * math.exp(source.gauss(0.0, spread))


class Idle:
    """An evaluator that does nothing."""

    depth = 1.0

    def evaluate(self, point: Any, candidates: Any, generation: int | None = None) -> Any:
        """No losses worth the name."""
        return np.zeros(len(next(iter(candidates.values()))))

    def cost(self, *arguments: Any) -> Costs:
        """Nothing."""
        return Costs(forward=1)


class IdleElsewhere:
    """Makes `Idle`."""

    resources = (1, "cpu")

    def evaluators(self) -> Any:
        """A new one."""
        return [Idle()]
