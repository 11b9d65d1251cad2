"""What Ray costs: one and two workers on this machine and on two nodes of it beside a local run, and hundreds of workers on paper.

    python benchmarks/ray_scaling.py MODEL [--json FILE] [--turns 14] [--rows 16] [--shard 4] [--from FILE]

The contenders score every generation of one search in turn, with the same shards; losses have to be equal to the bit, and what is
reported are medians of ratios, with quartiles. A simulation with the same pool on a virtual clock (`virtual_cluster.py`) then uses what was measured: time per shard and its
spread, message sizes, the cost of a call. Ray is started by this script and ended with it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from tandemtune import autotune, wiring
from tandemtune.callbacks import Callback
from tandemtune.config import load_config
from tandemtune.elsewhere import AnotherProcess
from tandemtune.evaluators.base import Evaluator
from tandemtune.executors import ray as on_ray
from tandemtune.executors.base import Answer, Around, Sharded
from tandemtune.executors.messages import Request
from tandemtune.executors.pool import Pool
from tandemtune.executors.ray import QUIET, STORE, RayCluster, RayExecutor, connected
from tandemtune.executors.worker import Plain
from tandemtune.problem import Problem
from tandemtune.runs.store import RunFolder
from tandemtune.runs.writing import write_json
from tandemtune.search.schedule import Phase
from tandemtune.subspace import RandomProjection
from tandemtune.system import cores
from virtual_cluster import IdleElsewhere, Network, VirtualCluster, stragglers

WORDS = (
    "the film",
    "plot",
    "acting was",
    "is a great",
    "dull",
    "long story",
    "that we saw",
    "never",
    "always very so",
    "and but of",
    "in it",
    "they",
)
POPULATION = 16
"""Candidates of a measured generation, the incumbent among them."""
H100 = {"RoBERTa-large, 47 tokens, bfloat16": 1.54e-3, "7B-shaped Llama, 107 tokens, bfloat16": 49.2e-3}
"""Seconds a candidate in chunks on one H100, 32 rows, mean of the layers; measured before."""
GENERATIONS, WORKERS = ((20, 1), (20, 4), (2048, 4)), (1, 8, 64, 512)
"""Populations and shards."""


Say = Callable[[str], None]


# ---- measured ----------------------------------------------------------------------------------------------------


class Watched(Pool):
    """A pool that notes how long shards take, and its ledgers."""

    seen: ClassVar[list[Watched]] = []

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rates: list[float] = []
        self.candidates = 0
        Watched.seen.append(self)

    def score(self, requests: Sequence[Request]) -> list[Answer]:
        """Score a generation."""
        found = super().score(requests)
        self.candidates += sum(len(answer.losses) for answer in found)
        self.rates += [answer.seconds / len(answer.losses) for answer in found]
        return found


class InTurn(Around):
    """All contenders score each generation, one after another; they have to find the same, to the bit.

    Args:
        contenders: by name.
        inner: what leaves the rest to.
    """

    def __init__(self, contenders: Mapping[str, Evaluator], inner: Evaluator) -> None:
        super().__init__(inner)
        self.contenders = contenders
        self.seconds: dict[str, list[float]] = {name: [] for name in contenders}

    def evaluate(self, point: Any, candidates: Any, generation: int | None = None) -> Any:
        """Losses of all of them."""
        found = {}
        for name, contender in self.contenders.items():
            begin = time.perf_counter()
            found[name] = contender.evaluate(point, candidates, generation)
            self.seconds[name].append(time.perf_counter() - begin)
        first, *others = found.values()
        if any(other.tobytes() != first.tobytes() for other in others):
            raise SystemExit(f"the losses differ: {found}")
        return first


def recipe(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """A recipe over rows of random words."""
    source = random.Random(0)
    for name, count in (("train", 4 * arguments.rows), ("test", 4)):
        texts = [" ".join(source.choices(WORDS, k=source.randint(8, 40))) for _ in range(count)]
        rows = [{"text": text, "label": ("bad", "good")[i % 2]} for i, text in enumerate(texts)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "model": {"name": arguments.model, "threads": 1, "dtype": "float32"},
        "task": {
            "name": "words",
            "train": str(place / "train.jsonl"),
            "test": str(place / "test.jsonl"),
            "template": "{text} It was {mask}",
            "labels": {"bad": "terrible", "good": "great"},
            "shots": arguments.rows // 2,
        },
        "method": {
            "name": "c-lora",
            "popsize": POPULATION - 1,  # the incumbent is scored with them
            "budget": POPULATION * arguments.turns,
            "layers": "all",
        },
        "run": {"executor": {"kind": "local", "shard": arguments.shard}},
    }


@contextmanager
def two_nodes() -> Iterator[str]:
    """A cluster of two nodes with a processor each, on this machine."""
    from ray.cluster_utils import Cluster

    given = {"num_cpus": 1, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**given, "include_dashboard": False})
    try:
        cluster.add_node(**given)
        cluster.wait_for_nodes()
        yield str(cluster.address)
    finally:
        cluster.shutdown()


def session(
    arguments: argparse.Namespace, problem: Problem, place: Path, workers: Mapping[str, RayExecutor], say: Say
) -> tuple[dict[str, list[float]], float]:
    """One search that all contenders score; their seconds by generation, and what a generation takes beside scoring."""
    local = Sharded(problem.evaluator, arguments.shard)
    with ExitStack() as stack:
        contenders: dict[str, Evaluator] = {"local": local}
        for name, executor in workers.items():
            (contenders[name],) = stack.enter_context(
                executor.opened([problem.evaluator], AnotherProcess.of(problem), say)
            )
        evaluator = InTurn(contenders, problem.evaluator)
        folder = RunFolder.create(place, problem.scorer.config.model_dump(mode="json"))
        begin = time.perf_counter()
        wiring.make_search(problem, [evaluator], folder, None, Callback()).run()
        turns = len(evaluator.seconds["local"])
        beside = (time.perf_counter() - begin - sum(map(sum, evaluator.seconds.values()))) / turns
    return {name: seconds[2:] for name, seconds in evaluator.seconds.items()}, beside


def measured(arguments: argparse.Namespace, place: Path, say: Say) -> dict[str, Any]:
    """All contenders in turn, generation by generation."""
    vars(on_ray)["Pool"] = Watched
    problem = autotune.build(load_config(recipe(arguments, place)))
    one = {f"{n} workers": RayExecutor(shard=arguments.shard, workers=n, cpus=0.5) for n in (1, 2)}
    with connected(None):
        alike, beside = session(arguments, problem, place / "one", one, say)
        calls = cost_of_calls()
    with two_nodes() as address:
        two = {"2 nodes": RayExecutor(shard=arguments.shard, workers=2, address=address)}
        apart, _ = session(arguments, problem, place / "two", two, say)
    ratios = {
        name: [taken / local for taken, local in zip(seconds, times["local"], strict=True)]
        for times in (alike, apart)
        for name, seconds in times.items()
        if name != "local"
    }
    pools = [pool for pool in Watched.seen if pool.count == 2]
    rates = [rate for pool in pools for rate in pool.rates[8:]]
    centre = statistics.median(rates)
    found = {
        "model": arguments.model,
        "processor": platform.processor() or platform.machine(),
        "cores": cores(),
        "shard": arguments.shard,
        "rows": arguments.rows,
        "losses": "equal",
        "ratio to local": {name: round(statistics.median(found), 3) for name, found in ratios.items()},
        "spread of these": {
            name: [round(float(np.quantile(found, share)), 3) for share in (0.25, 0.75)]
            for name, found in ratios.items()
        },
        "generations": len(alike["local"]),
        "local seconds a generation": round(statistics.median(alike["local"]), 3),
        "beside scoring": round(beside / statistics.median(alike["local"]), 3),
        "bytes a candidate": round(statistics.median(pool.ledger.sent / pool.candidates for pool in pools)),
        "seconds a candidate": round(centre, 5),
        "spread of shards": round(statistics.pstdev([math.log(rate / centre) for rate in rates]), 3),
        **calls,
    }
    paper = {n: _simulated("", centre, POPULATION, arguments.shard, n, network_of(found), found, 15) for n in (1, 2)}
    work = POPULATION * centre
    return {**found, "on paper": {f"{n} workers": round(row["seconds"] / work, 3) for n, row in paper.items()}}


def cost_of_calls(calls: int = 300) -> dict[str, float]:
    """What a call of an idle worker takes, by itself and among many, and how much of it is this process's own time."""
    cluster = RayCluster(IdleElsewhere(), {"CPU": 1.0, "GPU": 0.0})
    pool = Pool(cluster, 1, 100.0, lambda request: Answer(np.zeros(1), 0, 0.0), lambda text: None)
    pool.begin(300.0)
    generation = requests_of(phase_of(1), 4 * calls, 4)
    alone = []
    for request in generation[:50]:
        begin = time.perf_counter()
        pool.score([request])
        alone.append(time.perf_counter() - begin)
    begin, own = time.perf_counter(), time.process_time()
    pool.score(generation)
    many, own = (time.perf_counter() - begin) / calls, (time.process_time() - own) / calls
    pool.close()
    found = {"a call alone": statistics.median(alone), "a call among many": many, "of that here": own}
    return {name: round(seconds, 6) for name, seconds in found.items()}


