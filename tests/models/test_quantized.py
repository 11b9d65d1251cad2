"""Models whose layers are held in few bits: brought into that form here, or saved in it by others."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

import small
import tiny
from tandemtune import load, tune
from tandemtune.errors import ModelError, UsageError
from tandemtune.export import export
from tandemtune.models import load as loading
from tandemtune.models.fingerprint import fingerprint
from tandemtune.models.layers import LayerStack
from tandemtune.models.linear import device_of, is_linear, sizes
from tandemtune.tunables.lora import LoRATerms

EVERY = ["bert", "llama", "t5"]


@pytest.fixture(scope="module")
def bitsandbytes():
    pytest.importorskip("accelerate")
    return pytest.importorskip("bitsandbytes")


@pytest.fixture
def saved(bitsandbytes, tmp_path):
    """Folders of tiny models as `save_pretrained` leaves them after loading in 4 bits."""

    def made(name, **options):
        plain = str(small.model_folder(name))
        settings = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **options)
        auto = getattr(transformers, loading._AUTO[loading.kind_of(loading.read_config(plain, None))])
        whole = auto.from_pretrained(plain, quantization_config=settings, device_map={"": "cpu"})
        folder = tmp_path / f"{name}-4bit"
        whole.save_pretrained(folder)
        tiny.tokenizer(tiny.kind_of(name)).save_pretrained(folder)
        return folder

    return made


def maps(backbone):
    return [module for layer in backbone.layers for module in layer.modules() if is_linear(module)]


@pytest.mark.parametrize("name", EVERY)
def test_nf4_holds_what_its_library_says(bitsandbytes, name):
    plain, packed = (loading.load(str(small.model_folder(name)), quantize=form) for form in (None, "nf4"))
    found = 0
    for before, after in zip(maps(plain), maps(packed), strict=True):
        assert sizes(after) == sizes(before)
        if after.weight.dtype == before.weight.dtype:  # T5's last map, which the model asks for its number format
            assert name == "t5"
            continue
        assert after.weight.numel() * 2 == before.weight.numel()
        given = torch.randn(2, 3, sizes(before)[0])
        exact = bitsandbytes.functional.dequantize_4bit(after.weight.data, after.weight.quant_state)
        torch.testing.assert_close(after(given), torch.nn.functional.linear(given, exact, before.bias))
        found += 1
    assert found
    assert fingerprint(packed.weights) != fingerprint(plain.weights)
    assert fingerprint(packed.weights) == fingerprint(
        loading.load(str(small.model_folder(name)), quantize="nf4").weights
    )


@pytest.mark.parametrize("name", EVERY)
def test_a_model_in_4_bits_is_the_plain_one_with_rounded_weights(bitsandbytes, name):
    plain, packed = (loading.load(str(small.model_folder(name)), quantize=form) for form in (None, "nf4"))
    for before, after in zip(maps(plain), maps(packed), strict=True):
        if after.weight.dtype != before.weight.dtype:
            before.weight.data = bitsandbytes.functional.dequantize_4bit(after.weight.data, after.weight.quant_state)
    torch.testing.assert_close(logits(packed.model, packed), logits(plain.model, plain), rtol=1e-4, atol=1e-4)


@pytest.fixture
def careless(monkeypatch):
    """T5 as it would be if `transformers` did not name the map whose number format its code asks for."""
    monkeypatch.setattr(transformers.T5PreTrainedModel, "_keep_in_fp32_modules", None)


def in_4_bits(module):
    return module.weight.dtype == torch.uint8


def test_maps_whose_format_a_model_asks_for_stay_as_they_are(bitsandbytes, careless):
    backbone = loading.load(str(small.model_folder("t5")), quantize="nf4")
    found = {name.rpartition(".")[2]: in_4_bits(m) for name, m in backbone.model.named_modules() if is_linear(m)}
    assert not found.pop("wo") and not found.pop("lm_head") and found and all(found.values())


def test_experts_that_no_text_has_reached_are_like_those_that_one_has(bitsandbytes, tmp_path, monkeypatch):
    sizes = {"num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "num_experts": 32, "expert_capacity": 64}
    sizes |= {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "d_model": 32, "d_kv": 8, "d_ff": 48}
    marks = {"vocab_size": tiny.COMMON["vocab_size"], "pad_token_id": 0, "decoder_start_token_id": 0}
    model = transformers.SwitchTransformersForConditionalGeneration(
        transformers.SwitchTransformersConfig(**sizes, **marks)
    )
    model.save_pretrained(tmp_path)
    tiny.tokenizer("causal").save_pretrained(tmp_path)
    monkeypatch.setattr(transformers.SwitchTransformersPreTrainedModel, "_keep_in_fp32_modules", None)
    backbone = loading.load(str(tmp_path), quantize="nf4")
    experts = [module for name, module in backbone.model.named_modules() if name.endswith("wo") and "expert_" in name]
    assert len(experts) == 64 and not any(map(in_4_bits, experts))


def test_a_model_that_rounds_what_enters_its_packed_maps_is_refused(saved, careless):
    with pytest.raises(
        ModelError, match=r"map encoder\.block\.0\..*wo is quantized \(Linear4bit\), and the model's code rounds"
    ):
        loading.load(str(saved("t5")))


def test_packed_maps_take_no_whole_numbers(bitsandbytes):
    packed = maps(loading.load(str(small.model_folder("llama")), quantize="nf4"))[0]
    given = torch.ones(1, 2, sizes(packed)[0])
    assert torch.isfinite(packed(given)).all()
    for few in (torch.uint8, torch.int64, torch.float8_e4m3fn):
        with pytest.raises(ModelError, match="rounds what enters it"):
            packed(given.to(few))


@pytest.mark.parametrize("dtype", ["float32", "mixed", "bfloat16"])
def test_passes_without_gradient_leave_4_bit_layers_as_they_are(bitsandbytes, dtype):
    backbone = loading.load(str(small.model_folder("llama")), quantize="nf4", dtype=dtype)
    before = fingerprint(backbone.weights)
    given = torch.tensor([[7, 8, 9]])
    with torch.inference_mode():
        first = backbone.model(given).logits
        assert torch.equal(backbone.model(given).logits, first)
    assert fingerprint(backbone.weights) == before


@pytest.mark.parametrize("name", EVERY)
def test_search_over_a_model_that_comes_in_4_bits(saved, tmp_path, name):
    folder = saved(name)
    recipe = small.recipe(tmp_path, name, model__name=str(folder), model__dtype="auto")
    result = tune(recipe, tmp_path / "run").result
    assert result.cost.candidates > 0
    told = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert told["dtype"] == "float32"
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = load(tmp_path / "run").predict([row["text"] for row in rows])
    right = sum(answer.label == row["label"] for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) == pytest.approx(result.tuned.test, abs=1e-6)
    card = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "over the base as it comes, quantized (bitsandbytes)" in card
    with pytest.raises(UsageError, match="leave --merged out"):
        export(tmp_path / "run", tmp_path / "merged", merged=True)
    export(tmp_path / "run", tmp_path / "exported")
    assert (tmp_path / "exported" / "adapter" / "adapter_config.json").is_file()


def logits(model, backbone):
    """Of two short texts, as `transformers` and PEFT give them."""
    from tandemtune.models.survey import plain_inputs

    ids = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
    marks = torch.tensor([backbone.prefix]).expand(2, -1) if backbone.prefix else None
    with torch.inference_mode():
        return model(**plain_inputs(backbone.model, ids, marks)).logits


@pytest.mark.parametrize("name", EVERY)
def test_an_adapter_loads_over_the_same_4_bit_base(saved, tmp_path, name):
    peft = pytest.importorskip("peft")
    folder = saved(name)
    backbone = loading.load(str(folder))
    terms = LoRATerms(backbone, 2, range(len(backbone.layers)))
    generator = torch.Generator().manual_seed(1)
    point = {block: torch.randn(terms.dim(block), generator=generator) * 0.3 for block in terms.blocks}
    terms.save(point, tmp_path / "adapter", str(folder))
    with terms.applied(point):
        own = logits(backbone.model, backbone)
    untuned = logits(backbone.model, backbone)
    plain = loading.load(str(folder))  # the same layers, with PEFT's terms in place of ours
    theirs = logits(peft.PeftModel.from_pretrained(plain.model, str(tmp_path / "adapter")).eval(), backbone)
    torch.testing.assert_close(theirs, own, rtol=1e-4, atol=1e-4)
    assert float((own - untuned).abs().max()) > 0.01


def test_the_engine_gives_the_logits_of_the_4_bit_model(saved):
    backbone = loading.load(str(saved("llama", bnb_4bit_use_double_quant=True)))
    ids, answer = torch.tensor([[7, 8, 9, 10]]), torch.tensor([3])
    stack = LayerStack(backbone.model, backbone.architecture, torch.tensor([5, 6]))
    whole = logits_at(backbone.model, ids)[:, [5, 6]]
    torch.testing.assert_close(stack.logits(ids, answer, start=2, states=stack.hidden(ids, 2)), whole)


def logits_at(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids).logits[:, -1].float()


def test_gradients_go_through_4_bit_layers(bitsandbytes, tmp_path):
    recipe = small.recipe(tmp_path, "llama", model__quantize="nf4")
    recipe["method"] = {"name": "lora", "steps": 4, "dev_every": 2}
    result = tune(recipe, tmp_path / "run").result
    assert result.cost.gradient_steps == 4
    moved = load(tmp_path / "run").point
    assert all(float(vector.abs().max()) > 0 for vector in moved.values())


def test_a_run_goes_on_where_it_stopped(bitsandbytes, tmp_path):
    recipe = small.recipe(tmp_path, "llama", model__quantize="nf4", model__dtype="auto")
    small.tune(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        small.tune(recipe, tmp_path / "cut", small.Stop(step=4))
    small.resume(tmp_path / "cut")
    assert small.artefacts(tmp_path / "cut") == small.artefacts(tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "run.json").read_text(encoding="utf-8"))["dtype"] == "mixed"


def test_layers_that_stop_gradients_are_refused_before_work_starts(tmp_path, monkeypatch):
    made = loading._read

    def read(*args):
        model, tokenizer, kind = made(*args)
        for name, module in list(model.named_modules()):
            if isinstance(module, torch.nn.Linear) and ".layers." in name:
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, Whole(module))
        return model, tokenizer, kind

    monkeypatch.setattr(loading, "_read", read)
    recipe = small.recipe(tmp_path, "llama")
    assert tune(recipe, tmp_path / "forward").result.cost.candidates > 0
    recipe["method"] = {"name": "lora", "steps": 4}
    with pytest.raises(ModelError, match=r"quantized \(Whole\), and no gradient goes through"):
        tune(recipe, tmp_path / "backward")
    assert not (tmp_path / "backward" / "run.json").exists()


class Whole(torch.nn.Module):
    """As quantization libraries write maps: no `nn.Linear`, and buffers in place of weights."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.abs().max() / 127
        self.register_buffer("scale", scale)
        self.register_buffer("qweight", (linear.weight / scale).round().to(torch.int8))

    def forward(self, hidden):
        return torch.nn.functional.linear(hidden.detach(), self.qweight.float() * self.scale)


