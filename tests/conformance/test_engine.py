"""The fast evaluation gives what the plain model gives, for every architecture."""

from __future__ import annotations

import copy
import functools
import itertools

import pytest
import torch
from torch import testing

import devices
import oracle
import tiny
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine, bytes_per_token
from tandemtune.models import architectures
from tandemtune.models.backbone import Backbone
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.adapter import Adapter
from tandemtune.tunables.base import INPUT
from tandemtune.tunables.bias import Bias
from tandemtune.tunables.full import Full
from tandemtune.tunables.lora import LoRATerms
from tandemtune.tunables.prompt import Prompt

pytestmark = pytest.mark.grid

RANK = 2
LENGTH = 3
LAYERS = range(4)
VISITS = [(0, 3), (3, 0), (3, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 3), (0, 0)]
"""Layers visited before and after a change: upwards, downwards, the same."""
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
WORDS = {"bad": ["terrible", "bad", "dull"], "good": ["great"], "other": ["fine", "news"]}
TEXTS = ["a great movie", "the plot was dull", "i hated this film and the acting", "a review", "they saw a film"]
TEMPLATE = Template.parse("{text} it was {mask} .")


def assert_close(found, expected, **options):
    """On the processor, where what is compared with was computed; tensors or lists of them."""
    here = [each.cpu() if isinstance(each, torch.Tensor) else [one.cpu() for one in each] for each in (found, expected)]
    testing.assert_close(*here, **options)


class House:
    """One tiny backbone with everything an evaluation needs."""

    def __init__(self, name, texts=TEXTS):
        self.name = name
        self.backbone = tiny.backbone(name)
        self.model = self.backbone.model
        self.plain = self.model if devices.CHOSEN == "cpu" else copy.deepcopy(self.model)  # what is compared with
        self.model.to(devices.CHOSEN)
        self.verbalizer = resolve(self.backbone.tokenizer, TEMPLATE, WORDS)
        self.averaging = torch.tensor(self.verbalizer.weights())
        self.tunable = self.make_tunable()
        self.stack = self.backbone.stack(self.verbalizer)
        self.prompts = self.encode(texts)
        self.batch = self.collate(self.prompts)

    def make_tunable(self):
        return LoRATerms(self.backbone, RANK, LAYERS)

    def encode(self, texts):
        return [self.tunable.reserve(self.backbone.encode(TEMPLATE, {"text": text}, 64)) for text in texts]

    def collate(self, prompts, **options):
        return collate(prompts, [0] * len(prompts), torch.device(devices.CHOSEN), **options)

    def engine(self, **options):
        return Engine(self.stack, self.tunable, self.averaging, **options)

    def point(self, seed=0, size=0.3):
        generator = torch.Generator().manual_seed(seed)
        dims = {block: self.tunable.dim(block) for block in self.tunable.blocks}
        return {block: torch.randn(dim, generator=generator) * size for block, dim in dims.items()}

    def candidates(self, block, count=3, seed=7):
        generator = torch.Generator().manual_seed(seed + block)
        return torch.randn(count, self.tunable.dim(block), generator=generator) * 0.3

    def oracle(self, point, prompts=None):
        """Label logits [N, C] of a model with changed weights, averaged by hand."""
        changed = self.changed(point)
        return self.averaged(lambda words: oracle.word_logits(changed, prompts or self.prompts, words))

    def changed(self, point):
        """A copy of the model that is as `point` says."""
        return oracle.merged(self.plain, self.name, point, RANK)

    def averaged(self, logits):
        ids = [[self.backbone.tokenizer.convert_tokens_to_ids(w) for w in words] for words in WORDS.values()]
        return torch.stack([logits(words).mean(dim=1) for words in ids], dim=1)

    def common(self, layer, states):
        """The hidden states that enter a layer, without what the tunable puts there itself."""
        return states


