"""Models whose layers or head cannot be entered are refused instead of being read wrongly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from torch import nn

import tiny
from tandemtune.errors import ModelError
from tandemtune.models import architectures
from tandemtune.models.layers import LayerStack, replaced_forward

IDS = torch.tensor([6, 7])


def test_a_model_that_works_beside_its_layers_is_refused():
    """The second layer adds what has left the first one once more: hidden states alone do not say what it makes of them."""
    model = tiny.model("llama")
    first, second = model.model.layers[:2]
    seen = []
    first.register_forward_hook(lambda module, args, output: seen.append(output))
    second.register_forward_hook(lambda module, args, output: output + seen[-1].mean(dim=1, keepdim=True))
    with pytest.raises(ModelError, match=r"layer by layer.*not supported"):
        LayerStack(model, architectures.find(model), IDS)


def test_a_model_whose_trunk_is_no_module_of_its_own_is_read_at_the_head():
    model = tiny.model("opt")
    found = architectures.find(model)
    assert found.trunk == "model.decoder"
    ids, answer = torch.tensor([[6, 8, 9, 12], [7, 5, 11, 20]]), torch.tensor([2, 3])
    expected = LayerStack(model, found, IDS).logits(ids, answer)
    assert torch.allclose(LayerStack(model, replace(found, trunk=None), IDS).logits(ids, answer), expected, atol=1e-6)


def test_head_that_is_not_the_last_step_is_refused():
    """DeBERTa's newer head multiplies by the word embeddings behind what it calls its output embedding."""
    config_name, options = tiny.CONFIGS["deberta-v2"]
    config = getattr(transformers, config_name)(**options, legacy=False)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    with pytest.raises(ModelError, match="label words"):
        LayerStack(model, architectures.find(model), IDS)


def test_model_without_a_head_is_refused():
    model = transformers.BertModel(transformers.BertConfig(**tiny.COMMON)).eval()
    with pytest.raises(ModelError, match="no linear output embedding"):
        LayerStack(model, architectures.find(model), IDS)


def test_modules_are_narrowed_only_where_that_changes_nothing():
    """A "feed-forward part" that mixes tokens needs to see all of them."""
    model = tiny.model("llama")
    plain = LayerStack(model, architectures.find(model), IDS)
    assert plain._way_out.narrow
    mlp = model.model.layers[-1].mlp
    own = mlp.forward
    mlp.forward = lambda hidden: own(hidden.cumsum(dim=1))
    mixing = LayerStack(model, architectures.find(model), IDS)
    ids, answer = torch.tensor([[6, 8, 9, 12]]), torch.tensor([3])
    assert torch.allclose(mixing.logits(ids, answer), model(input_ids=ids).logits[:, 3, IDS], atol=1e-5)


def test_replaced_forward_puts_back_what_was_there():
    module = nn.Linear(2, 2)
    with replaced_forward(module, lambda x: x + 1), replaced_forward(module, lambda x: x + 2):
        assert torch.equal(module(torch.zeros(2)), torch.full((2,), 2.0))
    assert "forward" not in vars(module)
    module.forward = lambda x: x + 3
    with pytest.raises(ZeroDivisionError), replaced_forward(module, lambda x: x + 1):
        raise ZeroDivisionError
    assert torch.equal(module(torch.zeros(2)), torch.full((2,), 3.0))


@pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
def test_nothing_is_embedded_where_hidden_states_are_given(name):
    home = tiny.backbone(name)
    stack = LayerStack(home.model, home.architecture, torch.arange(6, 9))
    ids, answer = torch.arange(6, 16).view(2, 5), torch.tensor([4, 2])
    expected = stack.logits(ids, answer)
    states = stack.hidden(ids, 2)
    seen = []
    table = home.model.get_input_embeddings()
    own = table.forward
    stack_embedding = stack._embedding
    assert stack_embedding is not None
    with replaced_forward(table, lambda *given: seen.append(given) or own(*given)):
        assert torch.equal(stack.logits(ids, answer, start=2, states=states), expected)
        assert (stack_embedding is table) or not seen
        stack._embedding = None
        assert torch.equal(stack.logits(ids, answer, start=2, states=states), expected)
    assert len(seen) == 1


def test_a_model_of_two_stacks_embeds_its_answers():
    home = tiny.backbone("t5")
    assert LayerStack(home.model, home.architecture, torch.arange(6, 9), (0,))._embedding is None
