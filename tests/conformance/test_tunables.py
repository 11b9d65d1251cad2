"""What a tunable promises: flat vectors that fit, a neutral start, artefacts that other tools read."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import math
import re
from contextlib import ExitStack

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import oracle
import tiny
from tandemtune.errors import ModelError, RunError
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import hooked
from tandemtune.models.precision import mix
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.testing import TUNABLE_PROMISES, TunableCase
from tandemtune.tunables.adapter import Adapter
from tandemtune.tunables.base import INPUT
from tandemtune.tunables.bias import Bias
from tandemtune.tunables.full import Full
from tandemtune.tunables.lora import LoRATerms
from tandemtune.tunables.prompt import Prompt
from tandemtune.types import Encoded

pytestmark = pytest.mark.grid

TEMPLATE = Template.parse("{text} it was {mask} .")
TEXTS = ["a great movie", "the plot was dull and the acting terrible", "a review", "they saw news"]
LENGTH = 3
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
IDS = (2, 6, 9, 11, 4, 3)


@functools.cache
def backbone(name):
    return tiny.backbone(name)


def deep_layers(name):
    """Layers of the stack that reads; of two stacks those of the encoder."""
    return [1] if name in tiny.SEQ2SEQ else [3, 1]


def start_of(home, length, seed=3):
    return torch.randn(length, home.embedding_weight.shape[1], generator=torch.Generator().manual_seed(seed)) * 0.3


MAKERS = {
    "lora": lambda home, name, size: LoRATerms(home, size, [2, 0]),
    "drawn-lora": lambda home, name, size: LoRATerms(home, size, [2, 0], start_seed=5),
    "prompt": lambda home, name, size: Prompt(home, size, start_of(home, size)),
    "deep-prompt": lambda home, name, size: Prompt(home, size, start_of(home, size), deep_layers(name)),
    "bias": lambda home, name, size: Bias(home, [2, 0] if size == LENGTH else [3, 2]),
    "adapter": lambda home, name, size: Adapter(home, size, [2, 0]),
    "full": lambda home, name, size: Full(home),
}
PROMPTS = ("prompt", "deep-prompt")


def make(kind, name, size=LENGTH):
    return MAKERS[kind](backbone(name), name, size)


@pytest.fixture(params=tiny.CONFIGS, ids=str)
def name(request):
    return request.param


@pytest.fixture(params=MAKERS, ids=str)
def kind(request):
    return request.param


@functools.cache
def case_of(kind, name):
    neutral = kind not in PROMPTS
    spread = 0.03 if kind == "full" else 0.3
    return TunableCase(lambda home: MAKERS[kind](home, name, LENGTH), backbone(name), neutral, spread, gradient="none")


@pytest.fixture
def case(kind, name):
    return case_of(kind, name)


def random_point(tunable, seed=0):
    """Any numbers; as weights of a whole model, numbers near the pretrained ones."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(tunable, Full):
        begin = tunable.initial()[INPUT]
        return {INPUT: begin + torch.randn(begin.shape, generator=generator) * 0.03}
    return {block: torch.randn(tunable.dim(block), generator=generator) * 0.3 for block in tunable.blocks}


def make_engine(home, tunable):
    verbalizer = resolve(home.tokenizer, TEMPLATE, {"bad": ["terrible"], "good": ["great"]})
    prompts = [tunable.reserve(home.encode(TEMPLATE, {"text": text}, 64)) for text in TEXTS]
    engine = Engine(home.stack(verbalizer), tunable, torch.tensor(verbalizer.weights()))
    return engine, prompts, collate(prompts, [0, 1, 0, 1], torch.device("cpu")), verbalizer.token_ids


@torch.no_grad()
def outputs(home, tunable, point):
    """The model's own logits while a point is applied."""
    ids = tunable.reserve(Encoded(IDS, 1)).ids
    with tunable.applied(point):
        return oracle.all_logits(home.model, torch.tensor([ids]))


@torch.no_grad()
def entering(home, name, tunable, point):
    """What each layer is given to read (a decoder layer also the encoder's output), before the tunable's own hooks."""
    seen = {}

    def watch(index, layer):
        def look(module, args, kwargs):
            given = inspect.signature(layer.forward).bind_partial(*args, **kwargs).arguments
            tensors = [given["hidden_states"], given.get("encoder_hidden_states")]
            seen[index] = [tensor.clone() for tensor in tensors if tensor is not None]

        return layer.register_forward_pre_hook(look, prepend=True, with_kwargs=True)

    with tunable.applied(point), ExitStack() as stack:
        for index, layer in enumerate(oracle.layers_of(home.model, name)):
            stack.enter_context(hooked(watch(index, layer)))
        oracle.all_logits(home.model, torch.tensor([tunable.reserve(Encoded(IDS, 1)).ids]))
    return [seen[index] for index in range(4)]


