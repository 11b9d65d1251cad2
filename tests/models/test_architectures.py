"""Where query and key lie in each model, and what a user is told about a model that is not listed."""

from __future__ import annotations

import pytest
import torch
import transformers

import oracle
import tiny
from tandemtune.errors import ModelError
from tandemtune.models import architectures
from tandemtune.models.backbone import Backbone
from tandemtune.tunables.lora import LoRATerms


def made(name, model_type=None):
    model = tiny.model(name)
    if model_type:
        model.config.model_type = model_type
    return model


@pytest.fixture(params=tiny.CONFIGS, ids=str)
def name(request):
    return request.param


def test_query_and_key_are_found(name):
    model = made(name, "strange")
    found = architectures.find(model)
    layers = [layer for path in found.paths for layer in model.get_submodule(path)]
    assert layers == list(oracle.layers_of(model, name))
    for block, layer in enumerate(layers):
        n_in, n_q, n_k = oracle.widths(model, name)
        assert [projection.name for projection in found.projections[block]] == ["q", "k"]
        for projection, width in zip(found.projections[block], (n_q, n_k), strict=True):
            module = layer.get_submodule(projection.module)
            assert architectures.is_linear(module)
            assert architectures.sizes(module)[0] == n_in
            assert len(projection.outputs(module)) == width


@pytest.mark.parametrize("name", tiny.SEQ2SEQ)
def test_of_a_decoders_two_attentions_the_one_to_the_text_is_tuned(name):
    found = architectures.find(made(name))
    assert {p.module for p in found.projections[0]}.isdisjoint(p.module for p in found.projections[2])
    assert all("EncDec" in p.module or "encoder_attn" in p.module for p in found.projections[2])


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_grouped_queries_have_a_smaller_key(name):
    tunable = LoRATerms(tiny.backbone(name), 2, [0])
    (_, _), (_, n_q), (_, _), (_, n_k) = tunable.shapes(0)
    assert (n_q, n_k) == (32, 16)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("which", [0, 1], ids=["q", "k"])
def test_fused_columns_change_only_what_they_name(name, which):
    """The weights of the named columns are disturbed; of query, key and value as split by the model, one changes."""
    model = made(name)
    projection = architectures.find(model).projections[0][which]
    layer = oracle.layers_of(model, name)[0]
    module = layer.get_submodule(projection.module)
    columns = projection.outputs(module)
    parts = split_by_the_model(model, name)
    with torch.no_grad():
        if name == "gpt2":
            module.weight[:, columns] += torch.randn(32, len(columns))
        else:
            module.weight[columns] += torch.randn(len(columns), 32)
    changed = [not torch.equal(a, b) for a, b in zip(parts, split_by_the_model(model, name), strict=True)]
    assert changed == [which == 0, which == 1, False]
    before, after = parts[which], split_by_the_model(model, name)[which]
    assert (before != after).flatten(0, -1).float().mean() > 0.99  # and all of it changes


