"""All weights along seeded directions: W(c) is a function of c to the bit, whatever was tried before, and needs no room."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import oracle
import tiny
from grids import sparse
from tandemtune.errors import ModelError, RunError
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.label_words import LabelWordEvaluator
from tandemtune.models import architectures
from tandemtune.models.backbone import Backbone
from tandemtune.models.load import load
from tandemtune.models.precision import mix
from tandemtune.objectives.cross_entropy import cross_entropy
from tandemtune.optimizers.directions import Directions
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.base import INPUT
from tandemtune.tunables.seeded import SeededDirections

pytestmark = pytest.mark.grid

TEMPLATE = Template.parse("{text} it was {mask} .")
TEXTS = ["a great movie", "the plot was dull and the acting terrible", "a review", "they saw news"]
IDS = torch.tensor([[2, 6, 9, 11, 4, 3], [2, 8, 7, 30, 4, 3]])
GROUPS, GROUP = 5, 2
KINDS = {"gaussian": {}, "low-rank": {"noise": "low-rank", "rank": 2}}
THREE = ("bert", "llama", "t5")
SOON = (*THREE, "gpt2", "bart", "gemma3_text")
EMBEDDINGS_AND_HEADS = (
    "embed",
    "shared",
    "wte",
    "wpe",
    "lm_head",
    "predictions",
    "vocab_",
    "project_",
    "encoder.conv.",
)


@pytest.fixture(params=KINDS, ids=str)
def kind(request):
    return request.param


def make(name, kind, home=None, groups=GROUPS, group=GROUP, seed=3, **options):
    home = home or tiny.backbone(name)
    return home, SeededDirections(home, seed, groups, group, **KINDS[kind], **options)


def point(*coefficients):
    """A point with the given first coefficients."""
    vector = torch.zeros(GROUPS * GROUP)
    vector[: len(coefficients)] = torch.tensor(coefficients)
    return {INPUT: vector}


def some_point(count=GROUPS * GROUP, seed=0, size=0.03):
    generator = torch.Generator().manual_seed(seed)
    return point(*(torch.randn(count, generator=generator) * size).tolist())


def weights(home):
    return {name: tensor.detach().clone() for name, tensor in home.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@torch.no_grad()
def outputs(home, tunable, given, copies=1):
    with tunable.applied(given):
        return oracle.all_logits(home.model, IDS.repeat(copies, 1))


@torch.no_grad()
def changed_copy(model, tunable, vector):
    """The model with the directions really added."""
    result = copy.deepcopy(model)
    inside = dict(result.named_parameters())
    for number, coefficient in enumerate(vector.tolist()):
        for name, noise in tunable.direction(number) if coefficient else ():
            inside[name] += noise * coefficient
    return result


def make_engine(home, tunable, **options):
    verbalizer = resolve(home.tokenizer, TEMPLATE, {"bad": ["terrible"], "good": ["great"]})
    prompts = [tunable.reserve(home.encode(TEMPLATE, {"text": text}, 64)) for text in TEXTS]
    engine = Engine(home.stack(verbalizer), tunable, torch.tensor(verbalizer.weights()), **options)
    return engine, collate(prompts, [0, 1, 1, 0], torch.device("cpu")), prompts, verbalizer.token_ids


# what a direction is


def test_which_weights_have_a_direction():
    """All inside the layers and the norms behind them, by name; embeddings, heads and what they share stay."""
    for name in tiny.CONFIGS:
        home, tunable = make(name, "gaussian")
        found = dict(tunable.direction(0))
        own = dict(home.model.named_parameters())
        stays = {key for key in own if any(part in key for part in EMBEDDINGS_AND_HEADS)}
        stays |= {key for key in own if "relative_attention_bias" in key or key.startswith("deberta.encoder.LayerNorm")}
        assert found.keys() == own.keys() - stays
        assert all(noise.shape == own[key].shape and noise.dtype == torch.float32 for key, noise in found.items())
        assert tunable.describe()["weights"] == sum(noise.numel() for noise in found.values())
    assert "model.norm.weight" in dict(make("llama", "gaussian")[1].direction(0))


def test_directions_depend_on_the_seed_and_the_number_alone(kind):
    home, tunable = make("llama", kind)
    outputs(home, tunable, some_point())
    _, other = make("llama", kind, home=tiny.backbone("llama", seed=5), groups=40, group=1)
    first = dict(tunable.direction(3))
    assert same(first, dict(other.direction(3)))
    for different in (tunable.direction(4), make("llama", kind, seed=4)[1].direction(3)):
        assert not any(torch.equal(first[key], noise) for key, noise in different)


def test_entries_have_variance_one_and_low_rank_matrices_their_rank(kind):
    _, tunable = make("llama", kind)
    draws = [dict(tunable.direction(s)) for s in range(30)]
    flat = torch.stack([torch.cat([noise.reshape(-1) for noise in draw.values()]) for draw in draws])
    assert abs(flat.mean()) < 0.01 and abs(flat.std() - 1) < 0.02
    between = torch.corrcoef(flat) - torch.eye(30)
    assert between.abs().max() < 0.05, "directions are nearly orthogonal"
    for key, noise in draws[0].items():
        if noise.ndim == 2:
            assert torch.linalg.matrix_rank(noise) == (min(noise.shape) if kind == "gaussian" else 2), key


def test_weights_larger_than_one_piece_are_made_in_pieces(kind):
    """Big enough that the noise of one matrix is drawn in several goes."""
    home = wide()
    _, tunable = make("llama", kind, home=home)
    noise = dict(tunable.direction(1))["model.layers.0.mlp.down_proj.weight"]
    assert noise.numel() > 3 * 65536
    assert abs(noise.std() - 1) < 0.1 and len(noise[:, 0].unique()) == len(noise)
    given = point(0.02, 0.0, -0.01)
    expected = oracle.all_logits(changed_copy(home.model, tunable, given[INPUT]), IDS)
    assert_close(outputs(home, tunable, given), expected, atol=1e-4, rtol=1e-4)


# what a point is


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_logits_are_those_of_a_copy_with_the_directions_added(name, kind):
    home, tunable = make(name, kind)
    pretrained, plain = copy.deepcopy(home.model), outputs(home, tunable, {})
    for given in (point(0.05), point(0.0, -0.05, 0.02), some_point(), some_point(7, seed=1)):
        expected = oracle.all_logits(changed_copy(pretrained, tunable, given[INPUT]), IDS)
        assert_close(outputs(home, tunable, given), expected, atol=2e-4, rtol=1e-4)
        assert (expected - plain).abs().max() > 1e-2


@pytest.mark.parametrize("name", THREE)
def test_the_engine_measures_that_copy(name, kind):
    home, tunable = make(name, kind)
    given = some_point()
    changed = changed_copy(home.model, tunable, given[INPUT])
    engine, batch, prompts, token_ids = make_engine(home, tunable)
    assert_close(engine.logits(batch, given), oracle.word_logits(changed, prompts, token_ids), atol=1e-4, rtol=1e-4)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", sparse(tiny.CONFIGS, SOON))
def test_a_population_is_its_candidates_one_by_one(name, kind):
    """Candidates of the next group beside the point itself, and candidates that differ everywhere."""
    home, tunable = make(name, kind)
    assert tunable.side_by_side == (kind == "low-rank" and name != "deberta-v2")
    engine, batch, _, _ = make_engine(home, tunable)
    base = some_point(4)[INPUT]
    near = base.repeat(5, 1)
    near[0, 4], near[1, 5], near[2, 4], near[3, 5] = 0.05, 0.05, -0.05, -0.05
    far = torch.stack([some_point(seed=seed)[INPUT] for seed in (1, 2, 3)])
    for many in (near, far):
        together = engine.population_logits(batch, {INPUT: base}, {INPUT: many})
        alone = torch.stack([engine.logits(batch, {INPUT: vector}) for vector in many])
        assert_close(together, alone, atol=1e-4, rtol=1e-4)
        assert (alone[0] - alone[1]).abs().max() > 1e-3
    few, _, _, _ = make_engine(home, tunable, max_memory=1e-6)
    one_by_one = few.population_logits(batch, {INPUT: base}, {INPUT: near})
    assert_close(one_by_one, engine.population_logits(batch, {INPUT: base}, {INPUT: near}), atol=1e-4, rtol=1e-4)


def test_several_settings_at_once_are_refused_where_they_cannot_be():
    _, tunable = make("bert", "gaussian")
    with pytest.raises(ModelError, match="one setting at a time"), tunable.applied({INPUT: torch.eye(10)[:2]}):
        pass
    home, tunable = make("bert", "low-rank")
    with pytest.raises(ModelError, match="side by side"):
        outputs(home, tunable, {INPUT: torch.eye(10)[:3]})  # of two rows


def test_what_is_no_setting_is_refused_and_changes_nothing(kind):
    home, tunable = make("llama", kind)
    before = weights(home)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ModelError, match="NaN or infinite"):
            outputs(home, tunable, point(0.1, bad, 0.1))
    with pytest.raises(ModelError, match="no gradients"):
        outputs(home, tunable, {INPUT: tunable.initial()[INPUT].requires_grad_()})
    assert same(weights(home), before)


# the same point gives the same bits


@pytest.mark.parametrize("name", THREE)
def test_weights_do_not_depend_on_the_path(name, kind):
    straight, tunable = make(name, kind)
    end = some_point()
    expected = outputs(straight, tunable, end)
    walked, tunable = make(name, kind)
    for step in range(GROUPS):
        here = end[INPUT].clone()
        here[step * GROUP :] = 0
        tries = here.repeat(2 * GROUP, 1)
        for column in range(GROUP):
            tries[column, step * GROUP + column] = 0.05
            tries[GROUP + column, step * GROUP + column] = -0.05
        for one in tries:
            outputs(walked, tunable, {INPUT: one})
        if tunable.side_by_side:
            outputs(walked, tunable, {INPUT: tries}, copies=len(tries))
        outputs(walked, tunable, {INPUT: here})
    assert torch.equal(outputs(walked, tunable, end), expected)
    assert same(weights(walked), weights(straight))


def test_a_point_gives_the_same_bits_written_or_on_the_fly(kind):
    home, tunable = make("llama", kind)
    here, following = some_point(6), some_point(8)
    on_the_fly, first = outputs(home, tunable, here), weights(home)
    outputs(home, tunable, following)  # writes the third group
    assert not same(weights(home), first)
    second = weights(home)
    assert torch.equal(outputs(home, tunable, here), on_the_fly)
    assert same(weights(home), second), "nothing had to be undone"
    copied = changed_copy(tiny.backbone("llama").model, tunable, here[INPUT])
    assert same(weights(home), copied.state_dict())


@pytest.mark.parametrize("name", THREE)
def test_no_drift(name, kind):
    home, tunable = make(name, kind)
    base = some_point(4)[INPUT]
    outputs(home, tunable, {INPUT: base + point(0, 0, 0, 0, 1.0)[INPUT]})
    before, traces = weights(home), oracle.traces(home.model)
    for turn in range(50):
        outputs(home, tunable, {INPUT: base + point(0, 0, 0, 0, 0.1 * turn - 2, 0.3)[INPUT]})
    with pytest.raises(ZeroDivisionError), tunable.applied({INPUT: base + point(0, 0, 0, 0, 1.0)[INPUT]}):
        raise ZeroDivisionError
    assert same(weights(home), before)
    assert oracle.traces(home.model) == traces


@pytest.mark.parametrize("name", sparse(tiny.CONFIGS, SOON))
def test_going_back(name, kind):
    home, tunable = make(name, kind)
    pretrained, plain = weights(home), oracle.all_logits(home.model, IDS)
    early, late = some_point(3), some_point(9)
    first = outputs(home, tunable, early)
    outputs(home, tunable, late)
    assert not same(weights(home), pretrained)
    assert torch.equal(outputs(home, tunable, early), first)
    assert torch.equal(outputs(home, tunable, some_point(9, seed=4)), outputs(*make(name, kind), some_point(9, seed=4)))
    for empty in ({}, tunable.initial()):
        outputs(home, tunable, late)
        assert torch.equal(outputs(home, tunable, empty), plain)
        assert same(weights(home), pretrained)


def test_what_was_interrupted_half_way_is_not_gone_on_from(kind, monkeypatch):
    """A kill between two weights leaves a model that belongs to no point; the next point is right all the same."""
    home, tunable = make("llama", kind)
    expected = outputs(*make("llama", kind), some_point(9))
    real, calls = torch.Generator, []

    def dying(*args):
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(torch, "Generator", dying)
    before = weights(home)
    with pytest.raises(KeyboardInterrupt):
        outputs(home, tunable, some_point(9))
    assert not same(weights(home), before)
    assert torch.equal(outputs(home, tunable, some_point(9)), expected)


def test_coefficients_that_are_zero_are_none(kind):
    home, tunable = make("llama", kind)
    before = weights(home)
    outputs(home, tunable, point(0.0, -0.0, 0.0, 0.0, 0.0, 0.1))
    assert same(weights(home), before)
    assert torch.equal(outputs(home, tunable, point()), oracle.all_logits(home.model, IDS))


def test_points_are_not_changed_and_not_held(kind):
    home, tunable = make("llama", kind)
    given = some_point(4)
    kept = given[INPUT].clone()
    first = outputs(home, tunable, given)
    assert torch.equal(given[INPUT], kept)
    given[INPUT] *= 3
    assert torch.equal(outputs(home, tunable, {INPUT: kept}), first)


# where pretrained weights come from


def on_disk(folder, name, **options):
    home = tiny.backbone(name)
    home.model.save_pretrained(folder, **options)
    home.tokenizer.save_pretrained(folder)
    return load(str(folder))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_they_are_read_from_the_models_own_folder(name, tmp_path):
    home = on_disk(tmp_path, name)
    files, pretrained = contents(tmp_path), weights(home)
    _, tunable = make(name, "low-rank", home=home)
    assert tunable.describe()["reload"] == "disk"
    outputs(home, tunable, some_point())
    assert not same(weights(home), pretrained)
    with tunable.applied({}):
        assert same(weights(home), pretrained)
    assert contents(tmp_path) == files


def test_files_in_parts_and_in_16_bits(tmp_path):
    home = tiny.backbone("llama")
    home.model.to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="20KB")
    home.tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    home = load(str(tmp_path))
    pretrained = weights(home)
    _, tunable = make("llama", "gaussian", home=home)
    assert tunable.describe()["reload"] == "disk"
    outputs(home, tunable, some_point())
    outputs(home, tunable, {})
    assert same(weights(home), pretrained)


@pytest.mark.filterwarnings("ignore")
def test_files_whose_names_lack_the_models_prefix(tmp_path):
    """GPT-2's own checkpoint is one of the base model, under shorter names."""
    home = tiny.backbone("gpt2")
    home.model.transformer.save_pretrained(tmp_path)
    home.tokenizer.save_pretrained(tmp_path)
    assert "h.0.ln_1.weight" in load_file(tmp_path / "model.safetensors")
    home = load(str(tmp_path), kind="causal")
    pretrained = weights(home)
    _, tunable = make("gpt2", "gaussian", home=home)
    assert tunable.describe()["reload"] == "disk"
    outputs(home, tunable, some_point())
    outputs(home, tunable, {})
    assert same(weights(home), pretrained)


