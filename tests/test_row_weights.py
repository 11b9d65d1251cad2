"""What each row counts, by `class_weights` or by the `prior` of a readout, holds wherever rows are averaged."""

from __future__ import annotations

import json

import pytest
import torch

import small
from tandemtune import autotune
from tandemtune.config import load_config
from tandemtune.readout.solving import solve_readout
from tandemtune.scoring import temperature

PRIOR = [0.9, 0.1]


def with_prior(place, prior=PRIOR, **changes):
    readout = {"kind": "ridge", "prior": prior}
    return small.recipe(place, "llama", method__readout=readout, method__alpha=3.0, task__shots=6, **changes)


def at_start(recipe):
    """A problem, and what a readout at its start says of each labelled row without that row, with the rows' labels."""
    problem = autotune.build(load_config(recipe))
    scorer, split = problem.scorer, problem.split
    batch = scorer.batch([*split.train, *split.dev])
    member = scorer.config.method.readout
    solved = solve_readout(member, scorer.engine, batch, scorer.parameters.initial(), scorer.task.labels)
    return problem, solved.without, batch.labels


def counted(logits, labels, shares):
    """Cross-entropy of rows that count so that labels come up with these shares, by hand."""
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return float(sum(share * each[labels == label].mean() for label, share in enumerate(shares)))


def test_a_guard_weighs_rows_as_the_loss_does(tmp_path):
    weights = {"negative": 1.0, "positive": 9.0}
    recipe = small.recipe(tmp_path, "llama", task__class_weights=weights, method__guard="standard-error")
    problem = autotune.build(load_config(recipe))
    found, losses = problem.evaluator.dev_losses(problem.scorer.parameters.initial())
    assert losses.mean() == pytest.approx(found.loss, rel=1e-5) and len(losses) == 8


def test_a_guard_is_not_stopped_by_rows_that_count_nothing(tmp_path):
    """Of a label that no training row has, and that so has no weight."""
    recipe = small.recipe(
        tmp_path,
        "llama",
        task__shots="all",
        task__dev_shots=6,
        task__class_weights="balanced",
        method__guard="standard-error",
    )
    rows = small.rows(12, 3)
    recipe["task"]["train"] = str(
        small.write_rows(tmp_path / "one.jsonl", [row for row in rows if row["label"] == "positive"])
    )
    recipe["task"]["dev"] = str(small.write_rows(tmp_path / "dev.jsonl", small.rows(6, 4)))
    problem = autotune.build(load_config(recipe))
    _, losses = problem.evaluator.dev_losses(problem.scorer.parameters.initial())
    none = [row.label == "negative" for row in problem.split.dev]
    assert sum(none) and not losses[none].any() and (losses[[not one for one in none]] > 0).all()


def test_what_a_readout_is_told_of_by_its_prior(tmp_path):
    """Told losses, the gain that decides what is kept, and the temperature, of rows in other shares than are assumed."""
    recipe = with_prior(tmp_path)
    result = small.tune(recipe, tmp_path / "run")
    problem, without, labels = at_start(recipe)
    cut = len(problem.split.train)
    start = result["zero_shot_readout"]
    assert start["train_loss"] == pytest.approx(counted(without[:cut], labels[:cut], PRIOR), abs=1e-4)
    assert start["dev_loss"] == pytest.approx(counted(without[cut:], labels[cut:], PRIOR), abs=1e-4)
    assert start["dev_loss"] != pytest.approx(counted(without[cut:], labels[cut:], [0.5, 0.5]), abs=1e-3)
    gain = start["dev_loss"] - result["tuned"]["dev_loss"]
    assert result["kept_step"] and result["gain"]["mean"] == pytest.approx(gain, abs=1e-4)


def test_the_temperature_is_that_of_the_assumed_shares(tmp_path):
    """As if there were nine rows of one label for each of the other."""
    recipe = {**with_prior(tmp_path), "method": {"name": "readout", "prior": PRIOR}}
    small.tune(recipe, tmp_path / "run")
    card = json.loads((tmp_path / "run" / "task_card.json").read_text(encoding="utf-8"))
    _, without, labels = at_start(recipe)
    often = torch.cat([torch.arange(len(labels)), *[torch.where(labels == 0)[0]] * 8])
    plain, assumed = temperature(without, labels), temperature(without[often], labels[often])
    assert abs(card["temperature"] - assumed) < abs(plain - assumed) / 4
    weights = torch.tensor([1.8, 0.2], dtype=torch.float64)
    assert card["temperature"] == pytest.approx(temperature(without, labels, weights), abs=1e-6)


@pytest.mark.parametrize("setting", ["judge", "score"])
def test_a_search_by_a_readout_counts_rows_by_its_prior(setting, tmp_path):
    rows = {"judge": "dev", "score": "train"}[setting]
    problem, without, labels = at_start(with_prior(tmp_path, **{f"method__{setting}": "readout"}))
    evaluator, start = problem.evaluator, problem.scorer.parameters.initial()
    found = evaluator.measure(start, rows).loss
    if setting == "judge":
        cut = len(problem.split.train)
        assert found == pytest.approx(counted(without[cut:], labels[cut:], PRIOR), rel=1e-4)
        evaluation, losses = evaluator.dev_losses(start)
        assert losses.mean() == pytest.approx(evaluation.loss, rel=1e-4) and evaluation.loss == found
        return
    alone = {block: vector.unsqueeze(0) for block, vector in start.items()}
    logits = evaluator.train_readout(evaluator.train, start, alone)[0]
    assert found == pytest.approx(counted(logits, evaluator.train.labels, PRIOR), rel=1e-4)
    assert evaluator.evaluate(start, alone)[0] == pytest.approx(found, rel=1e-6)


def test_class_weights_go_before_the_prior_in_a_search(tmp_path):
    """A prior is what the readout assumes; somebody who says what rows count says it of the losses."""
    weights = {"negative": 1.0, "positive": 3.0}
    recipe = with_prior(tmp_path, method__judge="readout", task__class_weights=weights)
    problem, without, labels = at_start(recipe)
    cut = len(problem.split.train)
    found = problem.evaluator.measure(problem.scorer.parameters.initial(), "dev").loss
    assert found == pytest.approx(counted(without[cut:], labels[cut:], [0.25, 0.75]), rel=1e-4)
