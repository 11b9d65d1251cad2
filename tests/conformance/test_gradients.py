"""Gradients through an unmodified model are those of the loss, for every tunable; filled-up rows change nothing."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch.testing import assert_close

import oracle
import tiny
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.label_words import LabelWordEvaluator
from tandemtune.objectives.cross_entropy import cross_entropy
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.adapter import Adapter
from tandemtune.tunables.base import INPUT
from tandemtune.tunables.bias import Bias
from tandemtune.tunables.full import Full
from tandemtune.tunables.lora import LoRATerms
from tandemtune.tunables.prompt import Prompt

pytestmark = pytest.mark.grid

TEMPLATE = Template.parse("{text} it was {mask} .")
WORDS = {"bad": ["terrible", "bad"], "good": ["great"], "other": ["fine"]}
TEXTS = ["a great movie", "the plot was dull", "i hated this film and the acting", "a review", "we loved it , always ."]
LABELS = [1, 0, 0, 2, 1]
LENGTH = 3
CPU = torch.device("cpu")
MAKERS = {
    "lora": lambda home, name: LoRATerms(home, 2, range(4), start_seed=1),
    "prompt": lambda home, name: Prompt(home, LENGTH, zero_prompt(home)),
    "deep-prompt": lambda home, name: Prompt(home, LENGTH, zero_prompt(home), [1] if name in tiny.SEQ2SEQ else [1, 3]),
    "bias": lambda home, name: Bias(home, range(4)),
    "adapter": lambda home, name: Adapter(home, LENGTH, range(4), start_seed=1),
    "full": lambda home, name: Full(home),
}
FEW = ("bias", "adapter", "full")
"""Kinds that need fewer models: hooks and forwards of whole modules, which do not depend on what lies inside."""
SOME = ("bert", "deberta-v2", "gpt2", "gemma3_text", "t5", "bart")


def zero_prompt(home):
    return torch.zeros(LENGTH, home.embedding_weight.shape[1])


def pairs(names, some):
    """All models with the kinds that look into them, some models with the others."""
    return [(n, k) for k in MAKERS for n in names if k not in FEW or n in some]


class House:
    """A tiny model, one tunable, and the objective over a few rows."""

    def __init__(self, name, kind, double=False):
        self.name = name
        self.backbone = tiny.backbone(name)
        self.model = self.backbone.model
        if double:
            self.model.double()
        self.tunable = MAKERS[kind](self.backbone, name)
        verbalizer = resolve(self.backbone.tokenizer, TEMPLATE, WORDS)
        self.engine = Engine(self.backbone.stack(verbalizer), self.tunable, torch.tensor(verbalizer.weights()))
        prompts = [self.backbone.encode(TEMPLATE, {"text": text}, 64) for text in TEXTS]
        self.prompts = [self.tunable.reserve(prompt) for prompt in prompts]
        self.batch = self.collate()
        self.objective = LabelWordEvaluator(self.engine, self.batch, cross_entropy, lambda found, gold: 0.0)

    def collate(self, **options):
        return collate(self.prompts, LABELS, CPU, **options)

    def point(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        point = {b: torch.randn(self.tunable.dim(b), generator=generator) * 0.3 for b in self.tunable.blocks}
        if isinstance(self.tunable, Full):
            return {INPUT: self.tunable.initial()[INPUT] + point[INPUT] * 0.1}
        return point


@functools.cache
def house(name, kind, double=False):
    return House(name, kind, double)


@pytest.fixture(params=MAKERS, ids=str)
def kind(request):
    return request.param


@pytest.fixture(params=tiny.CONFIGS, ids=str)
def name(request):
    return request.param


def slope(loss, point, direction, step=2e-3):
    """Derivative of `loss` along a direction, by central differences of the fourth order."""

    def at(factor):
        return loss({b: v.double() + factor * step * direction[b] if b in direction else v for b, v in point.items()})

    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)


# OPT's ReLU has kinks, where differences say nothing
@pytest.mark.parametrize(
    ("name", "kind"),
    pairs(["bert", "electra", "deberta-v2", "gpt_neox", "llama", "gemma2", "t5"], ["bert", "llama", "t5"]),
)
def test_gradients_equal_finite_differences(name, kind):
    """Block by block along a random direction, and over all blocks along the gradient itself, in float64."""
    home = house(name, kind, double=True)
    point, blocks = home.point(), home.tunable.blocks
    found, gradients = home.objective.gradient_on(home.batch, point, blocks)

    def loss(at):
        return home.objective.measure_on(home.batch, at).loss

    assert found == pytest.approx(loss(point), abs=1e-6)
    assert tuple(gradients) == blocks
    generator = torch.Generator().manual_seed(1)
    for block in blocks:
        assert gradients[block].shape == (home.tunable.dim(block),) and gradients[block].dtype == torch.float32
        # near the gradient's own direction, so that there is something to measure
        noise = torch.randn(home.tunable.dim(block), generator=generator).double()
        own = gradients[block].double() / gradients[block].norm()
        direction = own + noise / noise.norm()
        assert slope(loss, point, {block: direction}) == pytest.approx(
            float(direction @ gradients[block].double()), rel=1e-2, abs=2e-4
        )
        entry = int(gradients[block].abs().argmax())
        unit = torch.zeros(home.tunable.dim(block)).double()
        unit[entry] = 1
        assert slope(loss, point, {block: unit}) == pytest.approx(float(gradients[block][entry]), rel=1e-2, abs=2e-4)
    size = float(torch.cat(list(gradients.values())).norm())
    assert size > 1e-3
    uphill = {block: gradient.double() / size for block, gradient in gradients.items()}
    assert slope(loss, point, uphill) == pytest.approx(size, rel=1e-2)


def test_prompt_gradients_equal_those_of_the_plain_model(name):
    """Every entry, in float32: the model called with vectors between embeddings by hand, row by row, and torch's autograd."""
    home = house(name, "deep-prompt")
    point = home.point()
    loss, gradients = home.objective.gradient_on(home.batch, point, home.tunable.blocks)
    leaves = {block: vector.clone().requires_grad_() for block, vector in point.items()}
    (_, first), *deep = [(block, leaf.view(LENGTH, -1)) for block, leaf in leaves.items()]
    place = 1 if name in tiny.MASKED else 0
    ids = [[home.backbone.tokenizer.convert_tokens_to_ids(w) for w in words] for words in WORDS.values()]
    total = 0
    for prompt, label in zip(home.prompts, LABELS, strict=True):
        plain = prompt.ids[:place] + prompt.ids[place + LENGTH :]
        logits = oracle.prompted_logits(home.model, name, plain, place, first, dict(deep))[0, prompt.answer]
        labels = torch.stack([logits[words].mean() for words in ids])
        total = total - labels.log_softmax(dim=0)[label] / len(LABELS)
    total.backward()
    assert loss == pytest.approx(float(total.detach()), abs=1e-5)
    for block, leaf in leaves.items():
        assert leaf.grad.abs().max() > 1e-5
        assert_close(gradients[block], leaf.grad, atol=1e-5, rtol=1e-4)