def test_a_model_that_is_not_what_lies_in_its_folder_is_copied(tmp_path):
    home = on_disk(tmp_path, "bert")
    home.model.bert.encoder.layer[3].output.dense.bias += 1
    pretrained = weights(home)
    _, tunable = make("bert", "gaussian", home=home)
    assert tunable.describe()["reload"] == "memory"
    outputs(home, tunable, some_point())
    outputs(home, tunable, {})
    assert same(weights(home), pretrained)


def test_files_that_were_changed_or_removed_meanwhile(tmp_path):
    home = on_disk(tmp_path, "bert")
    _, tunable = make("bert", "gaussian", home=home)
    outputs(home, tunable, some_point())
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.unlink()
    for content in (None, whole + b" "):
        if content:
            path.write_bytes(content)
        with pytest.raises(RunError, match="changed or removed"):
            outputs(home, tunable, {})


def test_a_source_of_ones_own():
    home = tiny.backbone("llama")
    pretrained, reads = weights(home), []

    def reload():
        reads.append(1)
        yield from pretrained.items()

    _, tunable = make("llama", "gaussian", home=home, reload=reload)
    assert tunable.describe()["reload"] == "given"
    outputs(home, tunable, some_point())
    assert not reads
    outputs(home, tunable, {})
    assert len(reads) == 1 and same(weights(home), pretrained)
    _, tunable = make("llama", "gaussian", home=home, reload=lambda: iter([]))
    outputs(home, tunable, some_point())
    with pytest.raises(RunError, match="without"):
        outputs(home, tunable, {})


