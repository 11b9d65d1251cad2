"""Many runs side by side: methods x tasks x models x seeds, each in a process of its own, none repeated that has ended."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandemtune.config import RunConfig, load_config
from tandemtune.errors import ConfigError, RunError, TandemTuneError
from tandemtune.runs.files import write_json

SECTIONS = ("all", "methods", "tasks", "models")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Cell:
    """One run of a plan.

    Args:
        method: its name in the plan; likewise `task` and `model`.
        seed: of the rows and the search.
        overrides: ``section.key=value`` strings that make the recipe.
        folder: where the run lies.
    """

    method: str
    task: str
    model: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """What a reader sees."""
        return " / ".join(part for part in (self.model, self.task, self.method, str(self.seed)) if part)


@dataclass(frozen=True)
class Plan:
    """A checked plan.

    Args:
        cells: all runs.
        baseline: the method that others are tested against.
        jobs: processes side by side.
        title: one line for tables.
    """

    cells: tuple[Cell, ...]
    baseline: str
    jobs: int
    title: str

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the plan."""
        return list(dict.fromkeys(cell.method for cell in self.cells))


def read_plan(path: Path, out: Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a plan and check every recipe in it, before anything runs.

    A plan holds ``seeds``, ``baseline`` (the first method if left out), ``jobs`` (1), ``title``, and tables of settings as
    ``"section.key" = value``: ``[all]`` for every run, and ``[methods]``, ``[tasks]`` and ``[models]`` with one table a member.

    Args:
        path: the TOML file.
        out: folder that the runs go to.
        overrides: ``section.key=value`` strings for every run, above everything in the plan.

    Raises:
        ConfigError: lists every problem.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError([f"cannot be read as TOML: {getattr(error, 'strerror', None) or error}"], str(path)) from None
    problems = [
        f"{key}: unknown, expected seeds, baseline, jobs, title, {', '.join(f'[{name}]' for name in SECTIONS)}"
        for key in tables
        if key not in (*SECTIONS, "seeds", "baseline", "jobs", "title")
    ]
    seeds, jobs = tables.get("seeds", [13, 21, 42]), tables.get("jobs", 1)
    if not (
        isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds) and len(set(seeds)) == len(seeds)
    ):
        problems.append(f"seeds: expected a list of different whole numbers, got {seeds!r}")
    if type(jobs) is not int or jobs < 1:
        problems.append(f"jobs: expected a whole number of at least 1, got {jobs!r}")
    members = {name: _members(tables, name, problems) for name in SECTIONS[1:]}
    shared = tables.get("all", {})
    empty = [name for name in ("methods", "tasks") if not members[name]]
    problems += [f"[{name}]: missing, expected a table of at least one" for name in empty]
    baseline = tables.get("baseline") or next(iter(members["methods"]), "")
    if members["methods"] and baseline not in members["methods"]:
        problems.append(
            f"baseline: {baseline!r} is no method of the plan, expected one of {', '.join(members['methods'])}"
        )
    if problems:
        raise ConfigError(problems, str(path))
    cells = []
    for model, task, method, seed in itertools.product(
        members["models"] or [""], members["tasks"], members["methods"], seeds
    ):
        parts = [shared, members["models"].get(model, {}), members["tasks"][task], members["methods"][method]]
        settings = {**{k: v for part in parts for k, v in part.items()}, "task.seed": seed}
        lines = (*(f"{key}={_toml(value)}" for key, value in settings.items()), *overrides)
        folder = out.joinpath(*(_slug(part) for part in (model, task, method) if part), str(seed))
        cells.append(Cell(method, task, model, seed, lines, folder))
    for cell in cells:
        try:
            load_config({}, cell.overrides)
        except ConfigError as error:
            problems += [f"{cell.name}: {line}" for line in error.problems]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)), str(path))
    return Plan(tuple(cells), str(baseline), jobs, str(tables.get("title", path.stem)))