# every tunable


@pytest.mark.grid("kind", "promise")
@pytest.mark.parametrize("promise", TUNABLE_PROMISES, ids=lambda promise: promise.__name__)
def test_keeps_its_promises(promise, name, kind, case):
    """The suite that others run on tunables of their own."""
    promise(case)


def test_vectors_fit_what_they_are_made_of(name, kind):
    tunable = make(kind, name)
    assert list(tunable.blocks) == sorted(set(tunable.blocks))
    at_input = {"prompt": (INPUT,), "deep-prompt": (INPUT, *sorted(deep_layers(name))), "full": (INPUT,)}
    assert tunable.blocks == at_input.get(kind, (0, 2))
    assert tunable.names and all(isinstance(part, str) for part in tunable.names)
    for block in tunable.blocks:
        assert tunable.dim(block) == sum(math.prod(shape) for shape in tunable.shapes(block)) > 0
    told = tunable.describe()
    assert told["layers"] == (list(range(len(tiny.backbone(name).layers))) if kind == "full" else list(tunable.blocks))
    assert told["parameters"] == sum(tunable.dim(block) for block in tunable.blocks)
    json.dumps(told)


@pytest.mark.parametrize("kind", ["lora", "bias", "adapter", "full"])
def test_the_first_point_is_the_pretrained_model(name, kind):
    home, tunable = backbone(name), make(kind, name)
    assert torch.equal(outputs(home, tunable, tunable.initial()), outputs(home, tunable, {}))


def test_what_lies_below_is_said_honestly(name, kind):
    """Whether hidden states stay valid is compared with the model's own, layer by layer."""
    home, tunable = backbone(name), make(kind, name)
    point = random_point(tunable)
    before = entering(home, name, tunable, point)
    for block in tunable.blocks:
        other = {**point, block: random_point(tunable, seed=9)[block]}
        after = entering(home, name, tunable, other)
        same = [all(map(torch.equal, one, two)) for one, two in zip(before, after, strict=True)]
        assert [tunable.same_below(layer, point, other) for layer in range(4)] == same
        assert same == [layer <= tunable.first_layer([block]) for layer in range(4)]
    assert all(tunable.same_below(layer, point, copy.deepcopy(point)) for layer in range(4))
    assert tunable.first_layer(list(reversed(tunable.blocks))) == tunable.blocks[0]


def test_room_in_a_prompt(name, kind):
    """The tokens are all there in their order, the answer is where it was, and there is room for what is put in."""
    home, tunable = backbone(name), make(kind, name)
    for ids, answer in ((IDS, 4), (IDS[:2], 1), (IDS[:1], 0)):
        prompt = tunable.reserve(Encoded(ids, answer))
        room = LENGTH if kind in PROMPTS else 0
        place = 1 if room and home.kind == "masked" else 0
        assert len(prompt.ids) == len(ids) + room
        assert prompt.ids[:place] + prompt.ids[place + room :] == ids
        if home.kind == "seq2seq":
            assert prompt.answer == answer, "the answer is the decoder's"
        elif answer >= place:
            assert prompt.answer == answer + room and prompt.ids[prompt.answer] == ids[answer]
        else:
            assert prompt == Encoded(prompt.ids, answer)


def weights_in(folder):
    (found,) = folder.glob("*.safetensors")
    return found


@pytest.mark.parametrize("model", ["bert", "llama"])
def test_what_cannot_be_read(kind, model, tmp_path):
    tunable = make(kind, model)
    with pytest.raises(RunError, match=r"\.safetensors cannot be read"):
        tunable.load(tmp_path)
    tunable.save(random_point(tunable), tmp_path, "base")
    path = weights_in(tmp_path)
    whole = path.read_bytes()
    for damage in (b"", b"not an adapter", b"\xff" * 64, whole[:-50]):
        path.write_bytes(damage)
        with pytest.raises(RunError, match="cannot be read"):
            tunable.load(tmp_path)


@pytest.mark.parametrize(("model", "other"), [("bert", "electra"), ("llama", "opt"), ("bert", "bert")])
def test_what_was_made_for_something_else(kind, model, other, tmp_path):
    """Another model, or the same one with another rank, length or choice of layers."""
    if kind == "full" and model == other:
        pytest.skip("all weights have no size to choose")
    found = make(kind, other, LENGTH + (model == other))
    found.save(random_point(found), tmp_path, "base")
    with pytest.raises(RunError, match="another"):
        make(kind, model).load(tmp_path)