class PromptHouse(House):
    """The same with vectors before the text at the input and at two layers (at one where the encoder has two)."""

    @property
    def place(self):
        return 1 if self.name in tiny.MASKED else 0

    def make_tunable(self):
        width = self.backbone.embedding_weight.shape[1]
        layers = [1] if self.name in tiny.SEQ2SEQ else [1, 3]
        return Prompt(self.backbone, LENGTH, torch.zeros(LENGTH, width), layers)

    @torch.no_grad()
    def oracle(self, point, prompts=None):
        """Label logits [N, C] with vectors put between embeddings by hand, one row at a time."""
        rows = {block: vector.view(LENGTH, -1) for block, vector in point.items()}
        deep = {block: matrix for block, matrix in rows.items() if block != INPUT}
        found = []
        for prompt in prompts or self.prompts:
            plain = prompt.ids[: self.place] + prompt.ids[self.place + LENGTH :]
            whole = oracle.prompted_logits(self.plain, self.name, plain, self.place, rows[INPUT], deep)
            found.append(whole[0, prompt.answer])
        return self.averaged(lambda words: torch.stack(found)[:, words])

    def common(self, layer, states):
        kept = [s.clone() for s in states]
        for s in kept if layer in self.tunable.blocks else ():
            s[:, self.place : self.place + LENGTH] = 0
        return kept


class BiasHouse(House):
    """The same with biases in all layers."""

    def make_tunable(self):
        return Bias(self.backbone, LAYERS)

    def changed(self, point):
        return oracle.shifted(self.plain, self.name, point)


class AdapterHouse(House):
    """The same with an adapter behind every layer."""

    def make_tunable(self):
        return Adapter(self.backbone, LENGTH, LAYERS)

    def changed(self, point):
        return oracle.adapted(self.plain, self.name, point, LENGTH)


class FullHouse(House):
    """The same with all weights."""

    def make_tunable(self):
        return Full(self.backbone)

    def changed(self, point):
        return oracle.with_weights(self.plain, point[INPUT]) if point else self.plain

    def point(self, seed=0, size=0.03):
        return {INPUT: self.tunable.initial()[INPUT] + super().point(seed, size)[INPUT]}

    def candidates(self, block, count=3, seed=7):
        return self.tunable.initial()[INPUT] + super().candidates(block, count, seed) * 0.1


KINDS = {House: "lora", PromptHouse: "deep-prompt", BiasHouse: "bias", AdapterHouse: "adapter", FullHouse: "full"}
SOME = ("bert", "deberta-v2", "gpt2", "gemma3_text", "t5", "bart")
"""Architectures of all kinds: linear maps and `Conv1D`, with biases and without, one stack and two."""


@functools.cache
def house(name, kind=House):
    return kind(name)


@pytest.fixture(params=tiny.CONFIGS, ids=str)
def home(request):
    """A model with LoRA."""
    return house(request.param)


def homes(*kinds, names=tuple(tiny.CONFIGS)):
    return [pytest.param((name, kind), id=f"{name}-{KINDS[kind]}") for kind in kinds for name in names]


@pytest.fixture(params=homes(House, PromptHouse))
def any_home(request):
    """A model with LoRA, and one with a deep prompt."""
    return house(*request.param)


@pytest.fixture(params=homes(House, PromptHouse, BiasHouse) + homes(AdapterHouse, FullHouse, names=SOME))
def every_home(request):
    """A model with each kind of tunable."""
    return house(*request.param)


@pytest.fixture(params=homes(House, PromptHouse) + homes(BiasHouse, AdapterHouse, FullHouse, names=SOME[:-1]))
def many_home(request):
    """The same with fewer models for some kinds."""
    return house(*request.param)


@pytest.fixture(params=homes(House, PromptHouse) + homes(BiasHouse, AdapterHouse, names=SOME[1:-1]))
def layered_home(request):
    """The same for kinds that are cut into several blocks."""
    return house(*request.param)


def test_rows_have_several_lengths(any_home):
    assert [len(group.ids) for group in any_home.batch.groups] == [1, 1, 2, 1], "and one of them has two rows"
    deep = {House: tuple(LAYERS), PromptHouse: (INPUT, 1) if any_home.name in tiny.SEQ2SEQ else (INPUT, 1, 3)}
    assert any_home.tunable.blocks == deep[type(any_home)]


def test_zero_point_is_the_untouched_model(home):
    expected = home.oracle({})
    engine = home.engine()
    assert_close(engine.logits(home.batch, home.tunable.initial()), expected, **TOLERANCE)
    zeros = torch.zeros(2, home.tunable.dim(1))
    population = engine.population_logits(home.batch, home.tunable.initial(), {1: zeros})
    assert_close(population, expected.expand(2, -1, -1), **TOLERANCE)


