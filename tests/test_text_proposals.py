"""Text prompts for tasks that are answered with texts: by genetic search, by controls, and by a mentor on a server of this machine."""

from __future__ import annotations

import json

import pytest

import small
import writing
from mentor import loopback
from small import Stop, artefacts, resume, tune

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


@pytest.mark.parametrize("kind", ["random", "mutation", "perturbed"])
def test_controls(tmp_path, kind):
    recipe = writing.recipe(tmp_path, **TRAINED, **ROUNDS, alternate__proposer=kind)
    tune(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "cut", Stop(lines=5))
    resume(tmp_path / "cut")
    assert artefacts(tmp_path / "cut") == artefacts(tmp_path / "whole")


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