def test_a_tensor_too_few_or_too_many(kind, tmp_path):
    tunable = make(kind, "bert")
    tunable.save(random_point(tunable), tmp_path, "base")
    path = weights_in(tmp_path)
    whole = load_file(path)
    first, *rest = whole
    few = {name: whole[name] for name in rest}
    for changed, name in (({**whole, "layer.2": torch.zeros(LENGTH, 32)}, "layer.2"), (few, first)):
        save_file(changed, path)
        with pytest.raises(RunError, match=re.escape(name)):
            tunable.load(tmp_path)


# LoRA


@pytest.mark.parametrize("rank", [1, 3])
def test_sizes_agree_with_the_model(name, rank):
    home = backbone(name)
    tunable = LoRATerms(home, rank, [2, 0])
    assert tunable.blocks == (0, 2)
    n_in, n_q, n_k = oracle.widths(home.model, name)
    for block in tunable.blocks:
        assert tunable.shapes(block) == [(n_in, rank), (rank, n_q), (n_in, rank), (rank, n_k)]
        assert tunable.dim(block) == sum(math.prod(shape) for shape in tunable.shapes(block))
        assert tunable.initial()[block].shape == (tunable.dim(block),)
        assert tunable.initial()[block].dtype == torch.float32
    assert tunable.describe()["parameters"] == 2 * tunable.dim(0)
    assert tunable.describe()["layers"] == [0, 2]


def test_factors_are_the_vector_cut_in_order(name):
    tunable = LoRATerms(backbone(name), 2, [1])
    vector = torch.arange(tunable.dim(1), dtype=torch.float32)
    factors = tunable.factors(1, vector)
    assert list(factors) == ["q", "k"]
    flat = torch.cat([matrix.reshape(-1) for pair in factors.values() for matrix in pair])
    assert torch.equal(flat, vector)
    population = tunable.factors(1, torch.stack([vector, -vector]))
    assert torch.equal(population["k"][1][1], -factors["k"][1])


def test_zero_vector_leaves_the_model_unchanged_to_the_bit(name):
    home = backbone(name)
    tunable = LoRATerms(home, 2, range(4))
    ids = torch.tensor([[2, 6, 9, 11, 3]])
    with torch.no_grad():
        before = oracle.all_logits(home.model, ids)
        with tunable.applied(tunable.initial()):
            inside = oracle.all_logits(home.model, ids)
        with tunable.applied(random_point(tunable)):
            changed = oracle.all_logits(home.model, ids)
        after = oracle.all_logits(home.model, ids)
    assert torch.equal(before, inside)
    assert torch.equal(before, after)
    assert (before - changed).abs().max() > 1e-3


def test_one_zero_factor_adds_nothing(name):
    home = backbone(name)
    tunable = LoRATerms(home, 2, [1])
    vector = random_point(tunable)[1]
    for pair in tunable.factors(1, vector).values():
        pair[1].zero_()  # views: B of query and key in place
    ids = torch.tensor([[2, 6, 9, 11, 3]])
    with torch.no_grad(), tunable.applied({1: vector}):
        inside = oracle.all_logits(home.model, ids)
    with torch.no_grad():
        assert_close(inside, oracle.all_logits(home.model, ids), atol=1e-6, rtol=0)


def test_first_layer_and_same_below(name):
    tunable = LoRATerms(backbone(name), 2, [1, 3])
    assert tunable.first_layer([3, 1]) == 1
    assert tunable.first_layer([3]) == 3
    point = random_point(tunable)
    other = {**point, 1: point[1] + 1e-6}
    assert tunable.same_below(0, point, other)
    assert tunable.same_below(1, point, other)
    assert not tunable.same_below(2, point, other)
    assert not tunable.same_below(3, point, other)
    assert tunable.same_below(3, point, {**point, 3: -point[3]})
    assert tunable.same_below(3, point, copy.deepcopy(point))


def test_side_by_side_is_refused_where_rows_share_an_input(name):
    assert LoRATerms(backbone(name), 1, [0]).side_by_side == (name != "deberta-v2")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (1, 3)], ids=["all", "some"])
