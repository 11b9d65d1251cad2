"""Settings that there are no more: a recipe is told so in one line, and runs that were made with one stay readable."""

from __future__ import annotations

import json

import pytest

import small
from tandemtune import load
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, RunError

SAID = "order: bandit was retired: .*docs/experiments/searches.md.* leave order out"
TEXTS = ["a great film", "the plot was dull and bad"]


def made_with_it(folder):
    """As if an earlier version had made the run."""
    path = folder / "recipe.json"
    recipe = json.loads(path.read_text())
    assert recipe["method"]["order"] == "in-turn"
    recipe["method"]["order"] = "bandit"
    path.write_text(json.dumps(recipe))
    return folder


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"method__order": "bandit"}, r"\[method\] "),
        ({"method__name": "es", "method__order": "bandit"}, r"\[method\] "),
        ({"method__then": [{"name": "c-lora", "order": "bandit"}]}, r"\[method.then 1\] "),
    ],
    ids=["a sampler", "an estimator", "an entry of then"],
)
def test_a_recipe_is_told_in_one_line(changes, where, tmp_path):
    made = small.recipe(tmp_path, **changes)
    with pytest.raises(ConfigError, match=f"{where}{SAID}") as refused:
        load_config(made)
    assert len(refused.value.problems) == 1
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", made))
    assert called.code == 2 and "was retired" in called.err


def test_an_override_is_told_too(tmp_path):
    with pytest.raises(ConfigError, match=SAID):
        load_config(small.recipe(tmp_path), ["method.order=bandit"])


def test_a_run_that_was_made_with_it_is_read_predicted_with_and_exported(tmp_path):
    small.tune(small.recipe(tmp_path), tmp_path / "run")
    before = load(tmp_path / "run").predict(TEXTS)
    folder = made_with_it(tmp_path / "run")
    assert load(folder).predict(TEXTS) == before
    for command in (
        ("show", folder),
        ("report", folder),
        ("resume", folder),  # it has ended, so there is nothing to do
        ("export", folder, "--to", tmp_path / "exported"),
    ):
        called = small.call(*map(str, command))
        assert called.code == 0, (command, called.err)
    assert "bandit" in (folder / "report.html").read_text()


@pytest.mark.parametrize("command", ["resume", "finish"])
def test_a_run_that_was_begun_with_it_says_why_it_cannot_go_on(command, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        small.tune(small.recipe(tmp_path), tmp_path / "run", small.Stop(step=3))
    folder = made_with_it(tmp_path / "run")
    before = (folder / "journal.jsonl").read_bytes()
    with pytest.raises(RunError, match=f"cannot go on: .*{SAID}"):
        small.resume(folder)
    called = small.call(command, str(folder))
    assert called.code and "cannot go on" in called.err and "tandemtune report" in called.err, called.err
    assert small.call("report", str(folder)).code == 0
    assert (folder / "journal.jsonl").read_bytes() == before
