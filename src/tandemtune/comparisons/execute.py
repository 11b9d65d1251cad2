"""The runs of a plan, each as if it were alone in a process, none repeated that has ended."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from tandemtune.comparisons.cluster import ClusterProcesses
from tandemtune.comparisons.ending import GRACE
from tandemtune.comparisons.plan import Cell, Plan
from tandemtune.comparisons.processes import Began, Kept, LostError, Processes
from tandemtune.config import RunConfig, load_config
from tandemtune.errors import AnswerAwaited, ConfigError, RunError, TandemTuneError
from tandemtune.runs.records import ComparedRun, Result, SweepPoint
from tandemtune.runs.store import RunFolder
from tandemtune.runs.writing import write_json
from tandemtune.system import cores

Progress = Callable[[str], None]
Somewhere = Processes | ClusterProcesses
Elsewhere = Callable[[int, Path], ClusterProcesses]
"""(processors of a run, folder for what runs have in common) -> processes on a cluster."""
Watch = Callable[[Cell, str], None]
"""Told what a run does now: running (and where), failed, or its score."""
OPEN: Literal["open"] = "open"
LEFT_OUT: Literal["left out"] = "left out"
WAITING: Literal["waiting for answers"] = "waiting for answers"
TRIES = 3
"""How often a run is begun or gone on with where its machine goes."""


class StoppedError(RunError):
    """A comparison was interrupted; what has ended is kept, the rest goes on with the same command."""

    exit_code = 130


# ---- what lies there ---------------------------------------------------------------------------------------------


def check_plan(plan: Plan, progress: Progress) -> None:
    """Compare a plan with the runs that lie there, and read the data of those that have not ended; loads no model.

    Args:
        plan: the plan.
        progress: called with a short line while something is fetched.

    Raises:
        ConfigError: lists every problem.
    """
    from tandemtune.wiring import check, check_proposer

    problems = _of_another_plan(plan)
    seen: set[str] = set()
    told: set[str] = set()
    for cell in plan.cells:
        if RunFolder(cell.folder).result.is_file():
            continue
        config, model = cell.config, cell.config.model
        methods, proposer = [one.method for one in config.stretches], config.alternate.proposer
        rows = [
            config.task.model_dump(mode="json"),
            *(model.name, model.kind, config.run.yardsticks, config.run.trackers),
            *([one.readout.model_dump(mode="json"), one.score, one.subsample] for one in methods),
        ]
        asked = [
            *(
                config.mentor.model_dump(mode="json"),
                config.alternates,
                any(one.objective.asks_model for one in methods),
            ),
            *(type(proposer).__qualname__, proposer.model_dump(mode="json")),
        ]
        for look, parts in ((check, rows), (check_proposer, asked)):
            key = json.dumps([look.__name__, parts])
            if key not in seen:
                seen.add(key)
                try:
                    look(cell.config, progress)
                except TandemTuneError as error:
                    if str(error) not in told:  # of the same rows
                        problems.append(f"{cell.name}: {error}")
                    told.add(str(error))
    if problems:
        raise ConfigError(problems, plan.title)


def records_of(plan: Plan) -> list[ComparedRun]:
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
                differences = _differences(RunFolder(cell.folder).read_recipe(), cell.config)
            except (RunError, ConfigError) as error:
                differences = [str(error)]
            if differences:
                problems.append(
                    f"{cell.name}: the run in {cell.folder} has another recipe ({'; '.join(differences[:3])}"
                    f"{'; ...' if len(differences) > 3 else ''}): take the change back, move the run away, or choose another --out"
                )
    return problems


def _differences(there: Mapping[str, Any], config: RunConfig) -> list[str]:
    """Settings in which a run that lies there is not the wanted one. Threads that the plan leaves open were chosen when the run
    began; what the run's recipe does not say has its default."""
    before = load_config(there).model_dump(mode="json")
    wanted = config.model_dump(mode="json")
    if wanted["model"]["threads"] is None:
        del before["model"]["threads"], wanted["model"]["threads"]
    return list(_told(before, wanted))