# what is refused


def test_weights_of_16_bits_are_refused():
    home = tiny.backbone("llama")
    mix(home.model, home.architecture.paths)
    with pytest.raises(ModelError, match=r"bfloat16.*dtype to \"float32\""):
        make("llama", "gaussian", home=home)
    home = tiny.backbone("llama")
    home.model.half()
    with pytest.raises(ModelError, match=r"float16.*dtype to \"float32\""):
        make("llama", "gaussian", home=home)


@pytest.mark.parametrize("wrong", [{"groups": 0}, {"group": 0}, {"seed": -1}, {"rank": 0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        SeededDirections(tiny.backbone("llama"), **{"seed": 1, "groups": 2, **wrong})


# tied weights


def test_a_weight_with_two_owners_is_one_weight(kind):
    """Two layers that share a matrix, and one that shares it with the head."""
    model = tiny.model("llama")
    layers = model.model.layers
    layers[2].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    layers[3].self_attn.o_proj.weight = model.lm_head.weight = torch.nn.Parameter(torch.randn(52, 32))
    layers[3].self_attn.o_proj.forward = lambda hidden: hidden
    home = Backbone("tied", model, tiny.tokenizer("causal"), "causal", architectures.find(model))
    _, tunable = make("llama", kind, home=home)
    found = dict(tunable.direction(0))
    assert "model.layers.0.mlp.up_proj.weight" in found
    assert not found.keys() & {"model.layers.2.mlp.up_proj.weight", "model.layers.3.self_attn.o_proj.weight"}
    given = some_point()
    expected = oracle.all_logits(changed_copy(model, tunable, given[INPUT]), IDS)
    assert_close(outputs(home, tunable, given), expected, atol=2e-4, rtol=1e-4)


# memory


def wide():
    config = transformers.LlamaConfig(
        vocab_size=60, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    return Backbone("wide", model, tiny.tokenizer("causal"), "causal", architectures.find(model))


def peak(run, path):
    """The most bytes that were allocated at once, beyond what was there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    profile.export_chrome_trace(str(path))
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    total, most = 0, 0
    for event in events:
        total += event["args"]["Bytes"]
        most = max(most, total)
    return most


def test_extra_memory_is_the_largest_weight_and_a_piece(kind, tmp_path):
    home = wide()
    _, tunable = make("llama", kind, home=home, reload=lambda: iter([]))
    largest = 4 * max(tensor.numel() for tensor in home.model.parameters())
    all_weights = 4 * sum(tensor.numel() for tensor in home.model.parameters())
    assert all_weights > 7 * largest
    before = weights(home)

    @torch.no_grad()
    def tried():
        with tunable.applied(some_point(6)):
            oracle.all_logits(home.model, IDS)

    plain = peak(lambda: oracle.all_logits(home.model, IDS), tmp_path / "plain.json")
    extra = peak(tried, tmp_path / "tried.json") - plain
    assert not same(weights(home), before), "two groups were written, the third was tried"
    assert largest <= extra < 1.6 * largest
    if kind == "low-rank":
        many = some_point(4)[INPUT].repeat(4, 1)
        many[:, 4] = torch.tensor([0.1, 0.2, 0.3, 0.4])

        def together():
            with torch.no_grad(), tunable.applied({INPUT: many}):
                oracle.all_logits(home.model, IDS.repeat(4, 1))

        outputs(home, tunable, {INPUT: many[0]})
        plain = peak(lambda: oracle.all_logits(home.model, IDS.repeat(4, 1)), tmp_path / "plain.json")
        assert peak(together, tmp_path / "tried.json") - plain < largest


# artefacts


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_save_and_load(name, kind, tmp_path):
    home, tunable = make(name, kind)
    given = some_point(7)
    given[INPUT][2] = 0
    measured = outputs(home, tunable, given)
    tunable.save(given, tmp_path / "new" / "artefact", "pypi:base")
    folder = tmp_path / "new" / "artefact"
    loaded = make(name, kind)[1].load(folder)
    assert (
        loaded.keys() == {INPUT} and torch.equal(loaded[INPUT], given[INPUT]) and loaded[INPUT].dtype == torch.float32
    )
    kept = load_file(folder / "directions.safetensors")
    assert kept["direction"].tolist() == [0, 1, 3, 4, 5, 6]
    told = json.loads((folder / "directions.json").read_text())
    assert (told["base_model"], told["seed"], told["groups"], told["group"]) == ("pypi:base", 3, GROUPS, GROUP)
    assert (told["noise"], told["rank"]) == (kind, 2 if kind == "low-rank" else None)
    auto = {"masked": "MaskedLM", "causal": "CausalLM", "seq2seq": "Seq2SeqLM"}[tiny.kind_of(name)]
    read = getattr(transformers, f"AutoModelFor{auto}").from_pretrained(folder).eval()
    assert_close(oracle.all_logits(read, IDS), measured, atol=1e-6, rtol=1e-5)
    assert same(weights(home), read.state_dict())
    assert torch.equal(outputs(home, tunable, given), measured)
    assert transformers.AutoTokenizer.from_pretrained(folder).get_vocab() == home.tokenizer.get_vocab()


def test_the_base_models_folder_is_not_written_over(tmp_path):
    home = on_disk(tmp_path, "llama")
    files = contents(tmp_path)
    _, tunable = make("llama", "gaussian", home=home)
    with pytest.raises(RunError, match="folder of the base model"):
        tunable.save(some_point(), tmp_path, "base")
    assert contents(tmp_path) == files


def test_what_cannot_be_read(tmp_path):
    _, tunable = make("llama", "gaussian")
    with pytest.raises(RunError, match=r"directions\.safetensors cannot be read"):
        tunable.load(tmp_path)
    tunable.save(some_point(), tmp_path, "base")
    vectors, told = tmp_path / "directions.safetensors", tmp_path / "directions.json"
    whole, text = vectors.read_bytes(), told.read_text()
    for damage in (b"", b"no tensors", whole[:-3]):
        vectors.write_bytes(damage)
        with pytest.raises(RunError, match=r"directions\.safetensors cannot be read"):
            tunable.load(tmp_path)
    vectors.write_bytes(whole)
    for damage in ("", "[]", "{}", text[:-20]):
        told.write_text(damage)
        with pytest.raises(RunError, match=r"directions\.json cannot be read"):
            tunable.load(tmp_path)
    told.write_text(text)
    for wrong in ([0, 10], [-1, 2], [0.0, 1.0], [0]):
        save_file({"direction": torch.tensor(wrong), "coefficient": torch.ones(2)}, vectors)
        with pytest.raises(RunError, match="between 0 and 9"):
            tunable.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("llama", {"seed": 4}, "seed"),
        ("llama", {"groups": 6}, "groups"),
        ("llama", {"groups": 10, "group": 1}, "groups"),
        ("qwen2", {}, "weights"),
    ],
)
def test_what_was_made_for_something_else(name, options, key, tmp_path):
    make(name, "gaussian", **options)[1].save(point(0.1), tmp_path, "base")
    with pytest.raises(RunError, match=rf"{key} is .* another"):
        make("llama", "gaussian")[1].load(tmp_path)
    make("llama", "low-rank")[1].save(point(0.1), tmp_path, "base")
    with pytest.raises(RunError, match="noise is low-rank, expected gaussian"):
        make("llama", "gaussian")[1].load(tmp_path)


# a search


@pytest.mark.few(1)
@pytest.mark.parametrize(("name", "shaping"), [*((name, "values") for name in THREE), ("llama", "ranks")])
def test_a_search_lowers_the_training_loss(name, kind, shaping):
    groups, group = 16, 4
    home, tunable = make(name, kind, groups=groups, group=group)
    engine, batch, _, _ = make_engine(home, tunable)
    objective = LabelWordEvaluator(
        engine, batch, cross_entropy, lambda found, gold: float(np.mean(np.equal(found, gold)))
    )
    size = {"lr": 2e-3, "sigma": 1e-3} if shaping == "values" else {"lr": 2e-5, "sigma": 1e-3}
    optimizer = Directions(groups, group, shaping=shaping, **size)
    at = {INPUT: torch.from_numpy(optimizer.point).float()}
    losses = [objective.measure_on(batch, at).loss]
    for _ in range(groups):
        candidates = torch.from_numpy(optimizer.ask()).float()
        optimizer.tell(objective.evaluate(at, {INPUT: torch.cat([candidates, at[INPUT].unsqueeze(0)])})[:-1])
        at = {INPUT: torch.from_numpy(optimizer.point).float()}
        losses.append(objective.measure_on(batch, at).loss)
    assert losses[-1] < 0.9 * losses[0]
    fresh, other = make(name, kind, groups=groups, group=group)
    again, batch, _, _ = make_engine(fresh, other)
    assert torch.equal(again.logits(batch, at), engine.logits(batch, at)), "the end is the same reached at once"


def test_describe_and_the_first_point(kind):
    _, tunable = make("llama", kind)
    told = json.loads(json.dumps(tunable.describe()))
    assert (told["parameters"], told["layers"], told["reload"]) == (10, [INPUT], "memory")
    first = tunable.initial()
    assert first[INPUT].shape == (tunable.dim(INPUT),) and not first[INPUT].any()
    assert tunable.shapes(INPUT) == [(GROUPS, GROUP)] and tunable.blocks == (INPUT,)
    assert tunable.first_layer([INPUT]) == INPUT
    assert tunable.same_below(0, first, tunable.initial())
    assert not tunable.same_below(0, first, point(0.0, 1.0))