def test_lora_gradients_equal_those_of_the_weights(name):
    """Every entry: the terms added into a copy's weights W, and torch's gradient of W handed on to A and B."""
    home = house(name, "lora")
    point = home.point()
    loss, gradients = home.objective.gradient_on(home.batch, point, home.tunable.blocks)
    changed = oracle.merged(home.model, name, point, 2).requires_grad_()
    ids = [[home.backbone.tokenizer.convert_tokens_to_ids(w) for w in words] for words in WORDS.values()]
    total = 0
    for prompt, label in zip(home.prompts, LABELS, strict=True):
        logits = oracle.all_logits(changed, torch.tensor([prompt.ids]))[0, prompt.answer]
        labels = torch.stack([logits[words].mean() for words in ids])
        total = total - labels.log_softmax(dim=0)[label] / len(LABELS)
    total.backward()
    assert loss == pytest.approx(float(total.detach()), abs=1e-5)
    for block in home.tunable.blocks:
        factors = home.tunable.factors(block, point[block])
        found = home.tunable.factors(block, gradients[block])
        for part, slope_of_w in zip(("q", "k"), oracle.gradient_rows(changed, name, block), strict=True):
            (a, b), (da, db) = factors[part], found[part]
            assert slope_of_w.abs().max() > 1e-6
            assert_close(da, slope_of_w.T @ b.T, atol=2e-5, rtol=1e-3)
            assert_close(db, a.T @ slope_of_w.T, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", FEW)
def test_gradients_equal_those_of_a_changed_model(name, kind):
    """Every entry: a copy that is really changed, row by row, and torch's autograd."""
    home = house(name, kind)
    point = home.point()
    loss, gradients = home.objective.gradient_on(home.batch, point, home.tunable.blocks)
    leaves = {block: vector.clone().requires_grad_() for block, vector in point.items()}
    if kind == "full":
        changed = oracle.with_weights(home.model, point[INPUT]).requires_grad_()
    elif kind == "bias":
        changed = oracle.shifted(home.model, name, leaves)
    else:
        changed = oracle.adapted(home.model, name, leaves, LENGTH)
    ids = [[home.backbone.tokenizer.convert_tokens_to_ids(w) for w in words] for words in WORDS.values()]
    total = 0
    for prompt, label in zip(home.prompts, LABELS, strict=True):
        logits = oracle.all_logits(changed, torch.tensor([prompt.ids]))[0, prompt.answer]
        labels = torch.stack([logits[words].mean() for words in ids])
        total = total - labels.log_softmax(dim=0)[label] / len(LABELS)
    total.backward()
    assert loss == pytest.approx(float(total.detach()), abs=1e-5)
    slopes = {block: leaf.grad for block, leaf in leaves.items()}
    if kind == "full":
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in changed.parameters()]
        slopes = {INPUT: torch.cat([slope.reshape(-1) for slope in found])}
    for block, expected in slopes.items():
        assert expected.abs().max() > 1e-4
        assert_close(gradients[block], expected, atol=1e-5, rtol=1e-3)


