"""Tokens that all prompts begin with stand in a row once, and every prompt still gets what it gets alone."""

from __future__ import annotations

import functools

import pytest
import torch
from test_packing import in_turn
from torch.testing import assert_close

import tiny
from tandemtune.evaluators import engine as engines
from tandemtune.evaluators.batch import collate, end_to_end, shared_beginning
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import read, read_population
from tandemtune.evaluators.views import ANSWER, MEAN, View
from tandemtune.models import packing
from tandemtune.models.spans import Span, homes, positions, prompts_of
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.beside import LoRABesidePrompt
from tandemtune.tunables.full import Full
from tandemtune.tunables.lora import LoRATerms
from tandemtune.tunables.prompt import Prompt
from tandemtune.types import Encoded

SHARING = ("gpt2", "opt", "gpt_neox", "llama", "qwen2", "qwen3", "gemma3_text")
HEAD, OWN = 4, (1, 3, 3, 4)  # at most 8 tokens together, gemma3's window
WORDS = {"bad": ["terrible"], "good": ["great"]}
CPU = torch.device("cpu")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@functools.cache
def stack_of(name):
    home = tiny.backbone(name)
    return home, home.stack(resolve(home.tokenizer, Template.parse("{text} {mask}"), WORDS))


def prompts(own=OWN, head=HEAD):
    generator = torch.Generator().manual_seed(3)
    begin = torch.randint(6, 40, (head,), generator=generator).tolist()
    ids = [
        (*begin, 6 + row, *torch.randint(6, 40, (n - 1,), generator=generator).tolist()) for row, n in enumerate(own)
    ]
    return [Encoded(tuple(one), len(one) - 1) for one in ids]


def batch_of(tunable=None, own=OWN, head=HEAD, **options):
    made = [tunable.reserve(one) if tunable else one for one in prompts(own, head)]
    return collate(made, [0] * len(made), CPU, **options)


def lora(home):
    return LoRATerms(home, 2, range(4))


def prompt(home, layers=()):
    return Prompt(
        home, 2, torch.randn(2, home.embedding_weight.shape[1], generator=torch.Generator().manual_seed(1)), layers
    )


TUNABLES = {
    "lora": lora,
    "full": lambda home: Full(home),
    "prompt": prompt,
    "deep": lambda home: prompt(home, [1, 2]),
    "lora+prompt": lambda home: LoRABesidePrompt(lora(home), prompt(home)),
}


def engine_of(name, make=lora, **options):
    home, stack = stack_of(name)
    return Engine(stack, make(home), torch.eye(2), **options)


def vectors(tunable, blocks, count=None):
    generator = torch.Generator().manual_seed(8)
    shape = () if count is None else (count,)
    return {block: torch.randn(*shape, tunable.dim(block), generator=generator) * 0.3 for block in blocks}


