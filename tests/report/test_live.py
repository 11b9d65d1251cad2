"""The screen while a run goes on: a panel on terminals of any width, lines elsewhere, a cell in notebooks."""

from __future__ import annotations

import io
import re
import sys
import types

import made
import pytest
from rich.console import Console

from tandemtune.callbacks import Callback, TurnView
from tandemtune.report import live, notebook
from tandemtune.report.live import LiveReport, progress_callback
from tandemtune.report.notebook import NotebookReport
from tandemtune.runs.records import Costs, Evaluation, GenerationRecord, ProposalRecord, StartRecord, StepRecord


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(live, "REFRESH", 0.0)
    monkeypatch.setattr(notebook, "REFRESH", 0.0)


def play(callback: Callback, kind: str = "c-lora", recorded: int = 0, until: str = "result") -> None:
    """A run as a runner tells of it; the first `recorded` turns were there before."""
    facts = made.facts(kind)
    callback.on_progress("loading [model]")
    callback.on_ready(facts, made.recipe(kind))
    dev = best = Evaluation(loss=0.82, score=0.5)
    best_step, step, costs = 0, 0, Costs()
    for record in made.records(kind):
        old = step < recorded
        if isinstance(record, StartRecord):
            callback.on_start(record, recorded, 0.0)
        if isinstance(record, GenerationRecord | StepRecord | ProposalRecord):
            dev, costs = record.dev or dev, record.costs
            step = record.step if isinstance(record, GenerationRecord | StepRecord) else step
            if dev.loss is not None and best.loss is not None and dev.loss < best.loss:
                best, best_step = dev, step
            train = record.trained_loss if isinstance(record, ProposalRecord) else record.train_loss
            state = TurnView(train, dev, best, best_step, costs, facts.planned or 0, facts.unit)
            if isinstance(record, ProposalRecord):
                callback.on_proposal(record, state, step * 3.0, old)
            else:
                callback.on_turn(record, state, step * 3.0, old)
        if until == "turn" and step == 10:
            return
    callback.on_testing()
    callback.on_result(made.result(kind))


def test_a_note_is_said_once():
    """When a run begins; at its end come those alone that are new."""
    place = io.StringIO()
    report = LiveReport(Console(file=place, width=200))
    facts, result = made.facts("c-lora"), made.result("c-lora")
    report.on_ready(facts.model_copy(update={"notes": ("rows are odd",)}), made.recipe("c-lora"))
    report.on_result(result.model_copy(update={"notes": ("rows are odd", "the search was flat")}))
    assert place.getvalue().count("note: rows are odd") == 1 == place.getvalue().count("note: the search was flat")
    quiet = io.StringIO()
    report = LiveReport(Console(file=quiet, width=200), quiet=True)
    report.on_ready(facts.model_copy(update={"notes": ("rows are odd",)}), made.recipe("c-lora"))
    report.on_result(result.model_copy(update={"notes": ("rows are odd",)}))
    assert quiet.getvalue().count("note: rows are odd") == 1


class Screen:
    """A terminal that knows what the panel uses: carriage return, erase a line, move up."""

    def __init__(self, width: int) -> None:
        self.width, self.rows, self.row, self.column = width, [""], 0, 0

    def feed(self, text: str) -> Screen:
        for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.|\n|\r", text):
            if token == "\n":
                self.row, self.column = self.row + 1, 0
            elif token == "\r":
                self.column = 0
            elif token.startswith("\x1b["):
                count = int(re.sub(r"\D", "", token) or 1)
                if token.endswith("A"):
                    self.row = max(self.row - count, 0)
                elif token.endswith("K"):
                    assert token == "\x1b[2K"
                    self.rows[self.row] = ""
                else:
                    assert token.endswith("m"), f"{token!r} is not undone when the run ends"
            else:
                if self.column == self.width:
                    self.row, self.column = self.row + 1, 0
                self._room()
                line = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = line[: self.column] + token + line[self.column + 1 :]
                self.column += 1
            self._room()
        return self

    def _room(self) -> None:
        while len(self.rows) <= self.row:
            self.rows.append("")

    def resize(self, width: int) -> None:
        """As terminals do that break long lines anew; the cursor stays at its character."""
        rows, row = [], 0
        for number, line in enumerate(self.rows):
            parts = [line[i : i + width] for i in range(0, max(len(line), 1), width)]
            if number == self.row:
                row = len(rows) + min(self.column // width, len(parts) - 1)
            rows += parts
        self.rows, self.row, self.column, self.width = rows, row, self.column % width, width

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.rows).rstrip("\n")


