"""Runs over prompts that begin alike: fewer tokens, the same losses, and resumed to the bit."""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path
from typing import Any

import pytest

import choosing
import small
import tandemtune
from dying import forking, in_child
from grids import sparse
from small import artefacts, resume, tune
from tandemtune.evaluators import engine, likelihood

BEGIN = "the film , the plot and the acting :"
TEMPLATE = f"{BEGIN} {{text}} . it was {{mask}}"
SHARED = len(BEGIN.split())


def alike(place: Path, **changes: Any) -> dict[str, dict[str, Any]]:
    return small.recipe(place, "llama", **{"task__template": TEMPLATE, **changes})


@pytest.fixture
def apart(monkeypatch):
    """Has what is run inside the call share nothing."""

    def run(*given):
        with monkeypatch.context() as patch:
            for module in (engine, likelihood):
                patch.setattr(module, "WORTH_SHARING", 2.0)
            return tune(*given)

    return run


def turns(folder: Path) -> list[dict[str, Any]]:
    return [line for line in small.journal(folder) if line["event"] == "generation"]


def test_what_prompts_begin_with_is_computed_and_counted_once(tmp_path, apart):
    recipe = alike(tmp_path)
    shared, plain = tune(recipe, tmp_path / "shared"), apart(recipe, tmp_path / "apart")
    facts = json.loads((tmp_path / "shared" / "run.json").read_text(encoding="utf-8"))
    assert facts["train_tokens"] == json.loads((tmp_path / "apart" / "run.json").read_text())["train_tokens"]
    own = {rows: facts[f"{rows}_tokens"] - 8 * SHARED for rows in ("train", "dev")}
    work = 0
    for one, other in zip(turns(tmp_path / "shared"), turns(tmp_path / "apart"), strict=True):
        assert one["losses"] == pytest.approx(other["losses"], abs=1e-5)
        assert (one["layer"], one["accepted"]) == (other["layer"], other["accepted"])
        work += (own["train"] + SHARED) * (5 * (4 - one["layer"]) + (one["layer"] > 0))
        work += 0 if one["dev"] is None else (own["dev"] + SHARED) * 4
        assert one["costs"]["forward"] == work < other["costs"]["forward"]
    assert shared["cost"]["forward_tokens"] < 0.75 * plain["cost"]["forward_tokens"]
    assert shared["tuned"]["dev_loss"] == pytest.approx(plain["tuned"]["dev_loss"], abs=1e-5)
    rows = [
        [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").open()] for name in ("shared", "apart")
    ]
    for one, other in zip(*rows, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


OTHERS = {
    "bbt": {"method__name": "bbt", "method__prompt_tokens": 3, "method__layers": None, "method__r": None},
    "bbtv2": {"method__name": "bbtv2", "method__prompt_tokens": 3, "method__r": None},
    "readout": {"method": {"name": "readout"}},
    "icl": {"method": {"name": "icl", "demonstrations": 2}, "task__max_tokens": 20},
    "es-lora": {"method": {"name": "es-lora", "budget": 48}},
}


def recipe_of(place: Path, changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    sections = {name: changes[name] for name in changes if "__" not in name}
    return {**alike(place, **{name: value for name, value in changes.items() if "__" in name}), **sections}


@pytest.mark.parametrize("method", OTHERS)
def test_whatever_the_method_is(tmp_path, method, apart):
    recipe = recipe_of(tmp_path, OTHERS[method])
    shared, plain = tune(recipe, tmp_path / "shared"), apart(recipe, tmp_path / "apart")
    assert shared["cost"]["forward_tokens"] <= plain["cost"]["forward_tokens"]
    assert (shared["cost"]["forward_tokens"] < plain["cost"]["forward_tokens"]) == (method != "icl")
    for reached in ("zero_shot", "tuned"):
        assert shared[reached]["dev_loss"] == pytest.approx(plain[reached]["dev_loss"], abs=1e-4)


@pytest.mark.parametrize("make", [choosing.phrases, choosing.columns])
def test_choices_of_a_row_share_its_prompt(tmp_path, make, apart):
    recipe = make(tmp_path)
    shared, plain = tune(recipe, tmp_path / "shared"), apart(recipe, tmp_path / "apart")
    for one, other in itertools.pairwise([turns(tmp_path / "shared"), turns(tmp_path / "apart")]):
        for here, there in zip(one, other, strict=True):
            assert here["losses"] == pytest.approx(there["losses"], abs=1e-5)
    assert shared["cost"]["forward_tokens"] < 0.75 * plain["cost"]["forward_tokens"]


def test_gradient_steps_take_each_prompt_whole(tmp_path, apart):
    changes = {"method": {"name": "lora", "steps": 4, "dev_every": 4}}
    for run, name in ((tune, "shared"), (apart, "apart")):
        run(recipe_of(tmp_path, changes), tmp_path / name)
    one, other = (
        [line for line in small.journal(tmp_path / name) if line["event"] == "step"] for name in ("shared", "apart")
    )
    assert [line["costs"]["backward"] for line in one] == [line["costs"]["backward"] for line in other]
    assert one[0]["costs"]["forward"] == other[0]["costs"]["forward"] == one[0]["costs"]["backward"]
    assert [line["loss"] for line in one] == [line["loss"] for line in other]


@forking
@pytest.mark.parametrize("checkpoint_seconds", sparse([0.0, 1000.0], [0.0]), ids=["checkpoints", "journal only"])
def test_killed_and_resumed_to_the_bit(tmp_path, checkpoint_seconds):
    recipe = alike(tmp_path, run__checkpoint_seconds=checkpoint_seconds)
    log = tmp_path / "moments.json"
    assert in_child(lambda: tune(recipe, tmp_path / "straight"), log=log) == 0
    appends = [i for i, name in enumerate(json.loads(log.read_text())) if name == "after append"]
    for at in (appends[2], appends[-2]):
        folder = tmp_path / f"killed-{at}"
        assert in_child(lambda folder=folder: tune(recipe, folder), at) == -signal.SIGKILL
        resume(folder)
        assert artefacts(folder) == artefacts(tmp_path / "straight")


def test_a_tuned_model_predicts_what_the_run_said(tmp_path):
    tune(alike(tmp_path), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").open()]
    alone = [tandemtune.load(tmp_path / "run").predict([row["fields"]])[0] for row in rows[:3]]
    for row, found in zip(rows, alone, strict=False):
        assert dict(found.probabilities) == pytest.approx(row["probabilities"], abs=1e-5)
