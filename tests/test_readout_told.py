"""What a run with a readout says of it to others: in its notes, the adapter's README and the task card."""

from __future__ import annotations

import json

import pytest

import images
import small
from tandemtune.readout import fitting


def readme(run):
    return (run / "adapter" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ({"name": "lora", "steps": 2, "readout": "ridge", "views": ["answer", "mean"]}, 'take views = ["answer"]'),
        ({"name": "readout", "readout": "kernel"}, "take form ridge"),
        ({"name": "lora", "steps": 2, "readout": "ridge"}, ""),
        ({"name": "lora", "steps": 2}, ""),
    ],
    ids=["two views", "kernel", "an adapter", "no readout"],
)
def test_scores_of_a_readout_that_is_no_adapter_are_told(method, reason, tmp_path):
    """The snippet in the README would say something else than the run does."""
    made = {**small.recipe(tmp_path, "llama"), "method": method}
    result = small.tune(made, tmp_path / "run")
    told = [note for note in result.get("notes", ()) if "PEFT cannot load" in note]
    assert len(told) == bool(reason) and ("PEFT cannot load" in readme(tmp_path / "run")) == bool(reason)
    if reason:
        assert reason in told[0] and reason in readme(tmp_path / "run") and "tandemtune predict" in told[0]


@pytest.mark.parametrize(("readout", "linear"), [("ridge", True), ("kernel", False)])
def test_a_readout_of_images_is_in_the_classes_vectors_where_it_is_linear(readout, linear, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "grid", lambda views: iter([(1 / views,) * views]))  # both views count
    made = {**images.recipe(tmp_path), "method": {"name": "readout", "readout": readout}}
    result = small.tune(made, tmp_path / "run")
    assert (tmp_path / "run" / "adapter" / "classes.json").is_file() == linear
    assert ("classes.safetensors" in readme(tmp_path / "run")) == linear
    assert any("take form ridge" in note for note in result.get("notes", ())) != linear


@pytest.mark.parametrize(
    ("prior", "shares"),
    [("balanced", [0.5, 0.5]), ([0.9, 0.1], [0.9, 0.1]), ("train", [0.5, 0.5])],
    ids=["balanced", "shares", "train"],
)
def test_a_task_card_holds_what_a_readout_adds_and_assumes(prior, shares, tmp_path):
    made = {**small.recipe(tmp_path, "llama"), "method": {"name": "readout", "prior": prior}}
    small.tune(made, tmp_path / "run")
    card = json.loads((tmp_path / "run" / "task_card.json").read_text(encoding="utf-8"))
    told = json.loads((tmp_path / "run" / "adapter" / "readout" / "readout.json").read_text(encoding="utf-8"))
    assert card["label_bias"] == told["label_bias"] and any(card["label_bias"].values())
    assert card["assumed_prior"] == dict(zip(small.LABELS, shares, strict=True))


def test_a_task_card_without_a_readout_adds_and_assumes_nothing(tmp_path):
    small.tune(small.recipe(tmp_path, "llama"), tmp_path / "run")
    card = json.loads((tmp_path / "run" / "task_card.json").read_text(encoding="utf-8"))
    assert card["label_bias"] == card["assumed_prior"] == {}