def test_peft_gives_what_lora_measured(name, layers, tmp_path):
    home = backbone(name)
    tunable = LoRATerms(home, 2, layers)
    point = random_point(tunable)
    engine, prompts, batch, token_ids = make_engine(home, tunable)
    measured = engine.logits(batch, point)
    untuned = engine.logits(batch, tunable.initial())
    tunable.save(point, tmp_path, "base")
    loaded = peft.PeftModel.from_pretrained(tiny.model(name), tmp_path).eval()
    assert_close(oracle.word_logits(loaded, prompts, token_ids), measured, atol=1e-4, rtol=1e-4)
    assert (measured - untuned).abs().max() > 1e-3
    found = {key for key, _ in loaded.named_modules() if key.endswith(".lora_A")}
    modules = 1 if name in ("gpt2", "gpt_neox") else 2
    assert len(found) == modules * len(layers)


@pytest.mark.filterwarnings("ignore")
def test_peft_matches_layer_numbers_of_two_digits(tmp_path):
    """Layer 1 is not layer 11, though one name ends like the other."""
    config, options = tiny.CONFIGS["llama"]
    deep = {**options, "num_hidden_layers": 12}
    tiny_configs, tiny.CONFIGS["llama"] = tiny.CONFIGS["llama"], (config, deep)
    try:
        home, base = tiny.backbone("llama"), tiny.model("llama")
    finally:
        tiny.CONFIGS["llama"] = tiny_configs
    tunable = LoRATerms(home, 2, [1])
    engine, prompts, batch, token_ids = make_engine(home, tunable)
    point = random_point(tunable)
    tunable.save(point, tmp_path, "base")
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    measured = engine.logits(batch, point)
    assert_close(oracle.word_logits(loaded, prompts, token_ids), measured, atol=1e-4, rtol=1e-4)


def test_adapter_of_another_model(tmp_path):
    other = LoRATerms(backbone("llama"), 2, [0])
    other.save(random_point(other), tmp_path, "base")
    with pytest.raises(RunError, match="made for another model"):
        LoRATerms(backbone("bert"), 2, [0]).load(tmp_path)


def test_adapter_without_a_layer(tmp_path):
    few = LoRATerms(backbone("bert"), 2, [0])
    few.save(random_point(few), tmp_path, "base")
    with pytest.raises(RunError, match=r"layer\.1"):
        LoRATerms(backbone("bert"), 2, [0, 1]).load(tmp_path)


def test_adapter_with_more_layers_is_not_cut_in_silence(tmp_path):
    many = LoRATerms(backbone("bert"), 2, [0, 1])
    many.save(random_point(many), tmp_path, "base")
    with pytest.raises(RunError, match=r"layer\.1"):
        LoRATerms(backbone("bert"), 2, [0]).load(tmp_path)


@pytest.mark.parametrize("model", ["bert", "gpt2"])
@pytest.mark.parametrize("rank", [1, 3])
def test_adapter_of_another_rank(model, rank, tmp_path):
    other = LoRATerms(backbone(model), rank, [0])
    other.save(random_point(other), tmp_path, "base")
    with pytest.raises(RunError, match="shape"):
        LoRATerms(backbone(model), 2, [0]).load(tmp_path)


def test_adapter_of_another_width(tmp_path):
    tunable = LoRATerms(backbone("bert"), 2, [0])
    tunable.save(random_point(tunable), tmp_path, "base")
    path = tmp_path / "adapter_model.safetensors"
    tensors = {key: value[..., :1].contiguous() for key, value in load_file(path).items()}
    save_file(tensors, path)
    with pytest.raises(RunError, match="shape"):
        tunable.load(tmp_path)


def test_adapter_config_says_what_peft_needs(tmp_path):
    tunable = LoRATerms(backbone("gpt2"), 3, [1])
    tunable.save(random_point(tunable), tmp_path, "some/base")
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "some/base"
    assert config["r"] == config["lora_alpha"] == 6  # query and key side by side in one module
    assert config["fan_in_fan_out"] is True
    assert config["task_type"] == "CAUSAL_LM"
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    b = tensors["base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"]
    assert not b[64:].any()  # the value's columns stay as they are
    assert not b[:32, 3:].any()
    assert not b[32:64, :3].any()


# prompts


def mark_of(name):
    """Tokens that stay in front of a prompt."""
    return 1 if name in tiny.MASKED else 0


def rows_of(tunable, point):
    """Vectors [length, width] of each block."""
    return {block: vector.view(LENGTH, -1) for block, vector in point.items()}


