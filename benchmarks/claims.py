"""Runs a plan bit by bit, keeps one line for each run that has ended, and tests one hypothesis first and all others together (Holm).

    python benchmarks/claims.py benchmarks/race.toml --data FOLDER --first "race, strong mentor" [KEY=VALUE ...] [--jobs 12]
        [--minutes 4] [--seeds 13 21] [--methods NAME ...] [--best-of NAME ...] [--out runs/race.jsonl] [--runs FOLDER]

The claim is FIRST against the plan's baseline, over all pairs of task and seed; its p stands alone. The p of every other method against the
baseline, and of FIRST against every other method, are multiplied as Holm's rule wants it. With `--best-of` FIRST is also compared with the
best of some methods, chosen for each task by the mean score on dev rows. Runs that stand in OUT are not repeated, wherever they were made; runs
go seed by seed, so what ends in time is whole seeds. After `--minutes` no run is waited for; those that had not ended go on with the
same command where RUNS (OUT without its ending) still lies, and begin anew elsewhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from tandemtune.comparisons import Plan, StoppedError, execute, read_plan, records_of
from tandemtune.report.comparison import write
from tandemtune.report.paired import Paired, paired
from tandemtune.runs.records import ComparedRun

PAUSE = 15.0
"""Seconds between two looks for runs that have ended."""
Scores = dict[tuple[str, int], float]


def with_data(found: Any, data: str) -> Any:
    """A plan whose files lie in another folder than `data`."""
    if isinstance(found, dict):
        return {key: with_data(value, data) for key, value in found.items()}
    if isinstance(found, str) and (found == "data" or found.startswith("data/")):
        return data + found.removeprefix("data")
    return found


def key_of(run: Any) -> tuple[str, str, str, int]:
    """What tells a run of a plan from the others."""
    return run.model, run.task, run.method, run.seed


def chosen(plan: Plan, options: argparse.Namespace) -> Plan:
    """The part of a plan that is wanted, seed by seed, and the methods as they were named."""
    methods, seeds = options.methods or plan.methods, options.seeds or list(dict.fromkeys(c.seed for c in plan.cells))
    unknown = [name for name in [*methods, options.first, *options.best_of] if name not in plan.methods]
    if unknown:
        raise SystemExit(f"{unknown[0]!r} is no method of the plan, expected {', '.join(plan.methods)}")
    cells = [
        cell
        for cell in plan.cells
        if cell.method in methods and cell.seed in seeds and (not options.tasks or cell.task in options.tasks)
    ]
    cells.sort(key=lambda cell: (seeds.index(cell.seed), methods.index(cell.method)))
    return dataclasses.replace(plan, cells=tuple(cells), jobs=options.jobs)


def read(path: Path) -> dict[tuple[str, str, str, int], ComparedRun]:
    """Runs that have ended, by their names."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [ComparedRun.read(json.loads(line), path) for line in lines]
    return {key_of(run): run for run in found}


def run(plan: Plan, out: Path, minutes: float | None) -> None:
    """Make the runs that are not there, as far as time allows, and keep those that end."""
    known = read(out)
    rest = dataclasses.replace(plan, cells=tuple(cell for cell in plan.cells if key_of(cell) not in known))

    def keep(records: Sequence[ComparedRun]) -> None:
        with out.open("a", encoding="utf-8") as file:
            for record in records:
                if record.result is not None and key_of(record) not in known:
                    known[key_of(record)] = record
                    file.write(json.dumps(record.plain(), ensure_ascii=False) + "\n")

    if not rest.cells:
        return
    kept = time.monotonic()

    def say(text: str) -> None:
        nonlocal kept
        print(text, flush=True)
        if time.monotonic() - kept > PAUSE:  # so that little is lost if this process is killed
            keep(records_of(rest))
            kept = time.monotonic()

    if minutes is not None:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        records = execute(rest, say)
    except (StoppedError, KeyboardInterrupt):
        records = records_of(rest)
    signal.setitimer(signal.ITIMER_REAL, 0)
    keep(records)
    failed = [
        record for record in records if record.result is None and record.failure not in ("not run", "begun, not ended")
    ]
    for record in failed[:5]:
        print(f"failed: {key_of(record)}: {record.failure}")


# ---- tests -------------------------------------------------------------------------------------------------------


