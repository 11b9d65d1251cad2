"""LoRA whose factor A is drawn once: what moves, what a search sees at its start, and the adapter that comes of it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import small
from tandemtune import load, resume, tune
from tandemtune.config import load_config
from tandemtune.errors import ConfigError

B = {"kind": "lora", "factors": "b", "r": 2, "layers": "all"}
WITHOUT = ("r", "layers", "d")


def recipe(place, model="llama", **changes):
    made = small.recipe(place, model, **{"method__tunable": B, **changes})
    made["method"] = {k: v for k, v in made["method"].items() if k not in WITHOUT or f"method__{k}" in changes}
    return made


SEARCHES = {
    "cma-es": {"method__optimizer": {"kind": "cma-es", "popsize": 4}, "method__d": 8},
    "mean": {"method__optimizer": {"kind": "cma-es", "popsize": 4, "incumbent": "mean"}, "method__d": 8},
    "es": {
        "method__optimizer": {"kind": "es", "popsize": 4, "lr": 0.02},
        "method__subspace": "none",
        "method__order": "together",
    },
    "adamw": {"method__optimizer": {"kind": "adamw", "lr": 0.01}, "method__steps": 6},
}


@pytest.mark.grid
@pytest.mark.parametrize(
    ("model", "search"),
    zip(["bert", "t5", "gpt2", "bert", "llama", "gpt2", "t5", "llama"], [*SEARCHES] * 2, strict=True),
)
def test_b_alone_is_searched_and_kept_as_an_ordinary_adapter(model, search, tmp_path):
    made = recipe(tmp_path, model, **SEARCHES[search])
    if search == "adamw":
        made["method"].pop("budget")
    made["method"].pop("popsize", None)
    run = tune(made, tmp_path / "run")
    tensors = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(t.any() for key, t in tensors.items() if "lora_A" in key)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    per_layer = {key.rsplit(".lora_", 1)[0]: t for key, t in tensors.items() if "lora_B" in key}
    assert facts["tunable"]["parameters"] <= sum(t.numel() for t in per_layer.values())
    texts = ["a great film", "dull and bad"]
    first, again = run.predict(texts), load(tmp_path / "run").predict(texts)
    assert first == again


def test_both_signs_of_a_step_differ_with_b_alone_and_are_one_with_both_factors(tmp_path):
    """f(A, B) = f(-A, -B) where both are searched from zero; with A drawn once a step and its negative are two models."""
    from tandemtune import autotune

    found = {}
    for factors in ("both", "b"):
        config = load_config(recipe(tmp_path, method__tunable={**B, "factors": factors}, method__alpha=2.0))
        problem = autotune.build(config)
        block = problem.searched[-1]
        step = torch.randn(1, problem.scorer.parameters.dim(block), generator=torch.Generator().manual_seed(1)) * 0.3
        start = problem.scorer.parameters.initial()
        losses = problem.evaluator.evaluate(start, {block: torch.cat([step, -step])})
        found[factors] = abs(losses[0] - losses[1])
    assert found["both"] < 1e-6 < 1e-5 < found["b"]


def test_all_layers_share_one_subspace_where_they_move_together(tmp_path):
    made = recipe(tmp_path, method__order="together", method__d=8, method__dev_every=1)
    run = tune(made, tmp_path / "run")
    lines = small.journal(tmp_path / "run")
    assert {line["layer"] for line in lines if line["event"] == "generation"} == {None}
    tensors = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    moved = {key for key, t in tensors.items() if "lora_B" in key and t.any()}
    assert run.result.kept_step == 0 or len(moved) == sum("lora_B" in key for key in tensors)


def test_a_run_that_follows_the_mean_resumes_to_the_bit(tmp_path):
    made = recipe(tmp_path, method__optimizer={"kind": "cma-es", "popsize": 4, "incumbent": "mean"}, method__d=8)
    made["method"].pop("popsize")
    tune(made, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        small.tune(made, tmp_path / "cut", small.Stop(step=5))
    resume(tmp_path / "cut")
    assert small.artefacts(tmp_path / "cut") == small.artefacts(tmp_path / "whole")


def test_a_warm_start_on_a_saddle_is_refused(tmp_path):
    changes = {"method__optimizer": {"kind": "cma-es", "popsize": 8, "warm_start": 2}, "method__d": 8}
    both = recipe(tmp_path, **changes, method__tunable={**B, "factors": "both"})
    both["method"].pop("popsize")
    with pytest.raises(ConfigError, match=re.escape('set factors = "b"')):
        load_config(both)
    fine = recipe(tmp_path, **changes)
    fine["method"].pop("popsize")
    assert np.isfinite(tune(fine, tmp_path / "run").result.tuned.dev_loss)


def beside_words(place, model="gpt2", **changes):
    """`tandem`: LoRA beside words that are proposed."""
    made = small.recipe(place, model)
    own = {
        "name": "tandem",
        "budget": 60,
        "popsize": 4,
        "d": 8,
        "r": 2,
        "layers": "all",
        "prompt_tokens": 3,
        "dev_every": 1,
    }
    made["method"] = {**own, **changes}
    made["alternate"] = {"rounds": 2, "round_steps": 3, "final_steps": 4, "proposer": "random"}
    return made


@pytest.mark.parametrize("factors", ["both", "b"])
def test_lora_beside_words_may_move_b_alone(factors, tmp_path):
    """A is zero where both are searched and drawn where B moves alone, and what is kept is read back."""
    run = tune(beside_words(tmp_path, factors=factors), tmp_path / "run")
    model = run.model
    start = model.scorer.parameters.initial()
    model.scorer.parameters.save(start, tmp_path / "start", "base")
    tensors = load_file(tmp_path / "start" / "adapter_model.safetensors")
    assert all(t.any() == (factors == "b") for key, t in tensors.items() if "lora_A" in key)
    assert not any(t.any() for key, t in tensors.items() if "lora_B" in key)
    texts = ["a great film", "dull and bad"]
    assert run.predict(texts) == load(tmp_path / "run").predict(texts)
    block = model.scorer.parameters.blocks[-1]
    step = torch.randn(model.scorer.parameters.dim(block), generator=torch.Generator().manual_seed(1)) * 0.3
    batch = model.scorer.batch(model._examples(texts))
    up, down = (model.scorer.engine.logits(batch, {**start, block: start[block] + x}) for x in (step, -step))
    assert torch.allclose(up, down, atol=1e-5) == (factors == "both")


def test_a_warm_start_beside_words_wants_b_alone(tmp_path):
    search = {"optimizer": {"kind": "cma-es", "popsize": 8, "warm_start": 2}}
    both, fine = (beside_words(tmp_path, factors=factors, **search) for factors in ("both", "b"))
    for made in (both, fine):
        made["method"].pop("popsize")
    with pytest.raises(ConfigError, match=re.escape('set factors = "b"')):
        load_config(both)
    assert load_config(fine).method.tunable.factors == "b"
