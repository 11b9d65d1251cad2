"""Runs whose texts are graded by a language model, on a server of this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import chatting
import writing
from executors.stubs import Virtual
from small import Stop, artefacts, call, journal, resume, tune, write_recipe
from tandemtune.errors import UsageError
from tandemtune.mentor.grading import Grader, read_grade

sys.path.insert(0, str(Path(__file__).parent / "mentor"))
from loopback import completion, error, message, say, send, serving

RUBRIC = "Good answers are about films."


@pytest.fixture
def server():
    with serving() as running:
        running.answers = [by_length]
        yield running


def by_length(handler, asked):
    """A grade for each text: how many of its words are short."""
    text = asked["messages"][:2][-1]["content"].partition("The answer:\n")[2].partition("\n\nGrade")[0]
    grade = min(10, sum(len(word) < 5 for word in text.split()))
    send(handler, 200, json.dumps(completion(f"Grade: {grade}", asked)).encode())


def recipe(place, server, **changes):
    """A recipe whose only reward is a judge's."""
    return writing.recipe(place, **{**judged(server), **changes})


def judged(server):
    """The settings of such a recipe."""
    return {
        "method__objective": {"kind": "reward", "rewards": {"judge": 1.0}, "rubric": RUBRIC},
        "mentor__client": "endpoint",
        "mentor__mentor": "tiny",
        "mentor__base_url": server.url,
        "mentor__retries": 0,
    }


def test_a_search_on_grades(tmp_path, server):
    result = tune(recipe(tmp_path, server), tmp_path / "run")
    assert result["tuned"]["dev_loss"] <= result["zero_shot"]["dev_loss"]
    assert any("texts were graded by tiny" in note for note in result["notes"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").open()]
    assert all([*row["rewards"]] == ["token_f1"] for row in rows)
    asked = [body for body in server.bodies if "messages" in body and RUBRIC in body["messages"][0]["content"]]
    lines = [json.loads(line) for line in (tmp_path / "run" / "grades.jsonl").open()]
    answered = sum("answered" in line for line in lines)
    assert answered == len({json.dumps(body["messages"]) for body in asked}) > 8
    shown = asked[0]["messages"][1]["content"]
    assert "Right answers" not in shown and "from 0 to 10" in shown


def test_references_are_shown_where_that_is_wanted(tmp_path, server):
    objective = {"kind": "reward", "rewards": {"judge": 1.0}, "rubric": RUBRIC, "show_references": True, "grades": 5}
    tune(recipe(tmp_path, server, method__objective=objective, method__budget=10), tmp_path / "run")
    shown = server.bodies[-1]["messages"][1]["content"]
    assert "Right answers:\n- " in shown and "from 0 to 5" in shown


def test_a_judge_is_shown_the_question_of_a_conversation_without_its_marks(tmp_path, server):
    recipe = chatting.written(tmp_path, **judged(server), task__system="be brief", method__budget=8)
    tune(recipe, tmp_path / "run")
    texts = {json.loads(line)["text"] for name in ("train", "test") for line in (tmp_path / f"{name}.jsonl").open()}
    questions = {f"review : {text}\nis it great ?" for text in texts}
    shown = [body["messages"][1]["content"] for body in server.bodies if RUBRIC in body["messages"][0]["content"]]
    tasks = {one.partition("The answer:")[0].removeprefix("The task:\n").strip() for one in shown}
    assert tasks and tasks <= questions


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (say("Grade: 8"), 0, "it was read, 8 of 10"),
        (message(content="", reasoning_content="8"), 0, "it was read, 8 of 10"),
        (say("<think>Perhaps 3, perhaps 4.</think>8"), 0, "it was read, 8 of 10"),
        (
            message("length", content="", reasoning_content="Perhaps 3 or"),
            1,
            "cut off at 16 tokens before it named a grade; give it more room",
        ),
        (message("length", content="<think>I grade it from 0"), 1, "cut off at 16 tokens before it named a grade"),
        (message("length", content="It has only 1 of the"), 1, "cut off at 16 tokens before it named a grade"),
        (message("length", content="1 of the facts is"), 1, "cut off at 16 tokens before it named a grade"),
        (message("length", content="8\n\nBecause it is"), 0, "it was read, 8 of 10"),
        (message("length", content="Grade: 8/10. The"), 0, "it was read, 8 of 10"),
        (say("<think>maybe 5</think> eight"), 1, "expected a number from 0 to 10"),
        (message("content_filter", content="3"), 1, "content filter"),
        (message(content=None, refusal="Not 3."), 1, 'it is a refusal: "Not 3."'),
        (say("Fine."), 1, "'Fine.', expected a number from 0 to 10: choose a stronger model"),
    ],
    ids=[
        "grade",
        "thoughts",
        "tags",
        "length",
        "thoughts cut",
        "cut",
        "cut count",
        "cut reason",
        "cut fraction",
        "word",
        "filter",
        "refusal",
        "words",
    ],
)
def test_whether_a_judge_can_be_read_is_found_out_before_a_run(tmp_path, server, answer, code, said):
    server.answers = [say("yes"), answer]
    place = write_recipe(tmp_path / "recipe.json", recipe(tmp_path, server))
    called = call("mentor", "check", place)
    assert called.code == code and said in called.err, called.err
    assert RUBRIC in server.bodies[-1]["messages"][0]["content"]


