"""A plan of many runs: methods x tasks x models x seeds, with a complete recipe for each, checked before anything runs."""

from __future__ import annotations

import itertools
import json
import os
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tandemtune.assets as assets
from tandemtune.comparisons.expected import Expected, expected_of, stranger
from tandemtune.config import RunConfig, load_config
from tandemtune.config.schema import UNBOUNDED
from tandemtune.errors import ConfigError, DataError
from tandemtune.methods import METHODS
from tandemtune.plugins import near
from tandemtune.system import cores
from tandemtune.tasks.catalogue import TASKS
from tandemtune.tasks.encodings import decoded

SECTIONS = ("all", "methods", "tasks", "models")
KEYS = ("title", "seeds", "baseline", "reference", "jobs", "budget", "sweep", *SECTIONS, "expected")
Pairs = list[tuple[str, Any]]


@dataclass(frozen=True)
class RunBudget:
    """What every run of a plan may spend.

    Args:
        name: ``forward_tokens``, ``generated_tokens``, ``candidates`` or ``seconds``.
        amount: how much of it.
    """

    name: str
    amount: float

    @property
    def key(self) -> str:
        """The setting that bounds a run."""
        return BUDGETS[self.name][0]

    @property
    def reason(self) -> str:
        """What a run gives as its reason to stop where this budget ended it."""
        return BUDGETS[self.name][1]

    def __str__(self) -> str:
        return f"{self.amount:,} {self.name.replace('_', ' ')} a run ({self.key})"


BUDGETS = {
    "forward_tokens": ("run.max_forward_tokens", "max_forward_tokens"),
    "generated_tokens": ("run.max_generated_tokens", "max_generated_tokens"),
    "candidates": ("method.budget", "budget"),
    "seconds": ("run.max_seconds", "max_seconds"),
}


@dataclass(frozen=True)
class Point:
    """Where a method stands in a sweep.

    Args:
        of: the method that is varied; empty where a plan names none.
        key: the setting.
        value: its value here.
    """

    of: str
    key: str
    value: Any

    @property
    def name(self) -> str:
        """What the method of this point is called."""
        value = self.value if isinstance(self.value, str) else json.dumps(self.value, ensure_ascii=False)
        return f"{self.of}, {self.label}={value}" if self.of else f"{self.label}={value}"

    @property
    def label(self) -> str:
        """The setting's name without its section."""
        return self.key.rpartition(".")[2]


@dataclass(frozen=True)
class Cell:
    """One run of a plan.

    Args:
        method: its name in the plan; likewise `task` and `model`.
        seed: of the rows and the search.
        config: the recipe.
        folder: where the run lies.
        point: where the method stands in a sweep.
    """

    method: str
    task: str
    model: str
    seed: int
    config: RunConfig
    folder: Path
    point: Point | None = None

    @property
    def name(self) -> str:
        """What a reader sees."""
        return _joined(self.model, self.task, self.method, str(self.seed))


