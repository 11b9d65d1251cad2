"""Templates ranked before a run: all by the same rows, format and readout; and a mentor who fails is found out early."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import small
from tandemtune import tune
from tandemtune.answers.labels import LabelAnswers
from tandemtune.runs.store import RunFolder

sys.path.insert(0, str(Path(__file__).parent / "mentor"))
from loopback import error, say, serving

OTHER = "the film {text} and so it was {mask}"
WORDING = json.dumps([{"template": OTHER, "words": {"negative": "terrible", "positive": "great"}}])


@pytest.fixture
def server():
    with serving() as running:
        yield running


def recipe(place, readout="ridge", **changes):
    made = small.recipe(place, "llama", task__shots=6, **changes)
    return {**made, "method": {"name": "readout", "readout": readout}}


def asking(place, server, *more, **changes):
    """The command that asks a mentor on this machine for one template."""
    path = small.write_recipe(place / "recipe.json", recipe(place, **changes))
    mentor = ("mentor.client=endpoint", "mentor.mentor=tiny", f"mentor.base_url={server.url}", "mentor.retries=0")
    return ("templates", path, "--mentor", "1", "--said", place / "said", *mentor, *more)


def test_a_template_is_judged_alike_whoever_brings_it(tmp_path, server, monkeypatch):
    """By the same rows in the same format, also where there are more rows than templates are judged by."""
    monkeypatch.setattr(LabelAnswers, "most_judged", 12)
    server.answers = [say("yes"), say(WORDING)]
    ask = asking(tmp_path, server, model__dtype="bfloat16")
    by_mentor = small.call(*ask, "--json")
    assert by_mentor.code == 0, by_mentor.err
    listed = small.call("templates", tmp_path / "recipe.json", "--template", OTHER, "--json")
    (one,), (other,) = (
        [found for found in json.loads(called.out) if found["template"] == OTHER] for called in (by_mentor, listed)
    )
    assert one == other and one["loss"] > 0
    assert "12 labelled rows" in small.call(*ask).out


@pytest.mark.parametrize(
    ("change", "said"),
    [("mentor.style=complete", "set [mentor] style to chat"), ("mentor.timeout=30", "401")],
    ids=["another style", "a wrong key"],
)
def test_a_mentor_that_will_not_answer_is_found_out_before_anything_is_judged(change, said, tmp_path, server):
    server.answers = [error(401, "Incorrect API key")]
    called = small.call(*asking(tmp_path, server, change))
    assert called.code == 2 and said in called.err
    assert "loading" not in called.err and called.out == "" and not (tmp_path / "said").exists()


def test_a_task_without_label_words_is_refused_before_anything_is_judged(tmp_path, server):
    texts = {"task__labels": None, "task__metric": "exact_match", "task__answer": "label"}
    made = {**recipe(tmp_path, **texts), "method": {"name": "manual"}}
    ask = asking(tmp_path, server)
    small.write_recipe(tmp_path / "recipe.json", made)
    called = small.call(*ask)
    assert called.code == 2 and "this task has none" in called.err and "loading" not in called.err


def test_what_was_judged_is_printed_where_a_mentor_fails_later(tmp_path, server):
    server.answers = [say("yes"), error(500, "out of order")]
    called = small.call(*asking(tmp_path, server), "--json")
    assert called.code == 1 and "out of order" in called.err
    assert [one["template"] for one in json.loads(called.out)] == [small.TEMPLATES["causal"]]


def test_who_has_answered_before_is_not_contacted_again(tmp_path, server):
    server.answers = [say("yes"), say(WORDING), error(401)]
    first = small.call(*asking(tmp_path, server), "--json")
    asked = len(server.seen)
    again = small.call(*asking(tmp_path, server), "--json")
    assert first.code == again.code == 0 and first.out == again.out and len(server.seen) == asked


@pytest.mark.parametrize("readout", ["ridge", "kernel", "logistic", "bias"])
def test_templates_are_chosen_by_the_loss_of_the_readout_that_is_solved(readout, tmp_path):
    """With its form and prior, on texts that lose the same part."""
    task = {"task__templates": [OTHER], "task__max_tokens": 12, "task__truncate": "start"}
    made = recipe(tmp_path, {"kind": readout, "prior": [0.9, 0.1]}, **task)
    tune(made, tmp_path / "run")
    facts = RunFolder.open(tmp_path / "run").read_facts()
    solved = json.loads((tmp_path / "run" / "adapter" / "readout" / "readout.json").read_text())
    assert len(facts.templates) == 2
    assert min(one.loss for one in facts.templates) == pytest.approx(solved["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ("balanced", "assumes that all labels come up equally often"),
        ([0.9, 0.1], "assumes that labels come up with these shares: negative 0.9, positive 0.1"),
        ("train", "assumes that labels come up as often as in the labelled rows: negative 0.5, positive 0.5"),
    ],
    ids=["balanced", "shares", "train"],
)
def test_an_adapter_says_which_prior_its_readout_assumes(prior, said, tmp_path):
    tune(recipe(tmp_path, {"kind": "bias", "prior": prior}), tmp_path / "run")
    assert said in (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
