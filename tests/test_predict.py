"""A finished run as a model: the same answers as the run measured, wherever it is used."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import torch
import transformers

import small
import tiny
from small import tune
from tandemtune import DataError, RunError, load
from tandemtune.predict import TunedModel, predict_table
from tandemtune.report.run_page import run_charts
from tandemtune.runs.store import RunFolder
from tandemtune.tasks.base import Task
from tandemtune.tasks.table import Table
from tandemtune.tasks.templates import Template

PAIR = "{text} ? {mask} , {text_b} ."
ARCHITECTURES = ("bert", "deberta-v2", "gpt2", "llama", "gpt_neox")
TRAINED = {"method__lr": 0.1, "method__steps": 6, "method__prompt_tokens": 3}
METHODS = {
    "prompt-tuning bert": {"method__name": "prompt-tuning", **TRAINED},
    "prompt-tuning gpt2": {"method__name": "prompt-tuning", **TRAINED},
    "prompt-tuning opt": {"method__name": "prompt-tuning", **TRAINED},
    "prompt-tuning gemma3_text": {"method__name": "prompt-tuning", **TRAINED},
    "prompt-tuning t5": {"method__name": "prompt-tuning", **TRAINED},
    "prompt-tuning bart": {"method__name": "prompt-tuning", **TRAINED},
    "p-tuning-v2 electra": {"method__name": "p-tuning-v2", **TRAINED},
    "p-tuning-v2 llama": {"method__name": "p-tuning-v2", **TRAINED},
    "p-tuning-v2 bart": {"method__name": "p-tuning-v2", **TRAINED},
    "lora bert": {"method__name": "lora", **TRAINED},
    "lora qwen3": {"method__name": "lora", **TRAINED},
    "lora t5": {"method__name": "lora", **TRAINED},
    "bbtv2 gpt2": {"method__name": "bbtv2", "method__budget": 50, "method__prompt_tokens": 3},
    "maao gpt2": {"method__name": "maao", **TRAINED, "alternate__proposer": "random", "alternate__rounds": 1}
    | {"alternate__round_steps": 3, "alternate__final_steps": 2},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One finished run for each of a few architectures, that has moved away from the pretrained model."""
    found = {}
    for name in ARCHITECTURES:
        place = tmp_path_factory.mktemp(name)
        result = tune(small.recipe(place, name, method__budget=100, method__alpha=2.0), place / "run")
        found[name] = (place / "run", result)
    assert any(result["kept_step"] > 0 for _, result in found.values())
    return found


@pytest.fixture(scope="module", params=METHODS, ids=str)
def trained(request, tmp_path_factory):
    """One finished run of each method beside C-LoRA: model, folder, result."""
    place, name = tmp_path_factory.mktemp("trained"), request.param.split()[1]
    return name, place / "run", tune(small.recipe(place, name, **METHODS[request.param]), place / "run")


def test_other_methods_give_the_same_scores_as_in_the_run(trained):
    _, folder, result = trained
    same_scores(folder, result)


def test_other_methods_keep_what_they_found(trained):
    """What lies in the adapter's folder is the point that was kept, and it has moved."""
    _, folder, result = trained
    model = load(folder)
    text = "we loved this film"
    (answer,) = model.predict([text])
    again = TunedModel(model.scorer, {block: vector.clone() for block, vector in model.point.items()})
    assert again.predict([text])[0] == answer
    moved = {block: vector + torch.linspace(-1, 1, len(vector)) for block, vector in model.point.items()}
    assert TunedModel(model.scorer, moved).predict([text])[0].probabilities != answer.probabilities
    begin = model.scorer.parameters.initial()
    if len(begin) == 1 or result["method"] == "lora":  # deep prompts begin as what the training rows make of them
        same = all(torch.equal(model.point[block], vector) for block, vector in begin.items())
        assert same == (result["kept_record"] == 0)
    card = json.loads((folder / "task_card.json").read_text(encoding="utf-8"))
    readme = (folder / "adapter" / "README.md").read_text(encoding="utf-8")
    assert card["tuned"] == result["tuned"] and f"found by `{result['method']}`" in readme
    peft = (folder / "adapter" / "adapter_config.json").exists()
    assert ("peft.PeftModel" in readme) == peft and ("prompt.json" in readme) == (not peft)