def console_of(width: int, encoding: str = "utf-8", terminal: bool = True) -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    return Console(file=file, force_terminal=terminal, width=width, legacy_windows=False)


def written(console: Console) -> str:
    console.file.flush()
    return console.file.buffer.getvalue().decode(console.encoding)  # type: ignore[attr-defined]


def test_a_callback_hears_everything_and_does_nothing():
    play(Callback())


def test_the_panel_on_a_wide_terminal():
    console = console_of(100)
    with LiveReport(console) as report:
        play(report, until="turn")
        lines = Screen(100).feed(written(console)).text.splitlines()
    assert re.fullmatch(r"c-lora  ━+─+  200 of 400 candidates · 30 s left", lines[-3])
    assert re.fullmatch(r"train loss +-?0\.\d{4}   dev loss +0\.\d{4}   dev accuracy +0\.\d{4}   █[▁-█]+", lines[-2])
    assert re.fullmatch(r"untuned 0\.5000   chance 0\.5000   best dev loss 0\.\d{4}", lines[-1])
    assert len(lines[-3]) == 99


def test_the_panel_below_80_columns():
    console = console_of(60)
    with LiveReport(console) as report:
        play(report, until="turn")
        lines = Screen(60).feed(written(console)).text.splitlines()
    begin = lines.index("c-lora")
    assert re.fullmatch("━+─+", lines[begin + 1])
    pairs = [re.split(r"\s{2,}", line, maxsplit=1) for line in lines[begin + 2 :]]
    assert [name for name, _ in pairs] == [
        "candidates", "time left", "train loss", "dev loss", "dev accuracy", "untuned", "chance", "best dev loss", "dev loss",
    ]  # fmt: skip
    assert [value for _, value in pairs][:2] == ["200/400", "30 s"] and re.fullmatch("█[▁-█]+", pairs[-1][1])
    assert all(len(line) < 60 for line in lines[begin:])


@pytest.mark.parametrize("width", [8, 20, 40, 79, 80, 100, 200])
@pytest.mark.parametrize("kind", ["c-lora", "mentor"])
def test_nothing_of_the_panel_is_left_behind(width, kind):
    console = console_of(width)
    with LiveReport(console) as report:
        play(report, kind)
    shown = Screen(width).feed(written(console)).text
    shown = "".join(shown.split())  # narrow terminals break lines
    assert "─" not in shown.partition("thesearchisover")[0], "the bar's empty part"
    assert "bestdevloss" not in shown and "loading[model]" in shown and "thetunedmodelondevandtestrows" in shown


@pytest.mark.parametrize(("before", "after"), [(100, 60), (100, 90), (100, 33), (60, 25), (60, 120)])
def test_a_terminal_that_is_resized(before, after):
    console = console_of(before)
    report = LiveReport(console)
    play(report, until="turn")
    screen = Screen(before).feed(written(console))
    seen = len(written(console))
    above = screen.text.splitlines()[: -3 if before >= 80 else -11]
    screen.resize(after)
    console.width = after
    record = made.records("c-lora")[11]
    assert isinstance(record, GenerationRecord)
    dev = Evaluation(loss=0.4, score=0.7)
    report.on_turn(record, TurnView(0.1, dev, dev, 10, record.costs, 400, "candidates"), 33.0, False)
    screen.feed(written(console)[seen:])
    seen = len(written(console))
    assert screen.text.count("best dev loss") == 1 and len(re.findall("of 400|/400", screen.text)) == 1
    report.on_testing()
    screen.feed(written(console)[seen:])
    whole = "".join("".join(above).split())
    assert "".join(screen.text.split()).startswith(whole), "what stood above is still there"
    assert "━" not in screen.text


def test_an_interrupted_run_leaves_a_clean_screen():
    console = console_of(100)
    with pytest.raises(KeyboardInterrupt), LiveReport(console) as report:
        play(report, until="turn")
        raise KeyboardInterrupt
    shown = Screen(100).feed(written(console)).text
    assert "of 400" not in shown and shown.splitlines()[-1].startswith("start: train loss 0.8000")
    assert report.started


