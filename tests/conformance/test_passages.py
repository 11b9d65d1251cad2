"""Whole answers: likelihoods and written texts of a population are those of the plain model with changed weights, one by one."""

from __future__ import annotations

import functools
from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import oracle
import tiny
from tandemtune.errors import ModelError
from tandemtune.evaluators import likelihood as likelihoods
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.likelihood import Likelihood
from tandemtune.evaluators.passages import Passage, collate_passages
from tandemtune.evaluators.writing import LEAVING, Sampling, Writer
from tandemtune.models.answers import AnswerCoder
from tandemtune.models.passages import PassageStack
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.base import INPUT
from tandemtune.tunables.full import Full
from tandemtune.tunables.lora import LoRATerms
from tandemtune.tunables.prompt import Prompt

pytestmark = pytest.mark.grid

TEMPLATE = Template.parse("{text} it was {mask}")
TEXTS = [
    "a great movie",
    "the plot was dull",
    "i hated this film and the acting",
    "a review",
    "they saw a film",
    "we saw it",
]
ANSWERS = [(6, 9, 3), (12, 3), (8, 8, 10, 11, 3), (7,), (30, 31, 3), (9, 9, 9, 9)]
ENDS = [3, 9, 12, 14, 20]
MOST, RANK = 10, 2
NAMES = (*tiny.CAUSAL, *tiny.SEQ2SEQ)
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
SMALL, SMALLEST = 0.01, 0.0005
"""Megabytes that make chunks of a row, and that let one token at a time reach the head."""


class House:
    """A tiny model with LoRA beside it, prompts and answers."""

    def __init__(self, name, make=lambda backbone: LoRATerms(backbone, RANK, range(4))):
        self.name, self.backbone = name, tiny.backbone(name)
        self.backbone.model.generation_config.eos_token_id = ENDS
        self.tunable = make(self.backbone)
        self.stack = self.backbone.passages(Verbalizer((), (6, 7), ()))
        self.prompts = [self.tunable.reserve(self.backbone.encode(TEMPLATE, {"text": text}, 64)) for text in TEXTS]
        self.passages = [Passage(prompt, answer) for prompt, answer in zip(self.prompts, ANSWERS, strict=True)]
        self.batch = collate_passages(self.passages, self.stack)

    def engine(self, max_memory=256.0):
        return Engine(self.stack, self.tunable, torch.zeros(2, 0), max_memory=max_memory)

    def writer(self, max_memory=256.0):
        return Writer(self.engine(max_memory), AnswerCoder(self.backbone, TEMPLATE, MOST))

    def vectors(self, block, count, seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, self.tunable.dim(block), generator=generator) * 0.3

    @property
    def point(self):
        return {block: self.vectors(block, 1, block + 5)[0] for block in self.tunable.blocks}

    def changed(self, point):
        return oracle.merged(self.backbone.model, self.name, point, RANK)

    def plain_likelihoods(self, model):
        """Minus the loss that the model itself gives for each answer [S]."""
        found = []
        for prompt, answer in zip(self.prompts, ANSWERS, strict=True):
            if self.backbone.kind == "seq2seq":
                begin = torch.tensor([[*self.backbone.prefix, *answer[:-1]]])
                logits = model(input_ids=torch.tensor([prompt.ids]), decoder_input_ids=begin, use_cache=False).logits[0]
                logits = logits[len(self.backbone.prefix) - 1 :]
                labels = torch.tensor(answer)
                found.append(-torch.nn.functional.cross_entropy(logits, labels))
                continue
            ids = torch.tensor([[*prompt.ids, *answer]])
            labels = torch.tensor([[*[-100] * len(prompt.ids), *answer]])
            found.append(-model(input_ids=ids, labels=labels, use_cache=False).loss)
        return torch.stack(found)

    def generated(self, model):
        """What `generate` writes, row by row: tokens without the mark at the end, and how many there are with it."""
        model.generation_config.eos_token_id = ENDS
        found = []
        for prompt in self.prompts:
            ids = torch.tensor([prompt.ids])
            given = {
                "attention_mask": torch.ones_like(ids),
                "do_sample": False,
                "max_new_tokens": MOST,
                "pad_token_id": 0,
            }
            if self.backbone.kind == "seq2seq":
                given["decoder_input_ids"] = torch.tensor([self.backbone.prefix])
            written = model.generate(ids, **given)[0].tolist()
            written = written[len(self.backbone.prefix if self.backbone.kind == "seq2seq" else prompt.ids) :]
            forced = getattr(model.generation_config, "forced_eos_token_id", None)
            ended = written[-1] in (*ENDS, forced)
            found.append((tuple(written[:-1] if ended else written), len(written)))
        return found