def _told(before: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What differs between two tables, with dots between the keys; whatever stands in one of them alone does, too."""
    for key in dict.fromkeys([*wanted, *before]):
        one, other, name = before.get(key), wanted.get(key), f"{prefix}{key}"
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _told(one, other, f"{name}.")
        elif one != other:
            yield f"{name} {_short(one)} there, {_short(other)} in the plan"


def _record(cell: Cell) -> ComparedRun:
    """What lies in a run's folder."""
    folder = RunFolder(cell.folder)
    result, failure, silent = None, None, False
    try:
        found = folder.read_result()
        if found is None:
            failure = "begun, not ended" if folder.recipe.is_file() else "not run"
        elif found.unanswered:  # a mentor that never spoke would count as one that did not help
            failure = f"nobody proposed anything: {found.unanswered}; delete {cell.folder} to try again"
            silent = True
        else:
            result = found
    except RunError as error:
        failure = str(error)
    point = cell.point
    return ComparedRun(
        method=cell.method,
        task=cell.task,
        model=cell.model,
        seed=cell.seed,
        folder=str(cell.folder),
        sweep=None if point is None else SweepPoint(of=point.of, key=point.key, value=point.value),
        result=result,
        failure=failure,
        state=LEFT_OUT if silent else OPEN,
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-17:]}"


# ---- running -----------------------------------------------------------------------------------------------------


def execute(
    plan: Plan, progress: Progress, elsewhere: Elsewhere | None = None, watch: Watch | None = None
) -> list[ComparedRun]:
    """Make every run of a plan that has not ended; go on with those that were stopped.

    Args:
        plan: what to run.
        progress: called with a short line when a run ends.
        elsewhere: makes processes on a cluster, see `tandemtune.comparisons.cluster`; None for this machine.
        watch: told when runs begin and end.

    Returns:
        One record for each cell, in the plan's order: its names, its folder, and its result or what went wrong.

    Raises:
        RunError: a run that lies there is not the plan's, or another comparison works in the folder.
        StoppedError: the comparison was interrupted.
    """
    records = records_of(plan)
    if not _waiting(plan, records):
        progress(f"all {len(plan.cells)} runs have ended already; nothing to do")
        return records
    plan.out.mkdir(parents=True, exist_ok=True)
    with _alone(plan.out):
        return _execute(plan, records_of(plan), progress, elsewhere, watch or (lambda cell, state: None))


def _execute(
    plan: Plan, records: list[ComparedRun], progress: Progress, elsewhere: Elsewhere | None, watch: Watch
) -> list[ComparedRun]:
    waiting = _waiting(plan, records)
    if not waiting:  # another comparison has ended them meanwhile
        return records
    total, begin = len(records), time.monotonic()
    before = total - sum(map(len, waiting.values()))
    common = plan.out / ".shared"
    shutil.rmtree(common, ignore_errors=True)
    common.mkdir()
    threads = max(plan.cells[index].config.model.threads or plan.threads for index, *_ in waiting.values())
    processes = Processes(plan.jobs, common) if elsewhere is None else elsewhere(threads, common)
    progress(_plan_in_words(plan, processes.jobs, before))
    if elsewhere is None and plan.jobs > cores():
        progress(f"warning: {plan.jobs} jobs share {cores()} processor cores; times are those of a crowded machine")
    talking = threading.Lock()
    runs, ended = 0, before

    def one(indices: Sequence[int]) -> None:
        nonlocal runs, ended
        cell = plan.cells[indices[0]]
        failure, code = _run(cell, plan.threads, processes, lambda where: watch(cell, f"running {where}".strip()))
        for index in indices:
            record = _record(plan.cells[index])
            if failure and record.result is None:
                state = WAITING if code == AnswerAwaited.exit_code else OPEN
                record = record.model_copy(update={"failure": failure, "state": state})
            records[index] = record
            watch(plan.cells[index], _state(record))
        if processes.stopped:
            return
        with talking:
            runs, ended = runs + 1, ended + len(indices)
            left = (time.monotonic() - begin) / runs * (len(waiting) - runs)
            about = f"; about {left / 60:.0f} min left" if left >= 60 else ""
            names = ", ".join(plan.cells[index].name for index in indices)
            progress(f"{ended} of {total}: {names}: {_outcome(records[indices[0]])}{about}")

    with ThreadPoolExecutor(min(processes.jobs, len(waiting))) as pool:
        futures = [pool.submit(one, indices) for indices in waiting.values()]
        try:
            while wait(futures, timeout=1.0).not_done:
                pass
        except KeyboardInterrupt:
            progress("stopping: what has been measured is kept")
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            wait([future for future in futures if not future.cancelled()], timeout=GRACE)
            raise _stopped(plan) from None
        finally:
            processes.close()
            shutil.rmtree(common, ignore_errors=True)
    for future in futures:
        future.result()
    return records


def _waiting(plan: Plan, records: Sequence[ComparedRun]) -> dict[Path, list[int]]:
    """Cells that are to be made by folder: several sweeps may share a run, and what is left out has ended."""
    waiting: dict[Path, list[int]] = {}
    for index, record in enumerate(records):
        if record.result is None and record.state != LEFT_OUT:
            waiting.setdefault(plan.cells[index].folder, []).append(index)
    return waiting


def _stopped(plan: Plan) -> StoppedError:
    done = sum(_record(cell).result is not None for cell in plan.cells)
    return StoppedError(f"stopped: {done} of {len(plan.cells)} runs have ended; the same command goes on with the rest")


def _state(record: ComparedRun) -> str:
    """What a table shows of a run that is not running."""
    return _missing(record) if record.result is None else f"{_score(record.result)[0]}"


def _missing(record: ComparedRun) -> str:
    return "failed" if record.state == OPEN else record.state


def _plan_in_words(plan: Plan, jobs: int, before: int) -> str:
    threads = {cell.config.model.threads or plan.threads for cell in plan.cells}
    parts = [f"{len(plan.cells)} runs, {jobs} at a time, {'/'.join(map(str, sorted(threads)))} threads each"]
    parts += [f"budget: {plan.budget}"] if plan.budget else []
    parts += [f"{before} {'has' if before == 1 else 'have'} ended before"] if before else []
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


def _run(cell: Cell, threads: int, processes: Somewhere, began: Began) -> tuple[str, int]:
    """Run or resume one cell, again where its machine goes; returns what went wrong, or nothing, and the exit code."""
    for _ in range(TRIES):
        try:
            return _tried(cell, threads, processes, began)
        except LostError as error:
            lost = str(error)
    return f"{lost}, {TRIES} times in turn", 1


def _tried(cell: Cell, threads: int, processes: Somewhere, began: Began) -> tuple[str, int]:
    """Run or resume one cell; returns what went wrong, or nothing, and the exit code."""
    try:
        if not _free(cell.folder, processes):
            return f"another process is working in {cell.folder}", 1
    except OSError as error:
        return f"{cell.folder} cannot be written: {error.strerror or error}", 1
    begun = RunFolder(cell.folder).recipe.is_file()
    recipe, log = (cell.folder.with_name(f"{cell.folder.name}.{ending}") for ending in ("recipe.json", "log"))
    content = cell.config.model_dump(mode="json")
    content["model"]["threads"] = threads = cell.config.model.threads or threads
    model = cell.config.model
    kept = Kept(model.name, model.kind, model.dtype, model.revision, threads, model.device)
    try:
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        if not begun:
            write_json(recipe, content)
        words = ["resume", str(cell.folder)] if begun else ["run", str(recipe), "--out", str(cell.folder)]
        own_code = bool(cell.config.plugins())  # it may leave anything behind in its process
        code = processes.run([*words, "--quiet"], kept, log, began, alone=own_code)
        failure = "" if code == 0 or processes.stopped else _said(log, code)
        if not failure:
            log.unlink(missing_ok=True)
        return failure, code
    except OSError as error:
        return f"{error.strerror or error} ({error.filename})", 1
    finally:
        with suppress(OSError):
            recipe.unlink(missing_ok=True)


def _free(folder: Path, processes: Somewhere) -> bool:
    """Whether nobody works in a run's folder; the last runs of a comparison that was killed need a moment to end."""
    lock = folder / ".lock"
    until = time.monotonic() + GRACE + 5
    while lock.exists() and not processes.stopped:
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


def _outcome(record: ComparedRun) -> str:
    result = record.result
    if result is None:
        return f"{_missing(record)}: {record.failure}"
    value, rows = _score(result)
    return f"{result.metric} {value} on {rows}, {result.cost.seconds:.0f} s"


def _score(result: Result) -> tuple[float, str]:
    """What a run reached, on test rows where there are any."""
    tuned = result.tuned
    return (tuned.dev, "dev") if tuned.test is None else (tuned.test, "test")
