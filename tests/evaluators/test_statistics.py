"""Measurements of the layers against a plain computation on a tiny model."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import oracle
import tiny
from tandemtune.evaluators import statistics
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.label_words import LabelWordEvaluator
from tandemtune.objectives.cross_entropy import cross_entropy
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.lora import LoRATerms

TEMPLATE = Template.parse("{text} it was {mask} .")
TEXTS = ["a great movie", "the plot was dull", "i hated this film and the acting", "a review", "never again ."]
BLOCKS = (1, 3)


@functools.cache
def house(name):
    home = tiny.backbone(name)
    verbalizer = resolve(home.tokenizer, TEMPLATE, {"bad": ["terrible"], "good": ["great"]})
    prompts = [home.encode(TEMPLATE, {"text": text}, 64) for text in TEXTS]
    tunable = LoRATerms(home, 2, BLOCKS)
    engine = Engine(home.stack(verbalizer), tunable, torch.tensor(verbalizer.weights()))
    return home, engine, collate(prompts, [0, 1, 0, 1, 0], torch.device("cpu")), prompts


def clipped_by_hand(values):
    for _ in range(5):
        mean, sd = values.mean(), values.std(ddof=1)
        values = np.clip(values, mean - 3 * sd, mean + 3 * sd)
    return values.std(ddof=1)


def test_clipped_sd_by_hand():
    values = np.concatenate([np.random.default_rng(0).normal(2.0, 0.5, 5000), [100.0, -80.0]])
    measured = statistics.clipped_sd(torch.from_numpy(values))
    assert measured == pytest.approx(clipped_by_hand(values), rel=1e-4)
    assert measured == pytest.approx(0.5, rel=0.05)
    assert values.std() > 1.5


def test_clipped_sd_leaves_well_behaved_values_alone():
    values = torch.linspace(-1, 1, 101)
    assert statistics.clipped_sd(values) == pytest.approx(float(values.std()))
    assert statistics.clipped_sd(torch.ones(10)) == 0.0


def projections(model, name, block, x):
    """Query and key of one layer [T, n_out], from the weights."""
    layer = oracle.layers_of(model, name)[block]
    if name == "gpt2":
        whole = x @ layer.attn.c_attn.weight + layer.attn.c_attn.bias
        return whole[:, :32], whole[:, 32:64]
    if name == "gpt_neox":
        fused = layer.attention.query_key_value
        whole = (x @ fused.weight.T + fused.bias).view(len(x), 4, 3, 8)
        return whole[:, :, 0].reshape(len(x), 32), whole[:, :, 1].reshape(len(x), 32)
    modules = {
        "bert": lambda: (layer.attention.self.query, layer.attention.self.key),
        "llama": lambda: (layer.self_attn.q_proj, layer.self_attn.k_proj),
    }[name]()
    return tuple(torch.nn.functional.linear(x, m.weight, m.bias) for m in modules)


def normed(model, name, block, hidden):
    """What the projections see of the hidden states that enter the layer."""
    layer = oracle.layers_of(model, name)[block]
    if name == "bert":
        return hidden
    return layer.get_submodule("ln_1" if name == "gpt2" else "input_layernorm")(hidden)


@pytest.mark.parametrize("name", ["bert", "gpt2", "gpt_neox", "llama"])
def test_equals_a_plain_computation(name):
    home, engine, batch, prompts = house(name)
    measured = statistics.measure(engine, home, batch, engine.tunable.initial(), engine.tunable.blocks)
    assert tuple(measured) == BLOCKS
    for block in BLOCKS:
        with torch.no_grad():
            hidden = torch.cat(
                [
                    home.model(input_ids=torch.tensor([p.ids]), output_hidden_states=True).hidden_states[block][0]
                    for p in prompts
                ]
            )
            x = normed(home.model, name, block, hidden)
            q, k = projections(home.model, name, block, x)
        assert measured[block].hidden_sd == pytest.approx(clipped_by_hand(hidden.flatten().numpy()), rel=1e-4)
        rms = float(x.square().mean().sqrt())
        assert measured[block].x_rms == pytest.approx({"q": rms, "k": rms}, rel=1e-4)
        assert measured[block].y_sd["q"] == pytest.approx(float(q.std()), rel=1e-4)
        assert measured[block].y_sd["k"] == pytest.approx(float(k.std()), rel=1e-4)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_architecture_is_measured(name):
    home, engine, batch, _ = house(name)
    hooks = [len(module._forward_hooks) for module in home.model.modules()]
    measured = statistics.measure(engine, home, batch, engine.tunable.initial(), engine.tunable.blocks)
    for found in measured.values():
        assert list(found.y_sd) == ["q", "k"]
        assert all(0 < value < 1e3 for value in (found.hidden_sd, *found.x_rms.values(), *found.y_sd.values()))
    assert [len(module._forward_hooks) for module in home.model.modules()] == hooks


def test_does_not_depend_on_how_the_batch_is_cut():
    home, engine, batch, prompts = house("bert")
    pieces = collate(prompts, batch.labels.tolist(), torch.device("cpu"), max_rows=1)
    one = statistics.measure(engine, home, batch, engine.tunable.initial(), engine.tunable.blocks)[3]
    other = statistics.measure(engine, home, pieces, engine.tunable.initial(), engine.tunable.blocks)[3]
    assert other.x_rms == pytest.approx(one.x_rms, rel=1e-5)
    assert other.hidden_sd == pytest.approx(one.hidden_sd, rel=1e-5)
    assert other.y_sd == pytest.approx(one.y_sd, rel=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_objective_measures_what_it_evaluates(name):
    _, engine, batch, _ = house(name)
    objective = LabelWordEvaluator(
        engine, batch, cross_entropy, lambda guess, gold: float(np.mean(np.equal(guess, gold)))
    )
    point = {block: torch.randn(engine.tunable.dim(block)) * 0.3 for block in BLOCKS}
    candidates = torch.stack([point[3], 2.0 * point[3]])
    losses = objective.evaluate(point, {3: candidates})
    assert losses.shape == (2,)
    assert losses.dtype == np.float64
    assert abs(losses[0] - losses[1]) > 1e-4
    for loss, vector in zip(losses, candidates, strict=True):
        found = objective.measure_on(batch, {**point, 3: vector})
        assert found.loss == pytest.approx(loss, abs=1e-5)
        guess = found.logits.argmax(dim=-1)
        assert found.score == pytest.approx(float((guess == batch.labels).float().mean()))
    assert objective.cost((3,), 10, kept=2).forward == batch.tokens * (10 * 1 + 1)
    assert objective.cost((1, 3), 10, kept=0).forward == batch.tokens * (10 * 3 + 1)
    assert objective.cost((3,), 10, kept=0).forward == batch.tokens * (10 * 1 + 3)
    assert objective.cost((2,), 10).forward == batch.tokens * 10 * 2
    drawn = LabelWordEvaluator(engine, batch, cross_entropy, lambda guess, gold: 0.0, drawn_rows=lambda number: batch)
    assert drawn.cost((2,), 10, generation=0).forward == batch.tokens * (10 * 2 + 2)
