"""What a tunable promises: flat vectors that fit, a neutral start, artefacts that other tools read."""

from __future__ import annotations

import copy
import functools
import json
import math

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import oracle
import tiny
from tandemtune.errors import RunError
from tandemtune.objective.batch import collate
from tandemtune.objective.engine import Engine
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.lora import LoRA

TEMPLATE = Template.parse("{text} it was {mask} .")
TEXTS = ["a great movie", "the plot was dull and the acting terrible", "a review"]


@functools.cache
def backbone(name):
    return tiny.backbone(name)


@pytest.fixture(params=tiny.CONFIGS, ids=str)
def name(request):
    return request.param


def random_point(tunable, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {block: torch.randn(tunable.dim(block), generator=generator) * 0.3 for block in tunable.blocks}


def make_engine(home, tunable):
    verbalizer = resolve(home.tokenizer, TEMPLATE, {"bad": ["terrible"], "good": ["great"]})
    prompts = [home.encode(TEMPLATE, {"text": text}, 64) for text in TEXTS]
    engine = Engine(home.stack(verbalizer), tunable, torch.tensor(verbalizer.weights()))
    return engine, prompts, collate(prompts, [0, 1, 0], torch.device("cpu")), verbalizer.token_ids


@pytest.mark.parametrize("rank", [1, 3])
def test_sizes_agree_with_the_model(name, rank):
    home = backbone(name)
    tunable = LoRA(home, rank, [2, 0])
    assert tunable.blocks == (0, 2)
    n_in, n_q, n_k = oracle.widths(home.model, name)
    for block in tunable.blocks:
        assert tunable.shapes(block) == [(n_in, rank), (rank, n_q), (n_in, rank), (rank, n_k)]
        assert tunable.dim(block) == sum(math.prod(shape) for shape in tunable.shapes(block))
        assert tunable.initial()[block].shape == (tunable.dim(block),)
        assert tunable.initial()[block].dtype == torch.float32
    assert tunable.describe()["parameters"] == 2 * tunable.dim(0)
    assert tunable.describe()["layers"] == [0, 2]


def test_factors_are_the_vector_cut_in_order(name):
    tunable = LoRA(backbone(name), 2, [1])
    vector = torch.arange(tunable.dim(1), dtype=torch.float32)
    factors = tunable.factors(1, vector)
    assert list(factors) == ["q", "k"]
    flat = torch.cat([matrix.reshape(-1) for pair in factors.values() for matrix in pair])
    assert torch.equal(flat, vector)
    population = tunable.factors(1, torch.stack([vector, -vector]))
    assert torch.equal(population["k"][1][1], -factors["k"][1])


def test_zero_vector_leaves_the_model_unchanged_to_the_bit(name):
    home = backbone(name)
    tunable = LoRA(home, 2, range(4))
    ids = torch.tensor([[2, 6, 9, 11, 3]])
    with torch.no_grad():
        before = oracle.all_logits(home.model, ids)
        with tunable.applied(tunable.initial()):
            inside = oracle.all_logits(home.model, ids)
        with tunable.applied(random_point(tunable)):
            changed = oracle.all_logits(home.model, ids)
        after = oracle.all_logits(home.model, ids)
    assert torch.equal(before, inside)
    assert torch.equal(before, after)
    assert (before - changed).abs().max() > 1e-3


def test_one_zero_factor_adds_nothing(name):
    home = backbone(name)
    tunable = LoRA(home, 2, [1])
    vector = random_point(tunable)[1]
    for pair in tunable.factors(1, vector).values():
        pair[1].zero_()  # views: B of query and key in place
    ids = torch.tensor([[2, 6, 9, 11, 3]])
    with torch.no_grad(), tunable.applied({1: vector}):
        inside = oracle.all_logits(home.model, ids)
    with torch.no_grad():
        assert_close(inside, oracle.all_logits(home.model, ids), atol=1e-6, rtol=0)


def test_first_layer_and_same_below(name):
    tunable = LoRA(backbone(name), 2, [1, 3])
    assert tunable.first_layer([3, 1]) == 1
    assert tunable.first_layer([3]) == 3
    point = random_point(tunable)
    other = {**point, 1: point[1] + 1e-6}
    assert tunable.same_below(0, point, other)
    assert tunable.same_below(1, point, other)
    assert not tunable.same_below(2, point, other)
    assert not tunable.same_below(3, point, other)
    assert tunable.same_below(3, point, {**point, 3: -point[3]})
    assert tunable.same_below(3, point, copy.deepcopy(point))


def test_side_by_side_is_refused_where_rows_share_an_input(name):
    assert LoRA(backbone(name), 1, [0]).side_by_side == (name != "deberta-v2")


@pytest.mark.parametrize("rank", [1, 2])
def test_save_and_load_are_exact(name, rank, tmp_path):
    tunable = LoRA(backbone(name), rank, [0, 3])
    point = random_point(tunable)
    tunable.save(point, tmp_path / "new" / "adapter", "base")
    loaded = LoRA(backbone(name), rank, [0, 3]).load(tmp_path / "new" / "adapter")
    assert loaded.keys() == point.keys()
    assert all(torch.equal(loaded[block], point[block]) for block in point)
    assert all(loaded[block].dtype == torch.float32 and loaded[block].ndim == 1 for block in point)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    tunable = LoRA(backbone("bert"), 2, [0, 3])
    point = random_point(tunable)
    for folder in ("one", "two"):
        tunable.save(point, tmp_path / folder, "base")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (1, 3)], ids=["all", "some"])
