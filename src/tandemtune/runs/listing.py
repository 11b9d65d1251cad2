"""Which runs lie in a folder: what each is of, whether it has ended, and what it reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tandemtune.errors import RunError, TandemTuneError
from tandemtune.runs.records import Record
from tandemtune.runs.store import RunFolder

RECIPE = "recipe.json"


class ListedRun(Record):
    """A run as a list shows it.

    Args:
        name: path of its folder below the one that was looked through.
        state: "finished", "finished by hand", "running", "unfinished", or what is wrong with it.
        zero_shot: score of the pretrained model, on test rows, or on dev rows where there are none.
        tuned: the same of what the run found.
        rows: which rows these scores are of, "test" or "dev".
        when: local time of its last change.
    """

    name: str
    method: str
    task: str
    seed: str
    state: str
    metric: str = ""
    rows: str = ""
    zero_shot: float | None = None
    tuned: float | None = None
    when: str


def method_title(method: Mapping[str, Any]) -> str:
    """The name of a recipe's method, and those of what comes behind.

    Args:
        method: section [method] of a resolved recipe.
    """
    behind = [str(entry.get("name") or entry["optimizer"]["kind"]) for entry in method.get("then", ())]
    return ", then ".join([str(method["name"]), *behind])


def listed_runs(folder: Path) -> Iterator[ListedRun]:
    """All runs in a folder and the folders in it, the latest last.

    Raises:
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}: name the one that your runs lie in")
    found = [
        path.parent
        for path in folder.rglob(RECIPE)
        if not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    for place in sorted(found, key=lambda place: (_changed(place), place)):
        yield _listed(RunFolder(place), str(place.relative_to(folder)) if place != folder else place.name)


def _listed(run: RunFolder, name: str) -> ListedRun:
    when = datetime.fromtimestamp(_changed(run.path)).strftime("%Y-%m-%d %H:%M")
    try:
        recipe = run.read_recipe()
        task: dict[str, Any] = recipe["task"]
        known: dict[str, Any] = {
            "method": method_title(recipe["method"]),
            "task": str(task["name"] or Path(task["train"] or "").stem),
            "seed": str(task["seed"]),
        }
        result = run.read_result()
        if result is None:
            return ListedRun(name=name, when=when, state=_unfinished(run), **known)
        rows = "dev" if result.tuned.test is None else "test"
        by_hand = result.stop_reason if "hand" in result.stop_reason else "finished"
        return ListedRun(
            name=name,
            when=when,
            state=by_hand,
            metric=result.metric,
            rows=rows,
            zero_shot=getattr(result.zero_shot, rows),
            tuned=getattr(result.tuned, rows),
            **known,
        )
    except (TandemTuneError, KeyError, TypeError):
        return ListedRun(name=name, when=when, state="damaged", method="", task="", seed="")


def _unfinished(run: RunFolder) -> str:
    """Whether another process is working on it now."""
    lock = run.path / ".lock"
    if not lock.exists():
        return "unfinished"
    try:
        with FileLock(str(lock), timeout=0):
            return "unfinished"
    except Timeout:
        return "running"
    except OSError:  # of somebody else, who alone may write there
        return "unfinished"


def _changed(place: Path) -> float:
    """When the journal or the result was written last."""
    files = (place / name for name in (RECIPE, "journal.jsonl", "result.json"))
    return max(file.stat().st_mtime for file in files if file.exists())
