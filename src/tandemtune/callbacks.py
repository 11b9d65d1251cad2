"""Callbacks: what happens in a run, as named events with documented fields. Base class with methods that do nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tandemtune.runs.records import (
    Costs,
    Evaluation,
    Facts,
    GenerationRecord,
    ProposalRecord,
    Result,
    StartRecord,
    StepRecord,
)


@dataclass(frozen=True)
class Planned:
    """How much work a run will do at most.

    Args:
        total: candidates or steps; None where only another bound (tokens, seconds) ends the run.
        unit: what is counted.
    """

    total: int | None
    unit: Literal["candidates", "steps"]


@dataclass(frozen=True)
class TurnView:
    """Where a search stands after a turn.

    Args:
        train_loss: the incumbent's loss on the training rows (of a gradient step, on the step's rows before it).
        dev: the last evaluation on dev.
        best_dev: the best evaluation on dev so far.
        best_step: turn after which that was.
        costs: spent so far.
        planned: how much work there will be.
    """

    train_loss: float
    dev: Evaluation
    best_dev: Evaluation
    best_step: int
    costs: Costs
    planned: Planned


class Callback:
    """Base of callbacks; override what is of interest. What a method raises ends the run, which can be resumed."""

    def on_progress(self, text: str) -> None:
        """Something slow begins: a short line for people."""

    def on_ready(self, facts: Facts, recipe: Mapping[str, Any]) -> None:
        """Model and rows are loaded and measured; nothing is searched yet."""

    def on_start(self, record: StartRecord, resumed: int, seconds: float) -> None:
        """The search begins, or goes on after `resumed` records of the journal, with `seconds` of search behind it."""

    def on_turn(self, record: GenerationRecord | StepRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        """A generation or gradient step has ended; `recorded` if it was only walked through after a resume."""

    def on_proposal(self, record: ProposalRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        """Somebody has proposed points to go on from."""

    def on_testing(self) -> None:
        """The search is over; zero-shot and tuned are measured now."""

    def on_result(self, result: Result) -> None:
        """Everything is written."""


class Callbacks(Callback):
    """Several callbacks as one, called in order."""

    def __init__(self, members: Sequence[Callback]) -> None:
        self._members = tuple(members)

    def on_progress(self, text: str) -> None:
        """Tell all."""
        for member in self._members:
            member.on_progress(text)

    def on_ready(self, facts: Facts, recipe: Mapping[str, Any]) -> None:
        """Tell all."""
        for member in self._members:
            member.on_ready(facts, recipe)

    def on_start(self, record: StartRecord, resumed: int, seconds: float) -> None:
        """Tell all."""
        for member in self._members:
            member.on_start(record, resumed, seconds)

    def on_turn(self, record: GenerationRecord | StepRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        """Tell all."""
        for member in self._members:
            member.on_turn(record, state, seconds, recorded)

    def on_proposal(self, record: ProposalRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        """Tell all."""
        for member in self._members:
            member.on_proposal(record, state, seconds, recorded)

    def on_testing(self) -> None:
        """Tell all."""
        for member in self._members:
            member.on_testing()

    def on_result(self, result: Result) -> None:
        """Tell all."""
        for member in self._members:
            member.on_result(result)