@torch.no_grad()
def by_hand(home, name, tunable, point, token_ids):
    """Logits of the label words with vectors put between embeddings by hand, row by row."""
    prompt, *deep = rows_of(tunable, point).items()
    mask = home.tokenizer.mask_token_id
    found = []
    for text in TEXTS:
        ids = home.encode(TEMPLATE, {"text": text}, 64).ids
        logits = oracle.prompted_logits(home.model, name, ids, mark_of(name), prompt[1], dict(deep))[0]
        answer = {"masked": lambda ids=ids: ids.index(mask) + LENGTH, "causal": lambda: -1, "seq2seq": lambda: 0}
        found.append(logits[answer[home.kind](), list(token_ids)])
    return torch.stack(found)


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_are_vectors_between_embeddings(name, kind):
    home, tunable = backbone(name), make(kind, name)
    engine, _, batch, token_ids = make_engine(home, tunable)
    point = random_point(tunable)
    expected = by_hand(home, name, tunable, point, token_ids)
    assert_close(engine.logits(batch, point), expected, **TOLERANCE)
    for block in tunable.blocks:
        moved = {**point, block: random_point(tunable, seed=4)[block]}
        after = by_hand(home, name, tunable, moved, token_ids)
        assert (after - expected).abs().max() > 1e-3, "every block does something"
        both = torch.stack([point[block], moved[block]])
        assert_close(engine.population_logits(batch, point, {block: both}), torch.stack([expected, after]), **TOLERANCE)


def test_words_as_a_prompt_are_words_in_the_text(name):
    """The embeddings of tokens in front of the text are those tokens in front of the text, for every architecture."""
    home, words = backbone(name), ("very", "good", "film")
    ids = home.tokenizer.convert_tokens_to_ids(list(words))
    with torch.no_grad():
        start = home.embeddings(torch.tensor(ids))
    tunable = Prompt(home, LENGTH, start)
    engine, _, batch, token_ids = make_engine(home, tunable)
    written = [home.encode(TEMPLATE, {"text": " ".join((*words, text))}, 64) for text in TEXTS]
    expected = oracle.word_logits(home.model, written, token_ids)
    assert_close(engine.logits(batch, tunable.initial()), expected, **TOLERANCE)
    assert tunable.width == start.shape[1]


@pytest.mark.parametrize("length", [1, 20])
def test_short_and_long_prompts(name, length):
    """One place is as many as a decoder has, which must not get the vector, too."""
    home = backbone(name)
    tunable = Prompt(home, length, start_of(home, length), deep_layers(name))
    engine, prompts, batch, token_ids = make_engine(home, tunable)
    point = random_point(tunable)
    assert all(len(p.ids) > length for p in prompts)
    deep = {block: point[block].view(length, -1) for block in tunable.blocks[1:]}
    ids = home.encode(TEMPLATE, {"text": TEXTS[0]}, 64).ids
    with torch.no_grad():
        whole = oracle.prompted_logits(home.model, name, ids, mark_of(name), point[INPUT].view(length, -1), deep)
    expected = whole[0, prompts[0].answer, list(token_ids)]
    assert_close(engine.logits(batch, point)[0], expected, **TOLERANCE)


def test_a_deep_prompt_begins_as_the_prompt_at_the_input(name):
    """As the mean of what enters its layers anyway; in a causal model, where the text comes later, that changes nothing."""
    home, tunable = backbone(name), make("deep-prompt", name)
    engine, prompts, batch, _ = make_engine(home, tunable)
    assert not tunable.initial()[tunable.blocks[1]].any()
    tunable.settle(engine.stack, [group.ids for group in batch.groups])
    first = tunable.initial()
    assert torch.equal(first[INPUT], tunable.start)
    flat = make("prompt", name)
    places = slice(mark_of(name), mark_of(name) + LENGTH)
    for block in tunable.blocks[1:]:
        states = []
        for prompt in prompts:
            with flat.applied({INPUT: flat.start}), torch.no_grad():
                states.append(oracle.entering(home.model, torch.tensor([prompt.ids]))[block][0, places])
        expected = torch.stack(states).mean(dim=0)
        assert_close(first[block].view(LENGTH, -1), expected, **TOLERANCE)
    if home.kind == "causal":
        assert_close(engine.logits(batch, first), engine.logits(batch, {INPUT: flat.start}), **TOLERANCE)
    for vector in first.values():
        vector.mul_(2)
    assert not torch.equal(first[tunable.blocks[1]], tunable.initial()[tunable.blocks[1]])


def without_marks(name):
    """A masked model whose tokenizer puts no token before a text."""
    tokenizer = tiny.tokenizer("causal")
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    base = backbone(name)
    return Backbone("bare", base.model, tokenizer, "masked", base.architecture)


