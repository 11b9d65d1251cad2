"""Where query and key lie in each model, and what a user is told about a model that is not listed."""

from __future__ import annotations

import pytest
import torch

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


def test_table_finds_query_and_key(name):
    model = made(name)
    found = architectures.find(model)
    layer = model.get_submodule(found.layers)[0]
    assert layer is oracle.layers_of(model, name)[0]
    n_in, n_q, n_k = oracle.widths(model, name)
    for projection, width in zip(found.projections, (n_q, n_k), strict=True):
        module = layer.get_submodule(projection.module)
        assert architectures.is_linear(module)
        assert architectures.sizes(module)[0] == n_in
        assert len(architectures.columns(projection, module, oracle.HEAD)) == width
    assert [projection.name for projection in found.projections] == ["q", "k"]


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
    projection = architectures.find(model).projections[which]
    layer = oracle.layers_of(model, name)[0]
    module = layer.get_submodule(projection.module)
    columns = architectures.columns(projection, module, oracle.HEAD)
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


def test_unknown_model_type_names_the_linear_modules():
    with pytest.raises(ModelError) as caught:
        architectures.find(made("llama", "strange"))
    text = str(caught.value)
    assert "'strange'" in text
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "target", "llama"):
        assert part in text


def test_unknown_fused_model_names_the_fused_module():
    with pytest.raises(ModelError, match=r"attn\.c_attn"):
        architectures.find(made("gpt2", "strange"))


def test_model_without_layers():
    model = torch.nn.Linear(2, 2)
    model.config = type("Config", (), {"model_type": "flat"})()
    with pytest.raises(ModelError, match="none found"):
        architectures.find(model)


def test_target_on_a_known_architecture():
    found = architectures.find(made("bert"), ["attention.self.value", "output.dense"])
    assert found.layers == "bert.encoder.layer"
    assert [p.name for p in found.projections] == ["attention.self.value", "output.dense"]
    kept = architectures.find(made("deberta-v2"), ["attention.self.value_proj"])
    assert kept.mixed_inputs


def test_target_on_an_unknown_architecture_equals_the_table(name):
    """The projections named by hand give the same terms as the table's row."""
    known = tiny.backbone(name)
    modules = list(dict.fromkeys(p.module for p in known.architecture.projections))
    found = architectures.find(made(name, "strange"), modules)
    assert found.layers == known.architecture.layers
    assert [p.module for p in found.projections] == modules
    model = made(name, "strange")
    other = Backbone("other", model, known.tokenizer, known.kind, found)
    assert LoRATerms(other, 2, [0]).shapes(0)[0] == LoRATerms(known, 2, [0]).shapes(0)[0]


def test_wrong_target_on_a_known_architecture_suggests_a_name():
    with pytest.raises(ModelError, match=r"Did you mean 'self_attn\.q_proj'\?"):
        architectures.find(made("llama"), ["self_attn.qproj"])
    with pytest.raises(ModelError, match=r"Did you mean 'self_attn\.k_proj'\?"):
        architectures.find(made("llama"), ["self_attn.q_proj", "self_attn.kproj"])


def test_hopeless_target_lists_what_there_is():
    with pytest.raises(ModelError, match=r"self_attn\.q_proj") as caught:
        architectures.find(made("llama"), ["zzz"])
    assert "Did you mean" not in str(caught.value)


def test_wrong_target_on_an_unknown_architecture():
    with pytest.raises(ModelError, match=r"self_attn\.q_proj"):
        architectures.find(made("llama", "strange"), ["self_attn.qproj"])
    with pytest.raises(ModelError, match=r"Did you mean 'self_attn\.k_proj'\?"):
        architectures.find(made("llama", "strange"), ["self_attn.q_proj", "self_attn.kproj"])


def test_target_must_be_linear():
    with pytest.raises(ModelError, match="no linear module"):
        architectures.find(made("llama"), ["self_attn"])
