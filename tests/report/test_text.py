"""What `show` and `resume` print of a run."""

from __future__ import annotations

import io
import json

import made
import pytest
from rich.console import Console

from tandemtune.report.numbers import duration
from tandemtune.report.text import result_table, summary, summary_view
from tandemtune.runs.store import RunFolder


def printed(what, width=140) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", made.KINDS)
def test_a_finished_run(kind):
    found = summary(RunFolder(made.run(kind)))
    assert found.finished and found.steps == 20 and len(found.looks) == 11 and found.result is not None
    assert (found.done, found.planned, found.unit) == (
        (20, 20, "steps") if kind in ("lora", "mentor") else (400, 400, "candidates")
    )
    shown = printed(summary_view(found))
    assert "● train loss   ○ dev loss" in shown and "not finished" not in shown
    assert ("layer by layer" in shown) == (kind == "c-lora")
    assert ("round by round" in shown) == (kind in ("mentor", "texts"))
    assert json.loads(json.dumps(found.plain()))["result"]["schema"] == 2


@pytest.mark.parametrize(("kind", "said"), [("c-lora", "160 of 400 candidates"), ("lora", "8 of 20 steps")])
def test_a_run_that_is_not_finished(tmp_path, kind, said):
    folder = made.write_run(tmp_path / "run", kind, finished=False)
    shown = " ".join(printed(summary_view(summary(folder))).split())
    assert f"not finished: {said}. Continue it with: tandemtune resume" in shown
    folder.facts.unlink()
    folder.journal.unlink()
    assert "not finished: 0 candidates." in printed(summary_view(summary(folder)))


def test_stories():
    rounds = summary(RunFolder(made.run("mentor"))).story
    assert rounds[0].startswith(
        "start: train loss 0.500; in words 'we saw it' (distance 0.250, train loss as words 0.900)"
    )
    assert "round 1: the trained prompt has a dev loss of 0.610 (0.610)" in rounds
    assert "  mentor proposed 'a good film': dev loss 0.400 (0.720) -> taken" in rounds
    assert "  the search goes on from the trained prompt" in rounds and rounds[-1] == "end after step 20: budget"
    texts = summary(RunFolder(made.run("texts"))).story
    assert [line.split(":")[0] for line in texts] == ["step 1", "step 7", "step 14", "end after step 20"]
    assert summary(RunFolder(made.run("lora"))).story == ()


def test_a_result_in_a_narrow_terminal_keeps_its_names_and_scores():
    shown = printed(result_table(made.result("c-lora")), width=60)
    assert "zero-shot, calibrated" in shown and "most frequent class" in shown and "…" not in shown
    assert "test accuracy" in shown and "dev accuracy" in shown and "train loss" not in shown


def test_a_result():
    shown = printed(result_table(made.result("mentor", kept_record=0)))
    assert "mails · /models/small · maao · seed 5" in shown and "most frequent class" in shown
    assert "20 gradient steps, 20,000 forward tokens (20,000 of them backwards, too), 1 min 15 s of search" in shown
    assert "kept the point of step 14 of 20 (lowest dev loss) · stopped by budget" in shown
    assert "proposer: 2 answers, 240 tokens asked, 80 tokens answered" in shown
    assert "No point was better on dev than the one that the search began with" in shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.040 s"),
        (0.15, "0.15 s"),
        (9.96, "10.0 s"),
        (48.4, "48 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown
