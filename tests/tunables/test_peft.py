"""Adapters of PEFT: what is measured is what PEFT itself computes, and nothing of PEFT is left on the model."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import small
import tiny
from tandemtune.callbacks import Callback
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, ModelError, RunError, UsageError
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.models.precision import mix
from tandemtune.runner import go_on, run
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.testing import TUNABLE_PROMISES, TunableCase
from tandemtune.testing.tiny import TinyDesk, hooks_of, tiny_backbone
from tandemtune.tunables.base import INPUT
from tandemtune.tunables.peft import PEFT, PEFTAdapter, types
from tandemtune.types import Encoded

pytestmark = pytest.mark.grid

TYPES = {
    "ia3": ("IA3", {}),
    "dora": ("LORA", {"use_dora": True, "r": 2}),
    "vera": ("VERA", {"r": 8}),
    "lokr": ("LOKR", {"r": 2}),
    "loha": ("LOHA", {"r": 2}),
    "oft": ("OFT", {"oft_block_size": 8}),
    "boft": ("BOFT", {}),
    "norms": ("LN_TUNING", {"target_modules": r".*\.\d+\.(.*\.)?(LayerNorm|\w*layernorm|ln_\d)"}),
}
FEW = ("ia3", "dora", "vera", "oft")
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
IDS = torch.tensor([[2, 6, 9, 11, 4, 3]])


def adapter(home, name, seed=3):
    kind, options = TYPES[name]
    return PEFTAdapter(home, kind, options, seed)


def near(tunable, seed=0, spread=0.1):
    first = tunable.initial()[INPUT]
    return {INPUT: first + spread * torch.randn(first.shape, generator=torch.Generator().manual_seed(seed))}


@torch.no_grad()
def logits(model):
    begin = {"decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)} if model.config.is_encoder_decoder else {}
    return model(input_ids=IDS, **begin).logits


@pytest.mark.few(4)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["masked", "causal", "seq2seq"])
@pytest.mark.parametrize("name", [name for name in TYPES if name != "norms"])
def test_every_type_keeps_what_a_tunable_promises(name, kind):
    gradient = "any" if name == "dora" else "exact"  # DoRA leaves the norm out of its gradient on purpose
    case = TunableCase.of(PEFT(type=TYPES[name][0], config=TYPES[name][1]), kind, gradient=gradient)
    for promise in TUNABLE_PROMISES:
        promise(case)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("model", ["bert", "llama", "gpt2", "gpt_neox", "deberta-v2"])
def test_peft_loads_it_with_the_same_logits(name, model, tmp_path):
    home = tiny.backbone(model)
    if model == "gpt2" and name not in ("ia3", "dora", "vera", "norms"):
        with pytest.raises(ModelError, match="Conv1D"):  # PEFT has no such layer
            adapter(home, name)
        return
    tunable = adapter(home, name)
    point = near(tunable)
    with tunable.applied(point):
        measured = logits(home.model)
    tunable.save(point, tmp_path, "some/base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    loaded = peft.PeftModel.from_pretrained(tiny.model(model), tmp_path).eval()
    assert_close(logits(loaded), measured, **TOLERANCE)
    assert (logits(home.model) - measured).abs().max() > 1e-4
    told = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert told["base_model_name_or_path"] == "some/base" and told["inference_mode"] is True
    assert torch.equal(adapter(tiny.backbone(model), name).load(tmp_path)[INPUT], point[INPUT])


@pytest.mark.filterwarnings("ignore")
def test_a_map_behind_the_attention_of_the_last_layer_may_be_replaced():
    """There the engine computes the answer's position only, and some types add to what the map returns in place."""
    home = tiny.backbone("llama")
    tunable = PEFTAdapter(home, "C3A", {"block_size": 8, "target_modules": ["q_proj", "o_proj", "down_proj"]}, 3)
    point = near(tunable)
    verbalizer = Verbalizer(("bad", "good"), (6, 7), ((0,), (1,)))
    stack = home.stack(verbalizer)
    stack.packs = False  # as for gradients: prompts lie one below the other
    engine = Engine(stack, tunable, torch.eye(2))
    prompts = [Encoded(tuple(IDS[0].tolist()), 5), Encoded((2, 6, 9, 3), 3)]
    batch = collate(prompts, [0, 1], torch.device("cpu"), stretch=9.0, masked=True)
    found = engine.logits(batch, point)
    with torch.no_grad(), tunable.applied(point):
        expected = [home.model(input_ids=ids).logits[0, -1, [6, 7]] for ids in (IDS, torch.tensor([[2, 6, 9, 3]]))]
    assert_close(found, torch.stack(expected), **TOLERANCE)
    assert (engine.logits(batch, tunable.initial()) - found).abs().max() > 1e-4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FEW)