def test_drawn_lora_has_a_gradient_where_it_begins(name):
    """A is drawn and B is zero: the first point is the pretrained model, and there is a way to go from it."""
    home = house(name, "lora")
    begin = home.tunable.initial()
    pretrained = home.engine.logits(home.batch, {})
    assert torch.equal(home.engine.logits(home.batch, begin), pretrained)
    _, gradients = home.objective.gradient_on(home.batch, begin, home.tunable.blocks)
    for block in home.tunable.blocks:
        for a, b in home.tunable.factors(block, begin[block]).values():
            assert 0 < a.abs().max() <= a.shape[0] ** -0.5 and not b.any()
        for a, b in home.tunable.factors(block, gradients[block]).values():
            assert b.abs().max() > 1e-6 and not a.any()


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("begin", ["bias", "drawn adapter", "zero adapter"])
def test_biases_and_adapters_have_a_gradient_where_they_begin(name, begin):
    """At the pretrained model: of the biases, of all that stands behind a drawn W_down, of b_up alone where that is zero."""
    home = house(name, begin.split()[-1])
    point = home.tunable.initial()
    if begin == "zero adapter":
        point = {block: torch.zeros_like(vector) for block, vector in point.items()}
    assert torch.equal(home.engine.logits(home.batch, point), home.engine.logits(home.batch, {}))
    _, gradients = home.objective.gradient_on(home.batch, point, home.tunable.blocks)
    for block in home.tunable.blocks:
        assert gradients[block].abs().max() > 1e-5
        if begin != "bias":
            cut = 32 * LENGTH
            w_down, b_down, w_up, b_up = (piece.any() for piece in gradients[block].split([cut, LENGTH, cut, 32]))
            assert (w_down, b_down, w_up, b_up) == (False, False, begin == "drawn adapter", True)


def test_a_gradient_of_some_blocks_only(kind):
    home = house("bert", kind)
    point = home.point()
    loss, all_of_them = home.objective.gradient_on(home.batch, point, home.tunable.blocks)
    for block in home.tunable.blocks:
        again, one = home.objective.gradient_on(home.batch, point, [block])
        assert again == loss and list(one) == [block] and torch.equal(one[block], all_of_them[block])


def test_a_gradient_of_rows_is_the_mean_of_theirs(kind):
    home = house("llama", kind)
    point = home.point()
    loss, whole = home.objective.gradient_on(home.batch, point, home.tunable.blocks)
    alone = [
        home.objective.gradient_on(collate([p], [label], CPU), point, home.tunable.blocks)
        for p, label in zip(home.prompts, LABELS, strict=True)
    ]
    assert loss == pytest.approx(sum(found for found, _ in alone) / len(alone), abs=1e-6)
    for block in home.tunable.blocks:
        mean = sum(gradients[block] for _, gradients in alone) / len(alone)
        assert_close(whole[block], mean, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("name", "kind"), pairs(tiny.CONFIGS, SOME))