def at_temperature_1(folder):
    """A run's model whose probabilities are those of its label logits as they are, as losses and other tools have them."""
    model = load(folder)
    model.scorer.temperature = 1.0
    return model


def prompts_of(name, text, tokenizer):
    mask = tokenizer.mask_token if name in tiny.MASKED else ""
    prompt = small.TEMPLATES["masked" if mask else "causal"].format(text=text, mask=mask).rstrip()
    encoded = tokenizer(prompt, return_tensors="pt")
    at = int((encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0]) if mask else -1
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}, at


def test_peft_loads_what_other_methods_keep(trained):
    """Where PEFT has such an adapter: LoRA of all models, prompts at the input of causal and encoder-decoder ones."""
    peft = pytest.importorskip("peft")
    name, folder, result = trained
    kept = (folder / "adapter" / "adapter_config.json").exists()
    deep = result["method"] in ("p-tuning-v2", "bbtv2")
    assert kept == (result["method"] == "lora" or (name not in tiny.MASKED and not deep))
    if not kept:
        assert (folder / "adapter" / "prompt.safetensors").exists()
        return
    base = small.model_folder(name)
    auto = {
        "masked": transformers.AutoModelForMaskedLM,
        "causal": transformers.AutoModelForCausalLM,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
    }[tiny.kind_of(name)]
    model = peft.PeftModel.from_pretrained(auto.from_pretrained(base, dtype=torch.float32), folder / "adapter").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    ids = tokenizer.convert_tokens_to_ids(list(small.LABELS.values()))
    texts = [row["text"] for row in small.rows(4, seed=8)]
    for text, answer in zip(texts, at_temperature_1(folder).predict(texts), strict=True):
        options, at = prompts_of(name, text, tokenizer)
        if name in tiny.SEQ2SEQ:
            options["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]])
        with torch.no_grad():
            logits = model(**options).logits[0, at, ids]
        expected = torch.softmax(logits.double(), dim=-1).tolist()
        assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gemma3_text", "bert"])
def test_prompts_as_embeddings(name, tmp_path):
    """For engines that take embeddings in place of tokens: the model gives with them what the run's model answers."""
    recipe = small.recipe(tmp_path, name, **METHODS["prompt-tuning gpt2"])
    tune(recipe, tmp_path / "run")
    model = at_temperature_1(tmp_path / "run")
    texts = [row["text"] for row in small.rows(4, seed=8)]
    found = model.prompt_embeds(texts)
    base = tiny.model(name)
    ids = model.scorer.verbalizer.token_ids
    encoded, _ = model.scorer.encoded([model._example(0, text) for text in texts])
    for vectors, prompt, answer in zip(found, encoded, model.predict(texts), strict=True):
        assert vectors.dtype == torch.float32 and len(vectors) == len(prompt.ids)
        with torch.no_grad():
            logits = base(inputs_embeds=vectors.unsqueeze(0)).logits[0, prompt.answer, list(ids)]
        expected = torch.softmax(logits.double(), dim=-1).tolist()
        assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-5)
    if name == "gpt2":
        files = (
            "--input",
            small.write_rows(tmp_path / "new.jsonl", [{"text": text} for text in texts]),
            "--output",
            tmp_path / "t",
        )
        assert small.call("embeds", tmp_path / "run", *files).code == 0
        for place, vectors in zip(sorted((tmp_path / "t").iterdir()), found, strict=True):
            assert torch.equal(torch.load(place), vectors)
        again = small.call("embeds", tmp_path / "run", *files)
        assert again.code == 2 and "exists already: choose another --output" in again.err


