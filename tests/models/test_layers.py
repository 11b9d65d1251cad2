"""Models whose layers or head cannot be entered are refused instead of being read wrongly."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

import tiny
from tandemtune.errors import ModelError
from tandemtune.models import architectures
from tandemtune.models.layers import LayerStack, replaced_forward

IDS = torch.tensor([6, 7])


def test_trunk_that_the_model_does_not_call_is_refused():
    """OPT's head reads the decoder and never calls the base model: its answer position would go unheeded."""
    model = tiny.model("opt")
    path = architectures.ARCHITECTURES["opt"].layers

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.config, self.base_model = model, model.config, nn.Identity()

        def get_output_embeddings(self):
            return model.get_output_embeddings()

        def forward(self, **arguments):
            return model(**arguments)

    with pytest.raises(ModelError, match="does not call its trunk"):
        LayerStack(Wrapped(), f"model.{path}", None, IDS)
    LayerStack(Wrapped(), f"model.{path}", "model.model.decoder", IDS)


def test_layers_that_the_model_does_not_call_are_refused():
    model = tiny.model("llama")
    model.spare = nn.ModuleList([nn.Linear(2, 2)])
    with pytest.raises(ModelError, match="does not call its first layer"):
        LayerStack(model, "spare", None, IDS)


def test_head_that_is_not_the_last_step_is_refused():
    """DeBERTa's newer head multiplies by the word embeddings behind what it calls its output embedding."""
    config_name, options = tiny.CONFIGS["deberta-v2"]
    config = getattr(transformers, config_name)(**options, legacy=False)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    with pytest.raises(ModelError, match="output embedding"):
        LayerStack(model, "deberta.encoder.layer", None, IDS)


def test_model_without_a_head_is_refused():
    config = transformers.BertConfig(**tiny.COMMON)
    with pytest.raises(ModelError, match="no linear output embedding"):
        LayerStack(transformers.BertModel(config).eval(), "encoder.layer", None, IDS)


def test_replaced_forward_puts_back_what_was_there():
    module = nn.Linear(2, 2)
    with replaced_forward(module, lambda x: x + 1), replaced_forward(module, lambda x: x + 2):
        assert torch.equal(module(torch.zeros(2)), torch.full((2,), 2.0))
    assert "forward" not in vars(module)
    module.forward = lambda x: x + 3
    with pytest.raises(ZeroDivisionError), replaced_forward(module, lambda x: x + 1):
        raise ZeroDivisionError
    assert torch.equal(module(torch.zeros(2)), torch.full((2,), 3.0))
