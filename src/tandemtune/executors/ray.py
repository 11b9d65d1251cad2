"""Workers on any number of machines, by Ray."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tandemtune.errors import RunError, TandemTuneError, UsageError
from tandemtune.evaluators.base import Evaluator
from tandemtune.executors.base import Answer, Elsewhere, Executor, Shard, Tell
from tandemtune.executors.pool import Call, Pool, WorkerLost, WorkerRefused
from tandemtune.executors.shared import Shared, here
from tandemtune.executors.worker import Plain, Worker, read
from tandemtune.plugins import register
from tandemtune.system import cores, fingerprint

STORE = 80 * 2**20
"""Bytes of the object store of a cluster that a run starts for itself: nothing big is sent."""
REACHED = 10.0
"""Seconds in which a cluster has to answer."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Variables of the environment of a cluster that a run starts: nobody is told of it, and workers are no less important than the run."""
HERE = "local"
"""The address of a cluster that a run starts for itself."""
ADDRESS = "RAY_ADDRESS"
"""Variable of the environment that names a cluster; `ray job submit` sets it."""


@register
class RayExecutor(Executor):
    """Workers on a Ray cluster."""

    kind: ClassVar[str] = "ray"
    summary: ClassVar[str] = "candidates are shared out to workers on a Ray cluster, each with a copy of the model"
    source: ClassVar[str] = "this project"

    shard: Shard | None = Field(
        default=4,
        description="candidates that are scored together; the result depends on it in the last bits, and on nothing else here",
    )
    address: str | None = Field(
        default=None,
        description="auto for the cluster that this machine belongs to, HOST:PORT, ray://HOST:PORT (needs ray[client]), or local for one of this machine alone "
        "that ends with the run; if left out, RAY_ADDRESS, or local",
    )
    workers: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="copies of the model; as many as there is room for if left out"
    )
    cpus: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] | None = Field(
        default=None, description="processors that each worker reserves; as many as the run has threads if left out"
    )
    gpus: Annotated[float, Field(ge=0, le=1024, allow_inf_nan=False)] | None = Field(
        default=None, description="accelerators that each worker reserves; one where the run uses one, if left out"
    )
    late: Annotated[float, Field(ge=1.5, allow_inf_nan=False)] = Field(
        default=3.0, description="what takes so many times as long as usual is given to a second worker, too"
    )
    start_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=600.0, description="how long to wait for the first worker"
    )

    def problems(self, recipe: Any) -> Iterator[str]:
        """A method that scores no candidates."""
        optimizers = [one.method.optimizer for one in recipe.stretches]
        if not any(optimizer.searches for optimizer in optimizers):
            yield (
                f"[run] executor: ray shares out candidates, and {optimizers[0].kind} scores none: choose a search without gradient, or leave "
                "it out"
            )

    def check(self) -> None:
        """Refuse to begin without Ray, or where nobody answers at the cluster's address."""
        if find_spec("ray") is None:
            raise UsageError(
                "ray needs the package ray, which is not installed: pip install 'tandemtune[ray]', or leave it out"
            )
        place = self.address or os.environ.get(ADDRESS) or HERE
        if place.startswith("ray://") and find_spec("grpc") is None:
            raise UsageError(
                f"the address {place} needs Ray's client, which is not installed: pip install 'ray[client]'"
            )
        with _explained(place):
            _reach(place)

    @contextmanager
    def opened(
        self, evaluators: Sequence[Evaluator], elsewhere: Elsewhere, tell: Tell
    ) -> Iterator[Sequence[Evaluator]]:
        """Connect, begin workers, and let all go at the end."""
        self.check()
        threads, device = elsewhere.resources
        gpus = float(device.startswith("cuda")) if self.gpus is None else self.gpus
        needs = {"CPU": self.cpus or float(threads), "GPU": gpus}
        tell(f"connecting to the cluster{f' at {self.address}' if self.address else ''}")
        with connected(self.address):
            cluster = RayCluster(elsewhere, needs)
            count = self.workers or cluster.room()
            tell(f"beginning {count} {'worker' if count == 1 else 'workers'}")
            pool = Pool(cluster, count, self.late, here(evaluators), tell)
            try:
                pool.begin(self.start_seconds)
                yield [Shared(evaluator, self.shard, pool, number) for number, evaluator in enumerate(evaluators)]
            finally:
                pool.close()