def test_one_point_equals_really_changed_weights(home):
    point = home.point()
    expected = home.oracle(point)
    assert (expected - home.oracle({})).abs().max() > 1e-2  # the terms do something
    assert_close(home.engine().logits(home.batch, point), expected, **TOLERANCE)


def test_population_equals_one_by_one_at_every_block(every_home):
    home = every_home
    point, engine = home.point(), home.engine()
    for block in home.tunable.blocks:
        candidates = home.candidates(block, 2)
        expected = torch.stack([home.oracle({**point, block: vector}) for vector in candidates])
        assert (expected[0] - expected[1]).abs().max() > 1e-4
        assert_close(engine.population_logits(home.batch, point, {block: candidates}), expected, **TOLERANCE)


def test_population_over_several_blocks_at_once(layered_home):
    home = layered_home
    point, (one, other) = home.point(), home.tunable.blocks[-2:]
    candidates = {block: home.candidates(block) for block in (one, other)}
    expected = [home.oracle({**point, one: candidates[one][i], other: candidates[other][i]}) for i in range(3)]
    assert_close(home.engine().population_logits(home.batch, point, candidates), torch.stack(expected), **TOLERANCE)


def test_single_candidate_and_zero_rows_in_a_population(layered_home):
    home = layered_home
    point, block = home.point(), home.tunable.blocks[-1]
    one = home.candidates(block, count=1)
    result = home.engine().population_logits(home.batch, point, {block: one})
    assert_close(result[0], home.oracle({**point, block: one[0]}), **TOLERANCE)
    mixed = torch.stack([torch.zeros(home.tunable.dim(block)), one[0]])
    result = home.engine().population_logits(home.batch, point, {block: mixed})
    assert_close(result[0], home.oracle({**point, block: mixed[0]}), **TOLERANCE)


def test_kept_states_are_never_stale(many_home):
    """One block changes: lower, the same or higher than the layer visited before and after."""
    home = many_home
    before, blocks, batch = home.point(), home.tunable.blocks, home.collate(home.prompts[:3])
    visited = blocks if type(home) is PromptHouse else blocks[-1:]
    candidates = {block: home.candidates(block, 2) for block in visited}
    for changed in blocks:
        engine, after = home.engine(), {**before, changed: home.point(seed=5)[changed]}
        states = {layer: home.common(layer, home.engine().states(batch, after, layer)) for layer in LAYERS}
        for first, second in VISITS:
            engine.states(batch, before, first)
            found = engine.states(batch, after, second)
            assert_close(home.common(second, found), states[second], **TOLERANCE)
        fresh = {b: home.engine().population_logits(batch, after, {b: candidates[b]}) for b in visited}
        for first, second in itertools.product(visited, visited):
            engine.population_logits(batch, before, {first: candidates[first]})
            found = engine.population_logits(batch, after, {second: candidates[second]})
            assert_close(found, fresh[second], **TOLERANCE)


def test_kept_states_survive_a_long_wandering_search(any_home):
    """Blocks up, down and again, the incumbent replaced in place of the visited block, two batches in turn."""
    home = any_home
    engine, point, blocks = home.engine(), home.point(), home.tunable.blocks
    other = home.collate(home.prompts[1:4])
    visits = [0, 1, 2, 3, 3, 1, 2, 0, 3, 2, 2, 1]
    for step, visit in enumerate(visits):
        batch, block = other if step % 5 == 4 else home.batch, blocks[visit % len(blocks)]
        candidates = {block: home.candidates(block, 2, seed=step)}
        expected = home.engine().population_logits(batch, point, candidates)
        assert_close(engine.population_logits(batch, point, candidates), expected, **TOLERANCE)
        if step % 3:
            point = {**point, block: candidates[block][0]}
    engine.forget()
    expected = home.engine().states(home.batch, point, 3)
    assert_close(engine.states(home.batch, point, 3), expected, **TOLERANCE)


def test_a_vector_changed_in_place_is_noticed(any_home):
    home = any_home
    for low, high in itertools.pairwise(home.tunable.blocks):
        engine, point = home.engine(), home.point()
        candidates = {high: home.candidates(high, 1)}
        before = engine.population_logits(home.batch, point, candidates)
        point[low].mul_(torch.linspace(-1, 1, len(point[low])))
        expected = home.engine().population_logits(home.batch, point, candidates)
        assert (expected - before).abs().max() > 1e-4
        assert_close(engine.population_logits(home.batch, point, candidates), expected, **TOLERANCE)


