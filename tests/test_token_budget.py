"""Runs that end by their tokens or seconds: what rounds share."""

from __future__ import annotations

import json
import re
import time
import types
from itertools import count

import pytest

import small
import writing
from grids import sparse
from tandemtune import autotune
from tandemtune.callbacks import Callback
from tandemtune.config import load_config

ROUNDS = {"alternate__rounds": 3, "alternate__round_steps": 4, "alternate__final_steps": 8}


def recipe_of(place, **changes):
    return small.recipe(
        place, "llama", method__name="maao", method__layers=None, method__prompt_tokens=2, method__dev_every=1,
        alternate__proposer="random", **ROUNDS, **changes,
    )  # fmt: skip


def set_clock(monkeypatch, pace):
    """A clock that moves on by so many seconds whenever a search looks at it."""
    steps = count()
    monkeypatch.setattr("tandemtune.search.loop.time", types.SimpleNamespace(perf_counter=lambda: pace * next(steps)))


def had_their_share(folder):
    """Whether all rounds proposed, and the last stretch had turns."""
    events = [record["event"] for record in small.journal(folder) if record["event"] in ("step", "proposal")]
    assert events.count("proposal") == 3
    last = max(i for i, event in enumerate(events) if event == "proposal")
    return bool(events[last + 1 :]) and set(events[last + 1 :]) == {"step"}


def test_the_last_stretch_has_its_share_of_tokens(tmp_path):
    """Without shares, the first rounds would use up all tokens."""
    recipe = recipe_of(tmp_path)
    whole = small.tune(recipe, tmp_path / "whole")["cost"]
    limit = (whole["forward_tokens"] + whole["backward_tokens"]) * 2 // 3
    result = small.tune({**recipe, "run": {**recipe["run"], "max_forward_tokens": limit}}, tmp_path / "short")
    assert had_their_share(tmp_path / "short")
    assert result["stop_reason"] == "max_forward_tokens"


@pytest.mark.parametrize("bound", ["tokens", "seconds"])
def test_rounds_have_all_of_their_steps_where_these_can_be_paid_for(bound, tmp_path, monkeypatch):
    """However long the last stretch might be: it has what is left."""
    set_clock(monkeypatch, 1.0)
    recipe = recipe_of(tmp_path, alternate__snapshots=2)
    whole = small.tune(recipe, tmp_path / "whole")["cost"]
    limit = {"run": {**recipe["run"], "max_seconds": whole["seconds"] * 1.5}}
    if bound == "tokens":
        limit["run"] = {**recipe["run"], "max_forward_tokens": whole["forward_tokens"] + whole["backward_tokens"]}
    long = {**recipe["alternate"], "final_steps": 5000}
    small.tune({**recipe, **limit, "alternate": long}, tmp_path / "long")
    events = "".join({"step": "s", "proposal": "P"}.get(line["event"], "") for line in small.journal(tmp_path / "long"))
    assert re.fullmatch(r"(s{4}P){3}s{4,40}", events), events


@pytest.mark.parametrize("saved", sparse([0.0, 1000.0], [1000.0]))
def test_the_last_stretch_has_its_share_of_seconds(saved, tmp_path, monkeypatch):
    """How a stretch ended is in the journal: a resumed run repeats it, whatever its own clock says."""
    set_clock(monkeypatch, 1.0)
    recipe = recipe_of(tmp_path, run__checkpoint_seconds=saved)
    limit = small.tune(recipe, tmp_path / "whole")["cost"]["seconds"] * 0.8
    bounded = {**recipe, "run": {**recipe["run"], "max_seconds": limit}}
    result = small.tune(bounded, tmp_path / "short")
    assert had_their_share(tmp_path / "short") and result["stop_reason"] == "max_seconds"

    events = [record["event"] for record in small.journal(tmp_path / "short")]
    second = events.index("proposal", events.index("proposal") + 1)
    set_clock(monkeypatch, 1.0)
    with pytest.raises(KeyboardInterrupt):
        small.tune(bounded, tmp_path / "cut", small.Stop(lines=second + 2))
    before = (tmp_path / "cut" / "journal.jsonl").read_bytes()
    assert events[: second + 2] == [json.loads(line)["event"] for line in before.splitlines()]
    set_clock(monkeypatch, 0.0)
    small.resume(tmp_path / "cut")
    assert (tmp_path / "cut" / "journal.jsonl").read_bytes().startswith(before)
    assert had_their_share(tmp_path / "cut")


def test_a_round_that_is_cut_short_is_looked_at_before_proposals_are_compared(tmp_path, monkeypatch):
    """Else they were compared with an earlier point, and the trained prompt was lost where one of them was taken."""
    set_clock(monkeypatch, 1.0)
    limit = small.tune(recipe_of(tmp_path, run__checkpoint_seconds=1000.0), tmp_path / "whole")["cost"]["seconds"] * 0.8
    found = {}
    for every in (1, 100):
        set_clock(monkeypatch, 1.0)
        recipe = recipe_of(tmp_path, run__checkpoint_seconds=1000.0, run__max_seconds=limit)
        folder = tmp_path / str(every)
        small.tune({**recipe, "method": {**recipe["method"], "dev_every": every}}, folder)
        assert had_their_share(folder)
        found[every] = [line["trained_dev"] for line in small.journal(folder) if line["event"] == "proposal"]
    assert found[1] == found[100]


def test_more_seconds_than_were_given_are_told(tmp_path):
    class Slow(Callback):
        def on_turn(self, record, state, seconds, recorded):
            time.sleep(0.5)

    given = small.recipe(tmp_path, run__max_seconds=0.4)
    notes = small.tune(given, tmp_path / "run", Slow())["notes"]
    (note,) = (note for note in notes if "max_seconds" in note)
    assert (
        re.search(r"(1 second was|\d+ seconds were) used", note)
        and "times the 0.4 of max_seconds: a turn is never cut" in note
    )
    assert not any(
        "max_seconds" in n for n in small.tune(small.recipe(tmp_path, run__max_seconds=99), tmp_path / "b")["notes"]
    )


@pytest.mark.parametrize("kind", ["words", "texts"])
def test_a_search_on_drawn_rows_is_planned_with_what_these_cost(kind, tmp_path):
    """Its noise falls, and its losers are thrown out, by how many generations there will be."""
    make = small.recipe if kind == "words" else writing.recipe
    recipe = make(tmp_path, "llama", method__subsample=2, method__dev_every=1000)
    problem = autotune.build(load_config(recipe).with_absolute_paths())
    evaluator, (block, *_) = problem.evaluator, problem.searched
    planned, some, every = (
        costs.forward
        for costs in (evaluator.most((block,), 5), evaluator.cost((block,), 5, 0), evaluator.cost((block,), 5))
    )
    assert planned == some < every