def test_maps_of_other_libraries_tell_their_widths():
    module = Whole(torch.nn.Linear(3, 5))
    assert is_linear(module) and sizes(module) == (3, 5) and device_of(module).type == "cpu"


def test_a_packed_output_embedding_is_refused(bitsandbytes, saved):
    backbone = loading.load(str(saved("llama")))
    head = backbone.model.lm_head
    made = bitsandbytes.nn.Linear4bit(*sizes(head), bias=False, quant_type="nf4")
    made.weight = bitsandbytes.nn.Params4bit(head.weight.data, requires_grad=False, quant_type="nf4")
    backbone.model.lm_head = made.to("cpu")
    with pytest.raises(ModelError, match=r"output embedding .* packed by a quantization"):
        LayerStack(backbone.model, backbone.architecture, torch.tensor([5, 6]))


def test_a_model_that_comes_quantized_is_not_quantized_again(saved):
    with pytest.raises(ModelError, match=r"come quantized \(bitsandbytes\): leave it out"):
        loading.load(str(saved("llama")), quantize="nf4")


def test_layers_without_linear_maps_are_not_quantized_in_silence():
    with pytest.raises(ModelError, match=r"hold no nn\.Linear"):
        loading.load(str(small.model_folder("gpt2")), quantize="nf4")


def test_the_estimate_knows_weights_that_come_packed(saved):
    from tandemtune.models.pace import matrices

    folder, plain = saved("llama"), small.model_folder("llama")
    packed, whole = (matrices(place, loading.read_config(str(place), None)) for place in (folder, plain))
    inside = sum(module.weight.numel() for module in maps(loading.load(str(plain))))
    assert whole.packed == 0 and inside / 2 <= packed.packed < inside
    assert packed.weights < whole.weights - inside + inside / 8
