"""What a model's files tell of its layers, and of the time of their products."""

from __future__ import annotations

import torch
from transformers import AutoConfig

import small
from tandemtune.models.pace import Matrices, matrices, seconds_for_token


def of(name):
    place = small.model_folder(name)
    return matrices(place, AutoConfig.from_pretrained(place))


def test_layers_are_told_without_embeddings_and_head():
    config = AutoConfig.from_pretrained(small.model_folder("llama"))
    found = of("llama")
    assert found.layers and not any(config.vocab_size in shape for shape in found.layers)
    assert found.layers[config.intermediate_size, config.hidden_size] == 2 * config.num_hidden_layers  # gate and up


def test_a_text_goes_through_the_encoder_alone():
    config = AutoConfig.from_pretrained(small.model_folder("t5"))
    wide = config.d_ff, config.d_model
    assert of("t5").layers[wide] == config.num_layers * (2 if config.is_gated_act else 1)


def test_nothing_is_told_where_nothing_can_be_read(tmp_path):
    assert matrices("some/hub-id", None) == Matrices(0, {})
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    assert matrices(tmp_path, None) == Matrices(0, {})
    assert seconds_for_token(Matrices(1000, {(2, 3): 1}), torch.float32) is None  # most weights lie elsewhere


def test_products_take_time():
    found = of("bert")
    assert 0 < seconds_for_token(found, torch.float32) < 1
    assert seconds_for_token(found, torch.bfloat16) is not None