# ---- on paper ----------------------------------------------------------------------------------------------------


def phase_of(blocks: int) -> Phase:
    """LoRA of rank 2 on query and key of a layer 1,024 wide, searched in subspaces of 100 numbers."""
    shapes = ((1024, 2), (2, 1024), (1024, 2), (2, 1024))
    origin = {block: torch.zeros(8192) for block in range(blocks)}
    projections = {block: RandomProjection(shapes, 100, (0.1,) * 4, (0, block)) for block in origin}
    turns = tuple((block,) for block in origin)
    return Phase("", turns, origin, projections, lambda blocks: None, 1, shard=4)  # type: ignore[arg-type, return-value]


def requests_of(phase: Phase, count: int, shard: int, step: int = 0) -> list[Request]:
    """A generation's shards; in each step another block is the accepted one."""
    from tandemtune.executors.base import shards

    block = step % len(phase.turns)
    point = {**phase.origin, block: torch.full((8192,), float(step))}
    candidates = phase.up((block,), np.random.default_rng(step).standard_normal((count, 100)))
    return [Request(point, part, step, float(shard)) for part in shards(candidates, shard)]


def simulated(measurements: dict[str, Any], generations: int = 3) -> list[dict[str, Any]]:
    """Efficiencies of many workers: the time that the work alone would take on all of them, over the time that it takes."""
    here = measurements["seconds a candidate"]
    network = network_of(measurements)
    settings = itertools.product(
        {f"{measurements['model']} on this processor": here, **H100}.items(), GENERATIONS, WORKERS
    )
    return [
        _simulated(name, seconds, population, shard, workers, network, measurements, generations)
        for (name, seconds), (population, shard), workers in settings
    ]


