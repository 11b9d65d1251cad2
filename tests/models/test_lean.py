"""Passes without gradient move less memory, and give the same numbers."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from torch.testing import assert_close

import tiny
from tandemtune.models.layers import LayerStack
from tandemtune.models.lean import compiled, keep_freed_memory, lean_forward

IDS = torch.randint(1, 40, (3, 7), generator=torch.Generator().manual_seed(1))
ANSWER = torch.tensor([6, 5, 6])
GATED = ("llama", "qwen3", "gemma3_text")


def stack_of(name):
    home = tiny.backbone(name)
    return home, LayerStack(home.model, home.architecture, torch.tensor([3, 4]))


def plain_logits(home):
    with torch.no_grad():
        return home.model(input_ids=IDS).logits[torch.arange(3), ANSWER][:, [3, 4]]


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place_gives_the_same_bits(name, dtype):
    home, _ = stack_of(name)
    parts = [part.to(dtype) for part in home.model.modules() if lean_forward(part)]
    assert len(parts) == 4
    for part in parts:
        hidden = torch.randn(2, 5, part.gate_proj.in_features, generator=torch.Generator().manual_seed(2)).to(dtype)
        before = hidden.clone()
        with torch.inference_mode():
            assert torch.equal(lean_forward(part)(hidden), part(hidden))
        assert torch.equal(hidden, before)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_other_forms_are_left_alone(name):
    home, _ = stack_of(name) if name != "t5" else (tiny.backbone(name), None)
    assert not any(lean_forward(part) for part in home.model.modules())


def test_a_part_that_only_looks_gated_is_left_alone():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = (torch.nn.Linear(4, 4) for _ in range(3))
            self.act_fn = torch.nn.SiLU()

        def forward(self, hidden):
            return 2.0 * self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))

    assert lean_forward(Twice()) is None


@pytest.mark.parametrize("name", GATED)
def test_the_model_is_left_as_it_was(name):
    home, stack = stack_of(name)
    forwards = {key: part.__dict__.get("forward") for key, part in home.model.named_modules()}
    found = stack.logits(IDS, ANSWER)
    assert_close(found, plain_logits(home), atol=1e-5, rtol=1e-5)
    assert {key: part.__dict__.get("forward") for key, part in home.model.named_modules()} == forwards


def test_gradients_do_not_go_through_what_is_changed_in_place():
    home, stack = stack_of("llama")
    weight = home.layers[0].mlp.gate_proj.weight
    weight.requires_grad_(True)
    stack.logits(IDS, ANSWER, gradient=True).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_keeping_memory_is_for_linux():
    assert keep_freed_memory() in ((True, False) if sys.platform.startswith("linux") else (False,))


def test_norms_of_pytorch_are_not_compiled():
    home, _ = stack_of("gpt2")
    assert not compiled(home.model.modules())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("name", GATED)
def test_compiled_parts_give_nearly_the_same(name):
    home, stack = stack_of(name)
    home_of_rotation = sys.modules[type(home.layers[0].self_attn).__module__]
    rotation = home_of_rotation.apply_rotary_pos_emb
    assert stack.compile() >= 12
    assert_close(stack.logits(IDS, ANSWER), plain_logits(home), atol=1e-5, rtol=1e-5)
    assert home_of_rotation.apply_rotary_pos_emb is rotation
    assert stack.compile(False) == 0
