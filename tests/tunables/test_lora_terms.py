"""Terms as a GPU is given them: one product for modules that the same tensor enters, inner sizes that it multiplies fast."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import tiny
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.models import architectures
from tandemtune.models.backbone import Backbone
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables import lora
from tandemtune.tunables.lora import LoRATerms
from tandemtune.types import Encoded

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def engine_of(name, rank=2, target=None, **options):
    home = tiny.backbone(name)
    architecture = architectures.find(home.model, target) if target else home.architecture
    backbone = Backbone(home.name, home.model, home.tokenizer, home.kind, architecture)
    words = {"bad": ["terrible"], "good": ["great"]}
    stack = backbone.stack(resolve(backbone.tokenizer, Template.parse("{text} {mask}"), words))
    return Engine(stack, LoRATerms(backbone, rank, range(4), **options), torch.eye(2))


def vectors(tunable, block, *size):
    generator = torch.Generator().manual_seed(block)
    return torch.randn(*size, tunable.dim(block), generator=generator) * 0.3


@pytest.mark.parametrize(
    ("name", "rank", "options"),
    [
        ("bert", 2, {}),
        ("gpt2", 3, {}),  # query and key in one module
        ("llama", 2, {"target": [*(f"self_attn.{n}_proj" for n in "qkvo"), "mlp.down_proj"]}),
        ("llama", 9, {}),  # too many columns to share
        ("llama", 2, {"fixed_seed": 3}),
        ("t5", 2, {}),
    ],
)
def test_filled_up_and_shared_terms_are_the_same_terms(name, rank, options, monkeypatch):
    engine = engine_of(name, rank, **options)
    tunable = engine.tunable
    prompts = [Encoded((7, 8, 9, 10, 11), 4), Encoded((12, 9, 8), 2)]
    batch = collate(prompts, [0, 1], torch.device("cpu"))
    point = {block: vectors(tunable, block) for block in range(4)}
    candidates = {1: vectors(tunable, 1, 3)}
    expected = engine.population_logits(batch, point, candidates), engine.logits(batch, point)
    engine.forget()
    tunable._terms.clear()
    monkeypatch.setattr(lora, "_aligns", lambda device: True)
    inner = []
    own = lora._aligned
    monkeypatch.setattr(lora, "_aligned", lambda parts: inner.append(own(parts)) or inner[-1])
    for _ in range(2):  # terms of the point are kept
        assert_close(engine.population_logits(batch, point, candidates), expected[0], **CLOSE)
        assert_close(engine.logits(batch, point), expected[1], **CLOSE)
    sizes = {(a.shape[-1], b.shape[-2]) for group in inner for a, b in group.values()}
    assert sizes
    assert all(one == other and one % lora.ALIGNED == 0 for one, other in sizes)


def test_modules_that_one_tensor_enters_share_its_product(monkeypatch):
    tunable = engine_of("llama", target=["self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj"]).tunable
    monkeypatch.setattr(lora, "_aligns", lambda device: True)
    terms = tunable._terms_of(1, vectors(tunable, 1, 3))
    entering = {term._entering for term in terms.values()}
    assert len(entering) == 1, "modules of one parent"
    (entering,) = entering
    hidden = torch.randn(6, 5, entering._a.shape[-2])
    first = entering.times(hidden, 3)
    assert entering.times(hidden, 3) is first
    assert not torch.equal(entering.times(hidden + 1, 3), first), "another tensor"
    assert torch.equal(entering.times(hidden.clone(), 3), first)


def test_a_gradient_flows_through_terms_that_are_not_shared(monkeypatch):
    monkeypatch.setattr(lora, "_aligns", lambda device: True)
    tunable = engine_of("llama").tunable
    leaf = vectors(tunable, 1).requires_grad_()
    terms = tunable._terms_of(1, leaf)
    assert len({term._entering for term in terms.values()}) == len(terms)
    assert all(term._b.requires_grad for term in terms.values())
