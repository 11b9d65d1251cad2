"""Many runs side by side: methods x tasks x models x seeds, each in a process of its own, none repeated that has ended."""

from __future__ import annotations

import _thread
import difflib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import tandemtune.assets as assets
from tandemtune.config import RunConfig, load_config
from tandemtune.errors import ConfigError, RunError, TandemTuneError
from tandemtune.registry import METHODS
from tandemtune.runs.files import write_json
from tandemtune.runs.store import RunFolder
from tandemtune.system import cores
from tandemtune.tasks.catalogue import TASKS

SECTIONS = ("all", "methods", "tasks", "models")
KEYS = ("title", "seeds", "baseline", "jobs", "budget", "sweep", *SECTIONS)
UNBOUNDED = 1_000_000_000
"""Candidates and steps of methods whose runs end by a plan's budget in tokens or seconds."""
GRACE = 10.0
"""Seconds that a run has to stop by itself."""
Progress = Callable[[str], None]
Pairs = list[tuple[str, Any]]


class StoppedError(RunError):
    """A comparison was interrupted; what has ended is kept, the rest goes on with the same command."""

    exit_code = 130


@dataclass(frozen=True)
class Budget:
    """What every run of a plan may spend.

    Args:
        name: ``forward_tokens``, ``candidates`` or ``seconds``.
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
        budget: what every run may spend, if the plan says so.
    """

    cells: tuple[Cell, ...]
    baseline: str
    jobs: int
    title: str
    out: Path
    budget: Budget | None = None

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


def read_plan(path: Path, out: Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a plan and check every recipe in it, before anything runs.

    A plan holds ``seeds``, ``baseline`` (the first method if left out), ``jobs`` (1), ``title``, ``budget``, ``sweep``, and
    tables of settings: ``[all]`` for every run, and ``[methods]``, ``[tasks]`` and ``[models]`` with one table a member.

    Args:
        path: the TOML file.
        out: folder that the runs go to.
        overrides: ``section.key=value`` strings for every run, above everything in the plan.

    Returns:
        The plan with a complete recipe for each of its runs.

    Raises:
        ConfigError: lists every problem.
    """
    tables = _read(path)
    problems = [f"{key}: unknown{_near(key, KEYS)}, expected {', '.join(KEYS)}" for key in tables if key not in KEYS]
    seeds, jobs = tables.get("seeds", [13, 21, 42]), tables.get("jobs", 1)
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) != len(seeds):
        problems.append(f"seeds: expected a list of different whole numbers from 0 on, got {seeds!r}")
    if type(jobs) is not int or jobs < 1:
        problems.append(f"jobs: expected a whole number of at least 1, got {jobs!r}")
    texts = {name: tables[name] for name in ("title", "baseline") if name in tables}
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
    if methods and isinstance(baseline, str) and baseline not in methods:
        problems.append(
            f"baseline: {baseline!r} is no method of the plan{_near(baseline, methods)}, expected one of {', '.join(methods)}"
        )
    if problems:
        raise ConfigError(problems, str(path))
    cells, problems = _cells(shared, methods, members, seeds, budget, out, overrides)
    problems += _twice(cells) + _same_folder(cells)
    if problems:
        raise ConfigError(problems, str(path))
    return Plan(tuple(cells), baseline, jobs, tables.get("title", path.stem), out, budget)


def _cells(
    shared: Mapping[str, Any],
    methods: Mapping[str, tuple[Pairs, Point | None]],
    members: Mapping[str, Mapping[str, Mapping[str, Any]]],
    seeds: Sequence[int],
    budget: Budget | None,
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
        try:
            lines = [f"{key}={_toml(value)}" for key, value in pairs]
            config = load_config({}, [*lines, *overrides]).with_absolute_paths()
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
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
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


def _budget(tables: Mapping[str, Any], problems: list[str]) -> Budget | None:
    if "budget" not in tables:
        return None
    found = tables["budget"]
    if isinstance(found, dict) and len(found) == 1:
        name, amount = next(iter(found.items()))
        number = name in BUDGETS and type(amount) in (int, float) and 0 < amount < float("inf")
        if number and (name == "seconds" or amount == int(amount)):
            return Budget(name, amount if name == "seconds" else int(amount))
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
    return [(key, name) for key, (name, listed) in known.items() if listed or name.startswith(assets.PREFIX)]


def _bounds(seed: int, budget: Budget | None) -> Pairs:
    """What the plan says of every run; a table that says otherwise is found out by `_contradictions`."""
    pairs: Pairs = [("task.seed", seed)]
    if budget is not None:
        if budget.name != "candidates":
            pairs += [("method.budget", UNBOUNDED), ("method.steps", UNBOUNDED)]
        pairs.append((budget.key, budget.amount))
    return pairs


def _contradictions(config: RunConfig, seed: int, budget: Budget | None) -> Iterator[str]:
    if config.task.seed != seed:
        yield f"task.seed: {config.task.seed}, but seeds sets it for every run: leave it out"
    if budget is None:
        return
    section, _, key = budget.key.partition(".")
    if (given := getattr(getattr(config, section), key)) != budget.amount:
        yield f"{budget.key}: {given}, but budget sets it for every run: leave one of them out"
    if config.follows_gradient and config.method.schedule != "constant" and config.method.steps == UNBOUNDED:
        yield f"method.schedule: {config.method.schedule} needs method.steps, since a budget in {budget.name} does not tell them"


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


def _toml(value: Any) -> str:
    """A value as an override has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, (bool, float)) else str(value)


