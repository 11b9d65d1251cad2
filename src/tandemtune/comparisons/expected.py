"""Published scores that a plan names, to be shown beside its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandemtune.plugins import near

_EXPECTED = (
    'expected a source and scores, for example { source = "a paper, table 2", tasks = { sst2 = { lora = 91.5 } } }'
)


@dataclass(frozen=True)
class Expected:
    """What published work, on another model, leads one to expect.

    Args:
        source: one line that says where the scores are from.
        tasks: the score of each method by task, as shares.
    """

    source: str
    tasks: Mapping[str, Mapping[str, float]]


def expected_of(
    tables: Mapping[str, Any], methods: Iterable[str], tasks: Iterable[str], problems: list[str]
) -> Expected | None:
    """The scores of a plan's [expected], all of them as shares; None where it has none.

    Args:
        tables: the plan.
        methods: its methods; none where they cannot be told.
        tasks: likewise.
        problems: what is wrong is added to them.
    """
    if "expected" not in tables:
        return None
    found = tables["expected"]
    by_task = found.get("tasks") if isinstance(found, dict) else None
    if not isinstance(by_task, dict) or not by_task:
        problems.append(f"[expected]: {_EXPECTED}, got {found!r}")
        return None
    known = ("source", "tasks")
    problems += [
        f"[expected] {key}: unknown{near(key, known)}, expected {', '.join(known)}" for key in found if key not in known
    ]
    source = found.get("source")
    if not isinstance(source, str) or not source.strip() or len(source.splitlines()) != 1:
        problems.append(f"[expected] source: expected one line that says where the scores are from, got {source!r}")
    wanted = list(tasks)
    for task in by_task:
        if wanted and task not in wanted:
            problems.append(f"[expected.tasks] {stranger(task, 'task', wanted)}")
    return Expected(
        str(source).strip(), {task: _shares(task, by_task[task], list(methods), problems) for task in by_task}
    )


def _shares(task: str, scores: Any, methods: Sequence[str], problems: list[str]) -> dict[str, float]:
    """Published scores of one task, as shares."""
    where = f"[expected.tasks] {task}"
    if not isinstance(scores, dict) or not scores:
        problems.append(f"{where}: expected a table of scores such as {{ lora = 91.5 }}, got {scores!r}")
        return {}
    for name, score in scores.items():
        if methods and name not in methods:
            problems.append(f"{where}: {stranger(name, 'method', methods)}")
        if type(score) not in (int, float) or not abs(score) <= 100:
            problems.append(f"{where}: {name}: expected a score in percent or as a share, got {score!r}")
    sizes = [abs(score) for score in scores.values() if type(score) in (int, float) and score]
    percent = any(size > 1 for size in sizes)
    if percent and any(size <= 1 for size in sizes):
        problems.append(f"{where}: both percent and shares (numbers up to 1): write all of them as one or the other")
    return {name: score / (100 if percent else 1) for name, score in scores.items() if type(score) in (int, float)}


def stranger(name: str, kind: str, options: Iterable[str]) -> str:
    """What is wrong with a name that a plan does not have.

    Args:
        name: the name.
        kind: what it should be of.
        options: the names that there are.
    """
    return f"{name!r} is no {kind} of the plan{near(name, options)}, expected one of {', '.join(options)}"
