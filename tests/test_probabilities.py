"""Probabilities that labelled rows bear out, what is said of them, and rows that count more than others."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import small
import tandemtune
from tandemtune import autotune
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, DataError
from tandemtune.objectives.cross_entropy import cross_entropy
from tandemtune.predict import calibration_error
from tandemtune.scoring import temperature
from tandemtune.starting import draft
from tandemtune.tasks.files import read_examples


def test_a_temperature_undoes_overconfidence():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=generator)
    labels = torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=generator).squeeze(1)
    assert temperature(logits, labels) == pytest.approx(1, abs=0.1)
    assert temperature(4 * logits, labels) == pytest.approx(4, rel=0.1)
    assert temperature(logits / 4, labels) == pytest.approx(0.25, rel=0.1)


def test_few_rows_move_it_little():
    logits = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    assert 0.3 < temperature(logits, torch.tensor([0, 1])) < 1, "all right, yet no certainty"
    assert 1 < temperature(logits, torch.tensor([1, 0])) < 8
    assert temperature(logits[:0], torch.tensor([], dtype=torch.long)) == 1
    assert temperature(torch.full((2, 2), torch.nan), torch.tensor([0, 1])) == 1


@pytest.mark.parametrize("method", [{"name": "lora", "steps": 2}, {"name": "readout"}])
def test_a_run_keeps_its_temperature(tmp_path, method):
    recipe = {**small.recipe(tmp_path), "method": method}
    small.tune(recipe, tmp_path / "run")
    card = json.loads((tmp_path / "run" / "task_card.json").read_text(encoding="utf-8"))
    assert card["temperature"] > 0
    model = tandemtune.load(tmp_path / "run")
    assert model.scorer.temperature == card["temperature"]
    lines = (tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [json.loads(line) for line in lines]
    again = model.predict([line["fields"] for line in kept])
    for one, other in zip(kept, again, strict=True):
        assert one["probabilities"] == pytest.approx(other.probabilities, abs=1e-4)
    card["temperature"] = None
    (tmp_path / "run" / "task_card.json").write_text(json.dumps(card), encoding="utf-8")
    assert tandemtune.load(tmp_path / "run").scorer.temperature == 1, "as in cards of earlier versions"


def test_calibration_error():
    sure = np.array([0.9] * 50 + [0.6] * 50)
    right = np.array(([True] * 9 + [False]) * 5 + ([True] * 3 + [False] * 2) * 10)
    assert calibration_error(sure, right) == pytest.approx(0)
    assert calibration_error(np.ones(10), np.zeros(10, dtype=bool)) == pytest.approx(1)
    assert calibration_error(np.array([0.7]), np.array([True])) == pytest.approx(0.3)


def test_evaluate_says_how_far_probabilities_can_be_trusted(tmp_path):
    small.tune({**small.recipe(tmp_path), "method": {"name": "readout"}}, tmp_path / "run")
    found = tandemtune.load(tmp_path / "run").evaluate(tmp_path / "test.jsonl")
    assert 0 <= found.calibration_error <= 1 and 0 <= found.brier <= 2
    shown = small.call("evaluate", tmp_path / "run", tmp_path / "test.jsonl")
    assert f"Brier score {found.brier:.4f}, expected calibration error {found.calibration_error:.4f}" in shown.out


# ---- class weights -----------------------------------------------------------------------------------------------


def problem_of(place, **changes):
    return autotune.build(load_config(small.recipe(place, method__name="lora", **changes)), progress=None)


def test_a_row_that_counts_twice_is_like_two_rows(tmp_path):
    evaluator = problem_of(tmp_path, task__class_weights={"negative": 1.0, "positive": 2.0}).evaluator
    logits, labels = torch.randn(3, 5, 2), torch.tensor([0, 1, 0, 1, 1])
    doubled = torch.tensor([0, 1, 1, 2, 3, 3, 4, 4])
    wanted = cross_entropy(logits[:, doubled], labels[doubled])
    assert torch.allclose(evaluator.loss(logits, labels), wanted)


def test_gradients_and_losses_weigh_alike(tmp_path):
    problem = problem_of(tmp_path, task__class_weights={"negative": 1.0, "positive": 5.0})
    evaluator, point = problem.evaluator, problem.scorer.parameters.initial()
    batch = problem.scorer.batch(problem.split.train)
    whole = evaluator.measure_on(batch, point).loss
    apart, _ = evaluator.gradient_on(problem.scorer.population_batch(problem.split.train), point, list(point))
    assert apart == pytest.approx(whole, abs=1e-5)
    alike = problem_of(tmp_path).evaluator
    assert alike.measure_on(batch, point).loss != pytest.approx(whole, abs=1e-3)


def test_balanced_rows_count_as_they_are(tmp_path):
    plain, balanced = (problem_of(tmp_path, task__class_weights=wanted).evaluator for wanted in (None, "balanced"))
    logits = torch.randn(1, 8, 2)
    labels = torch.tensor([0, 1] * 4)
    assert torch.allclose(plain.loss(logits, labels), balanced.loss(logits, labels))


def test_weights_that_do_not_fit(tmp_path):
    with pytest.raises(
        ConfigError, match=r"class_weights: no weight for positive and no label good: name every label once"
    ):
        load_config(small.recipe(tmp_path, task__class_weights={"negative": 1.0, "good": 2.0}))
    with pytest.raises(ConfigError, match=r"class_weights: metric is no mean over rows"):
        load_config(small.recipe(tmp_path, task__class_weights="balanced", method__objective="metric"))


# ---- one label a row ---------------------------------------------------------------------------------------------


def test_several_labels_of_one_row_are_refused_in_plain_words(tmp_path):
    joint = tmp_path / "joint.csv"
    joint.write_text("text,topic\n" + 'a b,x\nc d,y\ne f,x;y\ng h,y\ni j,"x;y"\nk l,x\n', encoding="utf-8")
    lists = small.write_rows(
        tmp_path / "lists.jsonl", [{"text": f"row {i}", "label": ["x", "y"][: 1 + i % 2]} for i in range(8)]
    )
    for file in (joint, lists):
        with pytest.raises(DataError, match=r"\(multi-label\) are not supported: keep one label a row"):
            draft(file, model=str(small.model_folder()))
    for file, column in ((joint, "topic"), (lists, "label")):
        with pytest.raises(DataError, match=r"\(multi-label\) are not supported"):
            read_examples(file, fields=["text"], label=column, labels=["x", "y"])
