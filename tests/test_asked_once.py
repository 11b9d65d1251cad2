"""A reward is asked once about the same texts, and about all of them at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import small
import tandemtune
import tiny
import writing
from small import journal, tune
from tandemtune.rewards import base as rewards
from tandemtune.rewards.base import Written
from tandemtune.tasks.judging import asked_once, score_of_rows

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


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_scores_of_some_rows_are_those_of_the_package(name):
    reward, source = asked_once(rewards.get(name)), np.random.default_rng(0)

    def text(most: int) -> str:
        return " ".join(source.choice(tiny.WORDS, source.integers(0, most)))

    written = Written(
        [""] * 40, [text(9) for _ in range(40)], [[text(9) + "a" for _ in range(1 + i % 3)] for i in range(40)]
    )
    score_of = score_of_rows(reward, written)
    found = []
    for size in (1, 2, 5, 40, 40, 40):
        rows = source.integers(0, 40, size)
        found.append(score_of(rows))
        assert found[-1] == reward.score(written.of(rows.tolist()))
    assert len(set(found[2:])) == 4 and 0 < min(found[2:]) < max(found) < 1


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_texts_are_looked_at_once_for_an_interval(tmp_path, monkeypatch, name):
    import sacrebleu

    tune(writing.recipe(tmp_path, task__metric=name, method__budget=10), tmp_path / "run")
    kind, calls = getattr(sacrebleu, name.upper()), []
    real = kind._compute_segment_statistics
    monkeypatch.setattr(kind, "_compute_segment_statistics", lambda *given: calls.append(1) or real(*given))
    found = tandemtune.load(tmp_path / "run").evaluate(tmp_path / "test.jsonl")
    assert found.interval[0] <= found.score <= found.interval[1] and len(calls) <= 3 * 12
