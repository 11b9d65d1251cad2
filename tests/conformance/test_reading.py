"""Keys and values of the text that a decoder reads: made once for all candidates, with the losses that they had before."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine, bytes_per_token
from tandemtune.evaluators.label_words import LabelWordEvaluator
from tandemtune.models import architectures
from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import replaced_forward
from tandemtune.objectives.cross_entropy import CrossEntropy
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.base import Layerwise
from tandemtune.tunables.bias import Bias
from tandemtune.tunables.lora import LoRATerms

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import architectures as zoo

READING = ("t5", "mt5", "umt5", "bart", "mbart", "blenderbot", "m2m_100", "marian", "pegasus", "plbart")
OWN_WAY = ("switch_transformers", "t5gemma", "longt5")
"""Their attention goes by a function that nobody can choose."""
TEXTS = (
    "it was so very",
    "we saw the film of this story",
    "the cast",
    "they saw this film",
    "not in the end of the room .",
)
FIRST, LAST = 3, 5
"""Layers of the decoder."""


class Home:
    """A tiny model of one family with candidates, and two engines: one reads the texts once, one for each candidate."""

    def __init__(self, name, make=lambda backbone: LoRATerms(backbone, 2, range(6)), **options):
        model = zoo.model(name, "seq2seq", 0.2)
        self.backbone = Backbone(name, model, zoo.tokenizer(), "seq2seq", architectures.find(model))
        words = resolve(self.backbone.tokenizer, zoo.template("seq2seq"), zoo.WORDS, alone=True)
        prompts = [self.backbone.encode(zoo.template("seq2seq"), {"text": text}, 64) for text in TEXTS]
        self.batch = collate(prompts, [0, 1, 0, 1, 1], torch.device("cpu"))
        self.tunable = make(self.backbone)
        weights = torch.tensor(words.weights())
        self.engine = Engine(self.backbone.stack(words), self.tunable, weights, **options)
        self.each = Engine(self.backbone.stack(words), self.tunable, weights)
        self.each.stack.readers = {}

    def point(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return {b: 0.2 * torch.randn(self.tunable.dim(b), generator=generator) for b in self.tunable.blocks}

    def candidates(self, *blocks, count=3):
        generator = torch.Generator().manual_seed(9)
        return {b: 0.2 * torch.randn(count, self.tunable.dim(b), generator=generator) for b in blocks}

    def maps(self):
        return [each for maps in self.engine.stack.readers.values() for each in maps]


def close(found, expected):
    assert_close(found, expected, atol=2e-6, rtol=1e-6)
    assert (expected[0] - expected[1]).abs().max() > 1e-4


@pytest.mark.parametrize("name", READING)
def test_logits_are_those_of_texts_read_for_each_candidate(name):
    home = Home(name)
    assert len(home.batch.groups) > 2 and len(home.maps()) == 6
    for blocks in ((FIRST,), (LAST,), (FIRST + 1, LAST), (1,)):
        point, candidates = home.point(), home.candidates(*blocks)
        expected = home.each.population_logits(home.batch, point, candidates)
        close(home.engine.population_logits(home.batch, point, candidates), expected)
        one = {block: vectors[:1] for block, vectors in candidates.items()}
        assert_close(home.engine.population_logits(home.batch, point, one), expected[:1], atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("name", OWN_WAY)
def test_others_read_the_text_for_each_candidate(name):
    home = Home(name)
    assert not home.maps() and not home.engine.reads_once([LAST])


def test_maps_run_once_until_the_encoder_changes(monkeypatch):
    home = Home("t5")
    calls = []
    for each in home.maps():
        own = each.forward
        monkeypatch.setitem(each.__dict__, "forward", lambda text, own=own: calls.append(text.shape[1]) or own(text))
    point = home.point()
    for seed in (1, 2):
        candidates = {FIRST: home.candidates(FIRST)[FIRST] * seed}
        home.engine.population_logits(home.batch, {**point, LAST: home.point(seed)[LAST]}, candidates)
    assert calls == [home.batch.tokens] * 6
    home.engine.population_logits(home.batch, {**point, 1: home.point(3)[1]}, candidates)
    assert calls == [home.batch.tokens] * 12


@pytest.mark.parametrize("tokens", [1, 30, 60])
def test_memory_bound_holds_and_changes_nothing(tokens, monkeypatch):
    home = Home("bart")
    home.engine.max_memory = tokens * bytes_per_token(home.engine.stack) / 1e6
    point, candidates = home.point(), home.candidates(LAST, count=7)
    seen, own = [], home.engine.stack.logits
    monkeypatch.setattr(home.engine.stack, "logits", lambda ids, *a, **k: seen.append(len(ids)) or own(ids, *a, **k))
    found = home.engine.population_logits(home.batch, point, candidates)
    close(found, home.each.population_logits(home.batch, point, candidates))
    assert max(seen) <= tokens and len(seen) > 1


def test_few_passes_where_much_fits(monkeypatch):
    home = Home("t5")
    seen, own = [], home.engine.stack.logits
    monkeypatch.setattr(home.engine.stack, "logits", lambda ids, *a, **k: seen.append(len(ids)) or own(ids, *a, **k))
    home.engine.population_logits(home.batch, home.point(), home.candidates(LAST, count=7))
    assert seen == [7 * len(TEXTS)]


def test_a_bias_of_the_maps_themselves():
    home = Home("bart", lambda backbone: Bias(backbone, range(6)))
    point, candidates = home.point(), home.candidates(FIRST, LAST)
    expected = home.each.population_logits(home.batch, point, candidates)
    close(home.engine.population_logits(home.batch, point, candidates), expected)


class OwnForward(Layerwise):
    """Puts another forward in the place of each decoder layer's key map, whose outputs it scales."""

    side_by_side = True

    def __init__(self, backbone):
        self.blocks = (FIRST, LAST)
        self.maps = {block: backbone.layers[block].layer[1].EncDecAttention.k for block in self.blocks}

    def dim(self, block):
        return 1

    def initial(self):
        return {block: torch.zeros(1) for block in self.blocks}

    @contextmanager
    def applied(self, point):
        from contextlib import ExitStack

        with ExitStack() as stack:
            for block, vector in point.items():
                stack.enter_context(replaced_forward(self.maps[block], self.scaled(block, vector.reshape(-1))))
            yield

    def scaled(self, block, factors):
        own = self.maps[block].forward

        def forward(hidden):
            return (own(hidden).unflatten(0, (len(factors), -1)) * (1 + 5 * factors.view(-1, 1, 1, 1))).flatten(0, 1)

        return forward