@pytest.mark.parametrize("inputs", ["a good film", {"text": "a good film"}])
def test_one_text_as_embeddings_is_no_list(inputs, tmp_path):
    tune(small.recipe(tmp_path, "gpt2", **METHODS["prompt-tuning gpt2"]), tmp_path / "run")
    with pytest.raises(DataError, match="put it in a list"):
        load(tmp_path / "run").prompt_embeds(inputs)


@pytest.mark.slow
def test_other_tunables_are_no_embeddings(runs, tmp_path):
    with pytest.raises(RunError, match="the run tuned lora"):
        load(runs["gpt2"][0]).prompt_embeds(["fine"])
    tune(small.recipe(tmp_path, "gpt2", **METHODS["p-tuning-v2 llama"]), tmp_path / "run")
    with pytest.raises(RunError, match="the run tuned deep-prompt"):
        load(tmp_path / "run").prompt_embeds(["fine"])


def test_a_prompt_of_another_run_is_refused(tmp_path):
    """A folder whose adapter was exchanged for one of another length."""
    for name, tokens in (("one", 3), ("other", 4)):
        changes = {**METHODS["prompt-tuning bert"], "method__prompt_tokens": tokens}
        tune(small.recipe(tmp_path, "bert", **changes), tmp_path / name)
    shutil.rmtree(tmp_path / "one" / "adapter")
    shutil.copytree(tmp_path / "other" / "adapter", tmp_path / "one" / "adapter")
    with pytest.raises(RunError, match="another model or length"):
        load(tmp_path / "one")


def split_of(folder):
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["task"]
    words = {label: (word,) for label, word in recipe["labels"].items()}
    task = Task("t", Template.parse(recipe["template"]), tuple(words), words, "accuracy", recipe["train"])
    return task.split(recipe["shots"], recipe["seed"])


def share_right(predictions, examples):
    return sum(p.label == e.label for p, e in zip(predictions, examples, strict=True)) / len(examples)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_scores_as_in_the_run(runs, name):
    same_scores(*runs[name])


