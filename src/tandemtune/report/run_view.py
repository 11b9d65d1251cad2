"""Everything that is known of a run, read out of its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandemtune.report.history import Spot, trail
from tandemtune.report.recipes import method_of, objectives, setting
from tandemtune.runs.records import (
    Costs,
    Facts,
    JournalRecord,
    PredictionRecord,
    Result,
)
from tandemtune.runs.store import RunFolder


@dataclass(frozen=True)
class RunView:
    """Everything that is known of a run.

    Args:
        folder: where it lies.
        recipe: the resolved recipe.
        facts: what was decided when it began; None if it was stopped before.
        result: None while it is not finished.
        records: its journal.
        spots: the same as points of curves.
        predictions: of the test rows, where they were written down.
    """

    folder: RunFolder
    recipe: Mapping[str, Any]
    facts: Facts | None
    result: Result | None
    records: Sequence[JournalRecord]
    spots: Sequence[Spot]
    predictions: Sequence[PredictionRecord]

    @classmethod
    def read(cls, folder: RunFolder) -> RunView:
        """Read a run's folder.

        Raises:
            RunError: one of its files is damaged.
        """
        records = folder.read_records()
        recipe, facts, result = folder.read_recipe(), folder.read_facts(), folder.read_result()
        spots = trail(folder, records, objectives(recipe))
        return cls(folder, recipe, facts, result, records, spots, folder.read_predictions() if result else ())

    @property
    def metric(self) -> str:
        """Name of the score."""
        return self.result.metric if self.result else str(setting(self.recipe, "task.metric", "score"))

    @property
    def task(self) -> str:
        """Name of the task."""
        if self.result:
            return self.result.task
        return str(setting(self.recipe, "task.name") or Path(str(setting(self.recipe, "task.train", "run"))).stem)

    @property
    def title(self) -> str:
        """One line that tells this run from others."""
        model = self.result.model if self.result else str(setting(self.recipe, "model.name", "model"))
        model = Path(model).name if Path(model).is_absolute() else model
        method = method_of(self.recipe, "method")
        return f"{self.task} · {model} · {method} · seed {setting(self.recipe, 'task.seed', '?')}"


def spent_so_far(records: Sequence[JournalRecord]) -> Costs:
    """What the search has spent by its last record."""
    counted = [record.costs for record in records if record.costs is not None]
    return counted[-1] if counted else Costs()
