"""Shows a run while it happens: one live panel on a terminal, plain ``key=value`` lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tandemtune.report.text import duration, result_table


class LiveReport:
    """An observer of runs.

    Args:
        console: where to write; a terminal gets the live panel.
        quiet: say nothing but the result.
    """

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._live: Live | None = None
        self._budget = 0
        self._began = (0.0, 0)
        self._recorded = 0
        self.started = False

    def __enter__(self) -> LiveReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """Show one event."""
        show = getattr(self, f"_on_{event}", None)
        if show is not None and (not self._quiet or event == "result"):
            show(facts)

    def _on_progress(self, facts: Mapping[str, Any]) -> None:
        self._say(facts["text"])

    def _on_ready(self, facts: Mapping[str, Any]) -> None:
        known = facts["facts"]
        self._budget = facts["config"].method.budget
        pieces = ", ".join(known["pieces"])
        self._say(
            f"{known['kind']} model of {known['layers']} layers, {known['dtype']} on {known['device']}, "
            f"{known['threads']} threads; template {known['template']!r}; label words {pieces}"
        )
        self._say(
            f"{known['train_rows']} training rows ({known['train_tokens']} tokens), {known['dev_rows']} dev rows; "
            f"{known['tunable']['parameters']:,} parameters in {len(known['tunable']['layers'])} layers; measuring scales"
        )
        for note in known["notes"]:
            self._say(f"note: {note}")

    def _on_start(self, facts: Mapping[str, Any]) -> None:
        line = facts["line"]
        self.started = True
        self._recorded = facts["resumed"]
        if facts["resumed"]:
            self._say(f"resumed: {facts['resumed']} journal lines are there already")
        self._say(f"start: train loss {_short(line['train_loss'])}, dev loss {_short(line['dev']['loss'])}")
        self._began = (facts["seconds"], -1)
        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
            self._live.start()

    def _on_generation(self, facts: Mapping[str, Any]) -> None:
        line, now, seconds = facts["line"], facts["standing"], facts["seconds"]
        if line["step"] < self._recorded:
            return  # recorded before; only walked through
        if self._began[1] < 0:
            self._began = (seconds, line["candidates"])
        done = line["candidates"] - self._began[1]
        rate = done / max(seconds - self._began[0], 1e-9)
        left = duration((self._budget - line["candidates"]) / rate) if done else "..."
        if self._live is None:
            if line["dev"] is not None:
                self._say(
                    f"generation={line['step']} phase={line['phase']} sweep={line['sweep']} layer={line['layer']} "
                    f"candidates={line['candidates']} train_loss={_short(now.train_loss)} "
                    f"dev_loss={_short(now.dev['loss'])} dev={_short(now.dev['score'])} "
                    f"kept_dev_loss={_short(now.kept_dev['loss'])} candidates_per_second={rate:.1f}"
                )
            return
        table = Table(title=f"{line['phase']}: {line['candidates']} of {self._budget} candidates, {left} left")
        columns = ("sweep", "layer", "train loss", "dev loss", "dev score", "best dev loss", "candidates/s", "so far")
        for name in columns:
            table.add_column(name, justify="right")
        table.add_row(
            str(line["sweep"]),
            str(line["layer"]),
            _short(now.train_loss),
            _short(now.dev["loss"]),
            _short(now.dev["score"]),
            f"{_short(now.kept_dev['loss'])} (generation {now.kept_step})",
            f"{rate:.1f}",
            duration(seconds),
        )
        self._live.update(table, refresh=True)

    def _on_testing(self, facts: Mapping[str, Any]) -> None:
        self._stop()
        self._say("search is over; measuring zero-shot and tuned on dev and test")

    def _on_result(self, facts: Mapping[str, Any]) -> None:
        self._stop()
        self._console.print(result_table(facts["result"]))

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
