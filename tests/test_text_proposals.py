"""Text prompts for tasks that are answered with texts: by genetic search, by controls, and by a mentor on a server of this machine."""

from __future__ import annotations

import json

import pytest

import small
import writing
from grids import sparse
from mentor import loopback
from small import Stop, artefacts, resume, tune
from tandemtune import wiring

STEPS = {"method__budget": None, "method__layers": None, "method__d": None, "method__r": None, "method__popsize": None}
REWARD = {"method__objective": "reward"}
TRAINED = {**STEPS, "method__name": "maao", "method__lr": 0.1, "method__prompt_tokens": 3, "method__batch_size": 4}
ROUNDS = {"alternate__rounds": 2, "alternate__round_steps": 2, "alternate__final_steps": 2, "alternate__snapshots": 2}
TANDEM = {
    **STEPS,
    "method__name": "tandem",
    "method__prompt_tokens": 3,
    "method__popsize": 4,
    "method__d": 8,
    "method__r": 1,
}
GENETIC = {**STEPS, "method__name": "gap3", "method__prompt_tokens": 3, "method__popsize": 4, "method__budget": 12}


@pytest.mark.parametrize("changes", [{}, REWARD], ids=["likelihood", "reward"])
def test_genetic_search(tmp_path, changes):
    result = tune(writing.recipe(tmp_path, **GENETIC, **changes), tmp_path / "run")
    assert result["tuned"]["dev_loss"] <= result["zero_shot"]["dev_loss"] + 10 * (not changes)
    assert 8 <= result["cost"]["candidates"] <= 12


@pytest.mark.parametrize("kind", sparse(["random", "mutation", "perturbed"], ["mutation"]))
def test_controls(tmp_path, kind):
    recipe = writing.recipe(tmp_path, **TRAINED, **ROUNDS, alternate__proposer=kind)
    tune(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "cut", Stop(lines=5))
    resume(tmp_path / "cut")
    assert artefacts(tmp_path / "cut") == artefacts(tmp_path / "whole")


SHORT = {"task__stop": list("aeiou"), "task__max_new_tokens": 24}
"""Texts are far shorter than they may be, so that what was written and what may be written cost differently."""


@pytest.mark.parametrize("rows", sparse([0, 2], [2]))
def test_a_run_that_stops_before_a_proposal_costs_what_one_costs_that_does_not(tmp_path, rows):
    with loopback.serving() as server:
        said = loopback.say(json.dumps({"prompts": ["the movie was", "a good plot", "so dull"]}))
        server.answers = [loopback.say("yes"), said]
        mentor = {"mentor__client": "endpoint", "mentor__mentor": "tiny", "mentor__base_url": server.url}
        recipe = writing.recipe(
            tmp_path, **TRAINED, **ROUNDS, **SHORT, **mentor, mentor__show_rows=rows, mentor__on_failure="stop"
        )
        tune(recipe, tmp_path / "whole")
        first = [line["event"] for line in small.journal(tmp_path / "whole")].index("proposal")
        with pytest.raises(KeyboardInterrupt):
            tune(recipe, tmp_path / "cut", Stop(lines=first))
        resume(tmp_path / "cut")
    costs = [[line.get("costs") for line in small.journal(tmp_path / name)] for name in ("cut", "whole")]
    assert costs[0] == costs[1]


def test_how_many_generations_there_will_be_does_not_depend_on_what_was_written(tmp_path, monkeypatch):
    planned, made = [], wiring.phases._generations
    monkeypatch.setattr(wiring.phases, "_generations", lambda *given: planned.append(made(*given)) or planned[-1])
    search = {"method__optimizer": "fireworks", "method__popsize": None, "method__budget": 10**6}
    search |= {"method__order": "together", "method__dev_every": 1, "run__max_forward_tokens": 42_000}
    recipe = writing.recipe(tmp_path, **search, **REWARD, **SHORT)
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "cut", Stop(step=2))
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "cut", Stop(step=3))
    assert len(planned) == 2 and planned[0] == planned[1]


@pytest.mark.grid
@pytest.mark.parametrize("method", [TRAINED, {**TANDEM, **REWARD}], ids=["maao", "tandem"])
@pytest.mark.parametrize("rows", [0, 2])
def test_a_mentor_sees_rows_with_their_rewards_where_that_is_wanted(tmp_path, method, rows):
    with loopback.serving() as server:
        said = [loopback.say(json.dumps({"prompts": ["the movie was", "a good plot", "so dull"]}))]
        server.answers = [loopback.say("yes"), *said]
        mentor = {"mentor__client": "endpoint", "mentor__mentor": "tiny", "mentor__base_url": server.url}
        recipe = writing.recipe(tmp_path, **method, **ROUNDS, **mentor, mentor__show_rows=rows)
        result = tune(recipe, tmp_path / "run")
    assert result["cost"]["proposer"]["calls"] >= 1
    told = [body["messages"][-1]["content"] for body in server.bodies if "Write exactly" in str(body)]
    assert told and all("answers with a text" in text and "none of these words" not in text for text in told)
    shown = [text.count("is answered ") for text in told]
    assert shown == [rows] * len(told)
    if rows:
        assert all("reward 0." in text and "a right answer is" in text for text in told)
    drafts = [
        draft["text"]
        for line in small.journal(tmp_path / "run")
        if line["event"] == "proposal"
        for draft in line["drafts"]
    ]
    assert "a good plot" in drafts


def test_a_mentor_sees_the_rewards_that_are_searched_for(tmp_path):
    """The metric is never below 0, this reward is for texts of another length than theirs."""
    place = f"{writing.rewards_in(tmp_path)}:length"
    objective = {"kind": "reward", "rewards": {place: 1.0, "token_f1": 0.001}}
    with loopback.serving() as server:
        server.answers = [loopback.say("yes"), loopback.say(json.dumps({"prompts": ["the movie was", "so dull"]}))]
        mentor = {"mentor__client": "endpoint", "mentor__mentor": "tiny", "mentor__base_url": server.url}
        shown = {"mentor__show_rows": 1, "method__objective": objective}
        tune(writing.recipe(tmp_path, **TANDEM, **ROUNDS, **mentor, **shown), tmp_path / "run")
    told = [body["messages"][-1]["content"] for body in server.bodies if "Write exactly" in str(body)]
    assert told and all(", reward -" in text for text in told)
