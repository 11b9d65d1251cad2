"""Runs of gradients, prompts and proposals that are killed anywhere end, byte for byte, as if they never had been."""

from __future__ import annotations

import json
import shutil
import signal

import pytest

import small
from dying import begun, forking, in_child, picked
from grids import sparse
from small import resume, tune
from tandemtune import wiring
from tandemtune.config import load_config
from tandemtune.errors import RunError
from tandemtune.proposers.mutation import Mutation
from tandemtune.tasks.fewshot import subsample

ROUNDS = {
    "method__name": "maao",
    "method__prompt_tokens": 3,
    "method__batch_size": 3,
    "method__dev_every": 2,
    "method__lr": 0.25,
    "alternate__rounds": 2,
    "alternate__round_steps": 2,
    "alternate__final_steps": 3,
    "alternate__snapshots": 2,
    "alternate__proposals": 2,
    "alternate__proposer": "mutation",
}
GRADIENT = {"method__steps": 7, "method__prompt_tokens": 3, "method__batch_size": 3}
STEERED = {
    "method__budget": None,
    "alternate__actions": True,
    "alternate__proposer": "mutation",
    "alternate__rounds": 2,
    "alternate__round_steps": 3,
    "alternate__final_steps": 2,
    "alternate__proposals": 2,
}
BACK = {"method__guard": "standard-error", "method__refused": "go-back", "method__alpha": 3.0}
RUNS = {
    "mutation": ("bert", ROUNDS),
    "moments kept": (
        "bert",
        {**ROUNDS, "alternate__proposer": "perturbed", "alternate__accept": "metropolis"}
        | {"alternate__reset_moments": False, "method__accumulate": 2},
    ),
    "schedule kept": (
        "bert",
        {**ROUNDS, "alternate__rounds": 1, "alternate__final_steps": 6, "method__schedule": "linear"}
        | {"alternate__reset_moments": False},
    ),
    "cma-es doer": ("bert", {**ROUNDS, "method__optimizer": "cma-es", "method__lr": None}),
    "race": (
        "bert",
        {**ROUNDS, "alternate__mode": "race", "alternate__race_steps": 2, "alternate__final_steps": 8}
        | {"alternate__proposals": 3},
    ),
    "steered": ("bert", {"method__name": "tandem", **STEERED}),
    "steered c-lora": ("gpt2", {"method__name": "c-lora", **STEERED}),
    "proposals alone": ("bert", {**ROUNDS, "alternate__round_steps": 0}),
    "prompt-tuning": ("t5", {**GRADIENT, "method__name": "prompt-tuning", "method__schedule": "cosine"}),
    "p-tuning-v2": ("bert", {**GRADIENT, "method__name": "p-tuning-v2"}),
    "lora": ("gpt2", {**GRADIENT, "method__name": "lora", "method__optimizer": "sgd", "method__warmup": 3}),
    "going back": ("gpt2", {"method__name": "c-lora", **BACK}),
    "an average going back": ("gpt2", {"method__name": "es", "method__ema": 0.5, **BACK}),
}

BOTH = ("mutation", "moments kept", "schedule kept", "cma-es doer")
"""Runs that go on from checkpoints, and from the journal alone; others in one of these ways."""
KILLED = [(name, (0.0, 1000.0)[at % 2]) for at, name in enumerate(RUNS)]
KILLED += [(name, (1000.0, 0.0)[at % 2]) for at, name in enumerate(RUNS) if name in BOTH]
SOON = [
    ("moments kept", 1000.0),
    ("race", 0.0),
    ("going back", 1000.0),
]
"""What `make test` kills; the methods alone are stopped in test_methods.py."""


def recipe_in(place, name, **changes):
    model, settings = RUNS[name]
    return small.recipe(place, model, **{**settings, **changes})


class Runs:
    """Where runs lie, and what each leaves when nobody disturbs it."""

    def __init__(self, place):
        self.place = place
        self.kept = {}

    def straight(self, name):
        if name not in self.kept:
            tune(recipe_in(self.place, name), self.place / f"straight {name}")
            self.kept[name] = small.artefacts(self.place / f"straight {name}")
        return self.kept[name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("rounds"))


@pytest.mark.few(1)
@forking
@pytest.mark.parametrize(("name", "checkpoint_seconds"), sparse(KILLED, SOON))
def test_killed_again_and_again(runs, name, checkpoint_seconds, tmp_path):
    """Each process comes a few writes further than the one before, and dies."""
    recipe, folder = recipe_in(runs.place, name, run__checkpoint_seconds=checkpoint_seconds), tmp_path / "run"
    stop, deaths, lines = 13, 0, 0
    while in_child(lambda: resume(folder) if begun(folder) else tune(recipe, folder), stop) == -signal.SIGKILL:
        deaths, stop = deaths + 1, stop + 4
        after = (folder / "journal.jsonl").read_bytes().count(b"\n") if (folder / "journal.jsonl").exists() else 0
        assert after >= lines and deaths < 30
        lines = after
    assert deaths >= 3
    assert small.artefacts(folder) == runs.straight(name)
    assert (folder / "checkpoint.npz").exists() == (checkpoint_seconds == 0)