def test_without_a_first_mark_the_prompt_comes_first():
    home = without_marks("bert")
    tunable = Prompt(home, LENGTH, start_of(home, LENGTH), [2])
    assert tunable.place == 0
    assert tunable.reserve(Encoded((4, 7), 0)).answer == LENGTH
    point = random_point(tunable)
    engine, _, batch, token_ids = make_engine(home, tunable)
    for row, text in enumerate(TEXTS):
        ids = home.encode(TEMPLATE, {"text": text}, 64).ids
        with torch.no_grad():
            deep = {2: point[2].view(LENGTH, -1)}
            whole = oracle.prompted_logits(home.model, "bert", ids, 0, point[INPUT].view(LENGTH, -1), deep)
        expected = whole[0, ids.index(home.tokenizer.mask_token_id) + LENGTH, list(token_ids)]
        assert_close(engine.logits(batch, point)[row], expected, **TOLERANCE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*tiny.CAUSAL, *tiny.SEQ2SEQ])
@pytest.mark.parametrize("masks", [False, True], ids=["plain", "with attention_mask"])
def test_peft_gives_what_a_prompt_measured(name, masks, tmp_path):
    home, tunable = backbone(name), make("prompt", name)
    point = random_point(tunable)
    engine, _, batch, token_ids = make_engine(home, tunable)
    measured = engine.logits(batch, point)
    tunable.save(point, tmp_path, "base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    loaded = peft.PeftModel.from_pretrained(tiny.model(name), tmp_path).eval()
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([home.encode(TEMPLATE, {"text": text}, 64).ids])
        given = {"input_ids": ids}
        if masks:
            given["attention_mask"] = torch.ones_like(ids)
        if home.kind == "seq2seq":
            given["decoder_input_ids"] = torch.tensor([[home.model.config.decoder_start_token_id]])
        with torch.no_grad():
            logits = loaded(**given).logits[0, -1, list(token_ids)]
        assert_close(logits, measured[row], atol=1e-4, rtol=1e-4)
    assert (measured - engine.logits(batch, tunable.initial())).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["bert", "electra", "llama", "t5"])
def test_what_peft_does_not_have_is_kept_in_a_file_of_our_own(name, tmp_path):
    """Prompts of masked models, and deep prompts of all."""
    for kind in PROMPTS:
        tunable = make(kind, name)
        if kind == "prompt" and name not in tiny.MASKED:
            continue
        point = random_point(tunable)
        tunable.save(point, tmp_path / kind, "some/base")
        assert sorted(path.name for path in (tmp_path / kind).iterdir()) == ["prompt.json", "prompt.safetensors"]
        told = json.loads((tmp_path / kind / "prompt.json").read_text(encoding="utf-8"))
        assert told == {
            "base_model": "some/base",
            "length": LENGTH,
            "place": mark_of(name),
            "blocks": list(tunable.blocks),
        }
        tensors = load_file(tmp_path / kind / "prompt.safetensors")
        assert set(tensors) == {"input" if block == INPUT else f"layer.{block}" for block in tunable.blocks}
        for key, rows in zip(sorted(tensors), rows_of(tunable, point).values(), strict=True):
            assert torch.equal(tensors[key], rows)


# biases


def test_biases_are_those_of_all_maps_and_norms_of_a_layer(name):
    """Whatever has a weight and is no embedding; a model without biases is given some."""
    home = backbone(name)
    tunable = Bias(home, range(4))
    for block, layer in enumerate(oracle.layers_of(home.model, name)):
        found = [m for m in layer.modules() if hasattr(m, "weight") and not isinstance(m, torch.nn.Embedding)]
        width = sum(m.weight.shape[0] if isinstance(m, torch.nn.Linear) else m.weight.shape[-1] for m in found)
        assert tunable.dim(block) == width
    assert tunable.side_by_side == (name != "deberta-v2")


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_biases_in_a_file_have_the_names_of_the_model(name, tmp_path):
    home, tunable = backbone(name), make("bias", name)
    point = random_point(tunable)
    tunable.save(point, tmp_path, "some/base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bias.json", "bias.safetensors"]
    tensors = load_file(tmp_path / "bias.safetensors")
    told = json.loads((tmp_path / "bias.json").read_text(encoding="utf-8"))
    assert told == {"base_model": "some/base", "blocks": [0, 2], "changes": told["changes"]}
    assert set(told["changes"]) == set(tensors)
    assert torch.equal(torch.cat([tensors[key] for key in told["changes"]]), torch.cat(list(point.values())))
    for key in tensors:
        assert hasattr(home.model.get_submodule(key.removesuffix(".bias")), "weight")
    if name != "t5":  # whoever adds them to the model's own biases has the tuned model
        changed = copy.deepcopy(home.model)
        for key, change in tensors.items():
            changed.get_parameter(key).data += change
        expected = oracle.all_logits(changed, torch.tensor([IDS])).detach()
        assert_close(outputs(home, tunable, point), expected, **TOLERANCE)