def test_a_revisit_computes_nothing_anew(any_home, monkeypatch):
    home = any_home
    engine, point, visited = home.engine(), home.point(), max(1, home.tunable.blocks[-2])
    engine.population_logits(home.batch, point, {visited: home.candidates(visited, 1)})
    first = engine.states(home.batch, point, visited)
    changed_above = {block: -vector if block >= visited else vector for block, vector in point.items()}
    monkeypatch.setattr(home.stack, "hidden", None)
    for before, after in zip(first, engine.states(home.batch, changed_above, visited), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("max_memory", [1e-6, 0.3, 1.0])
def test_memory_bound_does_not_change_results(any_home, max_memory):
    home = any_home
    point, candidates = home.point(), {1: home.candidates(1, 5)}
    small, large = home.engine(max_memory=max_memory), home.engine()
    expected = large.population_logits(home.batch, point, candidates)
    assert_close(small.population_logits(home.batch, point, candidates), expected, **TOLERANCE)
    assert_close(small.logits(home.batch, point), large.logits(home.batch, point), **TOLERANCE)


def test_memory_bound_holds_for_every_pass(any_home, monkeypatch):
    """Also where the rows of a single candidate are too many."""
    home = any_home
    prompts = [prompt for prompt in home.prompts for _ in range(4)]
    batch, engine = home.collate(prompts), home.engine()
    seen = []
    own = home.stack.logits
    monkeypatch.setattr(home.stack, "logits", lambda ids, *a, **k: seen.append(ids.numel()) or own(ids, *a, **k))
    for tokens in (40, 100):
        engine.max_memory = tokens * bytes_per_token(home.stack) / 1e6
        seen.clear()
        engine.population_logits(batch, home.point(), {1: home.candidates(1, 5)})
        engine.logits(batch, home.point())
        assert max(seen) <= tokens


@pytest.mark.parametrize("name", ["bert", "gpt2", "opt", "llama"])
def test_any_linear_module_can_be_tuned_also_in_the_last_layer(name):
    home = house(name)
    for target in architectures.linear_names(home.backbone.layers[0]):
        found = architectures.find(home.model, [target])
        backbone = Backbone("own", home.model, home.backbone.tokenizer, home.backbone.kind, found)
        tunable = LoRATerms(backbone, RANK, [1, 3])
        engine = Engine(backbone.stack(home.verbalizer), tunable, home.averaging)
        one, other = (torch.randn(tunable.dim(block)) * 0.3 for block in (1, 3))
        changed = copy.deepcopy(home.plain)
        for block, vector in ((1, one), (3, other)):
            ((a, b),) = tunable.factors(block, vector).values()
            module = oracle.layers_of(changed, name)[block].get_submodule(target)
            module.weight.data += (a @ b).T if isinstance(module, torch.nn.Linear) else a @ b
        expected = oracle.word_logits(changed, home.prompts, home.verbalizer.token_ids) @ home.averaging
        candidates = {3: torch.stack([other * 2, other])}
        result = engine.population_logits(home.batch, {1: one, 3: other}, candidates)[1]
        assert_close(result, expected, atol=3e-5, rtol=3e-5, msg=lambda text, target=target: f"{target}: {text}")
        assert_close(engine.logits(home.batch, {1: one, 3: other}), expected, atol=3e-5, rtol=3e-5)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_what_all_rows_share_is_noticed(name):
    """DeBERTa's relative positions go through the maps that LoRA is put on: there candidates are scored one by one."""
    assert house(name).tunable.side_by_side == (name != "deberta-v2")


def test_groups_cut_in_pieces_do_not_change_results(many_home):
    home = many_home
    block = home.tunable.blocks[len(home.tunable.blocks) // 2]
    point, candidates = home.point(), {block: home.candidates(block, 2)}
    prompts = home.prompts * 2
    pieces = home.collate(prompts, max_rows=1)
    assert len(pieces.groups) == len(prompts)
    whole = home.collate(prompts)
    expected = home.engine().population_logits(whole, point, candidates)
    assert_close(home.engine().population_logits(pieces, point, candidates), expected, **TOLERANCE)


def test_a_row_scores_the_same_alone_and_in_a_mixed_batch(any_home):
    home = any_home
    point = home.point()
    block = home.tunable.blocks[-1]
    candidates = {block: home.candidates(block, 2)}
    together = home.engine().population_logits(home.batch, point, candidates)
    for index, prompt in enumerate(home.prompts):
        alone = home.engine().population_logits(home.collate([prompt]), point, candidates)
        assert_close(together[:, index], alone[:, 0], **TOLERANCE)


def test_hidden_states_equal_the_models_own(home):
    ids = home.batch.groups[0].ids
    expected = oracle.entering(home.plain, ids.cpu())
    for stop in LAYERS:
        assert_close(home.stack.hidden(ids, stop), expected[stop], **TOLERANCE)
        for start in range(stop + 1):
            entered = home.stack.hidden(ids, stop, start=start, states=expected[start].to(ids.device))
            assert_close(entered, expected[stop], **TOLERANCE)


def test_states_at_a_point_equal_a_really_changed_model(home):
    point = home.point()
    changed = oracle.merged(home.plain, home.name, point, RANK)
    states = home.engine().states(home.batch, point, 3)
    for group, hidden in zip(home.batch.groups, states, strict=True):
        assert_close(hidden, oracle.entering(changed, group.ids.cpu())[3], **TOLERANCE)


def test_model_is_untouched_afterwards(many_home):
    home = many_home
    before, traces = copy.deepcopy(home.model.state_dict()), oracle.traces(home.model)
    engine, point = home.engine(), home.point()
    for block in home.tunable.blocks[::-2]:
        engine.population_logits(home.batch, point, {block: home.candidates(block)})
    engine.logits(home.batch, point)
    after = home.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert oracle.traces(home.model) == traces
    assert not any(replaced for replaced, _ in traces)


class BoomError(Exception):
    pass


@pytest.mark.parametrize("place", ["layer", "head"])
def test_model_is_untouched_after_an_exception(any_home, place, monkeypatch):
    home = any_home
    engine, point, candidates = home.engine(), home.point(), {1: home.candidates(1)}
    expected = home.engine().population_logits(home.batch, point, candidates)
    traces = oracle.traces(home.model)

    def fail(*_, **__):
        raise BoomError

    if place == "layer":
        handle = oracle.layers_of(home.model, home.name)[2].register_forward_pre_hook(fail)
        calls = [lambda: engine.states(home.batch, point, 3)]
    else:
        handle = home.stack.head.register_forward_pre_hook(fail)
        calls = []
    calls += [
        lambda: engine.population_logits(home.batch, point, candidates),
        lambda: engine.logits(home.batch, point),
    ]
    try:
        for call in calls:
            with pytest.raises(BoomError):
                call()
    finally:
        handle.remove()
    assert oracle.traces(home.model) == traces
    assert_close(engine.population_logits(home.batch, point, candidates), expected, **TOLERANCE)


def test_a_forward_that_others_put_on_a_layer_is_kept(home):
    """Libraries that spread a model over devices replace a module's forward in just this way."""
    layer = oracle.layers_of(home.model, home.name)[1]
    own = layer.forward
    calls = []

    def theirs(*args, **kwargs):
        calls.append(1)
        return own(*args, **kwargs)

    layer.forward = theirs
    try:
        home.engine().population_logits(home.batch, home.point(), {2: home.candidates(2)})
        assert layer.__dict__.get("forward") is theirs
        assert calls
    finally:
        layer.__dict__.pop("forward", None)


def test_candidates_and_point_are_not_changed(any_home):
    home = any_home
    point, candidates = home.point(), {1: home.candidates(1)}
    kept_point, kept = copy.deepcopy(point), copy.deepcopy(candidates)
    home.engine().population_logits(home.batch, point, candidates)
    assert all(torch.equal(point[b], kept_point[b]) for b in point)
    assert torch.equal(candidates[1], kept[1])


def test_same_call_twice_gives_the_same_bits(any_home):
    home = any_home
    point, candidates = home.point(), {1: home.candidates(1)}
    first = home.engine().population_logits(home.batch, point, candidates)
    assert torch.equal(first, home.engine().population_logits(home.batch, point, candidates))
