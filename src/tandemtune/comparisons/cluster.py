"""The runs of a comparison on a Ray cluster: on each machine, in the same warm processes as on this one (`processes.py`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tandemtune.comparisons.ending import STOPPED
from tandemtune.comparisons.processes import Began, Kept, LostError, Processes, nothing
from tandemtune.errors import RunError
from tandemtune.executors.ray import RayExecutor, connected, in_a_line, room_for
from tandemtune.system import fingerprint

MARK = "mark"
"""A file in the common folder by which a machine shows that it sees the comparison's folder."""


@dataclass(eq=False)
class _Place:
    """Room for one run at a time on some machine.

    Args:
        actor: in charge of it.
        node: the machine's address.
        kept: what its warm process holds.
    """

    actor: Any
    node: str
    kept: Kept | None = None


@contextmanager
def on_cluster(
    address: str | None, gpus: float = 0.0, jobs: int | None = None
) -> Iterator[Callable[[int, Path], ClusterProcesses] | None]:
    """A cluster that is used until the context ends, and what makes a comparison's processes there; None where none is named.

    Args:
        address: auto, HOST:PORT, or local for a cluster of this machine alone; None for no cluster.
        gpus: that each run reserves.
        jobs: runs at a time at most; as many as there is room for if None.

    Raises:
        RunError: it cannot be reached.
    """
    if address is None:
        yield None
        return
    RayExecutor().check()
    with connected(address):
        yield lambda threads, place: ClusterProcesses(threads, gpus, jobs, place)


class ClusterProcesses:
    """Makes runs in processes of their own, on any machine of a cluster.

    Args:
        threads: processors that each run reserves.
        gpus: accelerators that each run reserves.
        jobs: runs at a time at most; None for as many as there is room for.
        place: a folder for what runs have in common, which every machine sees.
        stay: as for `Processes`.

    Raises:
        RunError: no machine has room for one run.
    """

    def __init__(self, threads: int, gpus: float, jobs: int | None, place: Path, stay: bool | None = None) -> None:
        import ray

        needs = {"CPU": float(threads), "GPU": gpus}
        room = room_for(needs, "set model.threads, or fewer --gpus")
        self.jobs = min(room, jobs or room)
        self.stopped = False
        self._ray, self._place, self._stay = ray, place.absolute(), stay
        self._actor = ray.remote(Runner).options(num_cpus=threads, num_gpus=gpus, max_restarts=0)
        self._idle: list[_Place] = []
        self._all: list[_Place] = []
        self._made = 0  # those that are being made among them
        self._lock = threading.Lock()
        (self._place / MARK).touch()

    def run(
        self, arguments: Sequence[str], kept: Kept, log: Path, began: Began = nothing, *, alone: bool = False
    ) -> int:
        """Call the command line somewhere, see `Processes.run`.

        Raises:
            LostError: the machine is gone; what the run has written is whole.
            RunError: a machine does not see the comparison's folder, or has other versions.
        """
        place = self._free(kept)
        if place is None:
            return STOPPED
        began(place.node)
        try:
            with self._explained(place.node):
                call = place.actor.run.remote(list(arguments), asdict(kept), str(log.absolute()), alone)
                code = int(self._ray.get(call))
        except LostError:
            if self._forgotten(place):
                raise
            return STOPPED
        with self._lock:
            if not self.stopped:
                self._idle.append(place)
        return code

    def close(self) -> None:
        """Let all go."""
        with self._lock:
            gone, self._all, self._idle = self._all, [], []
        for place in gone:
            with suppress(Exception):
                self._ray.get(place.actor.close.remote(), timeout=10)
            self._ray.kill(place.actor)

    def stop(self) -> None:
        """End all runs, as Ctrl-C does: their processes notice that whoever started them is gone."""
        with self._lock:
            self.stopped = True
            gone, self._all, self._idle = self._all, [], []
        for place in gone:
            self._ray.kill(place.actor)

    def _free(self, kept: Kept) -> _Place | None:
        """A place whose process holds the model, else a new one, else any that is idle; None where all has been stopped."""
        with self._lock:
            if self.stopped:
                return None
            warm = next((place for place in self._idle if place.kept == kept), None)
            full = self._made >= self.jobs
            found = warm or (self._idle[0] if full and self._idle else None)
            if found is not None:
                self._idle.remove(found)
                found.kept = kept
                return found
            self._made += 1
            made = _Place(self._actor.remote(str(self._place), self._stay), "a machine of the cluster", kept)
            self._all.append(made)
        try:
            with self._explained(made.node):
                made.node, why = self._ready(made)
        except LostError:
            if self._forgotten(made):
                raise
            return None
        if why:
            self._forgotten(made)
            self._ray.kill(made.actor)
            raise RunError(f"{made.node}: {why}")
        return made

    def _ready(self, place: _Place) -> tuple[str, str]:
        """Where a new place is, and why it cannot be used; there may be no room for it for long."""
        call = place.actor.ready.remote(fingerprint())
        while not self.stopped:
            if self._ray.wait([call], timeout=1.0)[0]:
                node, why = self._ray.get(call)
                return node, why
        raise LostError("stopped")

    def _forgotten(self, place: _Place) -> bool:
        """Forget a place that cannot be used any more; whether that matters, since not all has been stopped."""
        with self._lock:
            if self.stopped:
                return False
            self._all.remove(place)
            self._made -= 1
            return True

    @contextmanager
    def _explained(self, node: str) -> Iterator[None]:
        """Say of whatever Ray raises that a machine is gone, or what it had against a run."""
        from ray.exceptions import RayError, RayTaskError

        try:
            yield
        except RayTaskError as error:
            raise RunError(f"{node}: {in_a_line(error.cause or error)}") from error
        except RayError as error:
            raise LostError(f"{node} is gone: {in_a_line(error)}") from error


class Runner:
    """Room for one run on the machine where it is.

    Args:
        place: the folder for what runs have in common.
        stay: as for `Processes`.
    """

    def __init__(self, place: str, stay: bool | None) -> None:
        self._place = Path(place)
        self._processes = Processes(1, self._place, stay)

    def ready(self, wanted: dict[str, str]) -> tuple[str, str]:
        """Where this is, and why it cannot be used."""
        import ray

        own, node = fingerprint(), str(ray.util.get_node_ip_address())
        other = [
            f"{name} {wanted[name]} there, {own.get(name)} here" for name in wanted if own.get(name) != wanted[name]
        ]
        if other:
            return node, f"other versions than those of the comparison: {', '.join(other)}"
        if not (self._place / MARK).exists():
            return node, f"{self._place.parent} is not there: let --out lie on a file system that all machines share"
        return node, ""

    def run(self, arguments: list[str], kept: dict[str, Any], log: str, alone: bool) -> int:
        """Make a run."""
        return self._processes.run(arguments, Kept(**kept), Path(log), alone=alone)

    def close(self) -> None:
        """Let the warm process go."""
        self._processes.close()
