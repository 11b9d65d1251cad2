"""The evaluation engine against a plain loop, against bare layer calls, and against gradient steps.

    python benchmarks/engine.py MODEL [--memory] [--json FILE] [--minutes 5]

The contenders run in turn in one process; what is reported are ratios with median and spread. Peak memory is measured with
one fresh process for each. How long it will take is estimated first: what would take more than `--minutes` is shortened
to fewer turns, layers and rows, or refused.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from contenders import (
    FORMATS,
    Floor,
    Plan,
    candidates,
    evenly,
    gradient_step,
    in_turn,
    incumbent,
    loaded,
    naive,
    processor,
    settled,
)
from duration import COMPARED, NAIVE_CANDIDATES, pace, seconds, shortened
from tandemtune.errors import RunError, TandemTuneError
from tandemtune.problem import Problem
from tandemtune.runs.writing import write_json
from tandemtune.system import peak_rss_mb, versions
from tandemtune.tunables.base import Point

MODES = ("load", "inference", "engine", "naive", "adamw")
Say = Callable[[str], None]
Times = dict[str, list[float]]


def main() -> None:
    """Measure, print the tables and write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model as recipes name it")
    parser.add_argument("--task", default=Plan.task, help="its training rows are the texts")
    parser.add_argument("--data", help="folder with the task's files")
    parser.add_argument("--shots", type=int, default=Plan.shots, help="rows of each class")
    parser.add_argument("--length", type=int, help="tokens of every prompt; the texts' own if left out")
    parser.add_argument("--popsize", type=int, default=Plan.popsize, help="candidates in one generation")
    parser.add_argument(
        "--dtype", default=Plan.dtype, choices=FORMATS, help="the engine's format; what suits the processor if left out"
    )
    parser.add_argument("--repeats", type=int, default=Plan.repeats, help="how often the contenders take turns")
    parser.add_argument("--layers", type=int, default=Plan.layers, help="layers that stand for a sweep; 0 takes all")
    parser.add_argument("--max-memory", type=float, help="the engine's bound, in megabytes; a run's own if left out")
    parser.add_argument("--threads", type=int, help="processor threads; those really given if left out")
    parser.add_argument("--device", default=Plan.device, help="auto, cpu, cuda, mps")
    parser.add_argument("--memory", action="store_true", help="measure peak memory, too")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long it may take")
    parser.add_argument("--json", type=Path, dest="file", help="write the numbers here")
    parser.add_argument("--one", choices=MODES, help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    memory, minutes, file, one = (options.pop(name) for name in ("memory", "minutes", "file", "one"))
    try:
        plan = Plan(**options)
        if one:
            print(json.dumps(peak_of(one, plan)))
            return
        found = measured(plan, 60 * minutes, memory, lambda line: print(line, file=sys.stderr, flush=True))
    except TandemTuneError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    if file is not None:
        write_json(file, found)
    Console().print(view(found))


def measured(plan: Plan, limit: float, memory: bool = False, say: Say = lambda line: None) -> dict[str, Any]:
    """Everything that is printed, after an estimate of how long it takes.

    Args:
        plan: what to measure.
        limit: seconds that it may take.
        memory: measure peak memory, too.
        say: called with a short line.

    Raises:
        UsageError: it would take longer, even with fewer turns, layers and rows.
    """
    found = pace(plan)
    fitting = shortened(plan, found, limit, memory)
    if fitting != plan:
        say(
            f"this would take about {_span(seconds(plan, found, memory))}, more than {_span(limit)} (--minutes allows more): "
            + ", ".join(f"{name} {new} in place of {old}" for name, (old, new) in _changed(plan, fitting).items())
        )
    say(f"this takes about {_span(seconds(fitting, found, memory))}, loading aside")
    result = measure(fitting, say)
    if memory:
        result["peak_mb"], result["device_peak_mb"] = peak_memory(replace(fitting, dtype=result["dtype"]))
    return result


def measure(plan: Plan, say: Say = lambda line: None) -> dict[str, Any]:
    """Time every contender.

    Args:
        plan: what to measure.
        say: called with a short line.

    Returns:
        Seconds a candidate by layer, ratios with median and spread, and the check that all give the same losses.
    """
    fast = settled(plan, plan.dtype)
    plain = fast if fast.facts.dtype == "float32" else settled(plan, "float32")
    point, count = incumbent(fast), plan.popsize
    same = _agreement(plain, fast, point)
    floor = Floor(fast, count)
    blocks = evenly(len(fast.scorer.engine.stack), plan.layers)
    table: dict[int, Times] = {}
    for block in blocks:
        vectors = candidates(fast, block, count)
        parts: dict[str, Callable[[], Any]] = {
            "engine": lambda b=block, v=vectors: fast.evaluator.evaluate(point, {b: v}),  # type: ignore[misc]
            "floor": lambda b=block: floor.run(b),  # type: ignore[misc]
        }
        if plain is not fast:
            parts["engine_float32"] = lambda b=block, v=vectors: plain.evaluator.evaluate(point, {b: v})  # type: ignore[misc]
        if block in (blocks[0], blocks[-1]):
            parts["naive"] = lambda b=block, v=vectors: naive(plain, point, b, v[:NAIVE_CANDIDATES])  # type: ignore[misc]
        table[block] = in_turn(parts, plan.repeats)
        say(f"layer {block}: " + ", ".join(f"{name} {median(took):.3f} s" for name, took in table[block].items()))
    steps = in_turn({"adamw": gradient_step(loaded(plan, "float32"))}, plan.repeats)["adamw"]
    return _summary(plan, fast, table, steps, same)


def peak_memory(plan: Plan) -> tuple[dict[str, float], dict[str, float]]:
    """Peak megabytes of each contender, each in a process of its own: resident, and on a GPU (empty where there is none).

    Raises:
        RunError: one of the processes failed.
    """
    given = {name: value for name, value in asdict(plan).items() if name != "model" and value is not None}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    resident, device = {}, {}
    for mode in MODES:
        command = [sys.executable, __file__, plan.model, *flags, "--one", mode]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"measuring the memory of {mode!r} failed: {done.stderr.strip().splitlines()[-1:]}")
        resident[mode], device[mode] = json.loads(done.stdout.strip().splitlines()[-1])
    return resident, device if any(device.values()) else {}


