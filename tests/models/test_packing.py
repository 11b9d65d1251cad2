"""Prompts that lie end to end in one row give what each of them gives alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

import oracle
import tiny
from tandemtune.evaluators.batch import collate, end_to_end
from tandemtune.evaluators.engine import Engine
from tandemtune.models import packing, spans
from tandemtune.models.layers import replaced_forward
from tandemtune.models.packing import first_position, longest
from tandemtune.models.spans import Span, homes, lay, positions
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.lora import LoRATerms
from tandemtune.tunables.prompt import Prompt
from tandemtune.types import Encoded

PACKING = {
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "gpt2",
    "opt",
    "gpt_neox",
    "llama",
    "qwen2",
    "qwen3",
    "gemma3_text",
}
LENGTHS = (3, 5, 5, 8)
SPANS = (Span(1, 3), Span(2, 5), Span(1, 8))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def near(one, other):
    return torch.allclose(one, other, atol=1e-4)


def stack_of(name):
    home = tiny.backbone(name)
    words = {"bad": ["terrible"], "good": ["great"]}
    return home, home.stack(resolve(home.tokenizer, Template.parse("{text} {mask}"), words))


def texts(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(6, 40, (length,), generator=generator) for length in lengths]


def batch_of(lengths=LENGTHS, **options):
    prompts = [Encoded(tuple(ids.tolist()), len(ids) - 1) for ids in texts(lengths)]
    return collate(prompts, [0] * len(prompts), torch.device("cpu"), **options)


def engine_of(name, tunable=LoRATerms, **options):
    home, stack = stack_of(name)
    made = (
        LoRATerms(home, 2, range(4))
        if tunable is LoRATerms
        else tunable(home, 2, torch.zeros(2, home.embedding_weight.shape[1]), [])
    )
    return Engine(stack, made, torch.eye(2), **options)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_which_models_take_prompts_end_to_end(name):
    assert stack_of(name)[1].packs == (name in PACKING)


@pytest.mark.parametrize("name", sorted(PACKING))
def test_hidden_states_and_logits_are_those_of_each_prompt_alone(name):
    home, stack = stack_of(name)
    row = torch.cat(texts()).unsqueeze(0)
    alone = [oracle.entering(home.model, ids.unsqueeze(0)) for ids in texts()]
    expected = [torch.cat([states[layer][0] for states in alone]) for layer in range(4)]
    for start, stop in ((0, 0), (0, 3), (2, 3), (1, 1)):
        states = None if start == 0 else expected[start].unsqueeze(0)
        found = stack.hidden(row, stop, start=start, states=states, spans=SPANS)
        assert_close(found[0], expected[stop], **CLOSE)
    answer = torch.tensor([2, 5, 12, 20])  # in the middle of a prompt, too
    places = [(0, 2), (1, 2), (2, 4), (3, 7)]
    logits = torch.stack([oracle.all_logits(home.model, texts()[i].unsqueeze(0))[0, place] for i, place in places])
    wanted = logits[:, stack.token_ids]
    assert_close(stack.logits(row, answer, spans=SPANS), wanted, **CLOSE)
    two = stack.logits(row.repeat(2, 1), answer, start=2, states=expected[2].repeat(2, 1, 1), spans=SPANS)
    assert_close(two, wanted.repeat(2, 1), **CLOSE)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_model_is_asked_once_whatever_the_lengths(name, monkeypatch):
    engine = engine_of(name)
    seen = []
    own = engine.stack.logits
    monkeypatch.setattr(engine.stack, "logits", lambda ids, *a, **k: seen.append(tuple(ids.shape)) or own(ids, *a, **k))
    vectors = torch.zeros(4, engine.tunable.dim(1))
    engine.population_logits(batch_of(), engine.tunable.initial(), {1: vectors})
    assert seen == [(4, 21)]


@pytest.mark.parametrize(
    ("name", "lengths", "options", "tunable"),
    [
        ("llama", (5, 5, 5), {}, LoRATerms),  # one length needs nothing
        ("bert", (3, 5), {"stretch": 9.0}, LoRATerms),  # filled rows have masks
        ("gemma3_text", (3, 9), {}, LoRATerms),  # longer than the window
        ("llama", (3, 5), {}, Prompt),  # its vectors have places in each row
        ("t5", (3, 5), {}, LoRATerms),
    ],
)
def test_prompts_keep_rows_of_their_own_where_they_have_to(name, lengths, options, tunable):
    engine, batch = engine_of(name, tunable), batch_of(lengths, **options)
    assert tuple(engine.pieces(batch)) == batch.groups


def test_a_window_that_all_prompts_fit_in_changes_nothing():
    engine, batch = engine_of("gemma3_text"), batch_of((3, 8))
    (piece,) = engine.pieces(batch)
    assert piece.spans == (Span(1, 3), Span(1, 8))
    apart = engine_of("gemma3_text")
    apart.stack.packs = False
    point = {block: torch.randn(apart.tunable.dim(block)) * 0.3 for block in range(4)}
    assert_close(engine.logits(batch, point), apart.logits(batch, point), **CLOSE)


def test_an_attention_that_needs_masks_is_left_alone():
    home, _ = stack_of("llama")
    home.model.config._attn_implementation = "eager"
    assert first_position(home.model, 4, near) is None


def test_a_model_that_asks_for_another_number_of_attentions_is_left_alone():
    home, _ = stack_of("llama")
    assert first_position(home.model, 4, near) == 0
    assert first_position(home.model, 5, near) is None


@pytest.mark.parametrize(("name", "first"), [("bert", 0), ("roberta", 1), ("llama", 0)])
def test_what_a_model_calls_the_first_position_is_asked_of_it(name, first):
    home, _ = stack_of(name)
    home.model.config.model_type = "strange"
    assert first_position(home.model, 4, near) == first


def test_what_was_chosen_is_put_back_also_after_an_error(monkeypatch):
    home, stack = stack_of("llama")
    row = torch.cat(texts()).unsqueeze(0)
    assert home.model.config._attn_implementation == "sdpa"
    stack.hidden(row, 2, spans=SPANS)
    assert home.model.config._attn_implementation == "sdpa"
    with pytest.raises(RuntimeError):
        stack.hidden(row, 2, spans=(Span(1, 99),))
    assert home.model.config._attn_implementation == "sdpa"


def test_where_tokens_belong():
    assert positions(SPANS, 2, torch.device("cpu")).tolist() == [[2, 3, 4, *range(2, 7), *range(2, 7), *range(2, 10)]]
    assert homes(SPANS, torch.device("cpu")).tolist() == [0] * 3 + [1] * 5 + [2] * 5 + [3] * 8


def test_rows_are_filled_in_order_up_to_the_limit():
    assert lay([3, 5, 5, 8], 10) == [[0, 1], [2], [3]]
    assert lay([3, 5, 5, 8], 13) == [[0, 1, 2], [3]]
    assert lay([9, 1], 4) == [[0], [1]]
    assert lay([], 4) == []


def test_pieces_hold_every_prompt_once_with_its_answer():
    batch = batch_of((8, 3, 5, 5))
    made = end_to_end(batch.groups, 13)
    assert [piece.spans for piece in made] == [(Span(1, 3), Span(2, 5)), (Span(1, 8),)]
    assert [piece.rows.tolist() for piece in made] == [[1, 2, 3], [0]]
    assert [piece.answer.tolist() for piece in made] == [[2, 7, 12], [7]]
    first, second, third, last = texts((8, 3, 5, 5))
    assert made[0].ids.tolist() == [torch.cat([second, third, last]).tolist()]
    assert made[1].ids.tolist() == [first.tolist()]


def test_the_window_of_a_model_bounds_its_prompts():
    assert longest(tiny.backbone("gemma3_text").model) == 8
    assert longest(tiny.backbone("llama").model) is None


@pytest.mark.parametrize(
    ("name", "last"), [("bert", "output.dense"), ("llama", "mlp.down_proj"), ("gpt2", "mlp.c_proj")]
)
@pytest.mark.parametrize("lengths", [LENGTHS, (5, 5)])
def test_what_follows_the_last_attention_sees_answers_only(name, last, lengths):
    engine = engine_of(name)
    seen = []
    module = engine.stack.layers[-1].get_submodule(last)
    own = module.forward
    with replaced_forward(module, lambda hidden: seen.append(hidden[..., 0].numel()) or own(hidden)):
        engine.population_logits(
            batch_of(lengths), engine.tunable.initial(), {1: torch.zeros(3, engine.tunable.dim(1))}
        )
    assert seen == [3 * len(lengths)]


def test_chunks_that_no_row_fits_in_are_not_tried(monkeypatch):
    """The bound is the larger one; the smaller chunk would run the same calls."""
    from tandemtune.evaluators import engine as module

    monkeypatch.setattr(module, "CHUNKS", (40, 10))
    engine, batch = engine_of("llama"), batch_of()
    tried = []
    monkeypatch.setattr(engine, "population_logits", lambda *_: tried.append(engine.chunk_tokens) or torch.zeros(1))
    vectors = torch.zeros(4, engine.tunable.dim(1))
    engine.choose_chunk(batch, engine.tunable.initial(), {1: vectors}, repeats=1)
    assert tried[1:] == [40], "a row has 21 tokens"
    assert tried[0] == engine._most() > 84


@pytest.mark.parametrize("name", sorted(PACKING))
def test_one_call_for_all_lengths_gives_what_a_call_for_each_gives(name, monkeypatch):
    """As a GPU does it: filled up, and masked where anything would look at the filling."""
    batch = batch_of()
    engine = engine_of(name, max_memory=1.0)
    point = {block: torch.randn(engine.tunable.dim(block)) * 0.3 for block in range(4)}
    candidates = {1: torch.randn(3, engine.tunable.dim(1)) * 0.3}
    expected = engine.population_logits(batch, point, candidates)
    engine.forget()
    calls = []
    monkeypatch.setattr(packing, "_in_one_call", lambda device: calls.append(1) or True)
    assert_close(engine.population_logits(batch, point, candidates), expected, **CLOSE)
    assert calls


def in_turn(query, key, value, begins, most, causal, scale):
    """What a kernel that is told where prompts begin promises, prompt by prompt: the last token sees all, if it sees those before
    it only."""
    assert {each.dtype for each in begins} == {torch.int32}
    assert most == tuple(each.diff().max() for each in begins)
    own, read = (each.diff().tolist() for each in begins)
    each = zip(query.split(own), key.split(read), value.split(read), strict=True)
    found = [
        scaled_dot_product_attention(
            *(part.transpose(0, 1) for part in parts),
            attn_mask=torch.ones(len(parts[0]), len(parts[1]), dtype=torch.bool).tril(len(parts[1]) - len(parts[0]))
            if causal
            else None,
            scale=scale,
            enable_gqa=True,
        )
        for parts in each
    ]
    return torch.cat([one.transpose(0, 1) for one in found])


@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen3"])  # plain, query beside key, fewer heads of keys
def test_a_kernel_that_is_told_where_prompts_begin_gives_what_a_call_for_each_gives(name, monkeypatch):
    batch = batch_of()
    engine = engine_of(name, max_memory=1.0)
    point = {block: torch.randn(engine.tunable.dim(block)) * 0.3 for block in range(4)}
    candidates = {1: torch.randn(3, engine.tunable.dim(1)) * 0.3}
    expected = engine.population_logits(batch, point, candidates)
    engine.forget()
    monkeypatch.setattr(packing, "_in_one_call", lambda device: True)
    monkeypatch.setattr(packing, "_has_bounds", lambda *_: True)
    monkeypatch.setattr(packing, "_filled", None)
    monkeypatch.setattr(packing, "_with_bounds", in_turn)
    assert_close(engine.population_logits(batch, point, candidates), expected, **CLOSE)


@pytest.mark.parametrize("tried", [packing._TRIED, packing._TRIED_BEHIND])
def test_such_a_kernel_is_tried_before_it_is_used(tried, monkeypatch):
    form = tried, torch.device("cpu"), torch.bfloat16, (4, 2), 8
    monkeypatch.setattr(packing, "_bounds_work", packing._bounds_work.__wrapped__)
    assert not packing._bounds_work(*form, False), "a processor has none"
    monkeypatch.setattr(packing, "_with_bounds", in_turn)
    assert packing._bounds_work(*form, False)
    assert packing._bounds_work(*form, True)
    monkeypatch.setattr(packing, "_with_bounds", lambda *given: in_turn(*given[:5], False, given[6]))
    assert not packing._bounds_work(*form, True), "it does not keep what comes later out"


def test_such_a_kernel_is_asked_for_what_it_can_do_only(monkeypatch):
    monkeypatch.setattr(packing, "_bounds_work", lambda *_: True)
    low, exact = torch.zeros(1, 2, 8, 4, dtype=torch.bfloat16), torch.zeros(1, 2, 8, 4)
    assert packing._has_bounds(SPANS, low, low, low, True, {"scaling": 0.5, "dropout": 0.0, "softcap": None})
    assert not packing._has_bounds(SPANS, exact, exact, exact, True, {})
    assert not packing._has_bounds(SPANS, low, low, low[..., :2], True, {})
    for beyond in ({"position_bias": exact}, {"softcap": 30.0}, {"dropout": 0.1}):
        assert not packing._has_bounds(SPANS, low, low, low, True, beyond)


def test_where_prompts_of_all_rows_begin():
    assert spans.bounds((Span(2, 3), Span(1, 4)), 2, torch.device("cpu"))[0].tolist() == [0, 3, 6, 10, 13, 16, 20]


@pytest.mark.parametrize(("seconds", "chosen"), [((1.0, 1.0, 1.01, 1.5), 32), ((1.0, 0.9, 1.0, 1.0), 64)])
def test_on_a_gpu_the_smallest_chunk_that_is_as_fast_is_chosen(seconds, chosen, monkeypatch):
    from tandemtune.evaluators import engine as module

    engine, batch = engine_of("llama"), batch_of((5, 5))
    monkeypatch.setattr(module, "GPU_CHUNKS", (64, 32, 16))
    monkeypatch.setattr(module.Engine, "_on_gpu", property(lambda _: True))
    took = dict(zip((engine._most(), 64, 32, 16), seconds, strict=True))
    clock = [0.0]

    def scored(*_):
        clock[0] += took[engine.chunk_tokens]
        return torch.zeros(1)

    monkeypatch.setattr(engine, "population_logits", scored)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    vectors = torch.zeros(16, engine.tunable.dim(1))
    assert engine.choose_chunk(batch, engine.tunable.initial(), {1: vectors}) == chosen
