"""Recipes for written answers as people write them at first: what they get, or what they are told."""

from __future__ import annotations

import json

import pytest

import small
import tandemtune
import writing
from small import tune
from tandemtune.config import load_config
from tandemtune.errors import UsageError


def validated(place, recipe):
    return small.call("validate", small.write_recipe(place / "recipe.json", recipe))


def test_one_stop_text_needs_no_list(tmp_path):
    assert load_config(writing.recipe(tmp_path, task__stop="so")).task.stop == ["so"]


def test_a_schema_out_of_a_file(tmp_path, monkeypatch):
    schema = {"type": "object", "required": ["name"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    recipe = writing.recipe(tmp_path, task__metric="json_schema", task__answer_schema=str(tmp_path / "schema.json"))
    tune(recipe, tmp_path / "run")
    (tmp_path / "schema.json").unlink()  # it is in the run's recipe
    assert tandemtune.load(tmp_path / "run").scorer.task.schema == schema
    with pytest.raises(UsageError, match=r"answer_schema: expected a JSON schema as a table, or a .json file with one"):
        load_config(recipe)


def test_no_dev_rows(tmp_path):
    with pytest.raises(UsageError, match="dev_shots: 0 dev rows, but the point that is kept is chosen by them"):
        load_config(writing.recipe(tmp_path, task__dev_shots=0))


def test_a_row_whose_answer_is_null(tmp_path):
    recipe = writing.recipe(tmp_path)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "a film", "answer": None}) + "\n")
    assert "line 13, field 'answer': no answer, expected a text" in validated(tmp_path, recipe).err


def test_braces_of_an_object_in_a_template(tmp_path):
    recipe = writing.recipe(tmp_path, task__template='{"name": "..."} {text}{mask}')
    assert "braces of a template's own text are doubled" in validated(tmp_path, recipe).err


def test_answers_to_choose_from_that_are_too_long_are_found_before_a_run(tmp_path):
    choices = {
        "choices": "columns",
        "labels": {"0": "c1", "1": "c2"},
        "max_new_tokens": 5,
        "template": "{text} so {mask}",
    }
    recipe = small.recipe(tmp_path, "llama", **{f"task__{key}": value for key, value in choices.items()})
    for name, count in (("train", 12), ("test", 4)):
        rows = [
            {**row, "c1": "it was a great film", "c2": "so dull", "label": i % 2}
            for i, row in enumerate(small.rows(count, count))
        ]
        small.write_rows(tmp_path / f"{name}.jsonl", rows)
    assert validated(tmp_path, recipe).code == 0
    recipe["task"]["max_new_tokens"] = 4
    said = validated(tmp_path, recipe)
    assert said.code == 2 and "has 5 tokens, more than [task] max_new_tokens = 4: raise it to 5 or more" in said.err


def test_rewards_that_weigh_nothing(tmp_path):
    objective = {"kind": "reward", "rewards": {"token_f1": 0, "exact_match": 0.0}}
    with pytest.raises(UsageError, match="all weights are 0"):
        load_config(writing.recipe(tmp_path, method__objective=objective))


def test_a_stop_text_around_a_special_token_is_found_before_a_run(tmp_path):
    said = validated(tmp_path, writing.recipe(tmp_path, task__stop=["so [SEP]"]))
    assert said.code == 2 and "holds the special token '[SEP]' among other text: give it alone" in said.err


def test_a_column_of_answers_that_is_not_there(tmp_path):
    said = validated(tmp_path, writing.recipe(tmp_path, task__answer="response"))
    assert "no column 'response'" in said.err and "or as answer" in said.err