@functools.cache
def house(name):
    return House(name)


@pytest.mark.parametrize("name", NAMES)
def test_likelihood_of_a_point_is_the_models_own_loss(name):
    here = house(name)
    likelihood = Likelihood(here.engine())
    with torch.no_grad():
        expected = here.plain_likelihoods(here.changed(here.point))
    assert_close(likelihood.of(here.batch, here.point), expected, **TOLERANCE)
    filled = collate_passages(here.passages, here.stack, stretch=10.0)
    assert_close(likelihood.of(filled, here.point), expected, **TOLERANCE)


@pytest.mark.parametrize("max_memory", [256.0, SMALL, SMALLEST])
@pytest.mark.parametrize("name", NAMES)
def test_likelihoods_of_a_population(name, max_memory):
    here = house(name)
    likelihood = Likelihood(here.engine(max_memory))
    point = here.point
    for layer in (0, 3, 1, 2):
        candidates = here.vectors(layer, 3, layer)
        found = likelihood.of_population(here.batch, point, {layer: candidates})
        for one, vector in zip(found, candidates, strict=True):
            with torch.no_grad():
                expected = here.plain_likelihoods(here.changed({**point, layer: vector}))
            assert_close(one, expected, **TOLERANCE)
        point = {**point, layer: candidates[0]}  # what was kept below may no longer count


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text", "t5", "bart"])
def test_gradients_of_likelihoods(name):
    here = house(name)
    filled = collate_passages(here.passages, here.stack, stretch=10.0)
    likelihood = Likelihood(here.engine())
    leaves = {block: vector.clone().requires_grad_() for block, vector in here.point.items()}
    sum(found.sum() for _, found in likelihood.gradients(filled, leaves)).backward()
    block = 1
    direction = here.vectors(block, 1, 99)[0]
    step = 1e-2
    sides = [{**here.point, block: here.point[block] + sign * step * direction} for sign in (1, -1)]
    above, below = (float(likelihood.of(here.batch, side).double().sum()) for side in sides)
    assert float(leaves[block].grad @ direction) == pytest.approx((above - below) / (2 * step), rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("tunable", [lambda backbone: LoRATerms(backbone, RANK, range(4)), Full], ids=["lora", "full"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text", "t5", "bart"])
def test_chunks_at_the_head_change_no_gradient(name, tunable):
    here = House(name, tunable)
    start = {block: vector + 0.1 * here.vectors(block, 1, block)[0] for block, vector in here.tunable.initial().items()}
    filled = collate_passages(here.passages, here.stack, stretch=10.0)
    wide: list[int] = []
    found = {}
    for max_memory in (256.0, SMALLEST):
        likelihood = Likelihood(here.engine(max_memory))
        leaves = {block: vector.clone().requires_grad_() for block, vector in start.items()}
        with here.stack.head.register_forward_hook(lambda *given: wide.append(len(given[-1]))):
            for _, likely in likelihood.gradients(filled, leaves):
                likely.sum().backward()
        found[max_memory] = [leaves[block].grad for block in here.tunable.blocks]
        if max_memory == SMALLEST:
            assert set(wide) == {1}
        wide.clear()
    assert_close(found[SMALLEST], found[256.0], **TOLERANCE)


@pytest.mark.parametrize("max_memory", [256.0, SMALL])
@pytest.mark.parametrize("name", NAMES)
def test_texts_of_a_population_are_those_of_generate(name, max_memory):
    here = house(name)
    writer = here.writer(max_memory)
    point = here.point
    assert [(text.ids, text.tokens) for text in writer.write(here.prompts, point)[0]] == here.generated(
        here.changed(point)
    )
    for layer in (0, 1, 3):
        candidates = here.vectors(layer, 2, layer + 20)
        found = writer.write(here.prompts, point, {layer: candidates})
        for texts, vector in zip(found, candidates, strict=True):
            expected = here.generated(here.changed({**point, layer: vector}))
            assert [(text.ids, text.tokens) for text in texts] == expected


def test_rows_that_have_ended_leave_the_batch(monkeypatch):
    here = house("llama")
    writer, rows, real = here.writer(), [], PassageStack.next_logits

    def counted(self, tokens, *given):
        rows.append(len(tokens))
        return real(self, tokens, *given)

    monkeypatch.setattr(PassageStack, "next_logits", counted)
    texts = writer.write(here.prompts, here.point)[0]
    left = [sum(text.tokens > place + 1 for text in texts) for place in range(len(rows))]
    assert all(alive > (1 - LEAVING) * many or alive == many for alive, many in zip(left, rows, strict=True))
    assert rows[0] > rows[-1] > 0


@pytest.mark.parametrize(("layer", "times"), [(2, 1), (0, 3)])
def test_prompts_are_read_once_below_the_layer_that_candidates_change(layer, times):
    here = house("llama")
    writer, rows = here.writer(), []
    reads = here.backbone.layers[0].self_attn.q_proj
    with reads.register_forward_hook(lambda module, given, out: rows.append(out.shape[0] * (out.shape[1] > 1))):
        writer.write(here.prompts, here.point, {layer: here.vectors(layer, 3, 1)})
    assert sum(rows) == times * len(TEXTS)


def test_what_a_text_is_stopped_by():
    """Words that cross tokens, and a special token, which stands in no text."""
    here = House("llama")
    here.backbone.model.generation_config.eos_token_id = 3
    tokenizer = here.backbone.tokenizer
    free = [text.ids for text in here.writer().write(here.prompts, {})[0]]

    def ids(stop):
        coder = AnswerCoder(here.backbone, TEMPLATE, MOST, (stop,))
        texts = Writer(here.engine(), coder).write(here.prompts, {})[0]
        return [text.ids for text in texts], [coder.decode(text.ids) for text in texts]

    pairs = Counter(pair for one in free for pair in pairwise(one) if min(pair) > 4)
    pair = pairs.most_common(1)[0][0]
    found, said = ids(stop := tokenizer.decode(list(pair)))
    place = [list(pairwise(one)).index(pair) + 2 if pair in pairwise(one) else len(one) for one in free]
    assert " " in stop and found == [one[:most] for one, most in zip(free, place, strict=True)] != free
    assert said == [tokenizer.decode(list(one), skip_special_tokens=True).partition(stop)[0].strip() for one in free]

    token = pair[1]
    word = tokenizer.convert_ids_to_tokens(token)
    tokenizer.add_tokens([word], special_tokens=True)
    found, _ = ids(word)
    assert found == [one[: one.index(token)] if token in one else one for one in free] != free
    with pytest.raises(ModelError, match="among other text: give it alone"):
        ids(f"so {word}")


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_texts_behind_a_soft_prompt(name):
    """Every next token is the likeliest one where the whole text so far is read anew."""

    def make(backbone):
        return Prompt(backbone, 3, torch.zeros(3, backbone.embedding_weight.shape[1]))

    here = House(name, make)
    candidates = here.vectors(INPUT, 2, 1) * 3
    found = here.writer().write(here.prompts, here.point, {INPUT: candidates})
    assert found[0] != found[1]
    for texts, vector in zip(found, candidates, strict=True):
        for prompt, text in zip(here.prompts, texts, strict=True):
            for place, token in enumerate(text.ids):
                each = collate_passages([Passage(prompt, (*text.ids[:place], one)) for one in range(52)], here.stack)
                likely = Likelihood(here.engine()).of(each, {INPUT: vector}) * (place + 1)
                assert likely[token] >= likely.max() - 1e-4


def test_samples_have_common_random_numbers():
    here = house("llama")
    writer, layer = here.writer(), 2
    same = here.vectors(layer, 1, 3).repeat(3, 1)
    sampling = Sampling(1.0, seed=5, generation=2)
    one, two, three = writer.write(here.prompts, here.point, {layer: same}, sampling)
    assert one == two == three
    assert writer.write(here.prompts, here.point, {layer: same[:2]}, sampling)[0] == one  # whoever stands beside it
    assert here.writer(SMALL).write(here.prompts, here.point, {layer: same[:1]}, sampling)[0] == one
    assert writer.write(here.prompts, here.point, {layer: same}, Sampling(1.0, 5, 3))[0] != one
    greedy = writer.write(here.prompts, here.point, {layer: same})[0]
    assert writer.write(here.prompts, here.point, {layer: same}, Sampling(1e-6, 5, 2))[0] == greedy != one


def test_samples_follow_the_softmax():
    here = house("gpt2")
    prompt = here.prompts[:1] * 400
    first = [
        texts.ids[0] if texts.ids else 3 for texts in here.writer().write(prompt, {}, None, Sampling(1.0, 1, 1))[0]
    ]
    every = [Passage(here.prompts[0], (token,)) for token in range(52)]
    chances = Likelihood(here.engine()).of(collate_passages(every, here.stack), {}).exp()
    ends = torch.tensor(ENDS)
    for token in chances.topk(3).indices.tolist():
        expected = float(chances[ends].sum()) if token in ENDS else float(chances[token])
        share = sum(one == token or (token in ENDS and one == 3) for one in first) / len(first)
        assert share == pytest.approx(expected, abs=0.1)


def test_stop_texts_end_an_answer():
    here = house("llama")
    plain = here.writer().write(here.prompts, here.point)[0]
    tokenizer = here.backbone.tokenizer
    row, token = next((i, t) for i, text in enumerate(plain) for t in text.ids[1:-1] if t >= len(tiny.SPECIAL))
    stop = tokenizer.decode([token])
    coder = AnswerCoder(here.backbone, TEMPLATE, MOST, (stop,))
    text = Writer(here.engine(), coder).write(here.prompts, here.point)[0][row]
    first = plain[row].ids.index(token)
    assert text.ids == plain[row].ids[: first + 1]
    assert coder.decode(text.ids) == tokenizer.decode(plain[row].ids[:first], skip_special_tokens=True).strip()


SHARING = ("gpt2", "opt", "gpt_neox", "llama", "qwen2", "qwen3")
CHOICES = [(6, 9, 3), (6, 12, 3), (8,), (3, 4), (30, 31, 3, 9)]


class Sharing:
    """Passages that share prompts, or what prompts begin with."""

    def __init__(self, name, texts, answers, tunable=None):
        self.here = house(name)
        self.tunable = tunable or self.here.tunable
        room = [self.tunable.reserve(self.here.backbone.encode(TEMPLATE, {"text": text}, 64)) for text in texts]
        self.batch = collate_passages([Passage(p, answer) for p in room for answer in answers], self.here.stack)
        self.engine = Engine(self.here.stack, self.tunable, torch.zeros(2, 0))

    def scored(self, max_memory=256.0):
        self.engine.max_memory = max_memory
        likelihood, point = Likelihood(self.engine), dict(self.tunable.initial())
        generator = torch.Generator().manual_seed(2)
        for block, vector in point.items():
            point[block] = vector + torch.randn(len(vector), generator=generator) * 0.3
        found = [likelihood.of(self.batch, point)]
        for block in point if INPUT in point else (0, 3, 1):
            candidates = {block: torch.randn(3, len(point[block]), generator=generator) * 0.3}
            found.append(likelihood.of_population(self.batch, point, candidates))
        return found, likelihood.tokens(self.batch)


BEGIN = "they saw a film and the acting was a great movie"
ALIKE = [f"{BEGIN} {text}" for text in TEXTS]


@pytest.mark.grid("texts", "answers")
@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize(
    ("texts", "answers"),
    [(TEXTS, CHOICES), (ALIKE, CHOICES), (ALIKE, CHOICES[:1]), (TEXTS[:1], CHOICES), (TEXTS, [(7,), (8,)])],
    ids=["choices", "choices and beginning", "beginning", "one prompt", "single tokens"],
)
def test_passages_that_begin_alike(name, texts, answers, monkeypatch):
    """What passages share is computed once, and each is as likely as alone."""
    case = Sharing(name, texts, answers)
    found, tokens = case.scored()
    monkeypatch.setattr(likelihoods, "WORTH_SHARING", 2.0)
    expected, more = case.scored()
    assert_close(found, expected, **TOLERANCE)
    assert more == case.batch.read
    shared = [ids for ids in case.batch.groups for ids in ids.ids.tolist()]
    assert tokens < 0.75 * more
    assert tokens >= len({tuple(ids[:end]) for ids in shared for end in range(1, len(ids) + 1)})


def test_rows_of_any_size_share(monkeypatch):
    case = Sharing("llama", ALIKE, CHOICES)
    found, tokens = case.scored(0.15)
    assert tokens > case.scored()[1], "each row begins with what is shared"
    monkeypatch.setattr(likelihoods, "WORTH_SHARING", 2.0)
    assert_close(found, case.scored()[0], **TOLERANCE)


def test_passages_behind_a_soft_prompt_share_it(monkeypatch):
    home = house("llama").backbone
    prompt = Prompt(home, 3, torch.zeros(3, home.embedding_weight.shape[1]))
    case = Sharing("llama", ALIKE, CHOICES, prompt)
    found, tokens = case.scored()
    apart = Sharing("llama", TEXTS, CHOICES, prompt)
    assert apart.scored()[1] == apart.batch.read, "prompts begin with different words, which hold the vectors' places"
    monkeypatch.setattr(likelihoods, "WORTH_SHARING", 2.0)
    expected, more = case.scored()
    assert_close(found, expected, **TOLERANCE)
    assert tokens < more / 2


def test_a_window_keeps_passages_apart():
    case = Sharing("gemma3_text", ALIKE, CHOICES)
    assert case.scored()[1] == case.batch.read