def same_scores(folder, result):
    """The loaded model labels the run's rows as well as the run says."""
    model = at_temperature_1(folder)
    split = split_of(folder)
    for rows, key in ((split.dev, "dev"), (split.train, "train")):
        predictions = model.predict([dict(row.fields) for row in rows])
        assert share_right(predictions, rows) == pytest.approx(result["tuned"][key], abs=1e-6)
        gold = [p.probabilities[str(row.label)] for p, row in zip(predictions, rows, strict=True)]
        loss = -torch.tensor(gold, dtype=torch.float64).log().mean().item()
        assert loss == pytest.approx(result["tuned"][f"{key}_loss"], abs=1e-5)
    test = [json.loads(x) for x in (folder.parent / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    predictions = model.predict([row["text"] for row in test])
    right = sum(p.label == row["label"] for p, row in zip(predictions, test, strict=True))
    assert right / len(test) == pytest.approx(result["tuned"]["test"], abs=1e-6)


def test_batch_calibration_of_the_pretrained_model_is_a_control(tmp_path):
    """Label probabilities divided by their mean over all test rows (arXiv 2309.17249), out of what the run writes down."""
    result = tune(small.recipe(tmp_path, "gpt_neox") | {"method": {"name": "manual"}}, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    card = json.loads((tmp_path / "run" / "task_card.json").read_text())
    logits = torch.tensor([list(row["probabilities"].values()) for row in rows]).log() * card["temperature"]
    divided = logits.softmax(dim=-1) / logits.softmax(dim=-1).mean(dim=0)
    labels = list(rows[0]["probabilities"])
    right = [labels[place] == row["gold"] for place, row in zip(divided.argmax(dim=-1).tolist(), rows, strict=True)]
    assert result["zero_shot"]["test_by_batch"] == pytest.approx(sum(right) / len(rows), abs=1e-6)
    assert (divided.argmax(dim=-1) != logits.argmax(dim=-1)).any()  # otherwise plain answers would do


def test_answers_are_distributions(runs):
    predictions = load(runs["bert"][0]).predict(["a good film", "xyzzy", "", "the movie was dull " * 100])
    assert len(predictions) == 4
    for p in predictions:
        assert list(p.probabilities) == ["negative", "positive"]
        assert sum(p.probabilities.values()) == pytest.approx(1)
        assert p.label == max(p.probabilities, key=p.probabilities.__getitem__)


def test_one_by_one_or_all_together(runs):
    texts = ["a good film", "we hated this movie and the plot", "fine", "news of the world"]
    model = load(runs["llama"][0])
    together = model.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        (alone,) = model.predict([{"text": text}])
        assert alone.probabilities == pytest.approx(answer.probabilities, abs=1e-6)
    assert model.predict([]) == []


@pytest.mark.parametrize(
    "inputs", [[3], [None], [{"text": 3}], [{}], [{"texts": "x"}], ["fine", {"other": "x"}], [["x"]]]
)
def test_wrong_inputs(runs, inputs):
    with pytest.raises(DataError, match=f"input {len(inputs)}"):
        load(runs["bert"][0]).predict(inputs)


@pytest.mark.parametrize("inputs", ["a good film", {"text": "a good film"}])
def test_one_input_is_no_list(runs, inputs):
    with pytest.raises(DataError, match="put it in a list"):
        load(runs["bert"][0]).predict(inputs)


def test_pairs_need_both_texts(tmp_path):
    content = [
        {**row, "text_b": other["text"]} for row, other in zip(small.rows(12, 1), small.rows(12, 3), strict=True)
    ]
    small.write_rows(tmp_path / "train.jsonl", content)
    tune(small.recipe(tmp_path, task__template=PAIR, task__test=None, method__budget=10), tmp_path / "run")
    model = load(tmp_path / "run")
    assert model.fields == ("text", "text_b")
    (answer,) = model.predict([{"text": "a good film", "text_b": "we loved it", "extra": "ignored"}])
    assert answer.label in small.LABELS
    with pytest.raises(DataError, match="needs a dict of text, text_b"):
        model.predict(["a good film"])
    with pytest.raises(DataError, match="field 'text_b' must be a text, got NoneType"):
        model.predict([{"text": "a good film"}])


def test_the_data_files_are_not_needed_any_more(tmp_path):
    tune(small.recipe(tmp_path, method__budget=10), tmp_path / "run")
    before = load(tmp_path / "run").predict(["a good film"])
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "test.jsonl").unlink()
    assert load(tmp_path / "run").predict(["a good film"]) == before
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "run", moved)
    assert load(moved).predict(["a good film"]) == before


def test_a_run_from_a_machine_with_another_device(tmp_path):
    tune(small.recipe(tmp_path, method__budget=10), tmp_path / "run")
    before = load(tmp_path / "run").predict(["a good film"])
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    (tmp_path / "run" / "run.json").write_text(json.dumps({**facts, "device": "cuda:7", "threads": 64}))
    assert load(tmp_path / "run").predict(["a good film"]) == before


def test_label_words_that_are_averaged(tmp_path):
    labels = {"negative": ["terrible", "bad"], "positive": ["great", "good", "fine"]}
    result = tune(small.recipe(tmp_path, task__labels=labels, method__budget=30), tmp_path / "run")
    rows = split_rows = small.rows(12, 2)
    predictions = load(tmp_path / "run").predict([row["text"] for row in rows])
    right = sum(p.label == row["label"] for p, row in zip(predictions, split_rows, strict=True))
    assert right / len(rows) == pytest.approx(result["tuned"]["test"], abs=1e-6)


def test_what_cannot_be_loaded(tmp_path, runs):
    with pytest.raises(RunError, match="does not exist"):
        load(tmp_path / "nothing")
    with pytest.raises(RunError, match="is no run folder"):
        load(tmp_path)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs["bert"][0], unfinished)
    (unfinished / "result.json").unlink()
    with pytest.raises(RunError, match=r"has not ended.*tandemtune resume"):
        load(unfinished)
    broken = tmp_path / "broken"
    shutil.copytree(runs["bert"][0], broken)
    weights = broken / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(RunError, match="cannot be read"):
        load(broken)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_peft_loads_the_adapter_into_the_untouched_base(runs, name):
    peft = pytest.importorskip("peft")
    folder, _ = runs[name]
    base = small.model_folder(name)
    auto = transformers.AutoModelForMaskedLM if name in tiny.MASKED else transformers.AutoModelForCausalLM
    model = peft.PeftModel.from_pretrained(auto.from_pretrained(base, dtype=torch.float32), folder / "adapter").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    ids = tokenizer.convert_tokens_to_ids(list(small.LABELS.values()))
    texts = [row["text"] for row in small.rows(6, seed=8)]
    answers = at_temperature_1(folder).predict(texts)
    for text, answer in zip(texts, answers, strict=True):
        mask = tokenizer.mask_token if name in tiny.MASKED else ""
        prompt = small.TEMPLATES["masked" if mask else "causal"].format(text=text, mask=mask).rstrip()
        encoded = tokenizer(prompt, return_tensors="pt")
        at = int((encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0]) if mask else -1
        with torch.no_grad():
            options = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
            logits = model(**options).logits[0, at, ids]
        expected = torch.softmax(logits.double(), dim=-1).tolist()
        assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-4)


