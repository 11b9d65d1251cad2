"""Runs of tasks with whole answers to choose from."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from torch.testing import assert_close

import choosing
import small
import tandemtune
import tiny
from small import Stop, artefacts, resume, tune
from tandemtune.errors import UsageError

STEPS = {"method__budget": None, "method__layers": None, "method__d": None, "method__r": None, "method__popsize": None}
METHODS = {
    "c-lora": {},
    "f-lora": {"method__name": "f-lora"},
    "mezo": {**STEPS, "method__name": "mezo", "method__budget": 8},
    "es": {**STEPS, "method__name": "es", "method__budget": 24},
    "lora": {**STEPS, "method__name": "lora", "method__steps": 4},
    "prompt-tuning": {**STEPS, "method__name": "prompt-tuning", "method__steps": 4, "method__prompt_tokens": 3},
}


@pytest.mark.grid
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [choosing.phrases, choosing.columns])
def test_runs(tmp_path, make, method):
    """Each pair of a method, a form of answers and a model is run."""
    model = ("llama", "t5")[(list(METHODS).index(method) + (make is choosing.columns)) % 2]
    result = tune(make(tmp_path, model, **METHODS[method]), tmp_path / "run")
    assert result["tuned"]["dev_loss"] <= result["zero_shot"]["dev_loss"] + (method == "prompt-tuning") * 10
    assert (result["tuned"]["calibrated"] is None) == (make is choosing.columns)


@pytest.mark.parametrize("model", ["llama", "t5"])
def test_probabilities_are_those_of_mean_log_likelihoods(tmp_path, model):
    """What a run says of its test rows is what the model itself says, choice by choice."""
    tune(choosing.columns(tmp_path, model, method__name="manual"), tmp_path / "run")
    scorer = tandemtune.load(tmp_path / "run").scorer
    backbone = tiny.backbone(model)
    for row in _predictions(tmp_path / "run")[:6]:
        prompt = scorer.plain_prompt(tandemtune.types.Example(row["fields"])).ids
        likely = []
        for column in ("first", "second"):
            answer = backbone.tokenizer(row["fields"][column], add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                if model == "t5":
                    given = torch.tensor([[*backbone.prefix, *answer[:-1]]])
                    logits = backbone.model(input_ids=torch.tensor([prompt]), decoder_input_ids=given).logits[0]
                else:
                    logits = backbone.model(input_ids=torch.tensor([[*prompt, *answer[:-1]]])).logits[0]
            log_p = torch.log_softmax(logits[-len(answer) :], dim=-1)
            likely.append(float(log_p[range(len(answer)), answer].mean()))
        expected = torch.softmax(torch.tensor(likely) / scorer.temperature, dim=0)
        assert_close(torch.tensor(list(row["probabilities"].values())), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [choosing.phrases, choosing.columns])
def test_few_shot_in_context(tmp_path, make):
    tune(
        make(
            tmp_path,
            **{
                **STEPS,
                "method__name": "icl",
                "method__demonstrations": 2,
                "task__max_tokens": 16,
                "task__max_new_tokens": 6,
            },
        ),
        tmp_path / "run",
    )
    saved = json.loads((tmp_path / "run" / "adapter" / "demonstrations.json").read_text())["demonstrations"]
    known = {*choosing.PHRASES.values(), *(text for pair in choosing.ENDINGS for text in pair)}
    assert len(saved) == 2 and {one["label"] for one in saved} <= known


def test_phrases_of_one_piece_are_label_words(tmp_path):
    words = tune(small.recipe(tmp_path, "llama"), tmp_path / "words")
    phrases = tune(choosing.phrases(tmp_path, task__labels=small.LABELS), tmp_path / "phrases")
    for split in ("train_loss", "dev_loss", "test"):
        assert phrases["zero_shot"][split] == pytest.approx(words["zero_shot"][split], abs=1e-5)
    assert phrases["tuned"]["dev_loss"] == pytest.approx(words["tuned"]["dev_loss"], abs=1e-3)


def test_several_phrases_and_calibration(tmp_path):
    labels = {"negative": ["very bad", "terrible"], "positive": "very good and great"}
    objective = {"kind": "ce", "calibrate": True, "kl_penalty": 0.5, "kl_rows": 4}
    recipe = choosing.phrases(tmp_path, task__labels=labels, method__objective=objective)
    assert tune(recipe, tmp_path / "run")["tuned"]["calibrated"] is not None


def test_gradients_weigh_rows_alike_whatever_groups_they_are_in(tmp_path):
    """A gradient step over all rows at once is the mean of the gradients of single rows."""
    from tandemtune.config import load_config
    from tandemtune.wiring import make_problem, make_scorer, make_task

    recipe = choosing.columns(tmp_path, **METHODS["lora"])
    config = load_config(recipe)
    task = make_task(config.task, "causal")
    split = task.split(4, 1)
    scorer = make_scorer(config, task, "causal", rows=split.train)
    evaluator, point = make_problem(scorer, split).evaluator, scorer.parameters.initial()
    blocks = scorer.parameters.blocks
    loss, found = evaluator.gradient_on(scorer.batch(split.train), point, blocks)
    each = [evaluator.gradient_on(scorer.batch([row]), point, blocks) for row in split.train]
    assert loss == pytest.approx(sum(one for one, _ in each) / len(each), abs=1e-5)
    assert loss == pytest.approx(evaluator.measure(point).loss, abs=1e-5)
    for block in blocks:
        mean = torch.stack([gradient[block] for _, gradient in each]).mean(dim=0)
        assert_close(found[block], mean, atol=1e-5, rtol=1e-4)


@pytest.mark.few(1)
@pytest.mark.grid
@pytest.mark.parametrize("make", [choosing.phrases, choosing.columns])
@pytest.mark.parametrize("changes", [{}, {"method__subsample": 2}, METHODS["lora"]])
def test_resumed_to_the_bit(tmp_path, make, changes):
    recipe = make(tmp_path, **changes)
    tune(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "cut", Stop(step=2))
    resume(tmp_path / "cut")
    assert artefacts(tmp_path / "cut") == artefacts(tmp_path / "whole")


def test_predict_and_evaluate(tmp_path):
    tune(choosing.columns(tmp_path), tmp_path / "run")
    model = tandemtune.load(tmp_path / "run")
    rows = _predictions(tmp_path / "run")
    assert model.fields == ("text", "first", "second")
    assert [one.label for one in model.predict([row["fields"] for row in rows])] == [row["label"] for row in rows]
    found = model.evaluate(tmp_path / "test.jsonl")
    assert found.score == pytest.approx(tandemtune.Run(tmp_path / "run").result.tuned.test, abs=1e-6)
    called = small.call(
        "predict", tmp_path / "run", "--input", tmp_path / "test.jsonl", "--output", tmp_path / "out.jsonl"
    )
    assert called.code == 0, called.err
    assert small.call("report", tmp_path / "run", "--out", tmp_path / "page.html").code == 0


def test_answers_in_a_list(tmp_path):
    tune(choosing.columns(tmp_path), tmp_path / "columns")
    listed = choosing.columns(tmp_path, task__labels={"0": "endings.0", "1": "endings.1"})
    tune(listed, tmp_path / "listed")
    one, other = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("columns", "listed"))
    assert one["tuned"] == other["tuned"]


def test_answers_in_lists_inside_objects(tmp_path):
    """The layout of ARC."""
    tune(choosing.columns(tmp_path), tmp_path / "columns")
    for name, seed in (("train", 1), ("test", 2)):
        inside = [
            {"text": row["text"], "choices": {"text": row["endings"], "label": ["A", "B"]}, "key": "AB"[row["right"]]}
            for row in choosing.rows(24, seed)
        ]
        small.write_rows(tmp_path / f"{name}.jsonl", inside)
    recipe = small.recipe(
        tmp_path,
        "llama",
        task__choices="columns",
        task__template="{text} so {mask}",
        task__labels={"A": "choices.text.0", "B": "choices.text.1"},
        task__label_column="key",
    )
    tune(recipe, tmp_path / "inside")
    one, other = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("columns", "inside"))
    assert one["tuned"] == other["tuned"]
    called = small.call("evaluate", tmp_path / "inside", tmp_path / "test.jsonl")
    assert called.code == 0, called.err
    arguments = ["--input", tmp_path / "test.jsonl", "--output", tmp_path / "answers.jsonl"]
    assert small.call("predict", tmp_path / "inside", *arguments).code == 0
    lost = {**recipe["task"], "labels": {"A": "choices.text.0", "B": "choices.words.1"}}
    with pytest.raises(UsageError, match=r"no column 'choices.words.1'.*found 'text', 'choices', 'key'"):
        tune({**recipe, "task": lost}, tmp_path / "lost")


THREE = {"task__labels": {"0": "endings.0", "1": "endings.1", "2": "endings.2"}, "task__shots": 3}


def _fewer(place):
    """Files whose rows have three answers, but for every fourth one, which has two; the test rows."""
    for name, seed in (("train", 1), ("test", 2)):
        rows = choosing.rows(24, seed)
        for number, row in enumerate(rows):
            if number % 4:
                row.update(endings=[*row["endings"], "so great a film"], right=number % 3)
        small.write_rows(place / f"{name}.jsonl", rows)
    return rows


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("model", "method"),
    [("llama", {}), ("t5", METHODS["lora"]), ("llama", {"method__objective": {"kind": "ce", "kl_penalty": 0.5}})],
)
def test_rows_with_fewer_answers_than_others(tmp_path, model, method):
    """What a row lacks is never chosen there, by a search, by gradients, with a penalty, or afterwards."""
    recipe = choosing.columns(tmp_path, model, **THREE, **method)
    rows = _fewer(tmp_path)
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", recipe))
    assert called.code == 0, called.err
    result = tune(recipe, tmp_path / "run")
    assert all(0 < result["tuned"][loss] < 100 for loss in ("train_loss", "dev_loss"))
    told = {row["fields"]["text"]: row["probabilities"] for row in _predictions(tmp_path / "run")}
    given = [{"text": row["text"], **{f"endings.{i}": one for i, one in enumerate(row["endings"])}} for row in rows]
    for row, answer in zip(rows, tandemtune.load(tmp_path / "run").predict(given), strict=True):
        assert told[row["text"]] == pytest.approx(answer.probabilities, abs=1e-5)
        assert (answer.probabilities["2"] > 0) == (len(row["endings"]) == 3)
    assert tandemtune.load(tmp_path / "run").predict(rows)[0].probabilities == pytest.approx(
        told[rows[0]["text"]], abs=1e-5
    )
    called = small.call("evaluate", tmp_path / "run", tmp_path / "test.jsonl")
    assert called.code == 0, called.err


def test_an_answer_that_no_test_row_has_is_chosen_by_no_control(tmp_path):
    recipe = choosing.columns(tmp_path, **THREE, method__name="manual")
    _fewer(tmp_path)
    small.write_rows(tmp_path / "test.jsonl", choosing.rows(24, 2))
    assert tune(recipe, tmp_path / "run")["zero_shot"]["test_by_batch"] > 0


def test_answers_that_a_row_has_are_told_apart_as_if_there_were_no_others(tmp_path):
    recipe = choosing.columns(tmp_path, **THREE, method__name="manual")
    two = {**recipe, "task": {**recipe["task"], "labels": {"0": "endings.0", "1": "endings.1"}}}
    tune(two, tmp_path / "two")
    _fewer(tmp_path)
    tune(recipe, tmp_path / "three")
    odds = []
    for name in ("two", "three"):
        temperature = tandemtune.load(tmp_path / name).scorer.temperature
        one = {row["fields"]["text"]: row["probabilities"] for row in _predictions(tmp_path / name)}
        odds.append({text: math.log(p["0"] / p["1"]) * temperature for text, p in one.items()})
    assert odds[0] == pytest.approx(odds[1], abs=1e-3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"endings": ["fine"], "right": 0}, "line 5 has 1 of 3 answers to choose from, expected two at least"),
        ({"endings": ["fine", "dull"], "right": 2}, "line 5 lacks the answer of its label, '2'"),
    ],
)
def test_rows_with_too_few_answers(tmp_path, change, says):
    recipe = choosing.columns(tmp_path, **THREE, task__test=None)
    _fewer(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    small.write_rows(tmp_path / "train.jsonl", [{**row, **change} if i == 4 else row for i, row in enumerate(rows)])
    recipe["task"] |= {"shots": "all", "dev_shots": 2}
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", recipe))
    assert called.code == 2 and says in called.err, called.err
    with pytest.raises(UsageError, match=says):
        tune(recipe, tmp_path / "run")


def test_validate_counts_tokens(tmp_path):
    recipe = small.write_recipe(tmp_path / "recipe.json", choosing.phrases(tmp_path))
    called = small.call("validate", recipe)
    assert called.code == 0, called.err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method__readout": "ridge"}, "ridge reads label words, and choices are columns"),
        ({"task__templates": ["{text} {mask}", "{text} so {mask}"]}, "templates: they are judged by label words"),
        ({"method__objective": {"kind": "ce", "calibrate": True}}, "each row has answers of its own"),
        ({"task__labels": {"0": "first", "1": "third"}}, "no column 'third'"),
        ({"task__max_new_tokens": 3}, "has 5 tokens, more than"),
        ({"task__labels": {"0": "endings.0", "1": "endings.2"}}, "expected a list of at least 3"),
    ],
)
def test_recipes_that_do_not_fit(tmp_path, changes, says):
    with pytest.raises(UsageError, match=says):
        tune(choosing.columns(tmp_path, **changes), tmp_path / "run")


@pytest.mark.parametrize(
    ("most", "tokens", "says"),
    [
        (8, 9, r"has 9 tokens, more than \[task\] max_new_tokens = 8"),
        (64, 61, "has 61 tokens, more than the 60 that the model has room for behind a prompt"),
    ],
)
def test_the_row_of_an_answer_that_is_too_long_is_named(tmp_path, most, tokens, says):
    recipe = choosing.columns(tmp_path, task__shots="all", task__dev_shots=4, task__max_new_tokens=most)
    recipe["method"] = {"name": "manual"}
    tune(recipe, tmp_path / "before")
    rows = choosing.rows(24, 1)
    rows[9]["second"] = "good " * tokens
    file = small.write_rows(tmp_path / "train.jsonl", rows)
    told = f"the row with text {rows[9]['text']!r} in {file}, line 10: the answer 'good good"
    with pytest.raises(UsageError, match=says) as refused:
        tune(recipe, tmp_path / "run")
    assert told in str(refused.value)
    made = small.write_recipe(tmp_path / "recipe.json", recipe)
    for arguments in (
        ["validate", made],
        ["evaluate", tmp_path / "before", file],
        ["predict", tmp_path / "before", "--input", file, "--output", tmp_path / "answers.csv"],
    ):
        called = small.call(*arguments)
        assert called.code == 2 and told in called.err, arguments[0]
        assert re.search(says, called.err), arguments[0]


def test_masked_models_read_no_whole_answers(tmp_path):
    with pytest.raises(UsageError, match="is a masked model"):
        tune(choosing.phrases(tmp_path, "bert"), tmp_path / "run")


def _predictions(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "write", [str, lambda right: "AB"[right], lambda right: right + 1, ("first", "second").__getitem__]
)
def test_init_proposes_a_recipe_that_validates(tmp_path, write):
    rows = [{**row, "right": write(row["right"])} for row in choosing.rows(40, 3)]
    small.write_rows(tmp_path / "rows.jsonl", rows)
    options = [
        "--choices",
        "first",
        "--choices",
        "second",
        "--label",
        "right",
        "--model",
        str(small.model_folder("llama")),
    ]
    called = small.call("init", tmp_path / "rows.jsonl", *options, "--out", tmp_path / "rows.toml")
    assert called.code == 0, called.err
    assert 'choices = "columns"' in (tmp_path / "rows.toml").read_text()
    called = small.call("validate", tmp_path / "rows.toml")
    assert called.code == 0, called.err


def test_init_asks_for_what_it_needs(tmp_path):
    small.write_rows(tmp_path / "rows.jsonl", [{**row, "right": "maybe"} for row in choosing.rows(40, 3)])
    choices = ["--choices", "first", "--choices", "second"]
    called = small.call("init", tmp_path / "rows.jsonl", *choices)
    assert called.code == 2 and "--label" in called.err
    model = ["--model", str(small.model_folder("llama"))]
    called = small.call("init", tmp_path / "rows.jsonl", *choices, "--label", "right", *model)
    assert called.code == 2 and "number of the right answer" in called.err


def test_validate_counts_a_prompt_with_each_of_its_answers(tmp_path):
    """All rows have prompts of equal length here, so the counted tokens are those of the run."""
    recipe = choosing.columns(tmp_path, method__name="manual")
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", recipe))
    assert called.code == 0, called.err
    rows = [json.loads(line) for name in ("train", "test") for line in (tmp_path / f"{name}.jsonl").open()]
    longest = max(2 * (len(row["text"].split()) + 1) + 8 for row in rows)
    (line,) = [line for line in (called.out + called.err).splitlines() if "for the scores before and after" in line]
    said = float(line.partition("about ")[2].split()[0].replace(",", ""))
    assert 2 * 40 * 8 < said < 2 * 40 * longest