def test_a_terminal_without_unicode():
    console = console_of(100, "ascii")
    with LiveReport(console) as report:
        play(report, until="turn")
        shown = written(console)
    assert "#####" in shown and "----" in shown


def test_lines_where_there_is_no_terminal():
    console = console_of(200, terminal=False)
    with LiveReport(console) as report:
        play(report)
    lines = written(console).splitlines()
    said = [line for line in lines if line.startswith("step=")]
    assert len(said) == 10 and "\x1b" not in written(console)
    assert re.fullmatch(
        r"step=10 phase=c-lora sweep=3 layer=1 candidates=200 train_loss=-?0\.\d{4} dev_loss=0\.\d{4} dev=0\.\d{4} "
        r"best_dev_loss=0\.\d{4} left=30s",
        said[4],
    )
    assert "note: 3 texts were cut" in lines and any("1,234 parameters in 4 blocks" in line for line in lines)
    assert any("most frequent class" in line for line in lines)


def test_quiet_says_the_result_only():
    console = console_of(120)
    with LiveReport(console, quiet=True) as report:
        play(report, "mentor")
    shown = written(console)
    assert shown.lstrip().startswith("mails · /models/small") and "round 1" not in shown and "loading" not in shown


def test_a_resumed_run_counts_its_own_speed_and_repeats_no_story():
    console = console_of(200, terminal=False)
    with LiveReport(console) as report:
        play(report, "mentor", recorded=8)
    shown = written(console)
    assert "resumed: the journal holds 8 lines already" in shown
    assert "round 1:" not in shown and "round 2: the trained prompt has a dev loss of 0.610 (0.610)" in shown
    steps = [line for line in shown.splitlines() if line.startswith("step=")]
    assert steps[0].startswith("step=10 ") and steps[-1].endswith("left=0.0s")


def test_the_count_is_never_more_than_what_is_planned():
    for kind in ("c-lora", "lora", "mentor"):
        console = console_of(100)
        with LiveReport(console) as report:
            play(report, kind)
        counts = re.findall(r"([\d,]+) of ([\d,]+) (candidates|steps) · (\S+) ", written(console))
        done = [(int(a), int(b)) for a, b, _, _ in counts]
        assert len(done) == 20 and all(a <= b for a, b in done) and done[-1][0] == done[-1][1]
        assert not any(left.startswith("-") for *_, left in counts)


# ---- notebooks ---------------------------------------------------------------------------------------------------


class Display:
    """IPython's display, as far as it is used here."""

    def __init__(self) -> None:
        self.cells: list[list[str]] = []

    def module(self) -> types.ModuleType:
        found = types.ModuleType("IPython.display")
        found.HTML = lambda text: text  # type: ignore[attr-defined]
        found.display = self.show  # type: ignore[attr-defined]
        return found

    def show(self, text: str, display_id: bool) -> types.SimpleNamespace:
        assert display_id
        cell = [text]
        self.cells.append(cell)
        return types.SimpleNamespace(update=cell.append)


@pytest.fixture
def cells(monkeypatch):
    shown = Display()
    parent = types.ModuleType("IPython")
    kernel = type("ZMQInteractiveShell", (), {})()
    parent.get_ipython = lambda: kernel  # type: ignore[attr-defined]
    parent.display = shown.module()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", parent)
    monkeypatch.setitem(sys.modules, "IPython.display", parent.display)
    return shown.cells


def test_a_notebook_has_one_cell_that_is_drawn_anew(cells):
    play(NotebookReport(), "mentor")
    assert len(cells) == 1 and len(cells[0]) > 20
    assert "loading [model]" in cells[0][0] and "<progress" not in cells[0][0]
    assert '<progress value="0.5"' in "".join(cells[0]) and "10 of 20 steps" in "".join(cells[0])
    last = cells[0][-1]
    assert "0.800" in last and "test accuracy" in last and "Proposals" in last
    assert "<script" not in last and "&lt;/td&gt;" in last


def test_progress_picks_what_fits(cells, monkeypatch):
    assert isinstance(progress_callback(), NotebookReport)
    monkeypatch.delitem(sys.modules, "IPython")
    assert progress_callback() is None, "a test's output is no terminal"
    assert isinstance(progress_callback("terminal"), LiveReport) and progress_callback("none") is None
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(progress_callback(), LiveReport)
