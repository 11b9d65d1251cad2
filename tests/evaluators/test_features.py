"""Views are what the model computes on the way to its label words, for every architecture."""

from __future__ import annotations

import contextlib
import functools

import pytest
import torch
from torch.testing import assert_close

import tiny
from tandemtune.errors import UsageError
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import read, read_population, read_with_gradient, soft_cap, word_logits
from tandemtune.evaluators.views import ANSWER, ANSWER_MIDDLE, MEAN, MEAN_MIDDLE, View
from tandemtune.models.layers import hooked
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.identity import Identity
from tandemtune.tunables.lora import LoRATerms

CLOSE = {"atol": 2e-5, "rtol": 2e-5}
WORDS = {"bad": ["terrible", "dull"], "good": ["great"], "other": ["fine", "news"]}
TEXTS = ["a great movie", "the plot was dull", "i hated this film and the acting", "a review", "they saw a film"]
TEMPLATE = Template.parse("{text} it was {mask} .")


class House:
    """A tiny backbone, its engine over LoRA on all layers, and a few prompts."""

    def __init__(self, name):
        self.backbone = tiny.backbone(name)
        self.verbalizer = resolve(self.backbone.tokenizer, TEMPLATE, WORDS)
        self.tunable = LoRATerms(self.backbone, 2, range(4))
        self.stack = self.backbone.stack(self.verbalizer)
        self.averaging = torch.tensor(self.verbalizer.weights())
        self.engine = Engine(self.stack, self.tunable, self.averaging)
        self.prompts = [self.backbone.encode(TEMPLATE, {"text": text}, 64) for text in TEXTS]
        self.batch = self.collate()
        generator = torch.Generator().manual_seed(0)
        self.point = {b: torch.randn(self.tunable.dim(b), generator=generator) * 0.3 for b in self.tunable.blocks}

    def collate(self, **options):
        return collate(self.prompts, [0] * len(self.prompts), torch.device("cpu"), **options)

    def candidates(self, *blocks, count=3):
        generator = torch.Generator().manual_seed(7)
        return {b: torch.randn(count, self.tunable.dim(b), generator=generator) * 0.3 for b in blocks}

    @torch.no_grad()
    def by_hand(self, catch):
        """What `catch` makes of a module's inputs, prompt by prompt, in a plain pass of the whole model."""
        module, take = catch
        found = []

        def hook(module, args, kwargs):
            found.append(take(args, kwargs).clone())

        with self.tunable.applied(self.point), hooked(module.register_forward_pre_hook(hook, with_kwargs=True)):
            for prompt in self.prompts:
                given = {"input_ids": torch.tensor([prompt.ids])}
                if self.backbone.kind == "seq2seq":
                    begin = self.backbone.model.config.decoder_start_token_id
                    given["decoder_input_ids"] = torch.tensor([[begin]])
                self.backbone.model(**given)
        return found


house = functools.cache(House)


def entering(args, kwargs):
    return args[0] if args else kwargs["hidden_states"]


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_answer_view_is_what_the_head_multiplies(name):
    h = house(name)
    whole = h.by_hand((h.stack.head, lambda args, kwargs: args[0]))
    expected = torch.stack([one[0, prompt.answer] for one, prompt in zip(whole, h.prompts, strict=True)])
    reading = read(h.engine, h.batch, h.point)
    assert_close(reading.views[ANSWER], expected, **CLOSE)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_head_makes_the_engines_label_logits_of_the_answer_view(name):
    h = house(name)
    reading = read(h.engine, h.batch, h.point)
    assert_close(reading.logits, h.engine.logits(h.batch, h.point), **CLOSE)
    assert_close(word_logits(h.stack, reading.views[ANSWER]) @ h.averaging, reading.logits, **CLOSE)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_mean_view_is_the_mean_of_the_texts_hidden_states(name):
    h = house(name)
    if h.backbone.kind == "seq2seq":
        decoder = h.backbone.model.get_decoder()
        catch = (decoder, lambda args, kwargs: kwargs["encoder_hidden_states"])
    else:
        catch = (h.backbone.layers[-1], entering)
    expected = torch.stack([one[0].mean(dim=0) for one in h.by_hand(catch)])
    assert_close(read(h.engine, h.batch, h.point, [MEAN]).views[MEAN], expected, **CLOSE)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_middle_is_the_layer_with_as_many_before_it_as_behind_it(name):
    """In a model of an encoder and a decoder, that of the stack which has the text or the answer."""
    h = house(name)
    read_at, answered_at = (1, 3) if h.backbone.kind == "seq2seq" else (2, 2)
    place = [0 if h.backbone.kind == "seq2seq" else prompt.answer for prompt in h.prompts]
    reading = read(h.engine, h.batch, h.point, [MEAN_MIDDLE, ANSWER_MIDDLE])
    texts, answers = (h.by_hand((h.backbone.layers[layer], entering)) for layer in (read_at, answered_at))
    means = torch.stack([one[0].mean(dim=0) for one in texts])
    assert_close(reading.views[MEAN_MIDDLE], means, **CLOSE)
    at_answers = torch.stack([one[0, position] for one, position in zip(answers, place, strict=True)])
    assert_close(reading.views[ANSWER_MIDDLE], at_answers, **CLOSE)