@dataclass(frozen=True)
class Plan:
    """A checked plan.

    Args:
        cells: all runs.
        baseline: the method that others are tested against.
        jobs: processes side by side.
        title: one line for tables.
        out: folder of all runs.
        reference: the method whose costs those of others are shown as ratios to.
        budget: what every run may spend, if the plan says so.
        expected: published scores, if the plan has some.
    """

    cells: tuple[Cell, ...]
    baseline: str
    jobs: int
    title: str
    out: Path
    reference: str
    budget: RunBudget | None = None
    expected: Expected | None = None

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the plan."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    @property
    def threads(self) -> int:
        """Processor threads of a run whose recipe names none."""
        given = os.environ.get("OMP_NUM_THREADS", "")
        return max(1, min(cores() // self.jobs, int(given) if given.isdecimal() else cores()))


# ---- reading a plan ----------------------------------------------------------------------------------------------


THEN_KEYS = ("method.then", "then")
"""What entries of `then` may be called in a plan."""


def read_plan(plan: Path | Mapping[str, Any], out: Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a plan and check every recipe in it, before anything runs.

    A plan holds ``seeds``, ``baseline`` (the first method if left out), ``reference`` (the baseline), ``jobs`` (1), ``title``,
    ``budget``, ``sweep``, tables of settings (``[all]`` for every run, and ``[methods]``, ``[tasks]`` and ``[models]`` with one
    table a member), and ``[expected]`` scores.

    Args:
        plan: the TOML file, or its content.
        out: folder that the runs go to.
        overrides: ``section.key=value`` strings for every run, above everything in the plan.

    Returns:
        The plan with a complete recipe for each of its runs.

    Raises:
        ConfigError: lists every problem.
    """
    tables = dict(plan) if isinstance(plan, Mapping) else _read(plan)
    source = "plan" if isinstance(plan, Mapping) else str(plan)
    problems = [f"{key}: unknown{near(key, KEYS)}, expected {', '.join(KEYS)}" for key in tables if key not in KEYS]
    seeds, jobs = tables.get("seeds", [13, 21, 42]), tables.get("jobs", 1)
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) != len(seeds):
        problems.append(f"seeds: expected a list of different whole numbers from 0 on, got {seeds!r}")
    if type(jobs) is not int or jobs < 1:
        problems.append(f"jobs: expected a whole number of at least 1, got {jobs!r}")
    texts = {name: tables[name] for name in ("title", "baseline", "reference") if name in tables}
    problems += [f"{name}: expected text, got {text!r}" for name, text in texts.items() if not isinstance(text, str)]
    budget = _budget(tables, problems)
    shared = _table(tables, "all", problems)
    members = {name: _members(tables, name, problems) for name in SECTIONS[1:]}
    methods = _swept(members["methods"], _sweep(tables, "", problems), problems)
    if not members["tasks"] and "tasks" not in tables:
        problems.append("[tasks]: missing, expected a table of at least one")
    if not methods and "methods" not in tables:
        problems.append("[methods]: missing, expected a table of at least one, or a sweep")
    baseline = tables.get("baseline") or next(iter(methods), "")
    for name in ("baseline", "reference"):
        named = tables.get(name)
        if methods and named and isinstance(named, str) and named not in methods:
            problems.append(f"{name}: {stranger(named, 'method', methods)}")
    expected = expected_of(tables, methods, members["tasks"], problems)
    if problems:
        raise ConfigError(problems, source)
    cells, problems = _cells(shared, methods, members, seeds, budget, out, overrides)
    problems += _twice(cells) + _same_folder(cells)
    if problems:
        raise ConfigError(problems, source)
    title, reference = tables.get("title", Path(source).stem), tables.get("reference") or baseline
    return Plan(tuple(cells), baseline, jobs, title, out, reference, budget, expected)


def _cells(
    shared: Mapping[str, Any],
    methods: Mapping[str, tuple[Pairs, Point | None]],
    members: Mapping[str, Mapping[str, Mapping[str, Any]]],
    seeds: Sequence[int],
    budget: RunBudget | None,
    out: Path,
    overrides: Sequence[str],
) -> tuple[list[Cell], list[str]]:
    """All runs whose recipes can be read, and what is wrong with the others; a problem of many runs is told once.

    A run that stands in several sweeps (a default value, say) is one run, in one folder.
    """
    cells: list[Cell] = []
    found: dict[str, list[str]] = {}
    seen: dict[str, Cell] = {}
    models = {name: _pairs(table) for name, table in members["models"].items()} or {"": []}
    tasks = {name: _pairs(table) for name, table in members["tasks"].items()}
    for (model, of_model), (task, of_task), (method, (of_method, point)), seed in itertools.product(
        models.items(), tasks.items(), methods.items(), seeds
    ):
        name = _joined(model, task, method, str(seed))
        folder = out.joinpath(*(_slug(part) for part in (model, task, method) if part), str(seed))
        first = _own_names(model, task, point.of if point else method) + _bounds(seed, budget)
        pairs = [*first, *_pairs(shared), *of_model, *of_task, *of_method]
        if budget is not None and budget.name != "candidates":
            pairs = [(key, _unbounded(value) if key in THEN_KEYS else value) for key, value in pairs]
        try:
            config = load_config({}, [*pairs, *overrides]).with_absolute_paths()
            problems = list(_contradictions(config, seed, budget))
        except ConfigError as error:
            problems = list(error.problems)
        for line in problems:
            found.setdefault(line, []).append(name)
        if not problems:
            cell = Cell(method, task, model, seed, config, folder, point)
            other = seen.setdefault(config.model_dump_json(), cell)
            cells.append(replace(cell, folder=other.folder) if _shared(cell, other) else cell)
    return cells, [_with_names(line, names) for line, names in found.items()]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(decoded(path.read_bytes(), "the file")[0])
    except (OSError, ValueError, RecursionError, DataError) as error:
        raise ConfigError([f"cannot be read as TOML: {getattr(error, 'strerror', None) or error}"], str(path)) from None


def _table(tables: Mapping[str, Any], name: str, problems: list[str]) -> dict[str, Any]:
    found = tables.get(name, {})
    if isinstance(found, dict):
        return found
    problems.append(f'[{name}]: expected a table of settings, for example [{name}] "method.d" = 100')
    return {}


def _members(tables: Mapping[str, Any], name: str, problems: list[str]) -> dict[str, dict[str, Any]]:
    """The members of [methods], [tasks] or [models], each a table of settings."""
    found = tables.get(name, {})
    if not isinstance(found, dict) or (name in tables and not found):
        problems.append(f'[{name}]: expected a table of tables, for example [{name}] x = {{ "method.d" = 100 }}')
        return {}
    for member, table in found.items():
        if not isinstance(table, dict):
            problems.append(f'[{name}] {member}: expected a table such as {{ "method.d" = 100 }}, got {table!r}')
        if not member.strip():
            problems.append(f"[{name}]: a member without a name")
    return {member: table for member, table in found.items() if isinstance(table, dict)}


def _pairs(table: Mapping[str, Any]) -> Pairs:
    """Settings of a table as (key, value); ``method.d = 1`` and ``"method.d" = 1`` say the same."""
    pairs: Pairs = []
    for key, value in table.items():
        if key in RunConfig.model_fields and isinstance(value, dict):
            pairs += [(f"{key}.{name}", inner) for name, inner in value.items()]
        else:
            pairs.append((key, value))
    return pairs


def _sweep(table: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, list[Any]]:
    """The values of a `sweep` by setting."""
    found = table.get("sweep", {})
    settings = dict(_pairs(found)) if isinstance(found, dict) else {}
    if ("sweep" in table and not settings) or not all(
        isinstance(values, list) and values for values in settings.values()
    ):
        problems.append(
            f'{where}sweep: expected lists by setting, for example {{ "method.d" = [100, 200] }}, got {found!r}'
        )
        return {}
    return settings


def _swept(
    members: Mapping[str, Mapping[str, Any]], shared: Mapping[str, list[Any]], problems: list[str]
) -> dict[str, tuple[Pairs, Point | None]]:
    """Every method with its settings; one that is swept becomes one for each value, settings varied one at a time."""
    methods: dict[str, tuple[Pairs, Point | None]] = {}
    for name, table in (members or ({"": {}} if shared else {})).items():
        pairs = _pairs({key: value for key, value in table.items() if key != "sweep"})
        sweep = {**shared, **_sweep(table, f"[methods] {name} ", problems)}
        points = [Point(name, key, value) for key, values in sweep.items() for value in values]
        for point in points:
            if point.name in methods:
                problems.append(f"sweep: {point.name!r} is there twice")
            methods[point.name] = ([*pairs, (point.key, point.value)], point)
        if not points:
            if name in methods:
                problems.append(f"[methods] {name}: a sweep makes a method of that name, too")
            methods[name] = (pairs, None)
    return methods


def _budget(tables: Mapping[str, Any], problems: list[str]) -> RunBudget | None:
    if "budget" not in tables:
        return None
    found = tables["budget"]
    if isinstance(found, dict) and len(found) == 1:
        name, amount = next(iter(found.items()))
        number = name in BUDGETS and type(amount) in (int, float) and 0 < amount < float("inf")
        if number and (name == "seconds" or amount == int(amount)):
            return RunBudget(name, amount if name == "seconds" else int(amount))
    problems.append(
        f"budget: expected one of {', '.join(BUDGETS)}, for example {{ forward_tokens = 3e6 }}, got {found!r}"
    )
    return None


def _own_names(model: str, task: str, method: str) -> Pairs:
    """What members' own names stand for where no table says otherwise."""
    known = {
        "model.name": (model, False),
        "task.name": (task, task in TASKS),
        "method.name": (method, method in METHODS),
    }
    return [(key, name) for key, (name, listed) in known.items() if listed or name.startswith(assets.PREFIXES)]


def _bounds(seed: int, budget: RunBudget | None) -> Pairs:
    """What the plan says of every run; a table that says otherwise is found out by `_contradictions`."""
    pairs: Pairs = [("task.seed", seed)]
    if budget is not None:
        if budget.name != "candidates":
            pairs += [("method.budget", UNBOUNDED), ("method.steps", UNBOUNDED)]
        pairs.append((budget.key, budget.amount))
    return pairs


def _unbounded(entries: Any) -> Any:
    """Entries of `then` that end by their share of what a plan allows, where they do not say otherwise."""
    if not isinstance(entries, list):
        return entries  # explained when it is read
    tables = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]
    free = {"budget": UNBOUNDED, "steps": UNBOUNDED}
    return [{**free, **entry} if isinstance(entry, Mapping) else entry for entry in tables]


def _contradictions(config: RunConfig, seed: int, budget: RunBudget | None) -> Iterator[str]:
    if config.task.seed != seed:
        yield f"task.seed: {config.task.seed}, but seeds sets it for every run: leave it out"
    if budget is None:
        return
    section, _, key = budget.key.partition(".")
    if (given := getattr(getattr(config, section), key)) != budget.amount:
        yield f"{budget.key}: {given}, but budget sets it for every run: leave one of them out"
    if budget.name == "candidates" and config.alternates and config.method.optimizer.searches:
        yield "budget: candidates do not bound a search with rounds: use forward_tokens or seconds"
    if budget.name == "candidates" and config.method.then:
        yield "budget: candidates are counted in each stretch by itself, see method.then: use forward_tokens or seconds"
    for one in config.stretches:
        schedule = getattr(one.method.optimizer, "schedule", "constant")
        if schedule != "constant" and one.method.steps == UNBOUNDED:
            yield f"method.schedule: {schedule} needs method.steps, since a budget in {budget.name} does not tell them"


def _shared(cell: Cell, other: Cell) -> bool:
    """Whether two cells with one recipe are meant to be one run: points of sweeps on one task and model."""
    return (cell.model, cell.task) == (other.model, other.task) and (cell.point or other.point) is not None


def _twice(cells: Sequence[Cell]) -> list[str]:
    """Runs of different names whose recipes are the same."""
    seen: dict[str, Cell] = {}
    found: dict[str, None] = {}
    for cell in cells:
        other = seen.setdefault(cell.config.model_dump_json(), cell)
        if other is not cell and not _shared(cell, other):
            pairs = (
                ("methods", other.method, cell.method),
                ("tasks", other.task, cell.task),
                ("models", other.model, cell.model),
            )
            said = " and ".join(f"{kind} {one!r} and {two!r}" for kind, one, two in pairs if one != two)
            found[f"{said} are the same recipe: set something in one of them, or leave it out"] = None
    return list(found)


def _same_folder(cells: Sequence[Cell]) -> list[str]:
    """Runs whose names fall on one folder, on systems that do not tell cases apart, too."""
    seen: dict[str, Cell] = {}
    found: dict[str, None] = {}
    for cell in cells:
        other = seen.setdefault(str(cell.folder).casefold(), cell)
        if other is not cell and not (_shared(cell, other) and cell.config == other.config):
            one, two = other.name.rpartition(" / ")[0], cell.name.rpartition(" / ")[0]
            found[f"{one!r} and {two!r} would share the folder {cell.folder.parent}: rename one of them"] = None
    return list(found)


def _with_names(line: str, names: Sequence[str]) -> str:
    more = f" (and {len(names) - 1} more runs)" if len(names) > 2 else f" (and {names[1]})" if len(names) == 2 else ""
    return f"{names[0]}{more}: {line}"


def _joined(*names: str) -> str:
    return " / ".join(filter(None, names))


def _slug(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^\w.=]+", "-", unicodedata.normalize("NFC", name))[:80].strip("-.") or "x"