def network_of(measurements: dict[str, Any]) -> Network:
    """What sending costs, by the calls that were measured."""
    own = measurements["of that here"]
    return Network(call=own, latency=(measurements["a call alone"] - own) / 2, bytes_per_second=1.25e9)


def _simulated(
    name: str,
    seconds: float,
    population: int,
    shard: int,
    workers: int,
    network: Network,
    measurements: dict[str, Any],
    generations: int,
) -> dict[str, Any]:
    spread = measurements["spread of shards"]
    phase = phase_of(2)

    def score(message: bytes) -> Plain:
        return bytes(8 * shard), 0, 0.0, None

    cluster = VirtualCluster(lambda: score, (), stragglers(seconds * shard, spread), network)
    pool = Pool(cluster, workers, 3.0, lambda request: Answer(np.zeros(shard), 0, seconds * shard), lambda text: None)
    pool.begin(60.0)
    while pool.ready < workers:
        cluster.clock += 1.0
        pool.score(requests_of(phase, shard, shard))
    pool.score(requests_of(phase, population, shard))  # everybody is told the point
    times, own = [], []
    for step in range(1, 1 + generations):
        requests = requests_of(phase, population, shard, step)
        begin, real = cluster.now(), time.perf_counter()
        pool.score(requests)
        times.append(cluster.now() - begin)
        own.append(time.perf_counter() - real)
    taken, work = statistics.median(times), population * seconds
    return {
        "what": name,
        "population": population,
        "shard": shard,
        "workers": workers,
        "seconds": round(taken, 5),
        "speed-up": round(work / taken, 1),
        "efficiency": round(work / taken / workers, 3),
        "at best": round(population / shard / workers / math.ceil(population / shard / workers), 3),
        "second copies": pool.ledger.again,
        "pool's own seconds": round(statistics.median(own), 4),
    }


# ---- tables ------------------------------------------------------------------------------------------------------


def shown(found: dict[str, Any]) -> Iterator[Table]:
    """What was measured, and what follows."""
    if "measured" in found:
        told = found["measured"]
        table = Table(title=f"{told['model']}, {told['rows']} rows, shards of {told['shard']}: a generation, local = 1")
        for column in ("", "ratio", "lower quartile", "upper quartile", "the model says"):
            table.add_column(column)
        for name, ratio in told["ratio to local"].items():
            quartiles = [f"{end:.2f}" for end in told["spread of these"][name]]
            table.add_row(name, f"{ratio:.2f}", *quartiles, str(told["on paper"].get(name, "")))
        yield table
        others = Table(title="losses are equal")
        for key in (
            "generations",
            "beside scoring",
            "bytes a candidate",
            "seconds a candidate",
            "spread of shards",
            "a call alone",
            "a call among many",
            "of that here",
        ):
            others.add_row(key, f"{told[key]:g}")
        yield others
    table = Table(title="on paper, with what was measured")
    rows = found.get("simulated", [])
    for column in rows[0] if rows else ():
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row.values()))
    yield table


def main() -> None:
    """Measure, simulate, print, and write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model as recipes name it")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument(
        "--from", dest="given", type=Path, help="simulate with what this file of an earlier call has measured"
    )
    parser.add_argument("--turns", type=int, default=14, help="generations of a run")
    parser.add_argument("--rows", type=int, default=16, help="training rows")
    parser.add_argument("--shard", type=int, default=4, help="candidates that are scored together")
    arguments = parser.parse_args()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    console = Console(width=140)
    found: dict[str, Any] = {}
    if arguments.given:
        found["measured"] = json.loads(arguments.given.read_text(encoding="utf-8"))["measured"]
    else:
        with tempfile.TemporaryDirectory() as place:
            found["measured"] = measured(arguments, Path(place), lambda text: console.print(text, style="dim"))
    if arguments.json:
        write_json(arguments.json, found)
    found["simulated"] = simulated(found["measured"])
    if arguments.json:
        write_json(arguments.json, found)
    for table in shown(found):
        console.print(table)


if __name__ == "__main__":
    main()