def peak_of(mode: str, plan: Plan) -> tuple[float, float]:
    """Do what one contender does, and tell this process's peak: resident, and on a GPU, in megabytes."""
    make = settled if mode == "engine" else loaded
    problem = make(plan, "float32" if mode in ("naive", "adamw") else plan.dtype)
    point, block = incumbent(problem), problem.scorer.parameters.blocks[0]
    vectors = candidates(problem, block, plan.popsize)
    if mode == "inference":
        problem.scorer.engine.logits(problem.evaluator.train, problem.scorer.parameters.initial())
    elif mode == "engine":
        problem.evaluator.evaluate(point, {block: vectors})
    elif mode == "naive":
        naive(problem, point, block, vectors[:1])
    elif mode == "adamw":
        step = gradient_step(problem)
        step()
        step()
    return peak_rss_mb(), torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0


def view(found: dict[str, Any]) -> RenderableType:
    """The tables that are printed.

    Args:
        found: what `measured` returned.
    """
    plan, machine = found["plan"], found["machine"]
    heading = (
        f"{plan['model']}, {found['dtype']}, on {machine['processor']}, {machine['threads']} threads: {found['rows']} rows, "
        f"{found['tokens']} tokens, population {plan['popsize']}"
    )
    table = Table("milliseconds a candidate")
    ratios = Table("ratios, over a sweep")
    for each in (table, ratios):
        for name in ("median", "from", "to"):
            each.add_column(name, justify="right")
    for name, spread in found["seconds_per_candidate"].items():
        table.add_row(name.replace("_", " "), *(f"{1000 * spread[key]:.1f}" for key in ("median", "min", "max")))
    for name, spread in found["ratios"].items():
        ratios.add_row(name, *(f"{spread[key]:.2f}" for key in ("median", "min", "max")))
    names = list(next(iter(found["by_layer"].values())))
    layers = Table(title="milliseconds a candidate, by layer")
    for name in ("layer", *names):
        layers.add_column(name.replace("_", " "), justify="right")
    for block, row in found["by_layer"].items():
        layers.add_row(block, *(f"{1000 * row[name]:.1f}" for name in names))
    lines = [f"{name}: {value:.2g}" for name, value in found["agreement"].items()]
    for key, what in (("peak_mb", "peak memory"), ("device_peak_mb", "peak memory of the device")):
        lines += [f"{what}, {name}: {value:.0f} MB" for name, value in found.get(key, {}).items()]
    return Group(Text(heading), table, ratios, layers, *(Text(line) for line in lines))


