"""Modules that some layers have: a block holds those of the named ones that its layer has."""

from __future__ import annotations

import functools
import json

import peft
import pytest
import torch
from torch.testing import assert_close

import small
import tiny
from tandemtune import load, tune
from tandemtune.errors import ConfigError, ModelError
from tandemtune.models import architectures
from tandemtune.models.backbone import Backbone
from tandemtune.testing import TUNABLE_PROMISES, TunableCase
from tandemtune.tunables.lora import LoRATerms

TARGET = ["layer.0.SelfAttention.v", "layer.1.EncDecAttention.q", "layer.2.DenseReluDense.wo"]
"""An encoder's layer of T5 has the first of these, a decoder's all."""


@functools.cache
def home():
    return Backbone(
        "t5", tiny.model("t5"), tiny.tokenizer("causal"), "seq2seq", architectures.find(tiny.model("t5"), TARGET)
    )


def terms(**settings):
    return LoRATerms(home(), 2, range(4), **settings)


@pytest.mark.parametrize("fixed_seed", [None, 3], ids=["both", "b"])
def test_a_block_holds_what_its_layer_has(fixed_seed):
    found = terms(fixed_seed=fixed_seed)
    assert found.blocks == (0, 1, 2, 3) and set(found.names) == set(TARGET)
    for block in found.blocks:
        has = TARGET[:1] if block < 2 else TARGET
        assert found.names_of(block) == tuple(has)
        assert len(found.shapes(block)) == len(has) * (2 if fixed_seed is None else 1)
        assert list(found.factors(block, torch.zeros(found.dim(block)))) == has


@pytest.mark.parametrize("promise", TUNABLE_PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("fixed_seed", [None, 3], ids=["both", "b"])
def test_keeps_its_promises(promise, fixed_seed):
    promise(TunableCase(lambda _: terms(fixed_seed=fixed_seed), home(), True, 0.3, gradient="none"))


def test_a_module_that_no_layer_has_is_named():
    with pytest.raises(ModelError, match=r"target 'layer\.3\.Cross' is no linear module"):
        architectures.find(tiny.model("t5"), [TARGET[0], "layer.3.Cross"])
    with pytest.raises(
        ModelError, match=r"EncDecAttention\.q' is in none of the tuned layers \[0, 1\], but in layer 2"
    ):
        LoRATerms(home(), 2, [0, 1])


@pytest.mark.parametrize("order", ["in-turn", "together"])
@pytest.mark.parametrize("factors", ["both", "b"])
def test_a_run_over_layers_of_different_modules(order, factors, tmp_path):
    recipe = small.recipe(
        tmp_path,
        "t5",
        model__target=TARGET,
        method__tunable={"kind": "lora", "r": 1, "layers": "all", "factors": factors},
        method__order=order,
        method__d=6,
    )
    recipe["method"] = {k: v for k, v in recipe["method"].items() if k not in ("r", "layers")}
    run = tune(recipe, tmp_path / "run", progress="none")
    texts = ["a great film", "dull and bad"]
    assert run.predict(texts) == load(tmp_path / "run").predict(texts)
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert len(config["target_modules"]) == 2 * 1 + 2 * 3


def test_peft_gives_the_same_logits(tmp_path):
    found = terms()
    point = {b: torch.randn(found.dim(b), generator=torch.Generator().manual_seed(b)) * 0.3 for b in found.blocks}
    found.save(point, tmp_path, "t5")
    given = {"input_ids": torch.tensor([[2, 6, 9, 11, 4, 3]]), "decoder_input_ids": torch.tensor([[0]])}
    with torch.no_grad():
        with found.applied(point):
            ours = home().model(**given).logits
        theirs = peft.PeftModel.from_pretrained(tiny.model("t5"), tmp_path)(**given).logits
    assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(found.load(tmp_path)[block], point[block]) for block in found.blocks)


def test_a_vector_that_some_layers_cannot_cut_is_refused(tmp_path):
    target = [f"layer.0.SelfAttention.{name}" for name in "qkv"] + TARGET[1:2]
    recipe = small.recipe(tmp_path, "t5", model__target=target, method__d=8)
    with pytest.raises(ConfigError, match=r"d: 8 cannot be cut into 6 and 8 equal parts.* multiple of 24"):
        tune(recipe, tmp_path / "run", progress="none")
    assert not (tmp_path / "run").exists()
