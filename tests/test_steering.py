"""Searches whose rounds somebody steers: which layers have turns, where a round begins, and how large its steps are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import small
from mentor import loopback
from small import resume, tune
from tandemtune.config import load_config
from tandemtune.errors import ConfigError
from tandemtune.mentor import Course, LayerGain, Mentor, Reply
from tandemtune.mentor.steering import read_actions
from tandemtune.proposers.mutation import Mutation
from tandemtune.runs.records import Actions

STEPS, LAST = 4, 3
CHAT = {"client": "endpoint", "mentor": "tiny", "style": "chat", "retries": 0, "timeout": 5.0}
PROMPTS = [
    loopback.say(json.dumps({"prompts": prompts})) for prompts in (["so dull", "a good plot"], ["is it fine", "we saw"])
]


def decision(layers: Any, restart: str = "no", steps: str = "same") -> loopback.Answer:
    return loopback.say(json.dumps({"layers": layers, "restart": restart, "steps": steps}))


def recipe(place, url="", method="c-lora", **changes):
    made = small.recipe(
        place,
        "gpt2",
        method__budget=None,
        method__name=method,
        method__dev_every=1,
        method__layers=[0, 1],
    )
    made["alternate"] = {"rounds": 2, "round_steps": STEPS, "final_steps": LAST, "actions": True, "proposer": "mentor"}
    made["alternate"] |= {"proposals": 2, "snapshots": 2, "definition": "Is it good?", **changes}
    made["mentor"] = {**CHAT, "base_url": url}
    return made


@pytest.fixture
def server():
    with loopback.serving() as running:
        yield running


def proposals(folder):
    return [line for line in small.journal(folder) if line["event"] == "proposal"]


def generations(folder):
    """The turns of each round."""
    turns: list[list[dict[str, Any]]] = [[]]
    for line in small.journal(folder):
        if line["event"] == "proposal":
            turns.append([])
        elif line["event"] == "generation":
            turns[-1].append(line)
    return turns


def test_a_mentor_chooses_layers_and_is_told_what_each_has_brought(server, tmp_path):
    server.answers = [loopback.say("yes"), decision([1], steps="smaller"), decision([0, 1], "best", "larger")]
    tune(recipe(tmp_path, server.url), tmp_path / "run")
    first, second, last = generations(tmp_path / "run")
    assert {line["layer"] for line in first} == {0, 1} and {line["layer"] for line in second} == {1}
    assert {line["layer"] for line in last} == {0, 1} and [len(t) for t in (first, second, last)] == [4, 4, 3]
    one, two = proposals(tmp_path / "run")
    assert one["actions"] == {"layers": [1], "restart": "no", "steps": "smaller"}
    assert two["actions"] == {"layers": [0, 1], "restart": "best", "steps": "larger"}
    told = [each["body"]["messages"][-1]["content"] for each in server.seen[1:]]
    for layer in (0, 1):
        turns = [line for line in first if line["layer"] == layer]
        gain = sum(line["incumbent"] - line["train_loss"] for line in turns)
        assert (
            f"layer {layer}: {len(turns)} turns, lowered the loss by {gain:.4f} in all, by {gain:.4f} in the last"
            in told[0]
        )
    assert "layer 0: 2 turns" in told[1] and "by 0.0000 in the last round" in told[1] and "layer 1: 6 turns" in told[1]
    assert "0.5 times as large" in told[1] and "Round 2 of 2" in told[1] and f"has {LAST} turns" in told[1]
    assert server.seen[1]["body"]["response_format"]["json_schema"]["schema"]["properties"]["layers"]["items"][
        "enum"
    ] == [0, 1]


def test_a_round_begins_where_the_mentor_says(server, tmp_path):
    """The first generation of a round scores the incumbent beside its candidates, on the same rows as all others."""
    losses = {}
    for restart in ("no", "best", "start"):
        server.answers = [loopback.say("yes"), decision([0, 1]), decision([0, 1], restart)]
        tune(recipe(tmp_path, server.url), tmp_path / restart)
        last = generations(tmp_path / restart)[-1]
        losses[restart] = last[0]["incumbent"]
    start = small.journal(tmp_path / "no")[0]["train_loss"]
    assert losses["start"] == pytest.approx(start, abs=1e-5) and losses["no"] < start - 1e-4
    turns = [line for line in small.journal(tmp_path / "best") if line["event"] in ("start", "generation")]
    turns = turns[: 2 * STEPS + 1]
    best = min(turns, key=lambda line: line["dev"]["loss"])
    assert losses["best"] == pytest.approx(best["train_loss"], abs=1e-5)


def test_smaller_steps_are_half_as_large(server, tmp_path):
    """The same candidates in the subspace, whose differences from the incumbent are scaled."""
    spread = {}
    for steps in ("smaller", "same", "larger"):
        server.answers = [loopback.say("yes"), decision([0], steps=steps)]
        tune(recipe(tmp_path, server.url, rounds=1), tmp_path / steps)
        first = generations(tmp_path / steps)[1][0]
        spread[steps] = np.std([loss - first["incumbent"] for loss in first["losses"]])
    assert spread["smaller"] < spread["same"] < spread["larger"]
    assert spread["larger"] / spread["smaller"] > 2


def test_words_and_decisions_in_one_round(server, tmp_path):
    server.answers = [loopback.say("yes"), PROMPTS[0], decision([0]), PROMPTS[1], decision([1], "start")]
    result = tune(recipe(tmp_path, server.url, method="tandem"), tmp_path / "run")
    one, two = proposals(tmp_path / "run")
    assert [draft["text"] for draft in one["drafts"]] == ["so dull", "a good plot"]
    assert [one["actions"]["layers"], two["actions"]["layers"], two["actions"]["restart"]] == [[0], [1], "start"]
    assert result["cost"]["proposer"]["calls"] == 4 and result["unanswered"] == ""
    shown = small.call("show", tmp_path / "run").out
    assert "the next round: layer 1, from the pretrained layers, same steps" in shown


@pytest.mark.few(1)
@pytest.mark.parametrize("seconds", [0.0, 1000.0], ids=["checkpoints", "journal"])
@pytest.mark.parametrize(
    "moments", [(5, 6, 11), pytest.param((3, 5, 6, 8, 10, 11, 12), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_stopped_anywhere_and_resumed_to_the_bit(server, tmp_path, moments, seconds):
    said = [PROMPTS[0], decision([1], steps="larger"), PROMPTS[1], decision([0, 1], "best")]
    made = recipe(tmp_path, server.url, method="tandem")
    made["run"]["checkpoint_seconds"] = seconds
    server.answers = [loopback.say("yes"), *said]
    tune(made, tmp_path / "whole")
    for lines in moments:
        server.answers = [loopback.say("yes"), *said]
        folder = tmp_path / f"stopped after {lines}"
        with pytest.raises(KeyboardInterrupt):
            tune(made, folder, small.Stop(lines=lines))
        server.answers.insert(0, loopback.say("yes"))  # before it goes on the endpoint is asked whether it is there
        resume(folder)
        assert small.artefacts(folder) == small.artefacts(tmp_path / "whole"), lines


def test_a_recorded_run_replays_to_the_bit(server, tmp_path):
    server.answers = [loopback.say("yes"), decision([1]), decision([0], "best", "smaller")]
    tune(recipe(tmp_path, server.url), tmp_path / "run")
    again = recipe(tmp_path)
    again["mentor"] = {"client": "recorded", "mentor": str(tmp_path / "run" / "conversations.jsonl"), "style": "chat"}
    tune(again, tmp_path / "again")
    assert (tmp_path / "again" / "journal.jsonl").read_bytes() == (tmp_path / "run" / "journal.jsonl").read_bytes()


def test_what_cannot_be_used_is_said_and_asked_for_once_more(server, tmp_path):
    server.answers = [loopback.say("yes"), decision([7]), decision([1]), decision([]), loopback.say("I would rest.")]
    tune(recipe(tmp_path, server.url), tmp_path / "run")
    asked = [each["body"]["messages"][-1]["content"] for each in server.seen[1:]]
    assert "its layer 7 cannot be tuned, expected numbers out of 0, 1" in asked[1]
    one, two = proposals(tmp_path / "run")
    assert one["actions"]["layers"] == [1] and one["failure"] is None
    assert (
        two["actions"] is None
        and "no JSON object with layers" in two["unsteered"]
        and two["failure"] == two["unsteered"]
    )
    assert {line["layer"] for line in generations(tmp_path / "run")[2]} == {0, 1}, "all layers have turns again"
    assert "decided nothing about the next round" in small.call("show", tmp_path / "run").out


def test_the_control_decides_at_random_and_without_a_question(tmp_path):
    taken = []
    for seed in range(3):
        made = recipe(tmp_path, proposer="mutation", rounds=4, round_steps=2)
        made["task"]["seed"] = seed
        tune(made, tmp_path / str(seed))
        taken += [line["actions"] for line in proposals(tmp_path / str(seed))]
    assert {tuple(one["layers"]) for one in taken} == {(0,), (1,), (0, 1)}
    assert {one["restart"] for one in taken} == {"no", "best", "start"}
    assert {one["steps"] for one in taken} == {"smaller", "same", "larger"}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            '{"layers": "all", "restart": "no", "steps": "same"}',
            'its layers are "all", expected a list of numbers out of 3, 4',
        ),
        ('{"layers": [true], "restart": "no", "steps": "same"}', "its layers are [true]"),
        ('{"layers": [3, 5], "restart": "no", "steps": "same"}', "its layer 5 cannot be tuned"),
        (
            '{"layers": [3], "restart": "maybe", "steps": "same"}',
            'its restart is "maybe", expected "no", "best", "start"',
        ),
        ('{"layers": [3], "restart": "no"}', 'its steps is missing, expected "smaller", "same", "larger"'),
        ('{"layers": [3], "restart": [], "steps": "same"}', "its restart is []"),
        (
            '{"layers": [3], "restart": "no", "steps": "same"} or {"layers": [4], "restart": "no", "steps": "same"}',
            "several different",
        ),
        ("none", "no JSON object"),
    ],
)
def test_an_answer_is_read_whole_or_refused(said, message):
    actions, problem = read_actions(Reply(said, 1, 1, "stop", "m"), [3, 4])
    assert actions is None and message in problem


def test_thoughts_and_fences_are_no_harm():
    said = (
        '<think>{"layers": [4]}</think>Sure:\n```json\n{"layers": [4, 3, 4], "restart": "best", "steps": "larger"}\n```'
    )
    found = read_actions(Reply(said, 1, 1, "stop", "m"), [3, 4])
    assert found == (Actions(layers=(3, 4), restart="best", steps="larger"), None)
    assert read_actions(Reply(said, 1, 1, "length", "m"), [3, 4])[1] == "it was cut off before its end"


class Scripted:
    """Gives one reply after another, and keeps the questions."""

    name, offers = "scripted", frozenset({"schema"})

    def __init__(self, *replies):
        self.replies, self.asked = list(replies), []

    def ask(self, request):
        self.asked.append(request)
        return self.replies.pop(0)


def course(scale: float) -> Course:
    return Course((LayerGain(3), LayerGain(4)), 1, 4, 10, scale, 0.7, 0)


SAME = '{"layers": [3], "restart": "no", "steps": "same"}'


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (
            Reply("", 1, 1, "length", "m", reasoning="Layer 3 ..."),
            "cut off at 20 tokens before its end; give it more room: [mentor] thinking",
        ),
        (Reply(SAME, 1, 1, "content_filter", "m"), "stopped by the endpoint's content filter"),
        (Reply("No.", 1, 1, "refusal", "m"), 'it is a refusal: "No."'),
    ],
    ids=["length", "filter", "refusal"],
)
def test_a_decision_that_did_not_come_is_told_as_what_it_is(reply, told):
    actions, problem = Mentor(Scripted(reply, reply), max_completion_tokens=20).steer(
        course(1.0), "Is it good?", turn=1
    )
    assert actions is None and told in problem


def test_a_decision_that_stands_in_the_thoughts_is_read_there():
    reply = Reply("", 1, 1, "stop", "m", reasoning=f"{SAME.replace('3', '4')}? No:\n{SAME}")
    actions, _ = Mentor(Scripted(reply)).steer(course(1.0), "Is it good?", turn=1)
    assert actions == Actions(layers=(3,), restart="no", steps="same")


@pytest.mark.parametrize(
    ("scale", "possible"),
    [(8.0, ["smaller", "same"]), (4.0, ["smaller", "same", "larger"]), (0.125, ["same", "larger"])],
)
def test_steps_cannot_be_made_larger_or_smaller_than_the_limit_that_is_told(scale, possible):
    word = ({"smaller", "same", "larger"} - set(possible) or {"same"}).pop()
    client = Scripted(Reply(SAME.replace("same", word), 1, 1, "stop", "m"), Reply(SAME, 1, 1, "stop", "m"))
    actions, _ = Mentor(client).steer(course(scale), "Is it good?", turn=1)
    assert actions.steps == "same" and len(client.asked) == (2 if word not in possible else 1)
    question = client.asked[0].messages[1][1]
    assert client.asked[0].schema["properties"]["steps"]["enum"] == possible and "0.125 to 8 times" in question
    assert [
        size for size in ("smaller", "same", "larger") if f'"{size}"' in question.partition("Answer")[0]
    ] == possible
    drawn = {Mutation(None, 1, 1, seed, None).steer(1, course(scale)).actions.steps for seed in range(40)}
    assert drawn == set(possible), "the control has the same choice"


def test_a_mentor_at_the_limit_is_not_offered_what_does_nothing(server, tmp_path):
    server.answers = [loopback.say("yes"), *[decision([0], steps="larger")] * 3, decision([0])]
    tune(recipe(tmp_path, server.url, rounds=4, round_steps=1, final_steps=1), tmp_path / "run")
    last = server.seen[-1]["body"]
    assert "8 times as large" in last["messages"][-1]["content"] and '"larger"' not in last["messages"][-1]["content"]
    assert "larger" not in last["response_format"]["json_schema"]["schema"]["properties"]["steps"]["enum"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proposer": "random"}, "random does not steer a search"),
        ({"style": "complete"}, "set style to chat"),
        ({"order": "together"}, "only a search that goes layer by layer"),
        ({"method": "maao"}, "only a search that goes layer by layer"),
    ],
)
def test_what_cannot_be_steered_is_refused_before_it_begins(tmp_path, changes, message):
    made = recipe(tmp_path, method=changes.get("method", "tandem"))
    made["alternate"] |= {key: value for key, value in changes.items() if key == "proposer"}
    made["mentor"] |= {key: value for key, value in changes.items() if key == "style"}
    made["method"] |= {key: value for key, value in changes.items() if key == "order"}
    if changes.get("method"):
        made["method"] = {"name": "maao"}
    with pytest.raises(ConfigError, match=message):
        load_config(made)