def test_command_line_keeps_the_fields_of_each_row(tmp_path, runs):
    folder = runs["bert"][0]
    rows = [
        {"id": 7, "text": "a good film", "tags": ["x", {"y": None}], "note": "Größe\u2028"},
        {"text": "we hated it", "id": None},
        {"text": "fine", "label": "negative"},
    ]
    for suffix in (".jsonl", ".ndjson", ".jsonlines", ".json"):
        given, output = small.write_rows(tmp_path / f"in{suffix}", rows), tmp_path / f"out{suffix}.jsonl"
        called = small.call("predict", folder, "--input", given, "--output", output)
        assert called.code == 0, called.err
        assert "3 rows labelled" in called.err and called.out == ""
        written = [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]]
        answers = load(folder).predict([row["text"] for row in rows])
        for row, line, answer in zip(rows, written, answers, strict=True):
            assert line == {
                **{("gold" if key == "label" else key): value for key, value in row.items()},
                "label": answer.label,
                "probabilities": {key: pytest.approx(p, abs=1e-6) for key, p in answer.probabilities.items()},
            }


@pytest.mark.parametrize("separator", [",", "\t"])
def test_command_line_reads_tables(tmp_path, runs, separator):
    given = tmp_path / f"in.{'csv' if separator == ',' else 'tsv'}"
    given.write_text(f"id{separator}text\n1{separator}a good film\n2{separator}bad\n", encoding="utf-8")
    called = small.call("predict", runs["gpt2"][0], "--input", given, "--output", tmp_path / "out.jsonl")
    assert called.code == 0, called.err
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["text"] for line in written] == ["a good film", "bad"]
    assert "note: " not in called.err
    given.write_text(f"id{separator}text\n1{separator}a fine café and a naïve déjà vu\n", encoding="cp1252")
    for command in (("predict", runs["gpt2"][0], "--input", given), ("evaluate", runs["gpt2"][0], given)):
        assert "read as cp1252, since it is not UTF-8" in small.call(*command).err
    assert all(sum(line["probabilities"][label] for label in small.LABELS) == pytest.approx(1) for line in written)


def test_command_line_replaces_nothing_unasked(tmp_path, runs):
    given = small.write_rows(tmp_path / "in.jsonl", [{"text": "fine"}])
    output = tmp_path / "out.jsonl"
    output.write_text("mine", encoding="utf-8")
    arguments = ("predict", runs["bert"][0], "--input", given, "--output", output)
    called = small.call(*arguments)
    assert called.code == 2 and "exists already" in called.err and output.read_text(encoding="utf-8") == "mine"
    assert small.call(*arguments, "--overwrite").code == 0
    assert json.loads(output.read_text(encoding="utf-8"))["text"] == "fine"
    (tmp_path / "sub").mkdir()
    by_another_way = tmp_path / "sub" / ".." / "in.jsonl"
    called = small.call("predict", runs["bert"][0], "--input", given, "--output", by_another_way, "--overwrite")
    assert called.code == 2 and "is the input" in called.err
    assert given.read_text(encoding="utf-8") == '{"text": "fine"}\n'


