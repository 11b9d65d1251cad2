"""Shows a run in a notebook's output cell."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tandemtune.callbacks import Callback, TurnView
from tandemtune.report.numbers import score
from tandemtune.report.page import render
from tandemtune.report.progress import RunProgress
from tandemtune.report.stories import hand_over_story, proposal_story, race_story
from tandemtune.runs.records import (
    Facts,
    GenerationRecord,
    HandOverRecord,
    ProposalRecord,
    RaceRecord,
    Result,
    StartRecord,
    StepRecord,
)

REFRESH = 0.3
"""Seconds between two drawings at least."""


class NotebookReport(Callback):
    """Shows a run in one output cell that is drawn anew: a bar with the time left, numbers, proposals, at last the scores."""

    def __init__(self) -> None:
        self._progress = RunProgress()
        self._handle: Any = None
        self._said = ""
        self._stories: list[str] = []
        self._last = float("-inf")

    def on_progress(self, text: str) -> None:
        self._said = text
        self._show()

    def on_ready(self, facts: Facts, recipe: Mapping[str, Any]) -> None:
        self._progress.ready(facts, recipe)
        self._said = "scoring the starting point"
        self._show()

    def on_start(self, record: StartRecord, resumed: int, seconds: float) -> None:
        self._progress.start(record)
        self._said = f"resumed: the journal holds {resumed:,} lines already" if resumed else ""
        self._show()

    def on_turn(self, record: GenerationRecord | StepRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        self._progress.turn(record, state, seconds, recorded)
        if not recorded and time.monotonic() - self._last >= REFRESH:
            self._show()

    def on_proposal(self, record: ProposalRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        if not recorded:
            self._stories += proposal_story(record)
            self._show()

    def on_race(self, record: RaceRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        self._progress.turn(record, state, seconds, recorded)
        if not recorded:
            self._stories += race_story(record)
            self._show()

    def on_hand_over(self, record: HandOverRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        self._progress.hand_over(record, state)
        if not recorded:
            self._stories.append(hand_over_story(record))
            self._show()

    def on_testing(self) -> None:
        self._said = "the search is over; scoring the zero-shot and the tuned model"
        self._show()

    def on_result(self, result: Result) -> None:
        rows = [
            (name, [score(value) for value in (found.dev_loss, found.dev, found.test)])
            for name, found in (("zero-shot", result.zero_shot), ("tuned", result.tuned))
        ]
        self._said = ""
        self._show(scores=rows, metric=result.metric)

    def _show(self, **more: Any) -> None:
        """Draw the cell, or draw it anew."""
        from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

        context = {"scores": [], "metric": "", **more}
        text = render("progress.html", it=self._progress, said=self._said, stories=self._stories, **context)
        if self._handle is None:
            self._handle = display(HTML(text), display_id=True)
        else:
            self._handle.update(HTML(text))
        self._last = time.monotonic()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; IPython is not imported to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