def test_a_judge_has_the_room_that_the_recipe_gives(tmp_path, server):
    server.answers = [say("yes"), say("8")]
    made = recipe(tmp_path, server, mentor__thinking=True, mentor__max_completion_tokens=700)
    assert call("mentor", "check", write_recipe(tmp_path / "recipe.json", made)).code == 0
    assert server.bodies[-1]["max_completion_tokens"] == 700


def test_a_resumed_run_asks_nothing_twice(tmp_path, server):
    tune(recipe(tmp_path, server), tmp_path / "whole")
    whole = len(server.seen)
    with pytest.raises(KeyboardInterrupt):
        tune(recipe(tmp_path, server), tmp_path / "cut", Stop(step=2))
    resume(tmp_path / "cut")
    assert artefacts(tmp_path / "cut") == artefacts(tmp_path / "whole")
    lines = [(tmp_path / name / "grades.jsonl").read_text() for name in ("whole", "cut")]
    assert lines[0] == lines[1]
    assert len(server.seen) - whole <= whole + 2  # each process may say hello


@pytest.mark.few(1)
@pytest.mark.parametrize("ended", ["by an error", "by Ctrl-C"])
def test_grades_that_were_given_before_a_search_began_are_kept(tmp_path, server, ended, monkeypatch):
    tune(recipe(tmp_path, server), tmp_path / "whole")
    whole, asked = len(server.seen), []

    def breaking(handler, body):
        asked.append(body)
        if len(asked) < 7:
            return by_length(handler, body)
        return error(500)(handler, body)

    with monkeypatch.context() as until:
        if ended == "by Ctrl-C":
            own = Grader.grade

            def grade(grader, request):
                if len(asked) > 5:
                    raise KeyboardInterrupt
                return own(grader, request)

            until.setattr(Grader, "grade", grade)
        server.answers = [breaking]
        with pytest.raises((UsageError, KeyboardInterrupt)):
            tune(recipe(tmp_path, server), tmp_path / "cut")
    kept = (tmp_path / "cut" / "grades.jsonl").read_text()
    assert kept.count("answered") > 3 and not (tmp_path / "cut" / "journal.jsonl").exists()
    server.answers, before = [by_length], len(server.seen)
    resume(tmp_path / "cut")
    assert artefacts(tmp_path / "cut") == artefacts(tmp_path / "whole")
    assert len(server.seen) - before < whole - 2


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nobody_is_asked_for_grades_to_see_how_long_a_run_takes(tmp_path, server, dtype):
    """Whatever is asked is written down, and counted, by the run."""
    tune(recipe(tmp_path, server, model__dtype=dtype, model__compile="auto"), tmp_path / "run")
    asked = [json.dumps(body["messages"]) for body in server.bodies if RUBRIC in body["messages"][0]["content"]]
    lines = [json.loads(line) for line in (tmp_path / "run" / "grades.jsonl").open()]
    assert len(asked) == sum("answered" in line for line in lines) == len(set(asked))
    texts = sum(len(line["losses"]) for line in journal(tmp_path / "run") if "losses" in line) * 4
    assert len(asked) <= texts + 3 * 8


