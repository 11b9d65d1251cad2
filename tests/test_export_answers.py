"""Exports of runs whose answers are read or written whole: their snippets say what the runs say, and vLLM's rules are kept."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import choosing
import small
import tandemtune
import tiny
import writing
from tandemtune.errors import UsageError
from tandemtune.serving import for_vllm

LORA = {"method__name": "lora", "method__steps": 6, "method__lr": 0.1, "method__budget": None, "method__popsize": None}
LORA |= {"method__d": None}
SEARCH = {"method__name": "c-lora"}
PROMPT = {
    **LORA,
    "method__name": "prompt-tuning",
    "method__prompt_tokens": 3,
    "method__r": None,
    "method__layers": None,
}
TEXTS = ["the film was dull", "i loved this movie and the plot", "a review"]


def snippet(out, monkeypatch):
    """What the code in an export's README defines."""
    (code,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "import tandemtune" not in code
    monkeypatch.chdir(out)
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, names)
    return names


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("model", "changes", "merged"),
    [
        ("llama", LORA, False),
        ("llama", SEARCH, True),
        ("t5", LORA, False),
        ("gpt2", {**SEARCH, "task__stop": ["was"]}, False),
        ("llama", PROMPT, False),
        ("bart", LORA, True),
    ],
    ids=str,
)
def test_texts(tmp_path, model, changes, merged, monkeypatch):
    pytest.importorskip("peft")
    recipe = writing.recipe(tmp_path, model, task__template="{text} as {{a}} it was {mask}", **changes)
    run = tandemtune.tune(recipe, out=tmp_path / "run", progress="none")
    said = [one.text for one in run.model.predict(TEXTS)]
    answer = snippet(run.export(tmp_path / "out", merged=merged), monkeypatch)["answer"]
    assert [answer({"text": text}) for text in TEXTS] == said
    assert any(said)


def test_what_a_model_says_of_writing_is_applied_nowhere_and_told(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    shutil.copytree(small.model_folder("bart"), tmp_path / "model")
    recipe = writing.recipe(tmp_path, "bart", task__max_new_tokens=10, method__budget=8)
    recipe["model"]["name"] = str(tmp_path / "model")
    place, words = tmp_path / "model" / "generation_config.json", tiny.tokenizer("causal").get_vocab()
    settings = {"suppress_tokens": [words["so"]], "min_length": 8, "repetition_penalty": 1.0}
    place.write_text(json.dumps({**json.loads(place.read_text()), **settings}))
    run = tandemtune.tune(recipe, out=tmp_path / "run", progress="none")
    said = [one.text for one in run.model.predict(TEXTS)]
    answer = snippet(run.export(tmp_path / "out"), monkeypatch)["answer"]
    assert [answer({"text": text}) for text in TEXTS] == said
    assert "so" in " ".join(said).split()
    (note,) = [note for note in run.result.notes if "generation_config.json" in note]
    assert "min_length, suppress_tokens" in note and "repetition_penalty" not in note


@pytest.mark.grid
@pytest.mark.parametrize("model", ["llama", "t5"])
@pytest.mark.parametrize("make", [choosing.phrases, choosing.columns])
def test_choices(tmp_path, make, model, monkeypatch):
    pytest.importorskip("peft")
    run = tandemtune.tune(make(tmp_path, model, **LORA), out=tmp_path / "run", progress="none")
    rows = [json.loads(line)["fields"] for line in (tmp_path / "run" / "predictions.jsonl").open()][:4]
    scores = snippet(run.export(tmp_path / "out"), monkeypatch)["scores"]
    for row, one in zip(rows, run.model.predict(rows), strict=True):
        found = torch.softmax(torch.tensor(list(scores(row).values())), dim=0)
        wanted = torch.tensor(list(one.probabilities.values()))
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3, check_dtype=False)