def test_nothing_of_the_model_changes(name, kind):
    """No weight, no .grad, no hook, no cached tensor that a later pass trips over."""
    home = house(name, kind)
    point = home.point()
    kept, weights, traces = copy.deepcopy(point), copy.deepcopy(home.model.state_dict()), oracle.traces(home.model)
    expected = home.engine.logits(home.batch, point)
    first = home.objective.gradient_on(home.batch, point, home.tunable.blocks)
    block = home.tunable.blocks[-1]
    home.engine.population_logits(home.batch, point, {block: torch.stack([point[block], -point[block]])})
    second = home.objective.gradient_on(home.batch, point, home.tunable.blocks)
    assert first[0] == second[0]
    assert all(torch.equal(first[1][block], second[1][block]) for block in point)
    assert torch.equal(home.engine.logits(home.batch, point), expected)
    assert all(parameter.grad is None for parameter in home.model.parameters())
    assert not any(parameter.requires_grad for parameter in home.model.parameters())
    assert all(torch.equal(weights[key], value) for key, value in home.model.state_dict().items())
    assert oracle.traces(home.model) == traces
    for block, vector in point.items():
        assert torch.equal(vector, kept[block]) and not vector.requires_grad and vector.grad is None
        assert not second[1][block].requires_grad


@pytest.mark.parametrize(("name", "kind"), pairs(tiny.CONFIGS, SOME))
def test_filled_up_rows_score_as_exact_ones(name, kind):
    """Rows of all lengths in one group: the same logits, loss and gradients as row beside row of one length."""
    home = house(name, kind)
    point, causal = home.point(), home.backbone.kind == "causal"
    logits = home.engine.logits(home.batch, point)
    loss, gradients = home.objective.gradient_on(home.batch, point, home.tunable.blocks)
    for masked in (True, False) if causal else (True,):
        filled = home.collate(stretch=10.0, masked=masked)
        assert len(home.batch.groups) > 2 and len(filled.groups) == 1
        assert (filled.groups[0].mask is not None) == masked
        assert_close(home.engine.logits(filled, point), logits, atol=1e-5, rtol=1e-5)
        found, others = home.objective.gradient_on(filled, point, home.tunable.blocks)
        assert found == pytest.approx(loss, abs=1e-6)
        for block in home.tunable.blocks:
            assert_close(others[block], gradients[block], atol=1e-5, rtol=1e-4)
    if not causal:  # the mask is what does it
        seen = home.engine.logits(home.collate(stretch=10.0, masked=False), point)
        assert (seen - logits).abs().max() > 1e-3


@pytest.mark.parametrize("stretch", [1.2, 1.5, 2.0])
def test_some_stretch_and_little_memory(name, stretch):
    home = house(name, "deep-prompt")
    point, engine = home.point(), house(name, "deep-prompt").engine
    expected = engine.logits(home.batch, point)
    filled = home.collate(stretch=stretch, masked=home.backbone.kind != "causal", max_rows=2)
    assert max(len(group.ids) for group in filled.groups) == 2
    assert_close(engine.logits(filled, point), expected, atol=1e-5, rtol=1e-5)
    engine.max_memory = 1e-6  # a row at a time
    try:
        assert_close(engine.logits(filled, point), expected, atol=1e-5, rtol=1e-5)
    finally:
        engine.max_memory = 256.0


def test_what_a_row_is_filled_with_does_not_matter(name):
    home = house(name, "prompt")
    point = home.point()
    (group,) = home.collate(stretch=10.0).groups
    logits, gradients = [], []
    for filler in (group.ids, torch.where(group.mask == 1, group.ids, torch.full_like(group.ids, 17))):
        other = copy.copy(group)
        object.__setattr__(other, "ids", filler)
        leaves = {block: vector.clone().requires_grad_() for block, vector in point.items()}
        found = home.engine.gradient_logits(other, leaves)
        found.square().sum().backward()
        logits.append(found.detach())
        gradients.append([leaf.grad for leaf in leaves.values()])
    assert_close(*logits, atol=1e-6, rtol=1e-5)
    for one, two in zip(*gradients, strict=True):
        assert_close(one, two, atol=1e-5, rtol=1e-4)