def test_another_forward_of_a_map_is_called():
    home = Home("t5", OwnForward)
    for blocks in ((FIRST,), (LAST,), (FIRST, LAST)):
        point, candidates = home.point(), home.candidates(*blocks)
        expected = home.each.population_logits(home.batch, point, candidates)
        close(home.engine.population_logits(home.batch, point, candidates), expected)


def test_costs_are_those_of_what_is_computed():
    home = Home("t5")
    engine, train = home.engine, home.batch
    evaluator = LabelWordEvaluator(engine, train, CrossEntropy().loss(None), lambda one, other: 0.0)
    text, answer, rows = engine.stack.costs, engine.stack.answer_costs, len(TEXTS)
    assert 0 < text[LAST] < 1 and answer[FIRST] == pytest.approx(answer[LAST]) and answer[0] == 0
    assert evaluator.cost([LAST], 5).forward == round(5 * rows * answer[LAST])
    assert evaluator.cost([LAST], 5, kept=LAST - 1).forward == round(
        5 * rows * answer[LAST] + rows * answer[LAST - 1] + train.tokens * text[LAST - 1]
    )
    entered = 5 * rows * sum(answer[FIRST:]) + train.tokens * (1 + sum(text[FIRST:]))
    assert evaluator.cost([FIRST], 5, kept=FIRST - 1).forward == round(entered)
    whole = train.tokens * sum(text) + rows * sum(answer)
    assert evaluator.cost([0], 2).forward == round(2 * whole)
    assert evaluator.cost_to_measure().forward == round(whole)
    engine.max_memory = 1e-6  # nothing can be kept: read anew each time
    assert evaluator.cost([LAST], 5).forward == round(5 * rows * answer[LAST] + train.tokens * sum(text[FIRST:]))


def test_costs_where_texts_are_read_for_each_candidate():
    home = Home("longt5")
    evaluator = LabelWordEvaluator(home.engine, home.batch, CrossEntropy().loss(None), lambda one, other: 0.0)
    text, answer = home.engine.stack.costs[LAST], home.engine.stack.answer_costs[LAST]
    assert evaluator.cost([LAST], 5).forward == round(5 * (home.batch.tokens * text + len(TEXTS) * answer))
