"""A reward function is asked once about the same texts, and about all of them at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import small
import tandemtune
import writing
from small import journal, tune

COUNTING = '''
from pathlib import Path

CALLS = Path("CALLS")


def counting(prompts, completions, **columns):
    """How often it was asked, so that it never says the same."""
    with CALLS.open("a") as file:
        file.write(f"{len(completions)}\\n")
    return [float(len(CALLS.read_text().split()))] * len(completions)
'''


@pytest.fixture
def place(tmp_path) -> str:
    """Where the function lies."""
    file = tmp_path / "counting.py"
    file.write_text(COUNTING.replace('"CALLS"', repr(str(tmp_path / "calls"))))
    return f"{file}:counting"


def asked(folder: Path) -> list[int]:
    """The texts of each call."""
    file = folder / "calls"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.mark.parametrize("named", [False, True])
def test_what_is_searched_for_and_the_metric_are_asked_together(tmp_path, place, named):
    objective = {"kind": "reward", "rewards": {place: 1.0}} if named else "reward"
    recipe = writing.recipe(tmp_path, task__metric=place, method__budget=10, method__objective=objective)
    tune(recipe, tmp_path / "run")
    looks = [line["dev"] for line in journal(tmp_path / "run") if line.get("dev")]
    assert looks and all(look["loss"] == -look["score"] for look in looks)
    before = len(asked(tmp_path))
    tandemtune.load(tmp_path / "run").evaluate(tmp_path / "test.jsonl")
    assert asked(tmp_path)[before:] == [12]


def test_a_guard_asks_about_all_texts_at_once(tmp_path, place):
    guarded = {"method__objective": "reward", "method__guard": "standard-error"}
    tune(writing.recipe(tmp_path, task__metric=place, method__budget=20, **guarded), tmp_path / "run")
    looks = [line for line in journal(tmp_path / "run") if line.get("gain")]
    assert looks and all(line["gain"]["rows"] == 4 for line in looks)
    assert all(line["dev"]["loss"] == -line["dev"]["score"] for line in looks)
    assert min(asked(tmp_path)) > 1


def test_templates_are_judged_by_one_answer_each(tmp_path, place):
    several = ["{text} . it was {mask}", "verily {text} {mask}"]
    changes = {"task__template": None, "task__templates": several, "task__metric": place}
    recipe = small.write_recipe(tmp_path / "recipe.json", writing.recipe(tmp_path, **changes))
    found = json.loads(small.call("templates", recipe, "--json").out)
    assert asked(tmp_path) == [8, 8] and sorted(one["score"] for one in found) == [1.0, 2.0]
