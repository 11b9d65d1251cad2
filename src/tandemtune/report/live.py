"""Shows a run while it happens: a panel on a terminal, ``key=value`` lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from tandemtune.callbacks import Callback, TurnView
from tandemtune.report.numbers import fitted
from tandemtune.report.progress import RunProgress, fixed
from tandemtune.report.stories import hand_over_story, proposal_story, race_story
from tandemtune.report.text import WIDE, result_table
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

REFRESH = 0.1
"""Seconds between two drawings at least."""
WIDEST = 100
"""Columns that the panel takes at most."""
_PLAIN = str.maketrans({"━": "#", "─": "-", "·": "-", "…": "~"})


class LiveReport(Callback):
    """Shows a run on a console.

    As a context manager it takes its panel away when the run ends, however it ends.

    Args:
        console: where to write; a terminal gets the panel.
        quiet: say nothing but the result.

    Attributes:
        started: whether the search has begun.
    """

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._progress = RunProgress()
        self._drawn: list[int] = []  # widths of the lines that are on the screen
        self._last = float("-inf")
        self._notes: set[str] = set()  # that are on the screen
        self.started = False

    def __enter__(self) -> LiveReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def on_progress(self, text: str) -> None:
        self._say(text)

    def on_ready(self, facts: Facts, recipe: Mapping[str, Any]) -> None:
        self._progress.ready(facts, recipe)
        threads = "1 thread" if facts.threads == 1 else f"{facts.threads} threads"
        self._say(
            f"{facts.kind} model of {facts.layers} layers, {facts.dtype} on {facts.device}, {threads}; "
            f"template {facts.template!r}" + (f"; label words {', '.join(facts.pieces)}" if facts.labels else "")
        )
        self._say(
            f"{facts.train_rows:,} training rows ({facts.train_tokens:,} tokens), {facts.dev_rows:,} dev rows; "
            f"{facts.tunable.parameters:,} parameters in {len(facts.tunable.layers)} blocks"
        )
        if facts.calibrated is not None:
            self._say(
                "losses and scores are those after contextual calibration"
                if facts.calibrated
                else "losses are not calibrated: without calibration the dev loss begins lower"
            )
        for note in facts.notes:
            self._say(f"note: {note}")
        self._notes.update(() if self._quiet else facts.notes)

    def on_start(self, record: StartRecord, resumed: int, seconds: float) -> None:
        self.started = True
        self._progress.start(record)
        if resumed:
            self._say(f"resumed: the journal holds {resumed:,} lines already")
        loss, dev = fixed(record.train_loss).strip(), record.dev
        self._say(f"start: train loss {loss}, dev loss {fixed(dev.loss).strip()}, dev score {fixed(dev.score).strip()}")

    def on_turn(self, record: GenerationRecord | StepRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        self._progress.turn(record, state, seconds, recorded)
        if recorded or self._quiet:
            return
        if self._console.is_terminal:
            self._draw()
        elif record.dev is not None:
            self._say(self._plain(record, state))

    def on_proposal(self, record: ProposalRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        if not recorded:
            for text in proposal_story(record):
                self._say(text)

    def on_race(self, record: RaceRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        self._progress.turn(record, state, seconds, recorded)
        if not recorded:
            for text in race_story(record):
                self._say(text)

    def on_hand_over(self, record: HandOverRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        self._progress.hand_over(record, state)
        if not recorded:
            self._say(hand_over_story(record))

    def on_testing(self) -> None:
        self._clear()
        self._say("the search is over; scoring the zero-shot and the tuned model on dev and test rows")

    def on_result(self, result: Result) -> None:
        self._clear()
        self._console.print(result_table(result, self._notes))

    def _plain(self, record: GenerationRecord | StepRecord, state: TurnView) -> str:
        """A line for logs: the same keys every time."""
        shown: dict[str, Any] = {"step": record.step, "phase": record.phase}
        if isinstance(record, GenerationRecord):
            shown |= {"sweep": record.sweep, "layer": record.layer}
        shown |= {
            "candidates": state.costs.candidates,
            "train_loss": fixed(state.train_loss).strip(),
            "dev_loss": fixed(state.dev.loss).strip(),
            "dev": fixed(state.dev.score).strip(),
            "best_dev_loss": fixed(state.best_dev.loss).strip(),
            "left": self._progress.left.replace(" ", ""),
        }
        if self._progress.rate and self._progress.speed is not None:
            read, written = self._progress.speed
            shown |= {"tokens_per_second": f"{read:.0f}", "written_per_second": f"{written:.0f}"}
        return " ".join(f"{key}={value}" for key, value in shown.items() if value is not None)

    def _draw(self) -> None:
        now = time.monotonic()
        if now - self._last < REFRESH:
            return
        self._last = now
        width = min(self._console.width, WIDEST) - 1
        lines = [fitted(line, width) for line in self._lines(width)]
        lines = lines if self._drawable else [line.translate(_PLAIN) for line in lines]
        self._clear()
        self._console.print("\n".join(lines), end="", markup=False, highlight=False, soft_wrap=True)
        self._drawn = [cell_len(line) for line in lines]

    def _lines(self, width: int) -> list[str]:
        shown = self._progress
        if width + 1 < WIDE:
            room = 14
            pairs = [
                (shown.unit, f"{shown.done:,}/{shown.planned:,}" if shown.planned else f"{shown.done:,}"),
                ("time left", shown.left),
                *([("speed", shown.rate)] if shown.rate else []),
                *shown.numbers,
                *shown.references,
            ]
            spark = shown.spark(max(width - room, 4)) if self._drawable else ""
            return [
                shown.method,
                self._bar(width),
                *(f"{name:<{room}}{value.strip():>10}" for name, value in pairs),
                *([f"{'dev loss':<{room}}{spark}"] if spark else []),
            ]
        rate = f" · {shown.rate}" if shown.rate else ""
        counts = f"{shown.counted}{rate} · {shown.left} left"
        ends = [f"{shown.method}  ", f"  {counts}"]
        bar = self._bar(max(width - sum(map(cell_len, ends)), 8))
        numbers = "   ".join(f"{name} {value}" for name, value in shown.numbers)
        spark = shown.spark(max(width - cell_len(numbers) - 3, 0)) if self._drawable else ""
        references = "   ".join(f"{name} {value.strip()}" for name, value in shown.references)
        return [ends[0] + bar + ends[1], f"{numbers}   {spark}", references]

    def _bar(self, width: int) -> str:
        done = round(self._progress.share * width)
        return "━" * done + "─" * (width - done)

    @property
    def _drawable(self) -> bool:
        """Whether the terminal has more than ASCII."""
        return self._console.encoding.lower().startswith("utf")

    def _clear(self) -> None:
        """Take the panel away. A window that became narrower has broken its lines into several rows."""
        if not self._drawn:
            return
        width = max(self._console.width, 1)
        rows = sum(max(1, -(-columns // width)) for columns in self._drawn)
        erase = (ControlType.ERASE_IN_LINE, 2)
        codes: list[Any] = [ControlType.CARRIAGE_RETURN, erase]
        codes += [(ControlType.CURSOR_UP, 1), erase] * (rows - 1)
        self._console.control(Control(*codes))
        self._drawn = []
        self._last = float("-inf")

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._clear()
            self._console.print(text, soft_wrap=True, markup=False, highlight=False)


def progress_callback(progress: Literal["auto", "terminal", "notebook", "none"] = "auto") -> Callback | None:
    """What shows the progress of a run that was started in Python.

    Args:
        progress: "auto" takes a notebook's display in a notebook, the panel in a terminal, and nothing elsewhere; the others
            are taken as they are.

    Returns:
        A callback, or None for nothing.
    """
    from tandemtune.report.notebook import NotebookReport, in_notebook

    if progress == "notebook" or (progress == "auto" and in_notebook()):
        return NotebookReport()
    console = Console(stderr=True)
    if progress == "terminal" or (progress == "auto" and console.is_terminal):
        return LiveReport(console)
    return None