@pytest.mark.parametrize(
    ("name", "content", "tells"),
    [
        ("in.jsonl", b'{"text": "fine"}\n{"txt": "fine"}\n', "line 2: no column 'text'"),
        ("in.jsonl", b'{"text": "fine"}\n{"text": 1', "line 2: not valid JSON"),
        ("in.jsonl", b"\xff\xfe\x00", "in.jsonl"),
        ("in.jsonl", b"", "empty"),
        ("in.csv", b"id,other\n1,2\n", "no column 'text'"),
        ("in.txt", b"fine", "ending '.txt' is not known"),
        ("missing.jsonl", None, "no such file"),
    ],
)
def test_command_line_writes_nothing_on_bad_input(tmp_path, runs, name, content, tells):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    called = small.call("predict", runs["bert"][0], "--input", tmp_path / name, "--output", tmp_path / "out.jsonl")
    assert called.code == 2 and called.err.splitlines()[-1].startswith("tandemtune: ") and tells in called.err
    assert not (tmp_path / "out.jsonl").exists()
    assert "loading" not in called.err or "line 2" in tells, "told before the model is loaded"


@pytest.mark.parametrize(
    ("rows", "tells"),
    [
        ([{"text": "fine"}], "no column 'label', found 'text': the run in"),
        (
            [{"text": "fine", "label": "positive"}, {"text": "bad", "label": "so so"}],
            "line 2, field 'label': unknown label",
        ),
    ],
)
def test_what_evaluate_needs_is_told_before_the_model_is_loaded(tmp_path, runs, rows, tells):
    called = small.call("evaluate", runs["bert"][0], small.write_rows(tmp_path / "in.jsonl", rows))
    assert called.code == 2 and tells in called.err and "loading" not in called.err


def test_command_line_leaves_blank_rows_without_a_label(tmp_path, runs):
    given = small.write_rows(tmp_path / "in.jsonl", [{"text": "fine"}, {"text": None}, {"text": " "}])
    called = small.call("predict", runs["bert"][0], "--input", given, "--output", tmp_path / "out.jsonl")
    assert called.code == 0 and "2 blank rows have an empty label" in called.err
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [bool(line["label"]) for line in written] == [True, False, False]


def test_command_line_names_what_is_missing(tmp_path, runs):
    given = small.write_rows(tmp_path / "in.jsonl", [{"text": "fine"}])
    called = small.call("predict", tmp_path, "--input", given, "--output", tmp_path / "out.jsonl")
    assert called.code == 2 and "is no run folder" in called.err
    called = small.call("predict", runs["bert"][0], "--input", given, "--output", tmp_path / "no" / "out.jsonl")
    assert called.code == 2 and "does not exist: make it first" in called.err


