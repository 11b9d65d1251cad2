"""Small runs of a comparison, sixteen in all, two at a time: as forks of processes of this machine, one after another in such processes,
each in a fresh process, and over two workers of a Ray cluster.

    python benchmarks/ray_compare.py MODEL [--kinds forks staying fresh ray] [--device cpu] [--json FILE] [--repeats 1] [--budget 64]

They take turns; results and journals have to be equal but for times. What is reported are ratios to the first kind: of wall times, the
start of the cluster apart, and of processor seconds, which are fair on a machine that others use, too. On a graphics card (`--device
cuda`) forks open it for each run anew, and results that differ are named: what is measured is fixed there, but the order of sums in
a backward pass may not be.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import random
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from rich.console import Console

from tandemtune import compare
from tandemtune.comparisons.processes import Processes
from tandemtune.executors.ray import QUIET, connected
from tandemtune.runs.writing import write_json

WORDS = (
    "great film",
    "dull plot",
    "fine acting",
    "a story",
    "that we saw",
    "never",
    "very long",
    "good",
    "bad",
    "so so",
)


def plan(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Four methods, on a few seeds."""
    source = random.Random(0)
    for name in ("train", "test"):
        texts = dict.fromkeys(" ".join(source.choices(WORDS, k=6)) for _ in range(200))
        rows = [{"text": text, "label": ("bad", "good")[i % 2]} for i, text in enumerate(texts)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {
        "train": str(place / "train.jsonl"),
        "test": str(place / "test.jsonl"),
        "template": "{text} It was {mask} .",
        "labels": {"bad": "terrible", "good": "great"},
        "shots": 8,
    }
    search = {"method.budget": arguments.budget, "popsize": 8}
    if arguments.device != "cpu":
        search["run.executor"] = {"kind": "local", "shard": 8}
    return {
        "title": "small runs",
        "seeds": [*range(1, arguments.seeds + 1)],
        "jobs": 2,
        "all": {
            "run.max_memory": 256.0,
            "model": {"name": arguments.model, "dtype": "float32", "threads": 1, "device": arguments.device},
        },
        "tasks": {"words": {"task": task}},
        "methods": {
            "c-lora": {**search, "d": 40},
            "bbt": {**search, "d": 40},
            "lora": {"method.steps": 8},
            "readout": {},
        },
    }


def made(out: Path) -> dict[str, Any]:
    """What all runs have come to, without times, and their journals."""
    found = {}
    for path in sorted(out.rglob("result.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for volatile in ("seconds", "peak_rss_mb"):
            del content["cost"][volatile]
        content["journal"] = path.with_name("journal.jsonl").read_text(encoding="utf-8")
        found[str(path.relative_to(out))] = content
    return found


class Fresh(Processes):
    """Makes each run in a new process."""

    def run(self, *arguments: Any, **options: Any) -> int:
        """As `Processes.run`, and no other run there."""
        return super().run(*arguments, **{**options, "alone": True})


KINDS = {
    "forks": functools.partial(Processes, stay=False),
    "staying": functools.partial(Processes, stay=True),
    "fresh": functools.partial(Fresh, stay=True),
    "ray": Processes,
}


def main() -> None:
    """Run all kinds in turn, print, and write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model as recipes name it")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["forks", "staying", "fresh", "ray"])
    parser.add_argument("--device", default="cpu", help="where the model lies: cpu, cuda, mps")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--repeats", type=int, default=1, help="comparisons of each kind")
    parser.add_argument("--budget", type=int, default=64, help="candidates of each search")
    parser.add_argument("--seeds", type=int, default=4, help="runs of each of four methods")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    arguments = parser.parse_args()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    execute: Any = importlib.import_module("tandemtune.comparisons.execute")
    seconds: dict[str, list[float]] = {kind: [] for kind in arguments.kinds}
    computed: dict[str, list[float]] = {kind: [] for kind in arguments.kinds if kind != "ray"}
    results = []
    with tempfile.TemporaryDirectory() as folder, connected(None) if "ray" in seconds else nullcontext():
        place = Path(folder)
        content = plan(arguments, place)
        for turn in range(arguments.repeats):
            for kind in arguments.kinds:
                execute.Processes = KINDS[kind]
                out, begin, before = place / f"{kind}-{turn}", time.perf_counter(), _computed()
                compare(content, out=out, progress=_say, jobs=arguments.jobs, ray="auto" if kind == "ray" else None)
                seconds[kind].append(time.perf_counter() - begin)
                if kind in computed:
                    computed[kind].append(_computed() - before)
                results.append(made(out))
    count = 4 * arguments.seeds
    unlike = sorted({run for result in results for run in results[0] if result.get(run) != results[0][run]})
    if any(len(result) != count for result in results) or (unlike and arguments.device == "cpu"):
        raise SystemExit(f"the results differ: {', '.join(unlike) or 'some are missing'}")
    ratios = {"wall": _ratios(seconds), "processor": _ratios(computed)}
    equal = f"results equal but for {', '.join(unlike)}" if unlike else "results equal"
    console.print(f"{count} runs, {equal} (of {arguments.repeats})")
    for what, found in ratios.items():
        said = ", ".join(f"{kind} over {arguments.kinds[0]} {ratio:.2f}" for kind, ratio in found.items())
        console.print(f"{what} time: {said}")
    if arguments.json:
        told = {"model": arguments.model, "device": arguments.device, "runs": count, "unlike": unlike, "ratios": ratios}
        write_json(arguments.json, {**told, "seconds": seconds, "processor seconds": computed})


def _say(text: str) -> None:
    console.print(text, style="dim")


def _computed() -> float:
    """Processor seconds of all processes that this one has started and seen end, and of those that they have."""
    times = os.times()
    return times.children_user + times.children_system


def _ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Of each kind to the first one."""
    first, *others = seconds.items()
    return {
        kind: round(statistics.median(o / f for o, f in zip(found, first[1], strict=True)), 3) for kind, found in others
    }


console = Console(width=140)
if __name__ == "__main__":
    main()