@pytest.mark.parametrize("forced", [None, 7])
def test_a_decoder_may_be_given_two_marks(forced):
    """BART's <s>, or the code of a language: the answer stands behind them."""
    h = House("bart")
    h.backbone.__dict__.pop("prefix", None)
    h.backbone.model.generation_config.forced_bos_token_id = forced
    begin = [h.backbone.model.config.decoder_start_token_id, *([forced] if forced else [])]
    assert list(h.backbone.prefix) == begin
    h.stack = h.backbone.stack(h.verbalizer)
    h.engine = Engine(h.stack, h.tunable, h.averaging)
    h.prompts = [h.backbone.encode(TEMPLATE, {"text": text}, 64) for text in TEXTS]
    h.batch = h.collate()
    caught: dict[int, list[torch.Tensor]] = {1: [], 3: []}
    with torch.no_grad(), h.tunable.applied(h.point), contextlib.ExitStack() as hooks:
        for layer, found in caught.items():
            hook = h.backbone.layers[layer].register_forward_pre_hook(
                lambda module, args, kwargs, found=found: found.append(entering(args, kwargs)[0].clone()),
                with_kwargs=True,
            )
            hooks.enter_context(hooked(hook))
        for prompt in h.prompts:
            h.backbone.model(input_ids=torch.tensor([prompt.ids]), decoder_input_ids=torch.tensor([begin]))
    expected = {
        MEAN_MIDDLE: torch.stack([states.mean(dim=0) for states in caught[1]]),
        ANSWER_MIDDLE: torch.stack([states[len(begin) - 1] for states in caught[3]]),
    }
    views = [MEAN_MIDDLE, ANSWER_MIDDLE, MEAN]
    alone = read(h.engine, h.batch, h.point, views)
    # candidates in the last layer: the views below it are those of the states that the engine keeps
    population = read_population(h.engine, h.batch, h.point, h.candidates(3), views)
    for view, values in expected.items():
        assert_close(alone.views[view], values, **CLOSE)
        assert_close(population.views[view], values.expand(3, -1, -1), **CLOSE)
    assert_close(population.views[MEAN], alone.views[MEAN].expand(3, -1, -1), **CLOSE)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_rows_that_are_filled_up_have_the_same_views(name):
    h = house(name)
    views = [ANSWER, MEAN, View("mean", 1), MEAN_MIDDLE, ANSWER_MIDDLE]
    apart = read(h.engine, h.batch, h.point, views)
    stretched = h.collate(stretch=9.0, masked=True)
    together = read(h.engine, stretched, h.point, views)
    assert any(group.mask is not None for group in stretched.groups)
    for view in views:
        assert_close(together.views[view], apart.views[view], **CLOSE)


@pytest.mark.grid
@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_population_has_the_views_of_its_candidates(name, first):
    h = house(name)
    views = [MEAN, ANSWER, View("mean", 1), View("answer", 3), MEAN_MIDDLE, ANSWER_MIDDLE]
    candidates = h.candidates(*({first, 3}))
    side_by_side = h.tunable.side_by_side
    found = read_population(h.engine, h.batch, h.point, candidates, views)
    assert list(found.views) == views
    for p in range(3):
        one = {**h.point, **{block: vectors[p] for block, vectors in candidates.items()}}
        alone = read(h.engine, h.batch, one, views)
        assert_close(found.logits[p], alone.logits, **CLOSE)
        for view in views:
            assert_close(found.views[view][p], alone.views[view], msg=f"{view} {side_by_side}", **CLOSE)


def test_kept_states_are_shared_with_the_engine_and_its_logits_stay_label_logits():
    h = House("llama")
    before = h.engine.population_logits(h.batch, h.point, h.candidates(2))
    read_population(h.engine, h.batch, h.point, h.candidates(2), [ANSWER, MEAN])
    after = h.engine.population_logits(h.batch, h.point, h.candidates(2))
    assert after.shape == (3, len(TEXTS), len(WORDS))
    assert torch.equal(before, after)


def test_views_carry_gradients():
    h = house("t5")
    leaves = {block: vector.clone().requires_grad_() for block, vector in h.point.items()}
    group = h.batch.groups[0]
    reading = read_with_gradient(h.engine, group, leaves, [ANSWER, MEAN])
    sum(view.square().sum() for view in reading.views.values()).backward()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves.values())
    plain = read(h.engine, h.batch, h.point, [ANSWER])
    assert_close(reading.views[ANSWER].detach(), plain.views[ANSWER][group.rows], **CLOSE)


def test_without_anything_to_tune():
    h = house("gpt2")
    engine = Engine(h.stack, Identity(), h.averaging)
    zero = {block: torch.zeros_like(vector) for block, vector in h.point.items()}
    assert_close(read(engine, h.batch, {}).views[ANSWER], read(h.engine, h.batch, zero).views[ANSWER], **CLOSE)


def test_views_by_name():
    for text, view in {
        "answer": ANSWER,
        "mean": MEAN,
        "mean@6": View("mean", 6),
        "mean@middle": MEAN_MIDDLE,
        "answer@middle": ANSWER_MIDDLE,
    }.items():
        assert View.parse(text) == view and str(view) == text
    for wrong in ("", "middle", "mean@", "mean@x", "mean@-1", "@3", "mean@middles", "tower@middle"):
        with pytest.raises(UsageError, match="expected answer or mean"):
            View.parse(wrong)


def test_a_view_that_a_model_does_not_have_is_refused():
    h = house("t5")
    with pytest.raises(UsageError, match="no answer position: take mean@1, or a layer from 2 on"):
        read(h.engine, h.batch, h.point, [View("answer", 1)])
    with pytest.raises(UsageError, match="layers are 0 to 3"):
        read(h.engine, h.batch, h.point, [View("mean", 4)])


def test_soft_caps_are_known():
    assert soft_cap(house("gemma2").stack) == 30.0
    assert soft_cap(house("llama").stack) is None