def scores(runs: Sequence[ComparedRun], method: str, what: str = "test") -> Scores:
    """Score by task and seed."""
    found = [run for run in runs if run.method == method and run.result is not None]
    values = {(run.task, run.seed): getattr(run.result.tuned, what) for run in found if run.result is not None}
    return {key: value for key, value in values.items() if value is not None}


def best_of(runs: Sequence[ComparedRun], methods: Sequence[str]) -> tuple[Scores, dict[str, str]]:
    """Test scores of the method that is best on dev, task by task, and which it is."""
    picked: dict[str, str] = {}
    for task in dict.fromkeys(run.task for run in runs):
        devs = {name: [v for (t, _), v in scores(runs, name, "dev").items() if t == task] for name in methods}
        there = {name: mean(values) for name, values in devs.items() if values}
        if there:
            picked[task] = max(there, key=lambda name: there[name])
    return {k: v for task, name in picked.items() for k, v in scores(runs, name).items() if k[0] == task}, picked


def holm(tests: Mapping[str, Paired]) -> dict[str, float]:
    """Each test's p after Holm's correction for all of them together."""
    ranked = sorted(tests, key=lambda name: tests[name].p)
    corrected, largest = {}, 0.0
    for place, name in enumerate(ranked):
        largest = max(largest, min(1.0, (len(ranked) - place) * tests[name].p))
        corrected[name] = largest
    return corrected


def claims(runs: Sequence[ComparedRun], plan: Plan, first: str, grid: Sequence[str]) -> str:
    """The claim, and all other tests with corrected p, as Markdown."""
    mine, base = scores(runs, first), scores(runs, plan.baseline)
    claim = paired(mine, base)
    if claim is None:
        return f"no pair of {first} and {plan.baseline} yet"
    text = [f"**{first} against {plan.baseline}: {_told(claim)}.** All others, corrected together:", ""]
    others: dict[str, Paired | None] = {}
    if grid:
        best, picked = best_of(runs, grid)
        text.insert(1, f"\nbest of the grid on dev: {', '.join(f'{task}: {name}' for task, name in picked.items())}")
        others[f"{first} against the best of the grid"] = paired(mine, best)
    for name in plan.methods:
        if name != plan.baseline and name != first:
            others[f"{name} against {plan.baseline}"] = paired(scores(runs, name), base)
            others[f"{first} against {name}"] = paired(mine, scores(runs, name))
    tests = {name: test for name, test in others.items() if test is not None}
    corrected = holm(tests)
    text += ["| comparison | difference | pairs | wins | p | p (Holm) |", "|---" * 6 + "|"]
    text += [
        f"| {name} | {test.difference:+.4f} | {test.pairs} | {test.wins:g} | {test.p:.4f} | {corrected[name]:.4f} |"
        for name, test in tests.items()
    ]
    return "\n".join(text)


def _told(test: Paired) -> str:
    return f"{test.difference:+.4f}, p = {test.p:.4f}, {test.wins:g} of {test.pairs} pairs"


def main() -> None:
    """Run what is missing, and print the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("settings", nargs="*", help="section.key=value for every run")
    parser.add_argument("--first", required=True, help="the method that the claim is about")
    parser.add_argument(
        "--best-of", nargs="+", default=[], help="methods of which the best on dev is compared with, too"
    )
    parser.add_argument("--data", default="data", help="folder with the tasks' files")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--out", type=Path, help="default: runs/PLAN.jsonl")
    parser.add_argument("--runs", type=Path, help="folder of the runs and tables; default: OUT without its ending")
    options = parser.parse_intermixed_args()
    out = options.out or Path("runs") / f"{options.plan.stem}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    content = with_data(tomllib.loads(options.plan.read_text(encoding="utf-8")), options.data)
    whole = read_plan(content, options.runs or out.with_suffix(""), options.settings)
    wanted = chosen(whole, options)
    run(wanted, out, options.minutes)
    known = read(out)
    missing = ComparedRun(method="", task="", model="", seed=0, folder="", result=None, failure="not run")
    names = [key_of(cell) for cell in whole.cells if cell.method in {run.method for run in known.values()}]
    records = [
        known.get(name) or missing.model_copy(update=dict(zip(("model", "task", "method", "seed"), name, strict=True)))
        for name in names
    ]
    if records:
        whole.out.mkdir(parents=True, exist_ok=True)
        write(whole, records)
        print((whole.out / "table.md").read_text(encoding="utf-8"))
        print(claims(records, whole, options.first, options.best_of))


if __name__ == "__main__":
    main()