def split_by_the_model(model, name):
    """Query, key and value of the first layer, caught where the model's attention function receives them."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    caught = []
    own = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def watch(module, query, key, value, *args, **kwargs):
        caught.append((query.clone(), key.clone(), value.clone()))
        return own(module, query, key, value, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS["watch"] = watch
    before = model.config._attn_implementation
    model.config._attn_implementation = "watch"
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([[6, 8, 9, 12]]))
    finally:
        model.config._attn_implementation = before
        del ALL_ATTENTION_FUNCTIONS["watch"]
    assert len(caught) == 4
    return caught[0]


def renamed(**names):
    """A tiny Llama whose modules have other names."""
    model = made("llama")
    for layer in model.model.layers:
        for own, other in names.items():
            layer.self_attn._modules[other] = layer.self_attn._modules.pop(own)
            object.__setattr__(layer.self_attn, own, layer.self_attn._modules[other])
    return model


def test_where_query_and_key_cannot_be_told_the_linear_modules_are_named():
    with pytest.raises(ModelError) as caught:
        architectures.find(renamed(q_proj="first", k_proj="second"))
    text = str(caught.value)
    for part in ("self_attn.first", "self_attn.second", "mlp.up_proj", "target", "llama"):
        assert part in text
    found = architectures.find(renamed(q_proj="first", k_proj="second"), ["self_attn.first", "self_attn.second"])
    assert [p.module for p in found.projections[3]] == ["self_attn.first", "self_attn.second"]


def test_model_without_layers():
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(**{**tiny.GROUPED, "num_hidden_layers": 0})
    )
    with pytest.raises(ModelError, match="none found"):
        architectures.find(model)


def test_layers_that_share_their_weights_are_refused():
    config = transformers.AlbertConfig(**{**tiny.COMMON, "embedding_size": 16})
    with pytest.raises(ModelError, match="share weights"):
        architectures.find(transformers.AutoModelForMaskedLM.from_config(config))
    model = made("llama")
    model.model.layers[2] = model.model.layers[1]
    with pytest.raises(ModelError, match="share weights"):
        architectures.find(model)
    model = made("llama")
    model.model.layers[2].self_attn = model.model.layers[1].self_attn
    with pytest.raises(ModelError, match="share weights"):
        architectures.find(model)


def hybrid():
    kinds = ["conv", "full_attention", "conv", "full_attention"]
    config = transformers.Lfm2Config(**tiny.GROUPED, layer_types=kinds)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def test_only_layers_with_query_and_key_are_tuned():
    model = hybrid()
    for target in (None, ["self_attn.q_proj", "self_attn.k_proj"]):
        found = architectures.find(model, target)
        assert [len(chosen) for chosen in found.projections] == [0, 2, 0, 2]
        home = Backbone("hybrid", model, tiny.tokenizer("causal"), "causal", found)
        assert LoRATerms(home, 2, range(4)).blocks == (1, 3)
        with pytest.raises(ModelError, match="choose other layers"):
            LoRATerms(home, 2, [0, 2])


def test_advice_lists_what_every_layer_has_before_what_some_have():
    with pytest.raises(
        ModelError, match=r"hold: feed_forward[^;]*; in some layers: .*conv\.in_proj.*self_attn\.q_proj"
    ):
        architectures.find(hybrid(), ["zzz"])


def test_a_layer_has_those_of_the_named_modules_that_it_holds():
    found = architectures.find(hybrid(), ["self_attn.q_proj", "feed_forward.w1"])
    assert [[one.name for one in chosen] for chosen in found.projections] == [
        ["feed_forward.w1"],
        ["self_attn.q_proj", "feed_forward.w1"],
        ["feed_forward.w1"],
        ["self_attn.q_proj", "feed_forward.w1"],
    ]


def test_the_language_model_in_a_model_that_also_sees():
    """Its vision tower has more layers, of the same names, and is not asked about texts."""
    text = {**tiny.GEMMA, "num_hidden_layers": 3}
    vision = {**tiny.SIZE, "num_hidden_layers": 5, "image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=5
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for target in (None, ["self_attn.q_proj", "self_attn.k_proj"]):
        found = architectures.find(model, target)
        assert found.paths == ("model.language_model.layers",)
        assert len(found.projections) == 3


def test_target():
    found = architectures.find(made("bert"), ["attention.self.value", "output.dense"])
    assert found.paths == ("bert.encoder.layer",)
    assert [p.name for p in found.projections[0]] == ["attention.self.value", "output.dense"]


def test_wrong_target_suggests_a_name():
    with pytest.raises(ModelError, match=r"Did you mean 'self_attn\.q_proj'\?"):
        architectures.find(made("llama"), ["self_attn.qproj"])
    with pytest.raises(ModelError, match=r"Did you mean 'self_attn\.k_proj'\?"):
        architectures.find(made("llama"), ["self_attn.q_proj", "self_attn.kproj"])


def test_hopeless_target_lists_what_there_is():
    with pytest.raises(ModelError, match=r"self_attn\.q_proj") as caught:
        architectures.find(made("llama"), ["zzz"])
    assert "Did you mean" not in str(caught.value)


def test_target_must_be_linear():
    with pytest.raises(ModelError, match="no linear module"):
        architectures.find(made("llama"), ["self_attn"])