def test_biases_of_what_all_rows_share_are_changed_one_by_one():
    """DeBERTa's relative positions go through maps that have biases."""
    tunable = Bias(tiny.backbone("deberta-v2"), [0, 2])
    assert not tunable.side_by_side
    engine, _, batch, _ = make_engine(tiny.backbone("deberta-v2"), tunable)
    point = random_point(tunable)
    both = engine.population_logits(batch, point, {2: torch.stack([point[2], -point[2]])})
    assert_close(both[0], engine.logits(batch, point), **TOLERANCE)
    assert_close(both[1], engine.logits(batch, {**point, 2: -point[2]}), **TOLERANCE)


# adapters


def test_adapters_in_a_file_are_linear_maps(tmp_path):
    home, tunable = backbone("bert"), make("adapter", "bert")
    point = random_point(tunable)
    tunable.save(point, tmp_path, "some/base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.json", "adapter.safetensors"]
    tensors = load_file(tmp_path / "adapter.safetensors")
    told = json.loads((tmp_path / "adapter.json").read_text(encoding="utf-8"))
    layers = ["bert.encoder.layer.0", "bert.encoder.layer.2"]
    expected = {"base_model": "some/base", "blocks": [0, 2], "layers": layers, "width": LENGTH, "activation": "gelu"}
    assert told == expected
    changed = copy.deepcopy(home.model)
    for path in layers:
        down, up = torch.nn.Linear(32, LENGTH), torch.nn.Linear(LENGTH, 32)
        for part, module in (("down", down), ("up", up)):
            own = {key: tensors.pop(f"{path}.adapter.{part}.{key}") for key in ("weight", "bias")}
            module.load_state_dict(own)
        behind = torch.nn.Sequential(down, torch.nn.GELU(), up)
        changed.get_submodule(path).register_forward_hook(lambda module, args, output, b=behind: output + b(output))
    assert not tensors
    with torch.no_grad():
        expected = oracle.all_logits(changed, torch.tensor([IDS]))
    assert_close(outputs(home, tunable, point), expected, **TOLERANCE)


def test_a_drawn_adapter_begins_as_the_pretrained_model(name):
    home = backbone(name)
    tunable = Adapter(home, LENGTH, range(4), start_seed=5)
    begin = tunable.initial()
    for vector in begin.values():
        w_down, rest = vector[: 32 * LENGTH], vector[32 * LENGTH :]
        assert 0 < w_down.abs().max() <= 32**-0.5 and w_down.unique().numel() > LENGTH and not rest.any()
    assert torch.equal(begin[3], Adapter(home, LENGTH, range(4), start_seed=5).initial()[3])
    assert not torch.equal(begin[3], Adapter(home, LENGTH, range(4), start_seed=6).initial()[3])
    assert torch.equal(outputs(home, tunable, begin), outputs(home, tunable, {}))


# all weights


def test_every_weight_is_tuned_once(name):
    home = backbone(name)
    tunable = Full(home)
    distinct = {id(parameter): parameter for parameter in home.model.parameters()}
    assert tunable.dim(INPUT) == sum(parameter.numel() for parameter in distinct.values())
    assert torch.equal(tunable.initial()[INPUT], torch.nn.utils.parameters_to_vector(home.model.parameters()))
    assert torch.equal(outputs(home, tunable, tunable.initial()), outputs(home, tunable, {}))
    point = random_point(tunable)
    expected = oracle.all_logits(oracle.with_weights(home.model, point[INPUT]), torch.tensor([IDS])).detach()
    assert_close(outputs(home, tunable, point), expected, **TOLERANCE)