# ---- Ray itself --------------------------------------------------------------------------------------------------


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Use a cluster, and leave it at the end; one that was started here ends then. What is connected already stays so.

    Args:
        address: as `RayExecutor.address`.

    Raises:
        RunError: it cannot be reached.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    place = address or os.environ.get(ADDRESS) or HERE
    own: dict[str, Any] = {"num_cpus": cores(), "object_store_memory": STORE, "include_dashboard": False}
    with _explained(place):
        _reach(place)
        ray.init(place, log_to_driver=False, configure_logging=False, **(own if place == HERE else {}))
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Say of whatever Ray raises that the cluster cannot be used."""
    try:
        yield
    except Exception as error:  # Ray has many
        said = str(error).strip().splitlines()
        raise RunError(
            f"the Ray cluster{' of this machine' if place == HERE else f' at {place}'} cannot be used: "
            f"{said[0] if said else type(error).__name__}: check [run] address"
        ) from error


def _reach(place: str) -> None:
    """Find out at once whether somebody answers at HOST:PORT; Ray itself tries for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = place.rpartition("//")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=REACHED).close()


def room_for(needs: Mapping[str, float], instead: str) -> int:
    """How many workers the cluster has room for, if nobody else uses it.

    Args:
        needs: what each reserves: CPU, GPU.
        instead: what to change where there is no room.

    Raises:
        RunError: not for one.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = {name: amount for name, amount in needs.items() if amount}
    fitting = sum(min(int(node.get(name, 0.0) // amount) for name, amount in wanted.items()) for node in nodes)
    if not fitting:
        said = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
        most = "; ".join(", ".join(f"{node.get(name, 0.0):g} {name}" for name in wanted) for node in nodes[:4])
        raise RunError(f"no machine of the cluster has room for a worker of {said} (they have {most}): {instead}")
    return int(fitting)


def in_a_line(error: BaseException) -> str:
    """What an error says: its first line, and its last one, where Ray puts what it was about."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


class RayCluster:
    """Workers as Ray's actors.

    Args:
        elsewhere: what each makes its evaluator of.
        needs: what each reserves: CPU, GPU.
    """

    def __init__(self, elsewhere: Elsewhere, needs: Mapping[str, float]) -> None:
        import ray

        self._ray, self._needs = ray, needs
        self._elsewhere = ray.put(pickle.dumps(elsewhere, protocol=5))
        self._versions = fingerprint()
        self._actor = ray.remote(Actor).options(
            num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_restarts=0, max_task_retries=0
        )

    def room(self) -> int:
        """How many workers there is room for.

        Raises:
            RunError: not for one.
        """
        return room_for(self._needs, "set [model] threads, or fewer cpus and gpus of [run] executor")

    def begin(self) -> tuple[Any, Call]:
        """A new actor, which reads the model."""
        worker = self._actor.remote()
        return worker, worker.make.remote(self._versions, self._elsewhere)

    def score(self, worker: Any, message: bytes) -> Call:
        """Give an actor a shard."""
        call: Call = worker.score.remote(message)
        return call

    def wait(self, calls: Collection[Call], seconds: float) -> Sequence[Call]:
        """Wait until a call ends, and take those that have ended by then."""
        if not calls:
            time.sleep(seconds)
            return []
        first, _ = self._ray.wait(list(calls), timeout=seconds)
        if not first:
            return []
        done, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        found: Sequence[Call] = done
        return found

    def answer(self, call: Call) -> Answer | str:
        """What a call has come to."""
        from ray.exceptions import RayError, RayTaskError

        try:
            found = self._ray.get(call, timeout=60)
        except RayTaskError as error:  # what scoring itself has raised
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except RayError as error:  # its process, its machine or its memory
            raise WorkerLost(in_a_line(error)) from error
        if isinstance(found, _Refused):
            raise WorkerRefused(found.why)
        return found if isinstance(found, str) else read(found)

    def end(self, worker: Any) -> None:
        """Kill an actor."""
        with suppress(Exception):
            self._ray.kill(worker)

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()


class _Refused:
    """A worker that cannot work for a run."""

    def __init__(self, why: str) -> None:
        self.why = why


class Actor:
    """A worker in a process of Ray's."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def make(self, wanted: dict[str, str], elsewhere: bytes) -> str | _Refused:
        """Get ready; where this is, or why it cannot be used."""
        import ray

        node = ray.util.get_node_ip_address()
        try:
            self._worker = Worker(wanted, elsewhere)
        except TandemTuneError as error:
            return _Refused(f"{node}: {error}")
        except Exception as error:  # too little memory, a file that is not there: whatever this machine has against it
            return _Refused(f"{node}: {type(error).__name__}: {in_a_line(error)}")
        return str(node)

    def score(self, message: bytes) -> Plain:
        """Score a shard."""
        assert self._worker is not None
        return self._worker.score(message)