@pytest.mark.parametrize("name", ["labelled.xyz", "labelled", "nowhere/labelled.csv"])
def test_an_output_that_cannot_be_written_is_refused_before_a_model_is_loaded(tmp_path, name, monkeypatch):
    """Labelling may take hours."""

    def loaded(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tandemtune.predict.load", loaded)
    small.write_rows(tmp_path / "in.jsonl", [{"text": "a film"}])
    called = small.call("predict", tmp_path, "--input", tmp_path / "in.jsonl", "--output", tmp_path / name)
    assert called.code == 2 and len(called.err.splitlines()) == 1
    assert "ending" in called.err or "does not exist: make it first" in called.err


@pytest.mark.parametrize(
    ("data", "code", "rows"), [("a good film\nbad\n".encode("utf-16"), 0, 2), (b"a \x00\x00 film\n", 2, 0)]
)
def test_command_line_reads_lines_in_any_encoding(tmp_path, runs, monkeypatch, data, code, rows):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    called = small.call("predict", runs["gpt2"][0], "--input", "-")
    assert called.code == code and len(called.out.splitlines()) == rows
    assert not code or "standard input" in called.err


def test_labels_are_known_however_a_table_writes_them(tmp_path):
    rows = [{**row, "label": str(index % 2)} for index, row in enumerate(small.rows(12, 1))]
    small.write_rows(tmp_path / "train.jsonl", rows)
    recipe = small.recipe(tmp_path, task__labels={"0": "terrible", "1": "great"}, task__test=None)
    tune({**recipe, "method": {"name": "manual"}}, tmp_path / "run")
    model = load(tmp_path / "run")
    given = [{"text": "a film", "label": label} for label in ("1", 1, 1.0, " 0 ", 0, "2", None, "", float("nan"), [1])]
    found = predict_table(model, Table.of(given))
    assert found.scored == 5
    assert found.score == pytest.approx(model.evaluate(given[:5]).score)


def test_columns_that_are_called_like_the_answers_are_kept(tmp_path):
    rows = [{"text": row["text"], "kind": row["label"], "label": "mine", "probabilities": 1} for row in small.rows(12)]
    given = small.write_rows(tmp_path / "train.jsonl", rows)
    recipe = small.recipe(tmp_path, task__label_column="kind", task__test=None)
    tune({**recipe, "method": {"name": "manual"}}, tmp_path / "run")
    called = small.call("predict", tmp_path / "run", "--input", given, "--output", tmp_path / "out.jsonl")
    assert called.code == 0 and "on 24 rows with a known label" in called.err
    for row, line in zip(rows, (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines(), strict=True):
        written = json.loads(line)
        assert written["label"] in small.LABELS and sum(written["probabilities"].values()) == pytest.approx(1)
        assert [written[name] for name in ("text", "gold", "label (given)", "probabilities (given)")] == [*row.values()]


@pytest.mark.parametrize("metric", [None, "f1"])
def test_a_known_task_keeps_its_metric(tmp_path, metric):
    for name, seed in (("train", 1), ("test", 2)):
        rows = [{"text": row["text"], "text_b": "fine", "label": row["label"]} for row in small.rows(12, seed)]
        named = {"negative": "different", "positive": "equivalent"}
        small.write_rows(tmp_path / f"{name}.jsonl", [{**row, "label": named[row["label"]]} for row in rows])
    words = {"different": "terrible", "equivalent": "great"}
    task = {"task__name": "mrpc", "task__labels": words, "task__template": PAIR, "task__metric": metric}
    result = tune({**small.recipe(tmp_path, **task), "method": {"name": "manual"}}, tmp_path / "run")
    found = load(tmp_path / "run").evaluate(tmp_path / "test.jsonl")
    assert (found.metric, found.score) == ("f1", pytest.approx(result["tuned"]["test"], abs=1e-6))
    tuned = next(row for row in run_charts(RunFolder(tmp_path / "run"))["scores"].rows if row.name == "tuned")
    assert tuned.low is not None and tuned.low < found.score < tuned.high


def test_names_in_brackets_are_shown_as_they_are(tmp_path):
    named = {"negative": "[/bad]", "positive": "[good]"}
    rows = [{**row, "label": named[row["label"]]} for row in small.rows(12)]
    given = small.write_rows(tmp_path / "train.jsonl", rows)
    words = {"[/bad]": "terrible", "[good]": "great"}
    recipe = {**small.recipe(tmp_path, task__labels=words, task__test=None), "method": {"name": "manual"}}
    tune(recipe, tmp_path / "run")
    called = small.call("evaluate", tmp_path / "run", given)
    assert called.code == 0 and called.out.count("[/bad]") > 3 and called.out.count("[good]") > 3
    content = small.write_recipe(tmp_path / "mine.json", recipe)
    called = small.call("templates", content, "--template", "[user] {text} [/user] it was {mask}")
    assert called.code == 0 and "'[user] {text} [/user] it was {mask}'" in called.out
