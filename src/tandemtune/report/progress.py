"""How far a run has come, as terminals and notebooks show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandemtune.callbacks import TurnView
from tandemtune.report.numbers import duration
from tandemtune.report.recipes import method_of, setting
from tandemtune.report.terminal import sparkline
from tandemtune.runs.records import (
    Costs,
    Evaluation,
    Facts,
    GenerationRecord,
    HandOverRecord,
    RaceRecord,
    StartRecord,
    StepRecord,
)


class RunProgress:
    """Collects what a run says of itself.

    Attributes:
        method: its name.
        planned: how much the recipe allows, counted in `unit`.
        unit: "candidates" or "steps".
        done: how much of it is done.
        state: where the search stands; None before the first turn.
        seconds: of search so far.
    """

    def __init__(self) -> None:
        self.method = "search"
        self.planned, self.unit, self.done = 0, "steps", 0
        self.state: TurnView | None = None
        self.seconds = 0.0
        self._metric = "score"
        self._labels = 0
        self._start: Evaluation | None = None
        self._losses: list[float | None] = []
        self._began: tuple[float, int, Costs] | None = None
        self._depth = 1.0

    def ready(self, facts: Facts, recipe: Mapping[str, Any]) -> None:
        """Take what is known before the search begins."""
        self.method = method_of(recipe, "search")
        self._metric = str(setting(recipe, "task.metric", "score"))
        self._labels = len(facts.labels)
        self._depth = facts.depth or 1.0

    def start(self, record: StartRecord) -> None:
        """Take the starting point."""
        self._start = record.dev
        self._losses.append(record.dev.loss)

    def turn(
        self, record: GenerationRecord | StepRecord | RaceRecord, state: TurnView, seconds: float, recorded: bool
    ) -> None:
        """Take a turn; one that was recorded before does not count for the speed."""
        self.state, self.seconds = state, seconds
        self.planned, self.unit = state.planned, state.unit
        self.done = record.step if state.unit == "steps" else state.costs.candidates
        if record.dev is not None:
            self._losses.append(record.dev.loss)
        if not recorded and self._began is None:  # the speed is that of this process, from its first turn on
            self._began = (seconds, self.done, state.costs)

    def hand_over(self, record: HandOverRecord, state: TurnView) -> None:
        """Take that another search goes on: losses are those of its own objective from now on."""
        self.state, self._losses = state, [record.dev.loss]

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1."""
        return min(self.done / self.planned, 1.0) if self.planned else 0.0

    @property
    def counted(self) -> str:
        """What is done, of what is planned where that is known: tokens or seconds alone may end a run."""
        return f"{self.done:,} of {self.planned:,} {self.unit}" if self.planned else f"{self.done:,} {self.unit}"

    @property
    def left(self) -> str:
        """Time that the rest takes at the speed so far, in words."""
        if self._began is None or self.seconds <= self._began[0] or self.done <= self._began[1] or not self.planned:
            return "…"
        rate = (self.done - self._began[1]) / (self.seconds - self._began[0])
        return duration(max(self.planned - self.done, 0) / rate)

    @property
    def speed(self) -> tuple[float, float] | None:
        """Tokens through the whole model a second, backwards too, and tokens that are written a second; None before the second turn."""
        if self._began is None or self.state is None or self.seconds <= self._began[0]:
            return None
        first, last, took = self._began[2], self.state.costs, self.seconds - self._began[0]
        read = (last.forward + last.backward - first.forward - first.backward) / self._depth
        return read / took, (last.generated - first.generated) / took

    @property
    def rate(self) -> str:
        """The speed of a task that is answered with texts, in words; empty for others and before it is known."""
        if self._labels or self.speed is None:
            return ""
        read, written = self.speed
        return f"{read:,.0f} tokens/s" + (f", {written:,.0f} written" if written else "")

    @property
    def numbers(self) -> list[tuple[str, str]]:
        """Three numbers in a fixed format: train loss, dev loss, dev score."""
        if self.state is None:
            return []
        values = (
            ("train loss", self.state.train_loss),
            ("dev loss", self.state.dev.loss),
            (f"dev {self._metric}", self.state.dev.score),
        )
        return [(name, fixed(value)) for name, value in values]

    @property
    def references(self) -> list[tuple[str, str]]:
        """What the numbers are to be compared with: the score before tuning, chance, and the best dev evaluation."""
        found = [("untuned", fixed(self._start.score))] if self._start is not None else []
        found += [("chance", fixed(1 / self._labels))] if self._labels else []
        if self.state is not None:
            found.append(("best dev loss", fixed(self.state.best_dev.loss)))
        return found

    def spark(self, width: int) -> str:
        """The course of the dev loss."""
        return sparkline(self._losses, width)


def fixed(value: float | None) -> str:
    """A loss or a score in a format that does not move: seven columns."""
    return f"{'-':>7}" if value is None else f"{value:7.4f}"
