"""Callbacks: told what happens in a run, while it happens.

A callback is a subclass of `Callback` that overrides the events it wants to hear of. A run calls them in this order::

    on_progress*  on_ready  on_start  (on_turn | on_proposal | on_race | on_hand_over)*  on_testing  on_result

``on_progress`` may come at any time. A run that is resumed calls ``on_turn`` and the like for what was recorded before, too, with ``recorded`` set. A run that is interrupted stops after any of them: whoever holds something open closes it on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tandemtune.runs.records import (
    Costs,
    Evaluation,
    Facts,
    GenerationRecord,
    HandOverRecord,
    Loss,
    ProposalRecord,
    RaceRecord,
    Result,
    StartRecord,
    StepRecord,
)


@dataclass(frozen=True, slots=True)
class TurnView:
    """Where a search stands after a turn.

    Args:
        train_loss: loss on the training rows of the point that the search stands at; of the step's rows for gradient steps, the
            candidates' mean for methods that keep none of them.
        dev: the last evaluation on the dev rows.
        best_dev: the evaluation with the lowest dev loss so far; its point is the one that would be kept.
        best_step: the step after which it was found; 0 for the starting point.
        costs: what has been spent so far.
        planned: how much the recipe allows in all, counted in `unit`; 0 where only another bound ends the run.
        unit: "candidates", or "steps" (generations and gradient steps).
    """

    train_loss: Loss
    dev: Evaluation
    best_dev: Evaluation
    best_step: int
    costs: Costs
    planned: int
    unit: Literal["candidates", "steps"]


@dataclass(frozen=True, slots=True)
class Planned:
    """How much work a run will do at most.

    Args:
        total: candidates or steps; 0 where only another bound (tokens, seconds) ends the run.
        unit: what is counted.
    """

    total: int
    unit: Literal["candidates", "steps"]


class Callback:
    """Hears of the events of a run; every method does nothing until it is overridden."""

    def on_progress(self, text: str) -> None:
        """Something that takes a while has begun or moved on.

        Args:
            text: a short line for people, such as "fetching the model".
        """

    def on_ready(self, facts: Facts, recipe: Mapping[str, Any]) -> None:
        """The model is loaded and everything is decided; the search has not begun.

        Args:
            facts: what was found out or decided on this machine, as `run.json` has it.
            recipe: the resolved recipe, as `recipe.json` has it.
        """

    def on_start(self, record: StartRecord, resumed: int, seconds: float) -> None:
        """The starting point is scored.

        Args:
            record: the journal's first line.
            resumed: lines that the journal holds already; 0 for a new run.
            seconds: of search by earlier processes.
        """

    def on_turn(self, record: GenerationRecord | StepRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        """A generation or a gradient step is done.

        Args:
            record: its line in the journal.
            state: where the search stands now.
            seconds: of search so far, earlier processes included.
            recorded: whether the line was there before this process began.
        """

    def on_proposal(self, record: ProposalRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        """Somebody proposed points to go on from, and they are scored.

        Args:
            record: the round's line in the journal.
            state: where the search stands now.
            seconds: of search so far, earlier processes included.
            recorded: whether the line was there before this process began.
        """

    def on_race(self, record: RaceRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        """Proposals have run a leg of a race.

        Args:
            record: the leg's line in the journal.
            state: where the search stands now.
            seconds: of search so far, earlier processes included.
            recorded: whether the line was there before this process began.
        """

    def on_hand_over(self, record: HandOverRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        """Another search goes on from the best point of the one before.

        Args:
            record: its line in the journal.
            state: where the search stands now.
            seconds: of search so far, earlier processes included.
            recorded: whether the line was there before this process began.
        """

    def on_testing(self) -> None:
        """The search is over; the zero-shot and the tuned model are scored on dev and test rows next."""

    def on_result(self, result: Result) -> None:
        """The run is finished.

        Args:
            result: the content of `result.json`.
        """


class Callbacks(Callback):
    """Several callbacks as one, called in order.

    Args:
        members: the callbacks.
    """

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

    def on_race(self, record: RaceRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        """Tell all."""
        for member in self._members:
            member.on_race(record, state, seconds, recorded)

    def on_hand_over(self, record: HandOverRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        """Tell all."""
        for member in self._members:
            member.on_hand_over(record, state, seconds, recorded)

    def on_testing(self) -> None:
        """Tell all."""
        for member in self._members:
            member.on_testing()

    def on_result(self, result: Result) -> None:
        """Tell all."""
        for member in self._members:
            member.on_result(result)