@pytest.mark.slow  # test_killed_again_and_again kills at several moments, too
@forking
def test_killed_at_many_kinds_of_moment(runs, tmp_path):
    recipe, log = recipe_in(runs.place, "mutation"), tmp_path / "moments.json"
    assert in_child(lambda: tune(recipe, tmp_path / "counted"), log=log) == 0
    moments = json.loads(log.read_text(encoding="utf-8"))
    chosen = picked(moments)[1::4]
    assert len(chosen) >= 8
    for stop in chosen:
        folder, what = tmp_path / "run", f"moment {stop}: {moments[stop]}"
        assert in_child(lambda folder=folder: tune(recipe, folder), stop) == -signal.SIGKILL, what
        resume(folder) if begun(folder) else tune(recipe, folder)
        assert small.artefacts(folder) == runs.straight("mutation"), what
        shutil.rmtree(folder)


def stopped(place, folder, name, lines, **changes):
    """A run that was stopped when its journal had so many lines."""
    with pytest.raises(KeyboardInterrupt):
        tune(recipe_in(place, name, **changes), folder, small.Stop(lines=lines))
    assert len(small.journal(folder)) == lines


@pytest.mark.parametrize("lines", sparse(range(2, 10), {3, 4, 7}))
def test_stopped_after_any_line(runs, tmp_path, lines):
    """Of "mutation", whose journal is start, 2 steps, proposal, 2 steps, proposal, 3 steps, end."""
    for seconds in (0.0, 1000.0):
        folder = tmp_path / f"run-{seconds}"
        stopped(runs.place, folder, "mutation", lines, run__checkpoint_seconds=seconds)
        resume(folder)
        assert small.artefacts(folder) == runs.straight("mutation")


@pytest.mark.grid
@pytest.mark.parametrize("seconds", [0.0, 1000.0], ids=["checkpoints", "journal"])
@pytest.mark.parametrize(("lines", "asked"), [(3, [1, 2]), (4, [2]), (6, [2]), (7, [])])
def test_who_was_asked_is_not_asked_again(runs, tmp_path, monkeypatch, lines, asked, seconds):
    stopped(runs.place, tmp_path / "run", "mutation", lines, run__checkpoint_seconds=seconds)
    seen = []
    real = Mutation.propose
    monkeypatch.setattr(Mutation, "propose", lambda self, round, *rest: seen.append(round) or real(self, round, *rest))
    resume(tmp_path / "run")
    assert seen == asked
    assert small.artefacts(tmp_path / "run") == runs.straight("mutation")


def tampered(folder, index, change):
    """Change one line of a journal."""
    lines = small.journal(folder)
    change(lines[index])
    small.write_rows(folder / "journal.jsonl", lines)


def other_loss(line):
    line["loss"] += 1e-7


def other_draft(line):
    ids = line["drafts"][line["taken"]]["ids"]
    ids[0], ids[1] = ids[1], ids[0]


def nobody_taken(line):
    line["taken"] = None


@pytest.mark.parametrize(
    ("index", "change", "line"), [(1, other_loss, 2), (2, other_loss, 3), (3, other_draft, 5), (3, nobody_taken, 5)]
)
def test_a_journal_that_does_not_come_out_again_is_refused(runs, tmp_path, index, change, line):
    """Gradients are taken again; one whose loss is not the recorded one says where, and writes nothing."""
    stopped(runs.place, tmp_path / "run", "mutation", 5, run__checkpoint_seconds=1000.0, alternate__accept="always")
    tampered(tmp_path / "run", index, change)
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    with pytest.raises(RunError, match=rf"line {line} was recorded with the loss .* cannot end as one run"):
        resume(tmp_path / "run")
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before
    called = small.call("resume", tmp_path / "run")
    assert called.code == 1 and called.err.startswith("tandemtune: ") and "Traceback" not in called.err


def test_a_torn_proposal_is_made_again(runs, tmp_path):
    stopped(runs.place, tmp_path / "run", "mutation", 4, run__checkpoint_seconds=1000.0)
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-100])
    resume(tmp_path / "run")
    assert small.artefacts(tmp_path / "run") == runs.straight("mutation")


def test_changed_rows_are_refused_also_where_candidates_never_see_them(tmp_path):
    """Gradients follow all training rows, words are scored on a sample of them."""
    recipe = recipe_in(tmp_path, "mutation", task__scored_rows=2)
    config = load_config(recipe)
    split = wiring.make_task(config.task, "masked").split(4, 5)
    scored = subsample(split.train, 2, 5)
    (unseen, *_) = [row for row in split.train if row not in scored]
    stopped(tmp_path, tmp_path / "run", "mutation", 3, task__scored_rows=2)
    content = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    changed = [{**row, "text": "we saw it"} if row["text"] == unseen.fields["text"] else row for row in content]
    assert changed != content
    small.write_rows(tmp_path / "train.jsonl", changed)
    with pytest.raises(RunError, match="no longer those that the run began with"):
        resume(tmp_path / "run")
    small.write_rows(tmp_path / "train.jsonl", content)
    resume(tmp_path / "run")
    tune(recipe, tmp_path / "straight")
    assert small.artefacts(tmp_path / "run") == small.artefacts(tmp_path / "straight")


@pytest.mark.parametrize("bound", [{"method__patience": 1}, {"run__max_forward_tokens": 900}], ids=str)
def test_other_bounds_hold_over_a_stop(runs, tmp_path, bound):
    result = tune(recipe_in(runs.place, "mutation", **bound), tmp_path / "straight")
    assert result["stop_reason"] == next(iter(bound)).partition("__")[2] and result["steps"] >= 2
    count = len(small.journal(tmp_path / "straight"))
    stopped(runs.place, tmp_path / "run", "mutation", count - 2, **bound)
    resume(tmp_path / "run")
    assert small.artefacts(tmp_path / "run") == small.artefacts(tmp_path / "straight")