@pytest.mark.grid
@pytest.mark.parametrize("readout", ["affine", "ridge"])
@pytest.mark.parametrize("model", ["bert", "llama", "t5"])
def test_a_readout_of_weights_that_were_all_tuned(tmp_path, model, readout, monkeypatch):
    """The output embedding is among them: the readout's adapter is what is added to the tuned one."""
    pytest.importorskip("peft")
    rows = [{**row, "text": f"{row['text']} {small.LABELS[row['label']]}"} for row in small.rows(20, 1)]
    small.write_rows(tmp_path / "train.jsonl", rows)
    recipe = small.recipe(tmp_path, model, task__shots=8)
    recipe["method"] = {"name": "full", "steps": 20, "dev_every": 5, "optimizer": {"kind": "adamw", "lr": 1e-3}}
    recipe["method"]["readout"] = readout
    run = tandemtune.tune(recipe, out=tmp_path / "run", progress="none")
    assert run.result.kept_step > 0
    scores = snippet(run.export(tmp_path / "out"), monkeypatch)["scores"]
    for text, one in zip(TEXTS, run.model.predict(TEXTS), strict=True):
        found = torch.softmax(torch.tensor(list(scores({"text": text}).values()), dtype=torch.float64), dim=0)
        wanted = torch.tensor(list(one.probabilities.values()), dtype=torch.float64)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_an_adapter_for_vllm_is_filled_up(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    run = tandemtune.tune(writing.recipe(tmp_path, **LORA), out=tmp_path / "run", progress="none")
    said = [one.text for one in run.model.predict(TEXTS)]
    out = run.export(tmp_path / "out", rank=8)
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 8 and config["lora_alpha"] == 8
    assert all(8 in tensor.shape for tensor in load_file(out / "adapter" / "adapter_model.safetensors").values())
    assert "--max-lora-rank 8" in (out / "README.md").read_text()
    answer = snippet(out, monkeypatch)["answer"]
    assert [answer({"text": text}) for text in TEXTS] == said


def test_the_command_line_asks_for_vllm(tmp_path):
    tandemtune.tune(writing.recipe(tmp_path, **SEARCH), out=tmp_path / "run", progress="none")
    called = small.call("export", tmp_path / "run", "--to", tmp_path / "out", "--for", "vllm")
    assert called.code == 0, called.err
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "--max-lora-rank 1" in readme and "lists LlamaForCausalLM with adapters" in readme
    called = small.call("export", tmp_path / "run", "--to", tmp_path / "other", "--rank", "8")
    assert called.code == 2 and "--rank is for --for vllm" in called.err
    called = small.call("export", tmp_path / "run", "--to", tmp_path / "other", "--for", "vllm", "--rank", "9")
    assert called.code == 2 and "rank 9: expected one of 1, 8, 16" in called.err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("stop", "wanted"), [(None, {}), (["so", "[SEP]"], {"stop": ["so"]})])
def test_the_server_is_told_how_to_write(tmp_path, stop, wanted):
    changes = {"task__template": 'as {{"json"}} : {text} it was {mask}', "task__stop": stop, "method__budget": 8}
    run = tandemtune.tune(writing.recipe(tmp_path, **SEARCH, **changes), out=tmp_path / "run", progress="none")
    readme = (run.export(tmp_path / "out", rank=0) / "README.md").read_text()
    told, _, said = readme.partition("/v1/completions")[2].partition("```json\n")
    body = json.loads(said.partition("\n")[0])
    ends = json.loads((tmp_path / "out" / "answers.json").read_text())["ends"]
    prompt = {"model": "small", "prompt": 'as {{"json"}} : {text} it was', "temperature": 0, "max_tokens": 5}
    assert body == {**prompt, **wanted, "stop_token_ids": ends} and "doubled braces" in told


