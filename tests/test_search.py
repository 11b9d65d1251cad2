"""The search through its front door: what the journal says, what is kept, when it stops, what is never seen."""

from __future__ import annotations

import json
import math
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import small
import tiny
from small import resume, tune
from tandemtune.callbacks import Callback
from tandemtune.errors import ConfigError, DataError, ModelError, RunError
from tandemtune.runs.store import RunFolder
from tandemtune.tasks.base import Task

SCORE_KEYS = {"train_loss", "train", "dev_loss", "dev", "test", "test_by_batch", "calibrated", "prior"}
RESULT_KEYS = {
    "found_by",
    "notes",
    "schema",
    "method",
    "model",
    "task",
    "metric",
    "seed",
    "shots",
    "zero_shot",
    "zero_shot_readout",
    "tuned_words",
    "gain",
    "unseen",
    "yardsticks",
    "unanswered",
    "tuned",
    "majority",
    "kept_step",
    "kept_record",
    "steps",
    "cost",
    "rows",
    "stop_reason",
    "versions",
}
NOTHING = {"candidates": 0, "gradient_steps": 0, "forward": 0, "backward": 0, "generated": 0}


def generations(folder):
    return [line for line in small.journal(folder) if line["event"] == "generation"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One finished run: recipe, folder, result."""
    place = tmp_path_factory.mktemp("done")
    recipe = small.recipe(place, method__budget=123, method__dev_every=3)
    return recipe, place / "run", tune(recipe, place / "run")


def test_the_journal_has_one_line_for_each_generation(done):
    recipe, folder, _ = done
    lines = small.journal(folder)
    assert (lines[0]["event"], lines[0]["schema"], lines[-1]["event"]) == ("start", 2, "end")
    middle = lines[1:-1]
    assert [line["event"] for line in middle] == ["generation"] * (123 // 5)
    assert [line["step"] for line in middle] == list(range(1, len(middle) + 1))
    for line in middle:
        assert line["phase"] == "c-lora" and line["elites"] is None and line["words"] is None
        assert len(line["losses"]) == recipe["method"]["popsize"]
        assert (line["sweep"], line["layer"]) == divmod(line["step"] - 1, 4)
        assert line["best"] == min(line["losses"])
        assert line["accepted"] == (line["best"] < line["incumbent"])
        assert (line["dev"] is not None) == (line["step"] % 3 == 0)
    assert any(line["accepted"] for line in middle) and not all(line["accepted"] for line in middle)
    assert lines[-1]["dev"] is None, "a look was due at the last generation"


def tokens_of(rows):
    """Tokens of prompts by hand: one for each word, and [CLS] . it was [MASK] . [SEP] around them."""
    return sum(len(row["text"].split()) + 7 for row in rows)


def test_costs_add_up(done):
    recipe, folder, result = done
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    train = [json.loads(line) for line in (folder.parent / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    split = Task("t", template_of(recipe), tuple(small.LABELS), {}, "accuracy", recipe["task"]["train"]).split(4, 5)
    by_hand = {"train": tokens_of(e.fields for e in split.train), "dev": tokens_of(e.fields for e in split.dev)}
    assert len(train) == 24 and (facts["train_rows"], facts["dev_rows"]) == (8, 8)
    assert (facts["train_tokens"], facts["dev_tokens"]) == (by_hand["train"], by_hand["dev"])
    candidates = token_layers = 0
    for line in generations(folder):
        candidates += 4 + 1
        token_layers += by_hand["train"] * (5 * (4 - line["layer"]) + (line["layer"] > 0))
        if line["step"] % 3 == 0:
            token_layers += by_hand["dev"] * 4
        assert line["costs"] == {**NOTHING, "candidates": candidates, "forward": token_layers}
    assert result["cost"]["candidates"] == candidates == 120
    assert result["cost"]["forward_tokens"] == round(token_layers / 4)


def template_of(recipe):
    from tandemtune.tasks.templates import Template

    return Template.parse(recipe["task"]["template"])


def test_the_incumbent_never_gets_worse(done):
    loss = small.journal(done[1])[0]["train_loss"]
    for line in generations(done[1]):
        assert line["incumbent"] == pytest.approx(loss, abs=1e-5)
        after = line["best"] if line["accepted"] else line["incumbent"]
        assert after <= line["incumbent"]
        loss = after


def test_kept_is_the_lowest_dev_loss(done):
    _, folder, result = done
    looks = {0: small.journal(folder)[0]["dev"]} | {x["step"]: x["dev"] for x in generations(folder) if x["dev"]}
    best = min(looks, key=lambda step: (looks[step]["loss"], step))
    assert result["kept_step"] == best > 0
    assert result["tuned"]["dev_loss"] == pytest.approx(looks[best]["loss"], abs=1e-5)
    assert result["tuned"]["dev"] == pytest.approx(looks[best]["score"], abs=1e-6)
    assert result["zero_shot"]["dev_loss"] == pytest.approx(looks[0]["loss"], abs=1e-5)
    assert result["zero_shot"]["train_loss"] == pytest.approx(small.journal(folder)[0]["train_loss"], abs=1e-6)


def test_result_has_exactly_the_documented_keys(done):
    recipe, folder, result = done
    assert json.loads((folder / "result.json").read_text(encoding="utf-8")) == result
    assert set(result) == RESULT_KEYS
    for point in ("zero_shot", "tuned"):
        scores = result[point]
        assert set(scores) == SCORE_KEYS and set(scores["calibrated"]) == {"train_loss", "dev_loss", "dev", "test"}
        assert all(0 <= scores[split] <= 1 for split in ("train", "dev", "test"))
        assert sum(scores["prior"]) == pytest.approx(1, abs=1e-5) and len(scores["prior"]) == 2
    names = {"candidates", "gradient_steps", "forward_tokens", "backward_tokens", "generated_tokens"}
    names |= {"seconds", "peak_rss_mb", "proposer"}
    assert set(result["cost"]) == names
    assert result["cost"]["seconds"] > 0 and result["cost"]["peak_rss_mb"] > 50
    assert result["rows"] == {"train": 8, "dev": 8, "test": 24}
    assert (result["method"], result["task"], result["seed"], result["shots"]) == ("c-lora", "small", 5, 4)
    assert result["model"] == recipe["model"]["name"] and result["stop_reason"] == "budget" and result["steps"] == 24
    assert set(result["versions"]) >= {"python", "torch", "transformers", "tandemtune", "numpy", "cmaes"}


def test_the_folder_holds_what_is_promised_and_nothing_else(done):
    names = sorted(path.name for path in done[1].iterdir() if path.name != ".lock")
    expected = "adapter checkpoint.npz clock.jsonl journal.jsonl predictions.jsonl recipe.json result.json run.json"
    assert names == [*expected.split(), "task_card.json"]
    adapter = sorted(path.name for path in (done[1] / "adapter").iterdir())
    assert adapter == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    card = json.loads((done[1] / "task_card.json").read_text(encoding="utf-8"))
    assert card["label_words"] == {"negative": ["terrible"], "positive": ["great"]}
    assert card["template"] == small.TEMPLATES["masked"] and card["pieces"] == card["label_words"]
    assert card["tuned"] == done[2]["tuned"] and card["method"]["budget"] == 123
    clock = [json.loads(line) for line in (done[1] / "clock.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [c["step"] for c in clock] == [*range(1, 25), 24]
    assert all(a["seconds"] <= b["seconds"] for a, b in pairwise(clock))


def test_same_seed_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        tune(small.recipe(tmp_path, task__seed=seed), tmp_path / name)
    one, two, other = (small.artefacts(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    for name in ("journal.jsonl", "adapter/adapter_model.safetensors"):
        assert one[name] != other[name]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method__budget": 59}, "budget"),
        ({"method__budget": 5}, "budget"),
        ({"method__budget": 10_000, "method__patience": 1, "method__dev_every": 1}, "patience"),
        ({"method__budget": 10_000, "run__max_forward_tokens": 1500}, "max_forward_tokens"),
        ({"method__budget": 10_000, "run__max_forward_tokens": 1}, "max_forward_tokens"),
        ({"method__budget": 10_000, "run__max_seconds": 1e-9}, "max_seconds"),
        ({"method__budget": 100_000, "run__max_seconds": 0.3}, "max_seconds"),
    ],
)
def test_bounds(tmp_path, changes, reason):
    recipe = small.recipe(tmp_path, **changes)
    result = tune(recipe, tmp_path / "run")
    lines = small.journal(tmp_path / "run")
    done = generations(tmp_path / "run")
    assert result["stop_reason"] == lines[-1]["stop_reason"] == reason
    assert result["steps"] == len(done) and result["cost"]["candidates"] == 5 * len(done)
    if reason == "budget":
        assert recipe["method"]["budget"] - 5 < result["cost"]["candidates"] <= recipe["method"]["budget"]
    if reason == "max_forward_tokens":
        spent = [0, *(line["costs"]["forward"] / 4 for line in done)]
        bound = recipe["run"]["max_forward_tokens"]
        assert spent[-1] >= bound > spent[-2]
    if reason == "max_seconds":
        assert (len(done) == 0) == (recipe["run"]["max_seconds"] < 1e-6)
        assert result["cost"]["seconds"] < 10
    if reason == "patience":
        losses = [lines[0]["dev"]["loss"], *(line["dev"]["loss"] for line in done)]
        assert losses[-1] >= min(losses[:-1])
        assert all(b < a for a, b in pairwise(losses[:-1]))


def test_a_last_look_is_taken_where_none_was_due(tmp_path):
    result = tune(small.recipe(tmp_path, method__budget=35, method__dev_every=100), tmp_path / "run")
    lines = small.journal(tmp_path / "run")
    assert [line["dev"] for line in lines[1:-1]] == [None] * 7
    better = lines[-1]["dev"]["loss"] < lines[0]["dev"]["loss"]
    assert result["kept_step"] == (7 if better else 0)
    assert result["tuned"]["dev_loss"] == pytest.approx(lines[-1 if better else 0]["dev"]["loss"], abs=1e-5)


def test_the_test_rows_are_checked_before_the_search_and_scored_once_after_it(tmp_path, monkeypatch):
    scored, opened = [], []
    real, read = Task.test, Path.read_bytes

    def test(self, *arguments):
        begun = (tmp_path / "run" / "journal.jsonl").exists()
        scored.append((small.journal(tmp_path / "run")[-1]["event"] if begun else None, arguments))
        return real(self, *arguments)

    def read_bytes(path):
        opened.append((path.name, (tmp_path / "run" / "journal.jsonl").exists()))
        return read(path)

    monkeypatch.setattr(Task, "test", test)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    result = tune(small.recipe(tmp_path, task__test_rows=10), tmp_path / "run")
    assert scored == [(None, (10, 5)), ("end", (10, 5))] and result["rows"]["test"] == 10
    assert ("test.jsonl", False) in opened and ("test.jsonl", True) not in opened


def test_no_test_rows_no_test_score(tmp_path):
    result = tune(small.recipe(tmp_path, task__test=None), tmp_path / "run")
    for point in ("zero_shot", "tuned"):
        assert result[point]["test"] is None and result[point]["calibrated"]["test"] is None
    assert result["rows"]["test"] == 0


def test_bad_test_rows_are_found_before_the_search(tmp_path):
    recipe = small.recipe(tmp_path)
    (tmp_path / "test.jsonl").write_text('{"text": "good", "label": "none"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"test\.jsonl, line 1, field 'label': unknown label 'none'"):
        tune(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_test_rows_that_are_spoilt_meanwhile_do_not_cost_the_search(tmp_path):
    recipe = small.recipe(tmp_path)
    good = (tmp_path / "test.jsonl").read_text(encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "run", small.Stop(step=5))
    (tmp_path / "test.jsonl").write_text('{"text": "good", "label": "none"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"test\.jsonl, line 1"):
        resume(tmp_path / "run")
    (tmp_path / "test.jsonl").write_text(good, encoding="utf-8")
    resume(tmp_path / "run")
    tune(recipe, tmp_path / "straight")
    assert small.artefacts(tmp_path / "run") == small.artefacts(tmp_path / "straight")


@pytest.mark.few(6)
@pytest.mark.parametrize(
    "changes",
    [
        {"method__objective": "hinge"},
        {"method__objective": "accuracy"},
        {"method__objective": "f1", "task__metric": "f1", "task__positive": "positive"},
        {"method__objective": "f1", "task__metric": "macro_f1"},
        {"method__scale": "hidden_state"},
        {"method__scale": "normal"},
        {"method__covariance": "separable"},
        {"method__layers": "last:2"},
        {"method__layers": "first:1"},
        {"method__layers": [3, 1]},
        {"task__labels": {"negative": ["terrible", "bad"], "positive": ["great", "good"]}},
        {"task__dev_shots": 2},
        {"run__max_memory": 0.001},
    ],
    ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()),
)
def test_every_choice_runs(tmp_path, changes):
    result = tune(small.recipe(tmp_path, method__budget=30, **changes), tmp_path / "run")
    lines = generations(tmp_path / "run")
    assert len(lines) == 6 and result["stop_reason"] == "budget"
    assert all(math.isfinite(loss) for line in lines for loss in line["losses"])
    layers = {"last:2": [2, 3], "first:1": [0], "[3, 1]": [1, 3]}.get(str(changes.get("method__layers")), [0, 1, 2, 3])
    assert [line["layer"] for line in lines] == [layers[i % len(layers)] for i in range(6)]
    if changes.get("method__objective") in ("accuracy", "f1"):
        assert all(0 <= loss <= 1 for line in lines for loss in line["losses"])
        assert result["tuned"]["train_loss"] == pytest.approx(1 - result["tuned"]["train"], abs=1e-5)
    if "task__dev_shots" in changes:
        assert result["rows"]["dev"] == 4


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_causal_models(tmp_path, model):
    result = tune(small.recipe(tmp_path, model), tmp_path / "run")
    assert result["stop_reason"] == "budget" and 0 <= result["tuned"]["test"] <= 1


def test_a_template_of_nothing_but_the_text(tmp_path):
    """An empty text leaves no prompt at all for a causal model, which must not stop the run."""
    result = tune(small.recipe(tmp_path, "gpt2", task__template="{text} {mask}", method__budget=5), tmp_path / "run")
    assert sum(result["zero_shot"]["prior"]) == pytest.approx(1, abs=1e-5)


def test_dev_rows_of_their_own(tmp_path):
    small.write_rows(tmp_path / "dev.jsonl", small.rows(6, seed=9))
    result = tune(small.recipe(tmp_path, task__dev=str(tmp_path / "dev.jsonl"), task__dev_shots=5), tmp_path / "run")
    assert result["rows"]["dev"] == 10


def test_a_folder_in_the_way_is_found_before_anything_is_loaded(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("x", encoding="utf-8")
    recipe = small.recipe(tmp_path, model__name="no/such-model", task__train="missing.jsonl")
    with pytest.raises(RunError, match="exists already"):
        tune(recipe, tmp_path / "run")


def test_overwriting_keeps_the_old_run_until_the_new_one_can_begin(tmp_path):
    tune(small.recipe(tmp_path, method__budget=5), tmp_path / "run")
    before = small.artefacts(tmp_path / "run")
    with pytest.raises(DataError, match="unknown to the tokenizer"):
        recipe = small.recipe(tmp_path, task__labels={"negative": "xyzzy", "positive": "great"})
        tune(recipe, tmp_path / "run", overwrite=True)
    assert small.artefacts(tmp_path / "run") == before

    class Breaks(Callback):
        def on_progress(self, text):
            if (tmp_path / "run" / ".replaced.tmp").exists():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(small.recipe(tmp_path, method__budget=10), tmp_path / "run", Breaks(), overwrite=True)
    assert small.artefacts(tmp_path / "run") == before, "stopped before anything was found"
    with pytest.raises(KeyboardInterrupt):
        tune(small.recipe(tmp_path, method__budget=10), tmp_path / "run", small.Stop(step=1), overwrite=True)
    small.resume(tmp_path / "run")
    assert len(generations(tmp_path / "run")) == 2
    tune(small.recipe(tmp_path, method__budget=10), tmp_path / "run", overwrite=True)
    assert len(generations(tmp_path / "run")) == 2
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.endswith(".tmp")]


def test_a_run_is_not_replaced_by_one_that_is_made_of_its_files(tmp_path):
    rows = [{"text": row["text"], "label": row["label"]} for row in small.rows(20, 1)]
    recipe = small.recipe(tmp_path, method__budget=5)
    recipe["task"] |= {"train": None, "test": None}
    tune(recipe, tmp_path / "run", train=rows)
    before = small.artefacts(tmp_path / "run")
    again = json.loads((tmp_path / "run" / "recipe.json").read_text(encoding="utf-8"))
    with pytest.raises(
        ConfigError, match=r"\[task\] train: data/train.jsonl lies in .*run, which --overwrite would replace"
    ):
        tune(again, tmp_path / "run", overwrite=True)
    assert small.artefacts(tmp_path / "run") == before
    assert tune(again, tmp_path / "other")["steps"] == 1


def broken(place, name, value):
    """A model folder with one kind of weight replaced by `value`."""
    model = tiny.model("bert")
    for key, parameter in model.named_parameters():
        if name in key:
            with torch.no_grad():
                parameter.fill_(value)
    model.save_pretrained(place)
    tiny.tokenizer("masked").save_pretrained(place)
    return str(place)


def test_a_model_without_numbers_is_refused_and_leaves_nothing(tmp_path):
    name = broken(tmp_path / "model", "encoder.layer.1", float("nan"))
    with pytest.raises(ModelError, match="no usable numbers"):
        tune(small.recipe(tmp_path, model__name=name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_head_without_numbers_ends_in_nulls(tmp_path):
    name = broken(tmp_path / "model", "cls.predictions.bias", float("nan"))
    result = tune(small.recipe(tmp_path, model__name=name, method__budget=10), tmp_path / "run")
    lines = small.journal(tmp_path / "run")
    assert lines[0]["train_loss"] is None and lines[1]["losses"] == [None] * 4 and not lines[1]["accepted"]
    assert result["tuned"]["train_loss"] is None and result["kept_step"] == 0
    assert "NaN" not in (tmp_path / "run" / "result.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 12), (1000.0, 0)])
def test_checkpoints_as_often_as_asked(tmp_path, monkeypatch, seconds, count):
    saved = []
    real = RunFolder.save_checkpoint
    monkeypatch.setattr(RunFolder, "save_checkpoint", lambda self, content: saved.append(1) or real(self, content))
    tune(small.recipe(tmp_path, run__checkpoint_seconds=seconds), tmp_path / "run")
    assert len(saved) == count


def test_checkpoints_take_a_small_share_of_the_time(tmp_path, monkeypatch):
    saved = []

    def slow(self, content):
        saved.append(time.perf_counter())
        time.sleep(0.02)

    monkeypatch.setattr(RunFolder, "save_checkpoint", slow)
    tune(small.recipe(tmp_path, run__checkpoint_seconds=1e-6), tmp_path / "run")
    assert len(saved) < 12 and all(b - a > 0.9 for a, b in pairwise(saved))


def test_a_sigma_that_falls_narrows_each_generation(tmp_path):
    optimizer = {"kind": "es", "popsize": 8, "sigma": 0.5, "sigma_end": 1e-5}
    recipe = small.recipe(tmp_path, "llama", method__optimizer=optimizer, method__order="together", method__budget=80)
    del recipe["method"]["popsize"]
    small.tune(recipe, tmp_path / "run")
    turns = [record["losses"] for record in small.journal(tmp_path / "run") if record["event"] == "generation"]
    spread = [max(losses) - min(losses) for losses in turns]
    assert len(turns) == 10 and spread[-1] < spread[0] * 1e-3 and spread[5] < spread[0] * 0.1