@pytest.mark.slow
def test_workers_write_and_the_run_alone_asks(tmp_path, server):
    """Whoever writes the texts, each is asked about once, and the run's transcript holds it."""
    penalised = {"kind": "reward", "rewards": {"judge": 1.0}, "rubric": RUBRIC, "sampled_at": 0.7, "kl_penalty": 0.1}
    changes = {"method__objective": penalised, "method__subsample": 3}
    tune(recipe(tmp_path, server, **changes, run__executor={"kind": "local", "shard": 2}), tmp_path / "local")
    alone = len(server.seen)
    tune(recipe(tmp_path, server, **changes, run__executor=Virtual()), tmp_path / "workers")
    assert artefacts(tmp_path / "workers") == artefacts(tmp_path / "local")
    assert len(server.seen) == 2 * alone
    one, other = ((tmp_path / name / "grades.jsonl").read_text() for name in ("local", "workers"))
    assert one == other and one.count("answered") > 20 and len(journal(tmp_path / "workers")) > 4


FAILURES = {
    "no grade": (
        say("It is fine."),
        r"the row with text '.* the judge said 'It is fine.', expected a number from 0 to 10",
    ),
    "no answer": (error(500), r"the row with text '.*a run that has begun is saved"),
    "too high": (say("11"), "expected a number from 0 to 10"),
}


@pytest.mark.parametrize(
    "names", [("no grade", "no answer"), pytest.param((*FAILURES,), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_judge_that_fails_loses_nothing(tmp_path, server, names):
    tune(recipe(tmp_path, server), tmp_path / "whole")
    whole = artefacts(tmp_path / "whole")
    for answer, says in (FAILURES[name] for name in names):

        class Breaks(Stop):
            def on_turn(self, record, state, seconds, recorded, answer=answer):
                if record.step == 2 and not recorded:
                    server.answers = [answer]

        with pytest.raises(UsageError, match=says):
            tune(recipe(tmp_path, server), tmp_path / "cut", Breaks(), overwrite=True)
        server.answers = [by_length]
        resume(tmp_path / "cut")
        found = artefacts(tmp_path / "cut")
        for name in {*found} - {"result.json"}:  # it counts the answers that could not be used, too
            assert found[name] == whole[name], (says, name)


def test_an_answer_that_is_no_grade_is_asked_about_once_more(tmp_path, server):
    server.answers = [say("hello"), say("Well, it is short."), by_length]
    result = tune(recipe(tmp_path, server), tmp_path / "run")
    (again,) = [body for body in server.bodies if len(body["messages"]) == 4]
    assert "nothing else" in again["messages"][3]["content"] and result["tuned"]["dev_loss"] is not None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"method__objective": {"kind": "reward", "rewards": {"judge": 1.0}}},
            "rubric: what the reward judge grades by",
        ),
        ({"mentor__client": "file", "mentor__base_url": None}, "asks about every text"),
        ({"mentor__base_url": "http://127.0.0.1:9/v1"}, "127.0.0.1:9"),
    ],
)
def test_recipes_that_cannot_be_graded(tmp_path, server, changes, says):
    with pytest.raises(UsageError, match=says):
        tune(recipe(tmp_path, server, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("7", 7),
        ("Grade: 7.5", 7.5),
        ("7/10", 7),
        ("**7** out of 10", 7),
        ("-1", None),
        ("11", None),
        ("7 or 8", None),
        ("", None),
    ],
)
def test_grades_are_read_with_certainty(text, grade):
    assert read_grade(text, 10) == grade