def _joined(*names: str) -> str:
    return " / ".join(filter(None, names))


def _slug(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^\w.=]+", "-", unicodedata.normalize("NFC", name))[:80].strip("-.") or "x"


def _near(word: str, options: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(options), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# ---- what lies there ---------------------------------------------------------------------------------------------


def check_plan(plan: Plan, progress: Progress) -> None:
    """Compare a plan with the runs that lie there, and read the data of those that have not ended; loads no model.

    Args:
        plan: the plan.
        progress: called with a short line while something is fetched.

    Raises:
        ConfigError: lists every problem.
    """
    from tandemtune.build import check, check_mentor

    problems = _of_another_plan(plan)
    seen: set[str] = set()
    for cell in plan.cells:
        if RunFolder(cell.folder).result.is_file():
            continue
        task, model = cell.config.task.model_dump(mode="json"), cell.config.model
        asked = [cell.config.mentor.model_dump(mode="json"), cell.config.alternates, cell.config.alternate.proposer]
        for look, parts in ((check, [task, model.name, model.kind]), (check_mentor, asked)):
            key = json.dumps([look.__name__, parts])
            if key not in seen:
                seen.add(key)
                try:
                    look(cell.config, progress)
                except TandemTuneError as error:
                    problems.append(f"{cell.name}: {error}")
    if problems:
        raise ConfigError(problems, plan.title)


def records_of(plan: Plan) -> list[dict[str, Any]]:
    """What a plan's runs have reached so far; starts nothing.

    Args:
        plan: the plan.

    Returns:
        One record for each cell, in the plan's order: its names, its folder, and its result or why there is none.

    Raises:
        RunError: a run that lies there is not the plan's.
    """
    problems = _of_another_plan(plan)
    if problems:
        raise RunError("\n".join(problems))
    return [_record(cell) for cell in plan.cells]


def _of_another_plan(plan: Plan) -> list[str]:
    problems = []
    for cell in plan.cells:
        if RunFolder(cell.folder).recipe.is_file():
            try:
                differences, _ = _differences(RunFolder(cell.folder).read_recipe(), cell.config)
            except RunError as error:
                differences = [str(error)]
            if differences:
                problems.append(
                    f"{cell.name}: the run in {cell.folder} has another recipe ({'; '.join(differences[:3])}"
                    f"{'; ...' if len(differences) > 3 else ''}): take the change back, move the run away, or choose another --out"
                )
    return problems


def _differences(there: Mapping[str, Any], config: RunConfig) -> tuple[list[str], list[str]]:
    """Settings in which a run that lies there is not the wanted one, and settings that only its version knew.

    What its version did not know yet has to have its default. Threads that the plan leaves open were chosen when the run began.
    """
    wanted = config.model_dump(mode="json")
    different, unknown = [], []
    for section, owner in RunConfig.model_fields.items():
        settings: Any = owner.annotation
        before = there[section] if isinstance(there.get(section), dict) else {}
        for key, field in settings.model_fields.items():
            now = wanted[section][key]
            then = before[key] if key in before else field.get_default(call_default_factory=True)
            if then != now and not (section == "model" and key == "threads" and now is None):
                different.append(f"{section}.{key} {_short(then)} there, {_short(now)} in the plan")
        unknown += [
            f"{section}.{key}" for key, value in before.items() if key not in wanted[section] and value is not None
        ]
    unknown += [section for section in there if section not in wanted]
    return different, unknown


def _record(cell: Cell) -> dict[str, Any]:
    record: dict[str, Any] = {"method": cell.method, "task": cell.task, "model": cell.model, "seed": cell.seed}
    if cell.point is not None:
        record["sweep"] = {"of": cell.point.of, "key": cell.point.key, "value": cell.point.value}
    record["folder"] = str(cell.folder)
    folder = RunFolder(cell.folder)
    try:
        result = folder.read_result()
        if result is None:
            record["failure"] = "begun, not ended" if folder.recipe.is_file() else "not run"
        else:
            _, unknown = _differences(folder.read_recipe(), cell.config)
            record |= {"result": result, "unknown": unknown} if unknown else {"result": result}
    except RunError as error:
        record["failure"] = str(error)
    return record


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-17:]}"


