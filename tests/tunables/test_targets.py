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


def test_the_end_of_a_path_names_all_modules_that_end_so():
    found = architectures.find(tiny.model("t5"), ["q", "DenseReluDense.wo"])
    encoder, decoder = found.projections[0], found.projections[-1]
    assert [one.module for one in encoder] == ["layer.0.SelfAttention.q", "layer.1.DenseReluDense.wo"]
    assert [one.module for one in decoder] == [
        "layer.0.SelfAttention.q",
        "layer.1.EncDecAttention.q",
        "layer.2.DenseReluDense.wo",
    ]
    assert (
        architectures.find(tiny.model("t5"), ["layer.0.SelfAttention.q"]).projections[-1][0].module
        == TARGET[0][:-1] + "q"
    )


def test_all_linear_maps_by_one_word():
    every = architectures.find(tiny.model("t5"), "all-linear")
    for chosen, layer in zip(every.projections, home().layers, strict=True):
        assert [one.module for one in chosen] == architectures.linear_names(layer)
    base = Backbone("t5", tiny.model("t5"), tiny.tokenizer("causal"), "seq2seq", every)
    assert LoRATerms(base, 2, [0]).blocks == (0,)  # that layer 2 has maps that layer 0 has not is nobody's mistake


def test_ends_of_paths_that_mean_nothing_or_the_same():
    with pytest.raises(
        ModelError, match=r"'qq' is no linear module of the layers, and no end of one's path.* mean 'q'"
    ):
        architectures.find(tiny.model("t5"), ["qq"])
    with pytest.raises(ModelError, match=r"names 'layer\.0\.SelfAttention\.q' twice"):
        architectures.find(tiny.model("t5"), ["layer.0.SelfAttention.q", "q"])
    with pytest.raises(ModelError, match=r"target 'EncDecAttention\.q' is in none of the tuned layers \[0, 1\]"):
        LoRATerms(
            Backbone(
                "t5",
                tiny.model("t5"),
                tiny.tokenizer("causal"),
                "seq2seq",
                architectures.find(tiny.model("t5"), ["wo", "EncDecAttention.q"]),
            ),
            2,
            [0, 1],
        )


@pytest.mark.parametrize("target", ["all-linear", ["q", "wo"]])
def test_a_run_with_ends_of_paths_loads_in_peft(target, tmp_path):
    recipe = small.recipe(
        tmp_path, "t5", model__target=target, method__name="lora", method__layers="all", method__steps=2
    )
    recipe["method"] = {k: v for k, v in recipe["method"].items() if k in ("name", "layers", "steps")}
    tune(recipe, tmp_path / "run", progress="none")
    loaded = peft.PeftModel.from_pretrained(tiny.model("t5"), tmp_path / "run" / "adapter")
    tuned = {name.partition(".lora_")[0] for name, _ in loaded.named_modules() if name.endswith(".lora_A.default")}
    every = architectures.find(tiny.model("t5"), target).projections
    assert len(tuned) == sum(map(len, every))


@pytest.mark.grid
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