@pytest.fixture
def apart(monkeypatch):
    """Has what is computed inside the call share nothing."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(engines, "WORTH_SHARING", 2.0)
            return function()

    return call


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_which_models_share(name):
    """Those that take prompts end to end and read from left to right."""
    assert stack_of(name)[1].shares == (name in SHARING)


@pytest.mark.parametrize("name", SHARING)
def test_label_logits_states_and_views_are_those_of_prompts_alone(name, apart):
    batch = batch_of()
    views = [ANSWER, MEAN, View("mean", 2), View("answer", 1)]
    for block in (0, 3, 2):
        found, expected = [], []
        for results in (found, expected):
            engine = engine_of(name)
            point, candidates = vectors(engine.tunable, range(4)), vectors(engine.tunable, [block], 3)

            def measure(engine=engine, point=point, candidates=candidates):
                single, many = (
                    read(engine, batch, point, views),
                    read_population(engine, batch, point, candidates, views),
                )
                states = engine.states(batch, point, 2)
                kept = engine.population_logits(batch, point, candidates)
                cost = engine.tokens(batch)
                return [single.logits, *single.views.values(), many.logits, *many.views.values(), *states, kept], cost

            results += measure() if results is found else apart(measure)
        assert (found[1], expected[1]) == (HEAD + sum(OWN), len(OWN) * HEAD + sum(OWN))
        assert_close(found[0], expected[0], **CLOSE)


@pytest.mark.parametrize("max_memory", [256.0, 0.25, 1e-6])
def test_rows_and_chunks_of_any_size_give_the_same(max_memory, apart):
    batch = batch_of(own=OWN * 3)
    engine = engine_of("llama", max_memory=max_memory)
    point, candidates = vectors(engine.tunable, range(4)), vectors(engine.tunable, [1], 5)
    found = engine.population_logits(batch, point, candidates)
    assert_close(found, apart(lambda: engine_of("llama").population_logits(batch, point, candidates)), **CLOSE)


@pytest.mark.parametrize("kind", TUNABLES)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_whatever_is_tuned(kind, name, apart):
    """A prompt that is tuned stands in each row once, too, since it is a part of what all prompts begin with."""

    def scored():
        engine = engine_of(name, TUNABLES[kind])
        tunable = engine.tunable
        batch = batch_of(tunable)
        point = {block: tunable.initial()[block] + change for block, change in vectors(tunable, tunable.blocks).items()}
        found = [engine.logits(batch, point)]
        for block in tunable.blocks:
            candidates = {block: point[block] + vectors(tunable, [block], 3)[block]}
            found.append(engine.population_logits(batch, point, candidates))
        return found, [piece.ids.numel() for piece in engine.pieces(batch)]

    (found, tokens), (expected, more) = scored(), apart(scored)
    assert_close(found, expected, **CLOSE)
    room = 0 if kind in ("lora", "full") else 2
    assert tokens == [HEAD + room + sum(OWN)]
    assert sum(more) == sum(OWN) + len(OWN) * (HEAD + room)


@pytest.mark.parametrize(
    ("name", "own", "head"),
    [
        ("llama", (3, 4, 9), 1),  # too little to be worth it
        ("llama", (3, 4), 0),
        ("llama", (3,), 30),  # one prompt shares with nobody
        ("gemma3_text", (3, 4), 5),  # longer than the window
        ("bert", (3, 4), 20),  # looks ahead
    ],
)
def test_prompts_share_nothing_where_they_may_not_or_where_it_is_not_worth_it(name, own, head):
    engine, batch = engine_of(name), batch_of(own=own, head=head)
    assert engine.tokens(batch) == batch.tokens == sum(piece.ids.numel() for piece in engine.pieces(batch))


def test_a_prompt_that_is_tuned_has_to_lie_in_what_is_shared():
    engine = engine_of("llama", lambda home: prompt(home))
    short, long = batch_of(head=1), batch_of(head=2)
    assert tuple(engine.pieces(short)) == short.groups
    assert len(engine.pieces(long)) == 1


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("own", [OWN, (1, 1), (2, 2, 2)])
def test_one_call_for_all_lengths_shares_too(name, own, monkeypatch, apart):
    """As a GPU does it: filled up and masked."""
    batch = batch_of(own=own)
    engine = engine_of(name)
    point, candidates = vectors(engine.tunable, range(4)), vectors(engine.tunable, [1], 3)
    expected = apart(lambda: engine_of(name).population_logits(batch, point, candidates))
    monkeypatch.setattr(packing, "_in_one_call", lambda device: True)
    assert_close(engine.population_logits(batch, point, candidates), expected, **CLOSE)
    assert engine.tokens(batch) < batch.tokens


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])  # query beside key, fewer heads of keys
def test_a_kernel_that_is_told_where_prompts_begin_shares_too(name, monkeypatch, apart):
    batch = batch_of()
    engine = engine_of(name)
    point, candidates = vectors(engine.tunable, range(4)), vectors(engine.tunable, [1], 3)
    expected = apart(lambda: engine_of(name).population_logits(batch, point, candidates))
    monkeypatch.setattr(packing, "_in_one_call", lambda device: True)
    monkeypatch.setattr(packing, "_has_bounds", lambda *_: True)
    monkeypatch.setattr(packing, "_filled", None)
    monkeypatch.setattr(packing, "_with_bounds", in_turn)
    assert_close(engine.population_logits(batch, point, candidates), expected, **CLOSE)


def test_in_16_bits(apart):
    home = tiny.backbone("llama")
    home.model.to(torch.bfloat16)
    stack = home.stack(resolve(home.tokenizer, Template.parse("{text} {mask}"), WORDS))
    batch, tunable = batch_of(), lora(home)
    point, candidates = vectors(tunable, range(4)), vectors(tunable, [1], 3)

    def scored():
        return Engine(stack, tunable, torch.eye(2)).population_logits(batch, point, candidates)

    assert stack.shares
    assert_close(scored(), apart(scored), atol=0.1, rtol=0.02)


def test_a_row_holds_what_is_shared_and_what_each_has_of_its_own():
    batch = batch_of()
    (row,) = end_to_end(batch.groups, 99, HEAD)
    ids = {index: one.ids for index, one in enumerate(prompts())}
    order = row.rows.tolist()
    assert row.ids[0].tolist() == [*ids[0][:HEAD], *(token for index in order for token in ids[index][HEAD:])]
    behind = ((0, HEAD),)
    assert row.spans == (Span(1, HEAD, head=True), Span(1, 1, behind), Span(2, 3, behind), Span(1, 4, behind))
    assert row.answer.tolist() == [4, 7, 10, 14]
    assert positions(row.spans, 2, CPU)[0].tolist() == [2, 3, 4, 5, 6, 6, 7, 8, 6, 7, 8, 6, 7, 8, 9]
    assert homes(row.spans, CPU).tolist() == [0] * HEAD + [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    apart = prompts_of(row.ids.unsqueeze(-1), row.spans)
    assert [tuple(one.flatten().tolist()) for one in apart] == [ids[index] for index in order]
    # in rows of at most nine tokens, each with what is shared
    assert [piece.ids.shape[1] for piece in end_to_end(batch.groups, 9, HEAD)] == [8, 7, 8]


def test_what_is_shared_ends_before_every_answer():
    assert shared_beginning(batch_of().groups) == HEAD
    same = [Encoded((7, 8, 9, 10), 3)] * 2
    assert shared_beginning(collate(same, [0, 0], CPU).groups) == 3
    one_is_the_others_beginning = [Encoded((7, 8, 9, 10, 11), 4), Encoded((7, 8, 9), 2)]
    assert shared_beginning(collate(one_is_the_others_beginning, [0, 0], CPU).groups) == 2


def test_gradients_count_every_token():
    engine, batch = engine_of("llama"), batch_of()
    assert engine.work(batch, apart=True) == 4 * batch.tokens
    assert engine.work(batch) == 4 * (HEAD + sum(OWN))
