"""What a run finds out about its rows before it searches, says, and keeps in its result."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

import small
import tiny
from small import tune
from tandemtune import autotune
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, ModelError
from tandemtune.problem import DrawnRows


def run(place, *settings, **changes):
    recipe = small.write_recipe(place / "r.json", small.recipe(place, "gpt2", method__budget=12, **changes))
    return small.call("run", recipe, *settings, "--out", place / "run")


def notes_of(place):
    kept = json.loads((place / "run" / "result.json").read_text(encoding="utf-8"))["notes"]
    assert json.loads((place / "run" / "run.json").read_text(encoding="utf-8"))["notes"] == kept
    return "\n".join(kept)


def test_test_rows_that_stand_in_train_are_counted(tmp_path):
    train, test = small.rows(12, 1), small.rows(12, 2)
    again = [{**row, "text": f" {row['text'].replace(' ', '  ')} "} for row in train[:2]]  # blanks make no other text
    small.write_rows(tmp_path / "train.jsonl", train)
    small.write_rows(tmp_path / "test.jsonl", [*test, *train[:3], *again])
    called = run(tmp_path)
    assert called.code == 0, called.err
    said = r"test: 5 of 29 rows (test.jsonl) also stand in train (train.jsonl)"
    assert said in " ".join(called.out.split())
    assert said in notes_of(tmp_path) and str(tmp_path) not in notes_of(tmp_path)
    checked = small.call("validate", tmp_path / "r.json")
    assert checked.code == 0 and said in checked.err


def test_nothing_is_said_of_rows_in_order(tmp_path):
    assert run(tmp_path).code == 0
    assert notes_of(tmp_path) == ""


@pytest.mark.parametrize("part", ["train", "test"])
def test_texts_that_are_cut_are_counted(tmp_path, part):
    content = small.rows(12, 7)
    for row in content[:3] if part == "test" else content:
        row["text"] = f"{row['text']} {'very ' * 40}film"
    small.write_rows(tmp_path / f"{part}.jsonl", content)
    called = run(tmp_path, "task.max_tokens=20")
    assert called.code == 0, called.err
    count = "3 of the 24 rows that are used are" if part == "test" else "8 of the 8 rows that are used are"
    assert f"{part}: {count} longer than 20 tokens and cut at the end, by " in notes_of(tmp_path)


@pytest.mark.parametrize("part", ["train", "test"])
def test_tokens_that_the_model_does_not_know_are_found_before_a_search(tmp_path, part):
    """A word that was added to the tokenizer, but not to the model."""
    tokenizer = tiny.tokenizer("causal")
    tokenizer.add_tokens(["zany"])
    model = tiny.model("gpt2")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    content = [{**row, "text": f"a zany {row['text']}"} for row in small.rows(12, 3)]
    small.write_rows(tmp_path / f"{part}.jsonl", content)
    recipe = small.recipe(tmp_path, "gpt2", model__name=str(tmp_path / "model"))
    with pytest.raises(ModelError, match=r"'zany'.*tokens only"):
        tune(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_search_that_changes_nothing_says_so(tmp_path):
    words = [word for word in tiny.WORDS if word.isalpha()]
    labels = list(small.LABELS)
    content = [{"text": word, "label": labels[number % 2]} for number, word in enumerate(words)]
    small.write_rows(tmp_path / "train.jsonl", content[:20])
    small.write_rows(tmp_path / "test.jsonl", content[20:])
    called = run(tmp_path, task__template="{text} {mask}")  # prompts of one token: nothing else can be attended to
    assert called.code == 0, called.err
    (note,) = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["notes"]
    assert note.startswith("every candidate had the same loss")


def test_a_run_whose_test_file_is_lost_is_finished_without_it(tmp_path):
    recipe = small.recipe(tmp_path, "gpt2", method__budget=25)  # five generations of four and the incumbent
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "run", small.Stop(step=2))
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"test\.jsonl"):
        small.resume(tmp_path / "run")
    called = small.call("resume", tmp_path / "run", "--no-test")
    assert called.code == 0, called.err
    found = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert found["rows"]["test"] == 0 and found["tuned"]["test"] is None
    assert found["steps"] == 5


def drawn(place, labels, size, generations=4):
    """Which rows some generations are scored on, of training rows with these labels, and all labels in their order."""
    texts = small.rows(len(labels), 3, ("any",))
    content = [{**row, "label": label} for row, label in zip(texts, labels, strict=True)]
    small.write_rows(place / "train.jsonl", content)
    made = small.recipe(place, "gpt2", task__shots="all", task__dev_shots=2, method__subsample=size)
    problem = autotune.build(load_config(made))
    rows = DrawnRows(problem.scorer, *problem.scorer.encoded(problem.split.train))
    return [rows.of_generation(number) for number in range(generations)], list(rows.labels)


@pytest.mark.parametrize("size", [4, 5])
def test_rows_of_balanced_labels_are_drawn_as_they_always_were(size, tmp_path):
    """The first of each label in a seeded order, then the second of each, so that runs can be resumed and repeated."""
    found, labels = drawn(tmp_path, ["negative", "positive"] * 10, size)
    for number, rows in enumerate(found):
        generator = np.random.default_rng([5, number, 8])
        orders = [generator.permutation([i for i, own in enumerate(labels) if own == label]) for label in (0, 1)]
        ranked = sorted((place, i) for order in orders for place, i in enumerate(order.tolist()))
        assert rows == [i for _, i in ranked[:size]]


def test_each_label_is_drawn_with_its_share(tmp_path):
    found, labels = drawn(tmp_path, ["negative"] * 32 + ["positive"] * 12, 8)  # 30 and 10 to train on
    assert [Counter(labels[i] for i in rows) for rows in found] == [{0: 6, 1: 2}] * 4
    assert len({tuple(rows) for rows in found}) == 4