AUTO = {"masked": "AutoModelForMaskedLM", "causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}


def assert_ordinary_model(home, folder, dtype):
    """A folder of all weights gives what was measured, as `transformers` reads it and as the library itself does."""
    tunable, auto = Full(home), getattr(transformers, AUTO[home.kind])
    weights = copy.deepcopy(home.model.state_dict())
    point = random_point(tunable)
    engine, prompts, batch, token_ids = make_engine(home, tunable)
    measured = engine.logits(batch, point)
    tunable.save(point, folder, "base")
    assert all(torch.equal(weights[key], value) for key, value in home.model.state_dict().items())
    assert_close(engine.logits(batch, tunable.load(folder)), measured, atol=1e-6, rtol=0)
    loaded = auto.from_pretrained(folder, dtype=dtype).eval()
    for saved, before in zip(loaded.parameters(), home.model.parameters(), strict=True):
        assert saved.dtype == before.dtype and saved.shape == before.shape and not torch.equal(saved, before)
    home = Backbone("again", loaded, type(home.tokenizer).from_pretrained(folder), home.kind, home.architecture)
    engine, again, batch, _ = make_engine(home, Full(home))
    assert again == prompts
    assert_close(engine.logits(batch, {}), measured, atol=1e-6, rtol=0)
    return oracle.word_logits(loaded, prompts, token_ids), measured


def test_a_folder_of_all_weights_is_an_ordinary_model(name, tmp_path, capfd):
    found, measured = assert_ordinary_model(backbone(name), tmp_path / "new" / "model", torch.float32)
    assert_close(found, measured, **TOLERANCE)
    assert "Writing" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["bert", "qwen3", "t5"])
def test_a_folder_of_all_weights_has_the_number_format_of_the_model(name, tmp_path):
    base = backbone(name)
    base.model.save_pretrained(tmp_path / "base")
    model = getattr(transformers, AUTO[base.kind]).from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    home = Backbone("low", model.eval().requires_grad_(False), base.tokenizer, base.kind, base.architecture)
    assert_ordinary_model(home, tmp_path / "tuned", torch.bfloat16)


@pytest.mark.parametrize("name", ["bert", "t5", "gpt2"])
def test_a_shared_weight_may_have_any_of_its_names(name, tmp_path):
    tunable = make("full", name)
    point = random_point(tunable)
    tunable.save(point, tmp_path, "base")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    model = backbone(name).model
    head = next(key for key, module in model.named_modules() if module is model.get_output_embeddings())
    names = [
        key for key, value in model.state_dict(keep_vars=True).items() if value is model.get_output_embeddings().weight
    ]
    (kept,) = tensors.keys() & set(names)
    assert kept != f"{head}.weight"
    tensors[f"{head}.weight"] = tensors.pop(kept)
    save_file(tensors, path)
    assert torch.equal(tunable.load(tmp_path)[INPUT], point[INPUT])


def test_weights_that_are_no_floats_are_refused():
    class Packed(torch.Tensor):
        """Like a tensor of a quantization library: it says float32 and holds something else."""

    for make_weight in (
        lambda weight: torch.nn.Parameter(weight.to(torch.int8), requires_grad=False),
        lambda weight: torch.nn.Parameter(weight.as_subclass(Packed), requires_grad=False),
    ):
        home = tiny.backbone("llama")
        projection = home.layers[1].self_attn.q_proj
        projection.weight = make_weight(projection.weight.data)
        with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.q_proj\.weight .*leave \[model\] quantize out"):
            Full(home)


def test_all_weights_of_two_candidates_at_once_are_refused():
    tunable = make("full", "bert")
    two = torch.stack([tunable.initial()[INPUT]] * 2)
    with pytest.raises(ModelError, match="2 candidates"), tunable.applied({INPUT: two}):
        pass


# number formats


@pytest.mark.parametrize("kind", ["bias", "adapter", "full"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "gemma3_text", "t5"])
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed"])
def test_other_number_formats(name, kind, dtype):
    """Near the same point in float32, one by one and side by side, and with gradients."""
    exact, home = backbone(name), tiny.backbone(name)
    if dtype == "mixed":
        mix(home.model, home.architecture.paths)
    else:
        home.model.to(torch.bfloat16)
    point = random_point(make(kind, name))
    expected = outputs(exact, make(kind, name), point)
    tunable = MAKERS[kind](home, name, LENGTH)
    assert all(vector.dtype == torch.float32 for vector in tunable.initial().values())
    found = outputs(home, tunable, point).float()
    assert not torch.equal(found, expected)
    assert (found - expected).abs().mean() < 0.15 * expected.std()
    engine, _, batch, _ = make_engine(home, tunable)
    block = tunable.blocks[-1]
    both = torch.stack([point[block], tunable.initial()[block]])
    alone = [engine.logits(batch, {**point, block: vector}) for vector in both]
    for one, two in zip(engine.population_logits(batch, point, {block: both}), alone, strict=True):
        assert (one - two).abs().mean() < 0.1 * expected.std()
    assert (alone[0] - alone[1]).abs().max() > 0.05
    leaf = point[block].clone().requires_grad_()
    engine.gradient_logits(batch.groups[0], {**point, block: leaf}).sum().backward()
    assert leaf.grad.dtype == torch.float32 and leaf.grad.abs().max() > 0
