"""Runs of a comparison."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from tandemtune.runs.records.base import Record, Versioned
from tandemtune.runs.records.results import Result


class SweepPoint(Record):
    """Where a method of a comparison stands in a sweep: the method that is varied, the setting, and its value."""

    of: str
    key: str
    value: JsonValue


class ComparedRun(Record):
    """One run of a comparison.

    Args:
        method: its name in the plan; likewise `task` and `model`.
        seed: of the rows and the search.
        folder: where the run lies.
        sweep: where its method stands in a sweep.
        result: what it reached; None while there is no result.
        failure: why there is none.
        unknown: settings of its recipe that this version does not know.
        state: of a run without a result: open (the same command makes it), left out (it has ended, and says nothing about its method), or waiting
            for answers.
    """

    method: str
    task: str
    model: str
    seed: int
    folder: str
    sweep: SweepPoint | None = None
    result: Result | None = None
    failure: str | None = None
    unknown: tuple[str, ...] = ()
    state: Literal["open", "left out", "waiting for answers"] = "open"


class ComparedRuns(Versioned):
    """``records.json`` of a comparison: all of its runs, in the plan's order."""

    runs: tuple[ComparedRun, ...]