def check_plan(plan: Plan, progress: Progress) -> None:
    """Read the data files of all recipes, without loading a model.

    Raises:
        ConfigError: lists every problem.
    """
    from tandemtune.build import check

    problems: list[str] = []
    seen: set[str] = set()
    for cell in plan.cells:
        config = load_config({}, cell.overrides)
        key = json.dumps([config.task.model_dump(mode="json"), config.model.name], sort_keys=True)
        if key in seen:
            continue
        seen.add(key)
        try:
            check(config, progress)
        except TandemTuneError as error:
            problems.append(f"{cell.name}: {error}")
    if problems:
        raise ConfigError(problems, plan.title)


def execute(plan: Plan, progress: Progress) -> list[dict[str, Any]]:
    """Make every run of a plan that has not ended; go on with those that were stopped.

    Args:
        plan: what to run.
        progress: called with a short line when a run ends.

    Returns:
        One record for each cell, in the plan's order: its names, and its result or what went wrong.
    """
    done = 0

    def one(cell: Cell) -> dict[str, Any]:
        nonlocal done
        record = _record(cell)
        if "result" not in record:
            failure = _run(cell)
            record = _record(cell)
            if failure and "result" not in record:
                record["failure"] = failure
        done += 1
        progress(f"{done} of {len(plan.cells)}: {cell.name}: {_outcome(record)}")
        return record

    with ThreadPoolExecutor(plan.jobs) as pool:
        return list(pool.map(one, plan.cells))


def _run(cell: Cell) -> str:
    """Run or resume one cell in a process of its own; returns what went wrong, or nothing."""
    begun = (cell.folder / "recipe.json").is_file()
    if begun and _recipe(cell.folder) != _wanted(cell):
        return f"{cell.folder} holds a run of another recipe: move it away, or choose another --out"
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    empty = cell.folder.parent / "empty.toml"
    if not begun and not empty.exists():
        empty.write_text("", encoding="utf-8")
    words = ["resume", str(cell.folder)] if begun else ["run", str(empty), *cell.overrides, "--out", str(cell.folder)]
    command = [sys.executable, "-m", "tandemtune", *words, "--quiet"]
    made = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    if made.returncode == 0:
        return ""
    said = [line for line in made.stderr.strip().splitlines() if line.strip()]
    return said[-1] if said else f"exit code {made.returncode}"


def _record(cell: Cell) -> dict[str, Any]:
    record: dict[str, Any] = {"method": cell.method, "task": cell.task, "model": cell.model, "seed": cell.seed}
    record["folder"] = str(cell.folder)
    result = cell.folder / "result.json"
    if result.is_file():
        if _recipe(cell.folder) != _wanted(cell):
            raise RunError(
                f"{cell.folder} holds a finished run of another recipe than the plan's: move it away, or choose another --out"
            )
        record["result"] = json.loads(result.read_text(encoding="utf-8"))
    return record


def _recipe(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    return content


def _wanted(cell: Cell) -> dict[str, Any]:
    config: RunConfig = load_config({}, cell.overrides)
    return config.with_absolute_paths().model_dump(mode="json")


def _outcome(record: Mapping[str, Any]) -> str:
    if "result" not in record:
        return str(record["failure"])
    result = record["result"]
    return f"{result['metric']} {result['tuned']['test']} on test, {result['cost']['seconds']:.0f} s"


def save(out: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write all records, for other programs to read."""
    write_json(out / "records.json", list(records))


def _members(tables: Mapping[str, Any], name: str, problems: list[str]) -> dict[str, dict[str, Any]]:
    found = tables.get(name, {})
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        problems.append(f'[{name}]: expected a table of tables, for example [{name}] x = {{ "method.d" = 100 }}')
        return {}
    return found


def _toml(value: Any) -> str:
    """A value as an override has it; JSON is TOML here, but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def _slug(name: str) -> str:
    return re.sub("[^A-Za-z0-9.=]+", "-", name).strip("-") or "x"
