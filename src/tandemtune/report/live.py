"""Shows a run while it happens: one live panel on a terminal, plain ``key=value`` lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tandemtune.report.text import duration, proposal_story, result_table, total_of, unit_of


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
        self._total, self._unit = 0, "candidates"
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
        recipe = facts["config"].model_dump()
        self._total, self._unit = total_of(recipe), unit_of(recipe)
        pieces = ", ".join(known["pieces"])
        self._say(
            f"{known['kind']} model of {known['layers']} layers, {known['dtype']} on {known['device']}, "
            f"{known['threads']} threads; template {known['template']!r}; label words {pieces}"
        )
        self._say(
            f"{known['train_rows']} training rows ({known['train_tokens']} tokens), {known['dev_rows']} dev rows; "
            f"{known['tunable']['parameters']:,} parameters in {len(known['tunable']['layers'])} blocks"
        )
        if "calibrated" in known:
            self._say(
                "losses and scores are those after contextual calibration"
                if known["calibrated"]
                else "losses are not calibrated: on dev they begin lower as they are"
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
        if now.lines <= self._recorded:
            return  # recorded before; only walked through
        done, unit = line["step"], "turns" if "losses" in line else "steps"
        if self._unit == "candidates":
            done, unit = line["candidates"], "candidates"
        if self._began[1] < 0:
            self._began = (seconds, done)
        rate = (done - self._began[1]) / max(seconds - self._began[0], 1e-9)
        left = duration((self._total - done) / rate) if rate else "..."
        standing = {
            "train_loss": _short(now.train_loss),
            "dev_loss": _short(now.dev["loss"]),
            "dev": _short(now.dev["score"]),
            "kept_dev_loss": _short(now.kept_dev["loss"]),
            f"{unit}_per_second": f"{rate:.1f}",
        }
        if self._live is None:
            if line["dev"] is not None:
                place = {key: line[key] for key in ("sweep", "layer", "candidates") if "losses" in line}
                what = {"generation" if place else "step": line["step"], "phase": line["phase"], **place, **standing}
                self._say(" ".join(f"{key}={value}" for key, value in what.items()))
            return
        table = Table(title=f"{line['phase']}: {done} of {self._total} {unit}, {left} left")
        place = {"sweep": str(line["sweep"]), "layer": str(line["layer"])} if "losses" in line else {}
        standing["kept_dev_loss"] += f" (turn {now.kept_step})"
        shown = {**place, **standing, "so_far": duration(seconds)}
        for name in shown:
            table.add_column(name.replace("_", " "), justify="right")
        table.add_row(*shown.values())
        self._live.update(table, refresh=True)

    def _on_proposal(self, facts: Mapping[str, Any]) -> None:
        if facts["standing"].lines > self._recorded:
            for text in proposal_story(facts["line"]):
                self._say(text)

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