def test_gradients_are_those_that_peft_takes(name):
    home = tiny_backbone("causal")
    tunable = adapter(home, name)
    point = near(tunable)
    leaf = point[INPUT].clone().requires_grad_()
    with tunable.applied({INPUT: leaf}):
        home.model(input_ids=IDS).logits.square().mean().backward()
    torch.manual_seed(3)
    kind, options = TYPES[name]
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)](
        target_modules=["self_attn.q_proj", "self_attn.k_proj"],
        **({"feedforward_modules": []} if kind == "IA3" else {}),
        **options,
    )
    theirs = peft.get_peft_model(tiny_backbone("causal").model, config).eval()
    trained = [p for p in theirs.parameters() if p.requires_grad]
    torch.nn.utils.vector_to_parameters(point[INPUT], trained)
    theirs(input_ids=IDS).logits.square().mean().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in trained])
    assert expected.norm() > 1e-3
    assert_close(leaf.grad, expected, **TOLERANCE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TYPES)
def test_nothing_of_peft_is_left_on_the_model(name):
    home = tiny_backbone("causal")
    before, hooks, config = logits(home.model), hooks_of(home.model), copy.deepcopy(vars(home.model.config))
    names, attributes = dict(home.model.named_modules()), {key: set(vars(m)) for key, m in home.model.named_modules()}
    flags = [p.requires_grad for p in home.model.parameters()]
    state = copy.deepcopy(home.model.state_dict())
    tunable = adapter(home, name)
    for _ in range(2):
        assert torch.equal(logits(home.model), before)
        assert hooks_of(home.model) == hooks and vars(home.model.config) == config
        assert dict(home.model.named_modules()) == names
        assert {key: set(vars(m)) for key, m in home.model.named_modules()} == attributes
        assert [p.requires_grad for p in home.model.parameters()] == flags
        found = home.model.state_dict()
        assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
        with tunable.applied(near(tunable)):
            assert not torch.equal(logits(home.model), before)


@pytest.mark.filterwarnings("ignore")
def test_two_adapters_beside_one_model_do_not_meet():
    home = tiny_backbone("causal")
    one = adapter(home, "ia3")
    with one.applied(near(one)):
        expected = logits(home.model)
    other = adapter(home, "vera")
    with one.applied(near(one)):
        assert torch.equal(logits(home.model), expected)
    with other.applied(near(other)):
        assert not torch.allclose(logits(home.model), expected)


@pytest.mark.filterwarnings("ignore")
def test_states_below_the_lowest_layer_are_kept():
    home = tiny_backbone("causal")
    tunable = PEFTAdapter(home, "IA3", {"target_modules": r".*layers\.[23]\.self_attn\.q_proj"}, 0)
    assert tunable.first_layer([INPUT]) == 2 and tunable.describe()["layers"] == [2, 3]
    desk, seen = TinyDesk(home, tunable), []
    handle = home.layers[0].self_attn.q_proj.register_forward_hook(lambda *given: seen.append(1))
    many = torch.stack([near(tunable, seed)[INPUT] for seed in range(4)])
    found = desk.engine.population_logits(desk.batch, tunable.initial(), {INPUT: many})
    handle.remove()
    assert len(seen) <= len(desk.engine.pieces(desk.batch)), "once for all candidates"
    alone = torch.stack([desk.engine.logits(desk.batch, {INPUT: vector}) for vector in many])
    assert_close(found, alone, **TOLERANCE)
    norms = adapter(home, "norms")
    assert norms.first_layer([INPUT]) == 0
    with_last = PEFTAdapter(home, "LN_TUNING", {}, 0)  # the norm behind all layers, too
    assert with_last.first_layer([INPUT]) == INPUT


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed"])
@pytest.mark.parametrize("name", FEW)
def test_other_number_formats(name, dtype):
    exact, home = tiny_backbone("causal"), tiny_backbone("causal")
    if dtype == "mixed":
        mix(home.model, home.architecture.paths)
    else:
        home.model.to(torch.bfloat16)
    tunable, expected = adapter(home, name), adapter(exact, name)
    point = near(expected)
    assert tunable.initial()[INPUT].dtype == torch.float32
    with expected.applied(point):
        wanted = logits(exact.model)
    with tunable.applied(point):
        found = logits(home.model).float()
    assert not torch.equal(found, wanted)
    assert (found - wanted).abs().mean() < 0.1 * wanted.std()