def _summary(
    plan: Plan, fast: Problem, table: dict[int, Times], steps: list[float], same: dict[str, float]
) -> dict[str, Any]:
    count, facts = plan.popsize, fast.facts
    naive_each = [took / NAIVE_CANDIDATES for row in table.values() for took in row.get("naive", [])]
    engines = [name for name in ("engine", "engine_float32") if name in next(iter(table.values()))]
    whole, adamw = median(naive_each), median(steps)

    def sweep(name: str) -> list[float]:
        """Mean over the layers, repeat by repeat, in seconds a candidate."""
        return [sum(row[name][i] for row in table.values()) / len(table) / count for i in range(plan.repeats)]

    swept = {name: sweep(name) for name in (*engines, "floor")}
    ratios = {"naive / engine": [whole / e for e in swept["engine"]]}
    if "engine_float32" in swept:
        ratios["naive / engine, both float32"] = [whole / e for e in swept["engine_float32"]]
    ratios["engine / floor"] = [e / f for e, f in zip(swept["engine"], swept["floor"], strict=True)]
    ratios["adamw step / engine candidate"] = [adamw / e for e in swept["engine"]]
    taken = {"naive": naive_each, **swept, "adamw_step": steps}
    return {
        "plan": asdict(plan),
        "machine": {
            **versions(),
            "processor": processor(facts.device),
            "device": facts.device,
            "threads": torch.get_num_threads(),
        },
        "dtype": facts.dtype,
        "chunk_tokens": facts.chunk_tokens,
        "compiled": facts.compiled,
        "rows": len(fast.evaluator.train),
        "tokens": fast.evaluator.train.tokens,
        "layers": len(fast.scorer.engine.stack),
        "agreement": same,
        "seconds_per_candidate": {name: _spread_of(values) for name, values in taken.items()},
        "by_layer": {
            str(block): {name: median(row[name]) / count for name in (*engines, "floor")}
            for block, row in table.items()
        },
        "ratios": {name: _spread_of(values) for name, values in ratios.items()},
    }


def _agreement(plain: Problem, fast: Problem, point: Point) -> dict[str, float]:
    """How far the engine's losses are from one-by-one evaluation, and how far the engine's format is from float32."""
    blocks = plain.scorer.parameters.blocks
    block = blocks[len(blocks) // 2]
    vectors = candidates(plain, block, COMPARED) * 5
    batch = plain.evaluator.evaluate(point, {block: vectors})
    one_by_one = naive(plain, point, block, vectors).double().cpu().numpy()
    found = {"largest difference to one by one, float32": float(abs(batch - one_by_one).max())}
    if fast is not plain:
        other = fast.evaluator.evaluate(point, {block: vectors})
        found["largest difference to float32"] = float(abs(other - batch).max())
    return found


def _changed(one: Plan, other: Plan) -> dict[str, tuple[Any, Any]]:
    before, after = asdict(one), asdict(other)
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def _span(took: float) -> str:
    return f"{took:.0f} seconds" if took < 100 else f"{took / 60:.0f} minutes"


def _spread_of(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    main()