def test_peft_gives_what_was_measured(name, layers, tmp_path):
    home = backbone(name)
    tunable = LoRA(home, 2, layers)
    point = random_point(tunable)
    engine, prompts, batch, token_ids = make_engine(home, tunable)
    measured = engine.logits(batch, point)
    untuned = engine.logits(batch, tunable.initial())
    tunable.save(point, tmp_path, "base")
    loaded = peft.PeftModel.from_pretrained(tiny.model(name), tmp_path).eval()
    assert_close(oracle.word_logits(loaded, prompts, token_ids), measured, atol=1e-4, rtol=1e-4)
    assert (measured - untuned).abs().max() > 1e-3
    found = {key for key, _ in loaded.named_modules() if key.endswith(".lora_A")}
    modules = 1 if name in ("gpt2", "gpt_neox") else 2
    assert len(found) == modules * len(layers)


@pytest.mark.filterwarnings("ignore")
def test_peft_matches_layer_numbers_of_two_digits(tmp_path):
    """Layer 1 is not layer 11, though one name ends like the other."""
    config, options = tiny.CONFIGS["llama"]
    deep = {**options, "num_hidden_layers": 12}
    tiny_configs, tiny.CONFIGS["llama"] = tiny.CONFIGS["llama"], (config, deep)
    try:
        home, base = tiny.backbone("llama"), tiny.model("llama")
    finally:
        tiny.CONFIGS["llama"] = tiny_configs
    tunable = LoRA(home, 2, [1])
    engine, prompts, batch, token_ids = make_engine(home, tunable)
    point = random_point(tunable)
    tunable.save(point, tmp_path, "base")
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    measured = engine.logits(batch, point)
    assert_close(oracle.word_logits(loaded, prompts, token_ids), measured, atol=1e-4, rtol=1e-4)


def test_missing_adapter(tmp_path):
    with pytest.raises(RunError, match="adapter_model"):
        LoRA(backbone("bert"), 2, [0]).load(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"not an adapter", b"\xff" * 64])
def test_damaged_adapter(tmp_path, damage):
    (tmp_path / "adapter_model.safetensors").write_bytes(damage)
    with pytest.raises(RunError, match="cannot be read"):
        LoRA(backbone("bert"), 2, [0]).load(tmp_path)


def test_torn_adapter(tmp_path):
    tunable = LoRA(backbone("bert"), 2, [0])
    tunable.save(random_point(tunable), tmp_path, "base")
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(RunError, match="cannot be read"):
        tunable.load(tmp_path)


def test_adapter_of_another_model(tmp_path):
    other = LoRA(backbone("llama"), 2, [0])
    other.save(random_point(other), tmp_path, "base")
    with pytest.raises(RunError, match="made for another model"):
        LoRA(backbone("bert"), 2, [0]).load(tmp_path)


def test_adapter_without_a_layer(tmp_path):
    few = LoRA(backbone("bert"), 2, [0])
    few.save(random_point(few), tmp_path, "base")
    with pytest.raises(RunError, match=r"layer\.1"):
        LoRA(backbone("bert"), 2, [0, 1]).load(tmp_path)


def test_adapter_with_more_layers_is_not_cut_in_silence(tmp_path):
    many = LoRA(backbone("bert"), 2, [0, 1])
    many.save(random_point(many), tmp_path, "base")
    with pytest.raises(RunError, match=r"layer\.1"):
        LoRA(backbone("bert"), 2, [0]).load(tmp_path)


@pytest.mark.parametrize("model", ["bert", "gpt2"])
@pytest.mark.parametrize("rank", [1, 3])
def test_adapter_of_another_rank(model, rank, tmp_path):
    other = LoRA(backbone(model), rank, [0])
    other.save(random_point(other), tmp_path, "base")
    with pytest.raises(RunError, match="shape"):
        LoRA(backbone(model), 2, [0]).load(tmp_path)


def test_adapter_of_another_width(tmp_path):
    tunable = LoRA(backbone("bert"), 2, [0])
    tunable.save(random_point(tunable), tmp_path, "base")
    path = tmp_path / "adapter_model.safetensors"
    tensors = {key: value[..., :1].contiguous() for key, value in load_file(path).items()}
    save_file(tensors, path)
    with pytest.raises(RunError, match="shape"):
        tunable.load(tmp_path)


def test_adapter_config_says_what_peft_needs(tmp_path):
    tunable = LoRA(backbone("gpt2"), 3, [1])
    tunable.save(random_point(tunable), tmp_path, "some/base")
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "some/base"
    assert config["r"] == config["lora_alpha"] == 6  # query and key side by side in one module
    assert config["fan_in_fan_out"] is True
    assert config["task_type"] == "CAUSAL_LM"
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    b = tensors["base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"]
    assert not b[64:].any()  # the value's columns stay as they are
    assert not b[:32, 3:].any()
    assert not b[32:64, :3].any()