def test_the_server_is_told_which_model_to_serve(tmp_path):
    snapshot = tmp_path / "models--films--tiny" / "snapshots" / "0123abc"
    shutil.copytree(small.model_folder("llama"), snapshot)
    recipe = writing.recipe(tmp_path, **SEARCH, method__budget=8, task__name="films of may")
    recipe["model"]["name"] = str(snapshot)
    tandemtune.tune(recipe, out=tmp_path / "run", progress="none").export(tmp_path / "out", rank=0)
    (line,) = re.findall(r"^vllm serve .*$", (tmp_path / "out" / "README.md").read_text(), re.MULTILINE)
    assert shlex.split(line)[2:7] == ["films/tiny", "--revision", "0123abc", "--generation-config", "vllm"]
    assert shlex.split(line)[-2:] == ["--lora-modules", "films of may=adapter"]
    assert (tmp_path / "out" / "adapter").is_dir()


def test_a_model_that_vllm_may_have_no_adapters_for(tmp_path):
    tandemtune.tune(writing.recipe(tmp_path, "gpt2", method__budget=8), out=tmp_path / "run", progress="none")
    called = small.call("export", tmp_path / "run", "--to", tmp_path / "out", "--for", "vllm")
    assert called.code == 0, called.err
    for told in (called.err, (tmp_path / "out" / "README.md").read_text()):
        assert "Not checked: whether vLLM serves adapters of GPT2LMHeadModel at all" in " ".join(told.split())


@pytest.mark.parametrize(
    ("model", "changes", "says"),
    [("t5", LORA, "its model is seq2seq"), ("llama", PROMPT, "it is PROMPT_TUNING, expected LORA")],
    ids=str,
)
def test_what_vllm_would_refuse(tmp_path, model, changes, says):
    run = tandemtune.tune(writing.recipe(tmp_path, model, **changes), out=tmp_path / "run", progress="none")
    with pytest.raises(UsageError, match=says):
        run.export(tmp_path / "out", rank=0)
    assert not (tmp_path / "out").exists()


class Packed(torch.nn.Module):
    """A map whose weights are held in fewer bits, in another shape than its matrix has, or under another name."""

    def __init__(self, linear, name):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer(name, torch.zeros(linear.weight.numel() // 2, 1, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["weight", "qweight"])
def test_an_adapter_over_packed_weights_is_served_as_any_other(tmp_path, name):
    backbone = tiny.backbone("llama")
    tandemtune.tune(writing.recipe(tmp_path, **SEARCH), out=tmp_path / "run", progress="none")
    adapter = tmp_path / "run" / "adapter"
    said = for_vllm(adapter, backbone, "x")
    for layer in backbone.layers:
        for key in ("q_proj", "k_proj"):
            setattr(layer.self_attn, key, Packed(getattr(layer.self_attn, key), name))
    assert for_vllm(adapter, backbone, "x") == said
    tensors = load_file(adapter / "adapter_model.safetensors")
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first][:, :3].contiguous()}, adapter / "adapter_model.safetensors")
    with pytest.raises(UsageError, match=r"is \(\d+, 3\), expected"):
        for_vllm(adapter, backbone, "x")


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bias": "all"}, "bias is all, expected none"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save holds lm_head"),
        ({"use_dora": True}, "DoRA is not served"),
        ({"r": 600}, "its rank is 600, at most 512"),
        ({"use_rslora": True}, "cannot be filled up to rank 8"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern give modules"),
        ({"drop": True}, "has one factor of two"),
        ({"rename": True}, "is no factor of a module that the model has"),
    ],
    ids=str,
)
def test_rules_of_the_loader(tmp_path, change, says):
    backbone = tiny.backbone("llama")
    tandemtune.tune(writing.recipe(tmp_path, **SEARCH), out=tmp_path / "run", progress="none")
    adapter = tmp_path / "run" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    first = next(iter(tensors))
    if change.get("drop"):
        del tensors[first]
    elif change.get("rename"):
        tensors[first.replace("layers.0", "layers.9").replace("layers.1", "layers.9")] = tensors.pop(first)
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UsageError, match=says):
        for_vllm(adapter, backbone, "x", rank=8 * ("use_rslora" in change))
