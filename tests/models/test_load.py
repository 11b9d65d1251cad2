"""What cannot be loaded is told in one line, whatever library finds it; what can be loaded after all, is."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import transformers

import tiny
from tandemtune.errors import ModelError
from tandemtune.models import faults
from tandemtune.models.load import load


@pytest.fixture
def folder(tmp_path):
    """A tiny model as `save_pretrained` leaves it."""
    return saved(tmp_path / "model", "llama")


def saved(place, name):
    tiny.model(name).save_pretrained(place)
    tiny.tokenizer(tiny.kind_of(name)).save_pretrained(place)
    return place


def configure(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def refused(place, capfd, **options):
    """The one line, in which and beside which nothing of other libraries is shown."""
    with pytest.raises(ModelError) as caught:
        load(str(place), **options)
    shown = capfd.readouterr()
    assert not shown.out and "Traceback" not in shown.err
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "awq", "bits": 4, "group_size": 128},
        {"quant_method": "hqq", "quant_config": {}},
    ],
    ids=lambda settings: settings["quant_method"],
)
def test_quantized_checkpoints_whose_packages_are_missing(folder, capfd, settings):
    configure(folder, quantization_config=settings)
    said = refused(folder, capfd)
    assert "quantized" in said and settings["quant_method"] in said and "choose" in said


def test_a_checkpoint_that_only_says_it_is_quantized(folder, capfd):
    configure(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    said = refused(folder, capfd)
    assert "quantized" in said and "bitsandbytes" in said


@pytest.mark.parametrize("wanted", ["flash_attention_2", "flash_attention_3"])
def test_a_checkpoint_saved_for_flash_attention_is_loaded_without(folder, wanted):
    configure(folder, attn_implementation=wanted)
    assert load(str(folder)).model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("values", [{"vocab_size": 60}, {"intermediate_size": 40}])
def test_a_configuration_that_does_not_fit_the_weights(folder, capfd, values):
    configure(folder, **values)
    said = refused(folder, capfd)
    assert "sizes" in said and "config.json" in said


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.safetensors", "tokenizer.json", "model-00001-of-00002.safetensors"]
)
def test_a_clone_without_its_large_files(folder, capfd, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 437955512\n")
    assert "git lfs pull" in refused(folder, capfd)


def test_a_damaged_file(folder, capfd):
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    assert "damaged" in refused(folder, capfd)


@pytest.mark.parametrize("beside", [True, False], ids=["beside a model", "alone"])
def test_an_adapter_is_no_model(folder, capfd, beside):
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/base"})
    )
    if not beside:
        (folder / "config.json").unlink()
    said = refused(folder, capfd)
    assert "adapter of org/base" in said and "merge" in said


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bert"])
def test_a_checkpoint_without_a_tokenizer(tmp_path, capfd, name):
    place = saved(tmp_path / name, name)
    for path in place.glob("*token*"):
        path.unlink()
    assert "tokenizer" in refused(place, capfd)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["t5", "llama"])
def test_all_weights_have_the_number_format_that_was_asked_for(tmp_path, name, dtype):
    """T5 keeps some in 32 bits by itself, and then adds numbers of two formats up."""
    home = load(str(saved(tmp_path / name, name)), dtype=dtype)
    assert {parameter.dtype for parameter in home.model.parameters()} == {getattr(torch, dtype)}


def test_code_of_its_own_is_not_run(folder, capfd):
    configure(folder, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    (folder / "own.py").write_text("raise SystemExit('was run')")
    assert "cannot be loaded" in refused(folder, capfd)


@pytest.mark.parametrize(
    "error",
    [
        OSError("ProxyError: cannot connect to proxy"),
        ImportError("Using SOCKS proxy, but the 'socksio' package is missing"),
    ],
)
def test_the_network_is_named_where_it_is_at_fault(monkeypatch, capfd, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    said = refused("org/model", capfd)
    assert "HTTPS_PROXY" in said and "SSL_CERT_FILE" in said


@pytest.mark.parametrize(
    "error", [RuntimeError("a\nb\nc"), AssertionError(), KeyError("k"), type("OwnError", (Exception,), {})("x")]
)
def test_any_exception_becomes_one_line(error):
    with pytest.raises(ModelError) as caught, faults.explained("some/model"):
        raise error
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(KeyboardInterrupt), faults.explained("some/model"):
        raise KeyboardInterrupt


def test_an_architecture_that_fails_when_it_runs(folder, capfd, monkeypatch):
    home = sys.modules[transformers.LlamaForCausalLM.__module__]

    def fail(*_, **__):
        raise ValueError("no language was set\nsecond line")

    monkeypatch.setattr(home.LlamaModel, "forward", fail)
    assert "cannot be run on a text: ValueError: no language was set" in refused(folder, capfd)