def save(out: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write all records, for other programs to read.

    Args:
        out: folder of all runs.
        records: what `execute` or `records_of` returned.
    """
    write_json(out / "records.json", list(records))


# ---- running -----------------------------------------------------------------------------------------------------


def execute(plan: Plan, progress: Progress) -> list[dict[str, Any]]:
    """Make every run of a plan that has not ended; go on with those that were stopped.

    Args:
        plan: what to run.
        progress: called with a short line when a run ends.

    Returns:
        One record for each cell, in the plan's order: its names, its folder, and its result or what went wrong.

    Raises:
        RunError: a run that lies there is not the plan's, or another comparison works in the folder.
        StoppedError: the comparison was interrupted.
    """
    records = records_of(plan)
    if all("result" in record for record in records):
        progress(f"all {len(plan.cells)} runs have ended already; nothing to do")
        return records
    plan.out.mkdir(parents=True, exist_ok=True)
    with _alone(plan.out):
        return _execute(plan, records_of(plan), progress)


def _execute(plan: Plan, records: list[dict[str, Any]], progress: Progress) -> list[dict[str, Any]]:
    waiting: dict[Path, list[int]] = {}  # by folder: several sweeps may share a run
    for index, record in enumerate(records):
        if "result" not in record:
            waiting.setdefault(plan.cells[index].folder, []).append(index)
    total, begin = len(records), time.monotonic()
    before = total - sum(map(len, waiting.values()))
    progress(_plan_in_words(plan, before))
    if plan.jobs > cores():
        progress(f"warning: {plan.jobs} jobs share {cores()} processor cores; times are those of a crowded machine")
    children, talking = _Children(), threading.Lock()
    runs, ended = 0, before

    def one(indices: Sequence[int]) -> None:
        nonlocal runs, ended
        failure = _run(plan.cells[indices[0]], plan.threads, children)
        for index in indices:
            record = _record(plan.cells[index])
            if failure and "result" not in record:
                record["failure"] = failure
            records[index] = record
        if children.stopped:
            return
        with talking:
            runs, ended = runs + 1, ended + len(indices)
            left = (time.monotonic() - begin) / runs * (len(waiting) - runs)
            about = f"; about {left / 60:.0f} min left" if left >= 60 else ""
            names = ", ".join(plan.cells[index].name for index in indices)
            progress(f"{ended} of {total}: {names}: {_outcome(records[indices[0]])}{about}")

    with ThreadPoolExecutor(min(plan.jobs, len(waiting))) as pool:
        futures = [pool.submit(one, indices) for indices in waiting.values()]
        try:
            while wait(futures, timeout=1.0).not_done:
                pass
        except KeyboardInterrupt:
            progress("stopping: what has been measured is kept")
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            wait([future for future in futures if not future.cancelled()], timeout=GRACE)
            done = sum("result" in _record(cell) for cell in plan.cells)
            raise StoppedError(
                f"stopped: {done} of {total} runs have ended; the same command goes on with the rest"
            ) from None
    for future in futures:
        future.result()
    return records


def _plan_in_words(plan: Plan, before: int) -> str:
    threads = {cell.config.model.threads or plan.threads for cell in plan.cells}
    parts = [f"{len(plan.cells)} runs, {plan.jobs} at a time, {'/'.join(map(str, sorted(threads)))} threads each"]
    parts += [f"budget: {plan.budget}"] if plan.budget else []
    parts += [f"{before} have ended before"] if before else []
    return "; ".join(parts)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep a second comparison out of a folder."""
    lock = FileLock(str(out / ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"another comparison is running in {out}: wait for it, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()


class _Children:
    """The processes of one comparison: they end when their standard input is closed, by this process or by its death."""

    def __init__(self) -> None:
        self.stopped = False
        self._running: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """Call the command line in a process of its own.

        Args:
            arguments: of the command line.
            environment: of the process.
            log: file for what it says to stderr.

        Returns:
            Its exit code, negative for a signal.
        """
        apart: dict[str, Any] = {"start_new_session": True}  # Ctrl-C is for this process, which stops the others once
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        command = [sys.executable, "-P", "-c", _CHILD, str(Path(__file__).parent.parent), *arguments]
        with log.open("wb") as file:
            with self._lock:
                if self.stopped:
                    return 130
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                    env=dict(environment),
                    **apart,
                )
                self._running.append(process)
            code = process.wait()
        with self._lock:
            self._running.remove(process)
            if process.stdin is not None:
                process.stdin.close()
        return code

    def stop(self) -> None:
        """End all processes: as Ctrl-C does, then by force."""
        with self._lock:
            self.stopped = True
            running = list(self._running)
            for process in running:
                if process.stdin is not None:
                    process.stdin.close()
        until = time.monotonic() + GRACE + 2
        try:
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
        except KeyboardInterrupt:
            pass
        for process in running:
            process.kill()


_CHILD = """
import sys
root = sys.argv.pop(1)
if root not in sys.path:
    sys.path.insert(0, root)
from tandemtune.compare import end_with_parent
end_with_parent()
from tandemtune.cli import main
main()
"""


def end_with_parent() -> None:
    """Interrupt this process when its standard input closes: whoever started it wants it to stop, or is gone."""

    def watch() -> None:
        with suppress(OSError):
            os.read(0, 1)
        _thread.interrupt_main()
        time.sleep(GRACE)
        os._exit(130)

    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a shell started the comparison in the background
    threading.Thread(target=watch, daemon=True).start()


def _run(cell: Cell, threads: int, children: _Children) -> str:
    """Run or resume one cell in a process of its own; returns what went wrong, or nothing."""
    if not _free(cell.folder, children):
        return f"another process is working in {cell.folder}"
    begun = RunFolder(cell.folder).recipe.is_file()
    recipe, log = (cell.folder.with_name(f"{cell.folder.name}.{ending}") for ending in ("recipe.json", "log"))
    content = cell.config.model_dump(mode="json")
    content["model"]["threads"] = threads = cell.config.model.threads or threads
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}
    try:
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        if not begun:
            write_json(recipe, content)
        words = ["resume", str(cell.folder)] if begun else ["run", str(recipe), "--out", str(cell.folder)]
        code = children.run([*words, "--quiet"], environment, log)
        failure = "" if code == 0 or children.stopped else _said(log, code)
        if not failure:
            log.unlink()
        return failure
    except OSError as error:
        return f"{error.strerror or error} ({error.filename})"
    finally:
        with suppress(OSError):
            recipe.unlink(missing_ok=True)


def _free(folder: Path, children: _Children) -> bool:
    """Whether nobody works in a run's folder; the last runs of a comparison that was killed need a moment to end."""
    lock = folder / ".lock"
    until = time.monotonic() + GRACE + 5
    while lock.exists() and not children.stopped:
        try:
            with FileLock(str(lock), timeout=0.2):
                return True
        except Timeout:
            if time.monotonic() > until:
                return False
    return True


def _said(log: Path, code: int) -> str:
    """What a process that failed had to say, on one line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith("tandemtune: ")]
    if starts:
        return " ".join(lines[starts[-1] :]).removeprefix("tandemtune: ")
    if code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name} (SIGKILL: often too little memory)"
    return f"{lines[-1]} (all of it in {log})" if lines else f"exit code {code}"


def _outcome(record: Mapping[str, Any]) -> str:
    if "result" not in record:
        return f"failed: {record['failure']}"
    result = record["result"]
    return f"{result['metric']} {result['tuned']['test']} on test, {result['cost']['seconds']:.0f} s"