@pytest.mark.filterwarnings("ignore")
def test_drawn_from_the_runs_seed():
    home, before = tiny_backbone("causal"), torch.random.get_rng_state()
    one, same, other = (adapter(home, "dora", seed).initial()[INPUT] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("LORA", {"init_lora_weights": "pissa"}, "writes to pretrained weights"),
        ("LORA", {"init_lora_weights": "olora"}, "writes to pretrained weights"),
        ("LORA", {"modules_to_save": ["lm_head"]}, "output embedding"),
        ("LORA", {"target_modules": ["lm_head"]}, "output embedding"),
        ("LORA", {"modules_to_save": ["layers.1"]}, "whole layers"),
        ("LORA", {"target_modules": ["nowhere"]}, "cannot put LORA on tiny-causal"),
        ("TRAINABLE_TOKENS", {}, "does not run with TRAINABLE_TOKENS"),
    ],
)
def test_what_would_change_the_model_itself_is_refused(kind, options, words):
    with pytest.raises(ModelError, match=words) as caught:
        PEFTAdapter(tiny_backbone("causal"), kind, options, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CPT"])
def test_prompts_are_refused_in_one_line(kind):
    with pytest.raises(UsageError, match=r"use the tunable prompt, deep-prompt or lora\+prompt") as caught:
        PEFTAdapter(tiny_backbone("causal"), kind, {}, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_files_of_other_options_are_refused(tmp_path):
    home = tiny_backbone("masked")
    PEFTAdapter(home, "LOKR", {"r": 4}, 0).save(PEFTAdapter(home, "LOKR", {"r": 4}, 0).initial(), tmp_path, "base")
    for kind, options in (("LOKR", {"r": 2}), ("IA3", {})):
        with pytest.raises(RunError, match="another"):
            PEFTAdapter(home, kind, options, 0).load(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({**load_file(path), "more": torch.zeros(1)}, path)
    with pytest.raises(RunError, match="more"):
        PEFTAdapter(home, "LOKR", {"r": 4}, 0).load(tmp_path)


# in recipes


def recipe(place, **changes):
    method = {"tunable": {"kind": "peft", "type": "IA3"}, "budget": 30, "popsize": 4, "dev_every": 2}
    made = small.recipe(place, "llama", **changes)
    return {**made, "method": {**method, **changes.pop("method", {})}}


@pytest.mark.parametrize(
    ("tunable", "words"),
    [
        ({"type": "IA4"}, r"PEFT has no 'IA4' \(did you mean 'IA3'\?\)"),
        ({"type": "VERA", "config": {"rank": 2}}, "VERA has no option 'rank'"),
        ({"type": "OFT", "config": {"r": 2, "oft_block_size": 4}}, "OFT cannot be made of"),
        ({"type": "PREFIX_TUNING"}, "use the tunable prompt"),
        ({"type": "XLORA"}, "mixes adapters"),
        ({}, r"\[method\] type: missing"),
    ],
)
def test_problems_are_found_before_a_model_is_loaded(tunable, words, tmp_path):
    made = recipe(tmp_path, method={"tunable": {"kind": "peft", **tunable}, "l2_penalty": -1.0})
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(made)
    assert any("l2_penalty" in problem for problem in caught.value.problems), "all at once"


def test_without_the_package_it_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['peft'] = None; import tandemtune.plugins as p; p.names('tunable')\n"
        "from tandemtune.config import load_config\n"
        f"load_config({recipe(tmp_path)!r})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "pip install 'tandemtune[peft]'" in ended.stderr.splitlines()[-1]


def test_its_options_are_listed():
    listed = small.call("ls", "tunables", "peft")
    assert listed.code == 0 and listed.out.startswith("type\trequired\t") and "config\t{}\t" in listed.out


class Stops(Callback):
    """Ends a run after some turns, as a crash would."""

    def __init__(self, turns):
        self.turns = turns

    def on_turn(self, record, state, seconds, recorded):
        self.turns -= not recorded
        if self.turns == 0:
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "method",
    [
        {"tunable": {"kind": "peft", "type": "IA3"}},
        {"tunable": {"kind": "peft", "type": "VERA", "config": {"r": 4}}, "subspace": {"kind": "random", "d": 10}},
        {"tunable": {"kind": "peft", "type": "OFT"}, "optimizer": "adamw", "steps": 6},
        {"tunable": {"kind": "peft", "type": "LOKR", "config": {"r": 2}}, "optimizer": "es", "subspace": "none"},
    ],
    ids=["ia3", "vera", "oft-gradient", "lokr-es"],
)
def test_a_run_goes_on_to_the_bit(method, tmp_path):
    config = load_config(recipe(tmp_path, method=method))
    run(config, tmp_path / "whole", Callback())
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "part", Stops(3))
    go_on(tmp_path / "part", Callback())
    assert small.artefacts(tmp_path / "part") == small.artefacts(tmp_path / "whole")
    made, home = config.method.tunable, tiny.backbone("llama")
    tunable = PEFTAdapter(home, made.type, made.config, 0)
    loaded = peft.PeftModel.from_pretrained(tiny.model("llama"), tmp_path / "part" / "adapter").eval()
    with tunable.applied(tunable.load(tmp_path / "part" / "adapter")):
        assert_close(logits(home.model), logits(loaded), **TOLERANCE)


def test_types_are_those_of_peft():
    assert {"IA3", "VERA", "LOKR", "LOHA", "OFT", "BOFT", "LORA", "ADALORA"} <= set(types())
