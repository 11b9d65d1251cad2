"""Runs on real Ray clusters: equal to a local run whatever happens to workers, nodes and the run itself."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import small
from small import artefacts, resume, tune
from tandemtune import compare
from tandemtune.callbacks import Callback
from tandemtune.comparisons import cluster as places
from tandemtune.comparisons.cluster import ClusterProcesses
from tandemtune.comparisons.ending import STOPPED
from tandemtune.comparisons.processes import Kept, LostError
from tandemtune.errors import RunError, UsageError
from tandemtune.executors import ray as member
from tandemtune.executors.pool import WorkerLost
from tandemtune.executors.ray import RayCluster, RayExecutor, connected
from tandemtune.runs.journal import read_journal
from tandemtune.runs.store import RunFolder

ray = pytest.importorskip("ray")
exceptions = pytest.importorskip("ray.exceptions")
pytestmark = pytest.mark.timeout(900)
RECIPE = {"method__budget": 120, "method__popsize": 5, "method__dev_every": 1}
STORE = 80 * 2**20


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in member.QUIET.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        patch.delenv(member.ADDRESS, raising=False)
        yield


@pytest.fixture(scope="module")
def cluster(_quiet):
    """A cluster of this machine, which all runs here share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(member, "cores", lambda: 2)
        with connected(None):
            yield


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A local run with the same shards."""
    place = tmp_path_factory.mktemp("local")
    recipe = small.recipe(place, **RECIPE, run__executor={"kind": "local", "shard": 2})
    tune(recipe, place / "run")
    return place


def on_ray(local, **options):
    return small.recipe(local, **RECIPE, run__executor=RayExecutor(shard=2, **options))


class At(Callback):
    """Does something after a step."""

    def __init__(self, step: int, act: Any) -> None:
        self._step, self._act, self.said = step, act, []

    def on_turn(self, record: Any, state: Any, seconds: float, recorded: bool) -> None:
        if record.step == self._step:
            self._act()

    def on_progress(self, text: str) -> None:
        self.said.append(text)


def pids(name: bytes = b"ray::Actor") -> list[int]:
    """Processes of workers that hold a model, oldest first."""
    found = []
    for place in Path("/proc").iterdir():
        with suppress(OSError):
            if place.name.isdecimal() and name in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return sorted(found)


def test_equal_to_a_local_run(cluster, local, tmp_path):
    """With one worker and with two, one of which is killed."""
    tune(on_ray(local, workers=1), tmp_path / "one")
    assert artefacts(tmp_path / "one") == artefacts(local / "run")
    killed = []

    def kill() -> None:
        killed.append(pids()[0])
        os.kill(killed[0], signal.SIGKILL)

    watch = At(3, kill)
    tune(on_ray(local, workers=2), tmp_path / "two", watch)
    assert artefacts(tmp_path / "two") == artefacts(local / "run")
    assert killed and any("is gone: another one is begun" in text for text in watch.said)


def test_without_ray_a_run_does_not_begin(local, tmp_path, monkeypatch):
    monkeypatch.setattr(member, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"ray needs the package ray.*pip install 'tandemtune\[ray\]'"):
        tune(on_ray(local), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rays_client_is_a_package_of_its_own(monkeypatch):
    monkeypatch.setattr(member, "find_spec", lambda name: None if name == "grpc" else name)
    with pytest.raises(UsageError, match=r"pip install 'ray\[client\]'"):
        RayExecutor(address="ray://127.0.0.1:1").check()


def test_more_than_a_machine_has(cluster):
    with pytest.raises(RunError, match="no machine of the cluster has room for a worker of 64 CPU"):
        RayCluster(Nothing(), {"CPU": 64.0, "GPU": 0.0}).room()
    assert RayCluster(Nothing(), {"CPU": 1.0, "GPU": 0.0}).room() == 2


class Nothing:
    """Makes no evaluator."""

    resources = (1, "cpu")

    def evaluators(self) -> Any:
        """It is not asked."""
        raise AssertionError


def test_a_worker_that_may_not_work(cluster, local, tmp_path, monkeypatch):
    """The weights have changed between the run's process and the worker's."""
    from tandemtune.elsewhere import AnotherProcess

    real = AnotherProcess.of
    monkeypatch.setattr(
        AnotherProcess,
        "of",
        lambda problem: _with_other_weights(real(problem)),
    )
    with pytest.raises(RunError, match=r"no worker can work for this run: .*the model's weights are no longer those"):
        tune(on_ray(local, workers=1), tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


def _with_other_weights(made: Any) -> Any:
    from dataclasses import replace

    return replace(made, facts={**made.facts, "weights_sha256": "0" * 64})


def test_no_such_cluster(local, tmp_path):
    """Asked in a process of its own, since this one is connected already."""
    called = _command(
        "run", small.write_recipe(tmp_path / "r.json", _plain(on_ray(local, address="127.0.0.1:1"))), tmp_path / "run"
    )
    try:
        said = called.communicate(timeout=200)[0]
    finally:
        called.kill()
    assert called.returncode == 1 and "the Ray cluster at 127.0.0.1:1 cannot be used" in said


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    executor = recipe["run"]["executor"]
    return {**recipe, "run": {**recipe["run"], "executor": {"kind": "ray", **executor.model_dump(exclude_unset=True)}}}


def _command(what: str, *arguments: Any) -> subprocess.Popen[str]:
    given = [str(a) for a in arguments]
    words = [what, given[0], "--out", given[1]] if what == "run" else [what, *given]
    return subprocess.Popen(
        [sys.executable, "-m", "tandemtune", *words, "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 7])
def test_the_run_itself_is_killed_and_resumed(cluster, local, tmp_path, step):
    """SIGKILL, with workers at work; they go with it, and the cluster stays. What is resumed ends as if nothing had been."""
    address = ray.get_runtime_context().gcs_address
    path = small.write_recipe(tmp_path / "r.json", _plain(on_ray(local, address=address)))
    process = _command("run", path, tmp_path / "run")
    _until(lambda: _steps(tmp_path / "run") >= step or process.poll() is not None)
    process.kill()
    process.wait()
    assert step <= _steps(tmp_path / "run") < _steps(local / "run")
    _until(lambda: not pids())
    resume(tmp_path / "run")
    assert artefacts(tmp_path / "run") == artefacts(local / "run")


@pytest.mark.slow
def test_a_run_with_a_cluster_of_its_own_leaves_nothing_behind(local, tmp_path):
    """Ended by itself, and killed."""
    path = small.write_recipe(tmp_path / "r.json", _plain(on_ray(local, workers=1)))
    for name in ("whole", "killed"):
        before = _daemons()
        process = _command("run", path, tmp_path / name)
        if name == "killed":
            _until(lambda: _steps(tmp_path / "killed") >= 2)
            process.kill()
        process.wait()
        _until(lambda: _daemons() <= before)  # noqa: B023
    assert artefacts(tmp_path / "whole") == artefacts(local / "run")


def _daemons() -> set[int]:
    found = set()
    for place in Path("/proc").iterdir():
        with suppress(OSError):
            if place.name.isdecimal() and b"/raylet" in (place / "cmdline").read_bytes().partition(b"\0")[0]:
                found.add(int(place.name))
    return found


def _steps(folder: Path) -> int:
    if not RunFolder(folder).journal.is_file():
        return 0
    return sum(record.event == "generation" for record in read_journal(RunFolder(folder).journal))


def _until(met: Any, seconds: float = 250.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1, 2, 5])
def test_workers_are_killed_at_any_moment(cluster, local, tmp_path, step):
    """At the beginning of the run, early and late; both of them in the last case."""

    def kill() -> None:
        for pid in pids()[: 2 if step == 5 else 1]:
            os.kill(pid, signal.SIGKILL)

    class AtStart(At):
        def on_start(self, record: Any, resumed: int, seconds: float) -> None:
            if step == 0:
                kill()

    tune(on_ray(local, workers=2), tmp_path / "run", AtStart(step, kill))
    assert artefacts(tmp_path / "run") == artefacts(local / "run")


@pytest.mark.slow
def test_a_worker_is_stopped(cluster, local, tmp_path):
    """SIGSTOP: it neither answers nor dies, so another one takes over."""
    stopped: list[int] = []

    def stop() -> None:
        stopped.append(pids()[0])
        os.kill(stopped[0], signal.SIGSTOP)

    try:
        tune(on_ray(local, workers=2), tmp_path / "run", At(2, stop))
    finally:
        for pid in stopped:
            with suppress(OSError):
                os.kill(pid, signal.SIGCONT)
    assert artefacts(tmp_path / "run") == artefacts(local / "run")


NODES = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import small
small.model_folder = lambda name="bert": Path(sys.argv[6])
from executors.test_ray import At, on_ray
from ray.cluster_utils import Cluster

local, out, removes, store = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "removes", int(sys.argv[5])
cluster = Cluster(
    initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, "include_dashboard": False, "object_store_memory": store}
)
second = cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=store)
cluster.wait_for_nodes()
watch = At(2, lambda: cluster.remove_node(second, allow_graceful=False)) if removes else At(-1, None)
small.tune(on_ray(local, address=cluster.address, gpus=1), out, watch)  # so one on each, though there are processors for four
print(json.dumps(watch.said))
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("what", "store"), [("stays", STORE), ("removes", STORE), ("stays", 75 * 2**20)])
def test_two_nodes(local, tmp_path, what, store):
    """Both stay, or one goes in the middle; at last with the smallest object store that Ray takes."""
    folder = str(Path(__file__).parent.parent)
    model = str(small.model_folder("bert"))
    command = [sys.executable, "-c", NODES, folder, str(local), str(tmp_path / "run"), what, str(store), model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert artefacts(tmp_path / "run") == artefacts(local / "run")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert any("beginning 2 workers" in text for text in said)


@pytest.mark.slow
def test_the_object_store_is_full(cluster, local, tmp_path):
    """Somebody else has filled it and goes on filling it: small messages go without it, a block of more than 100 kB finds room on disk."""
    import numpy as np

    method = {"name": "es", "budget": 12, "popsize": 2, "subspace": "none", "layers": "all", "dev_every": 2}
    large = {"method": {**method, "tunable": {"kind": "adapter", "width": 512}}}
    recipe = {**small.recipe(tmp_path), **large}
    run = recipe["run"]
    tune({**recipe, "run": {**run, "executor": {"kind": "local", "shard": 2}}}, tmp_path / "local")
    kept = [ray.put(np.ones(2**20, dtype=np.uint8)) for _ in range(100)]
    tune({**recipe, "run": {**run, "executor": RayExecutor(shard=2, workers=2)}}, tmp_path / "run")
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "local")
    assert len(kept) * 2**20 > STORE and int(ray.get(kept[0])[0]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("stay", [False, True])
def test_a_comparison_whose_runs_are_made_on_a_cluster(cluster, tmp_path, monkeypatch, stay):
    """The same results as by processes of this machine; the place of a run is killed in the middle, and the run gone on with."""
    monkeypatch.setattr(places, "ClusterProcesses", functools.partial(ClusterProcesses, stay=stay))
    recipe = small.recipe(tmp_path)
    del recipe["task"]["seed"]
    plan = {
        "seeds": [5, 6],
        "all": {"model": recipe["model"], "run.checkpoint_seconds": 0.0},
        "methods": {
            "c-lora": {"method.budget": 400, "d": 8, "r": 1, "popsize": 4, "layers": "all", "dev_every": 2},
            "lora": {"method.steps": 4, "dev_every": 2},
        },
        "tasks": {"small": {"task": recipe["task"]}},
    }
    compare(plan, out=tmp_path / "processes", jobs=1)
    killed: list[int] = []

    def kill() -> None:
        journal = tmp_path / "ray" / "small" / "c-lora" / "5" / "journal.jsonl"
        _until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 3)
        killed.append(pids(b"ray::Runner")[0])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    found = compare(plan, out=tmp_path / "ray", ray="auto", jobs=1)
    thread.join()
    assert killed and [run.failure for run in found.runs] == [None] * 4
    for method, seed in itertools.product(("c-lora", "lora"), ("5", "6")):
        one, other = (tmp_path / kind / "small" / method / seed for kind in ("processes", "ray"))
        assert artefacts(one) == artefacts(other)
    _until(lambda: not pids(b"ray::Runner"))


class Dies(places.Runner):
    """Its machine goes before it is ready."""

    def ready(self, wanted: dict[str, str]) -> tuple[str, str]:
        """It never says."""
        os._exit(1)


KEPT = Kept("x", None, "float32", None, 1, "cpu")


def test_a_machine_that_goes_before_it_is_ready(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "Runner", Dies)
    made = ClusterProcesses(1, 0.0, 1, tmp_path)
    for _ in range(2):
        with pytest.raises(LostError, match="a machine of the cluster is gone"):
            made.run(["ls"], KEPT, tmp_path / "log")
    made.close()


def test_a_comparison_that_waits_for_room_can_be_stopped(cluster, tmp_path):
    """Somebody else has all processors."""
    taken = [ray.remote(num_cpus=2)(Nothing).remote()]
    ray.get(taken[0].__ray_ready__.remote())
    made = ClusterProcesses(1, 0.0, 1, tmp_path)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(made.run(["ls"], KEPT, tmp_path / "log")))
    thread.start()
    thread.join(3)
    assert thread.is_alive()
    made.stop()
    thread.join(30)
    assert codes == [STOPPED]
    ray.kill(taken[0])


@pytest.mark.parametrize(
    "death",
    [
        exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\nMemory on the node: 9 GB"),
        exceptions.WorkerCrashedError(),
        exceptions.NodeDiedError("the node is gone"),
        exceptions.ActorUnschedulableError("no such place"),
        exceptions.RuntimeEnvSetupError("no environment"),
        exceptions.GetTimeoutError("too slow"),
    ],
    ids=lambda death: type(death).__name__,
)
def test_whatever_ray_reports_of_a_worker_it_is_lost(death, monkeypatch):
    """Only what scoring itself has raised is more than that."""
    pool = object.__new__(RayCluster)
    pool._ray = SimpleNamespace(get=raising(death))
    with pytest.raises(WorkerLost, match=str(death).partition("\n")[0].strip()[:20]):
        pool.answer("call")
    pool._ray = SimpleNamespace(get=raising(exceptions.RayTaskError("score", "a traceback", RunError("no such row"))))
    with pytest.raises(RunError, match="no such row"):
        pool.answer("call")


def raising(error: BaseException) -> Any:
    """A function that raises it."""

    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def test_what_a_machine_has_against_a_worker_is_told(monkeypatch):
    monkeypatch.setattr(member, "Worker", raising(MemoryError("no room for the model")))
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    made = member.Actor().make({}, b"")
    assert made.why == "10.0.0.7: MemoryError: no room for the model"


def test_a_machine_that_does_not_see_the_folder(cluster, tmp_path):
    """Its file system is another one, so its runs would be lost."""
    made = ClusterProcesses(1, 0.0, 1, tmp_path)
    (tmp_path / "mark").unlink()
    with pytest.raises(RunError, match="is not there: let --out lie on a file system that all machines share"):
        made.run(["ls"], KEPT, tmp_path / "log")
    made.close()
