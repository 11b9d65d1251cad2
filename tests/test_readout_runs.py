"""Readouts as part of a run: solved once, saved, loaded, and said by PEFT alone; templates chosen by them."""

from __future__ import annotations

import json
import math
import re
import shutil
import warnings

import pytest
import torch

import images
import small
import tiny
from grids import sparse
from tandemtune import finish, load, tune
from tandemtune.answers.labels import LabelAnswers
from tandemtune.callbacks import Callback
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, UsageError
from tandemtune.evaluators.features import read
from tandemtune.evaluators.views import ANSWER
from tandemtune.readout import members
from tandemtune.runs.store import RunFolder
from tandemtune.tasks.known_templates import known_templates
from tandemtune.types import Example

TEXTS = ["a great film", "the plot was dull and bad", "we loved it"]


def rows_with_a_signal(place):
    """Rows whose label can be read off one word."""
    for name, seed in (("train", 1), ("test", 2)):
        plain = small.rows(20, seed)
        for row in plain:
            row["text"] += " good" if row["label"] == "positive" else " dull"
        small.write_rows(place / f"{name}.jsonl", plain)


def readout_recipe(place, model="llama", **changes):
    rows_with_a_signal(place)
    made = small.recipe(place, model, **changes)
    made["method"] = {
        "name": "readout",
        **{k: v for k, v in made["method"].items() if k not in ("name", "budget", "d", "r", "popsize", "layers")},
    }
    made["task"]["shots"] = 8
    return made


@pytest.mark.parametrize("model", ["gpt2", "llama", "t5"])
def test_a_readout_learns_from_one_pass_and_predicts_what_it_measured(model, tmp_path):
    run = tune(readout_recipe(tmp_path, model), tmp_path / "run")
    result = run.result
    assert result.cost.candidates == result.cost.gradient_steps == result.steps == 0
    assert result.tuned.test > result.zero_shot.test + 0.1
    assert result.tuned_words == result.zero_shot
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    answers = load(tmp_path / "run").predict([row["text"] for row in rows])
    right = sum(answer.label == row["label"] for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) == pytest.approx(result.tuned.test, abs=1e-6)
    assert [row.name for row in result.scores()] == ["zero-shot", "zero-shot, calibrated", "readout"]
    readme = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert "A template of `readout`: nothing was searched" in readme and "0 candidates" not in readme
    assert "The readout was solved on all labelled rows, 16 train and 16 dev rows." in readme
    assert json.loads((tmp_path / "run" / "task_card.json").read_text())["rows"] == result.plain()["rows"]


def test_scores_on_labelled_rows_are_those_of_rows_left_out(tmp_path):
    """With shuffled labels the readout fits its rows, but what it says of each without that row is near chance."""
    recipe = readout_recipe(tmp_path)
    labels = ["negative", "positive"]
    noise = [{**row, "label": labels[i // 2 % 2]} for i, row in enumerate(small.rows(40, 3))]
    small.write_rows(tmp_path / "train.jsonl", noise)
    recipe["task"]["shots"] = 20
    result = tune(recipe, tmp_path / "run").result
    assert result.tuned.dev < 0.8 and result.tuned.train < 0.8


@pytest.mark.parametrize("kind", ["bias", "affine", "logistic", "ridge"])
def test_peft_alone_says_what_the_run_says(kind, tmp_path):
    peft = pytest.importorskip("peft")
    tune(readout_recipe(tmp_path, method__readout=kind), tmp_path / "run")
    folder = tmp_path / "run" / "adapter" / "readout"
    told = json.loads((folder / "readout.json").read_text())
    ours = load(tmp_path / "run")
    base = tiny.model("llama")
    base.load_state_dict(ours.scorer.backbone.model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    for text, answer in zip(TEXTS, ours.predict(TEXTS), strict=True):
        (prompt,), _ = ours.scorer.encoded(ours._examples([text]))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt.ids])).logits[0, prompt.answer]
        words = logits[list(ours.scorer.verbalizer.token_ids)]
        bias = torch.tensor([told["label_bias"][label] for label in ours.scorer.task.labels])
        found = torch.softmax((words.double() + bias) / ours.scorer.temperature, dim=0)
        expected = torch.tensor(list(answer.probabilities.values()), dtype=torch.float64)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


IA3 = {"kind": "peft", "type": "IA3", "config": {}}
PROMPT = {"name": "prompt-tuning", "prompt_tokens": 3, "steps": 3}


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("method", "adapters"),
    [
        ({"name": "readout", "readout": "ridge"}, ["adapter/readout"]),
        ({"name": "lora", "steps": 3, "readout": "ridge"}, ["adapter", "adapter/readout"]),
        ({"name": "lora", "steps": 3, "readout": "bias"}, ["adapter"]),
        ({"name": "lora", "steps": 3, "readout": "ridge", "base": torch.bfloat16}, ["adapter", "adapter/readout"]),
        ({"name": "full", "steps": 3, "readout": "ridge"}, ["adapter/readout"]),
        ({**PROMPT, "readout": "bias"}, ["adapter"]),
        ({**PROMPT, "readout": "ridge"}, None),
        ({"name": "lora", "steps": 3, "readout": "ridge", "tunable": IA3}, None),
    ],
    ids=["alone", "lora", "lora, bias", "lora on a base in 16 bits", "full", "prompt, bias", "prompt", "ia3"],
)
def test_what_an_adapters_readme_shows_says_what_the_run_says(method, adapters, tmp_path, monkeypatch):
    """Or, where PEFT cannot load all of it, it loads what it can and says how the run's answers are had."""
    pytest.importorskip("peft")
    rows_with_a_signal(tmp_path)
    recipe = small.recipe(tmp_path, "llama", task__shots=8)
    recipe["method"] = {key: value for key, value in method.items() if key != "base"}
    if "base" in method:
        shutil.copytree(recipe["model"]["name"], tmp_path / "base")
        tiny.model("llama").to(method["base"]).save_pretrained(tmp_path / "base")
        recipe["model"]["name"] = str(tmp_path / "base")
    run = tune(recipe, tmp_path / "run")
    readme = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path / "run")
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, names)
    assert ("tandemtune predict" in readme) == (adapters is None)
    if adapters is None:
        assert "adapter/readout" not in code
        return
    assert [
        one for one in ("adapter", "adapter/readout") if f', "{one}")' in code or f'ter("{one}"' in code
    ] == adapters
    told, scorer = json.loads((tmp_path / "run" / "task_card.json").read_text()), run.model.scorer
    bias = torch.tensor([told["label_bias"][label] for label in scorer.task.labels])
    for text, answer in zip(TEXTS, run.predict(TEXTS), strict=True):
        ids = scorer.plain_prompt(Example({"text": text})).ids
        with torch.no_grad():
            logits = names["model"].eval()(input_ids=torch.tensor([ids])).logits[0, -1]
        found = (logits[list(scorer.verbalizer.token_ids)].double() + bias) / scorer.temperature
        expected = torch.tensor(list(answer.probabilities.values()), dtype=torch.float64)
        torch.testing.assert_close(torch.softmax(found, dim=0), expected, atol=1e-4, rtol=0)


def test_what_a_readout_was_solved_at_may_have_no_form_of_pefts(tmp_path):
    """Then the readout alone is not shown."""
    rows_with_a_signal(tmp_path)
    recipe = small.recipe(tmp_path, "llama", task__shots=8)
    recipe["method"] = {"name": "bitfit", "steps": 3, "readout": "ridge"}
    tune(recipe, tmp_path / "run")
    readme = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "```python" not in readme and "tandemtune predict" in readme


def test_every_method_takes_a_readout_at_its_end(tmp_path):
    rows_with_a_signal(tmp_path)
    recipe = small.recipe(tmp_path, "llama", method__readout="ridge", task__shots=8)
    result = tune(recipe, tmp_path / "run").result
    names = [row.name for row in result.scores()]
    assert names == [
        "zero-shot",
        "zero-shot, calibrated",
        "zero-shot, readout",
        "tuned, label words alone",
        "tuned, readout",
    ]
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
    assert (tmp_path / "run" / "adapter" / "readout" / "adapter_config.json").is_file()


@pytest.mark.parametrize("method", [PROMPT, {"name": "p-tuning-v2", "steps": 3}])
def test_a_prompt_of_any_length_takes_a_readout_at_its_end(method, tmp_path):
    """It stands in the place of as many tokens wherever the model reads a text."""
    rows_with_a_signal(tmp_path)
    recipe = small.recipe(tmp_path, "t5", task__shots=8)
    recipe["method"] = {**method, "prompt_tokens": 20, "readout": "ridge"}
    run = tune(recipe, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    answers = load(tmp_path / "run").predict([row["text"] for row in rows])
    right = sum(answer.label == row["label"] for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) == pytest.approx(run.result.tuned.test, abs=1e-6)


def test_several_views_are_weighted_and_are_no_adapter(tmp_path):
    run = tune(readout_recipe(tmp_path, method__views=["answer", "mean"]), tmp_path / "run")
    told = json.loads((tmp_path / "run" / "adapter" / "readout" / "readout.json").read_text())
    assert told["views"] == ["answer", "mean"] and "answer, mean" in told["no_adapter"]
    assert run.predict(TEXTS) == load(tmp_path / "run").predict(TEXTS)


@pytest.mark.parametrize("model", ["llama", "bert", "t5"])
def test_a_middle_layer_is_read_in_the_same_pass(model, tmp_path):
    views = ["answer", "mean@middle", "answer@middle"]
    runs = {}
    for name, wanted in {"middle": views, "plain": ["answer"]}.items():
        runs[name] = tune(readout_recipe(tmp_path, model, method__views=wanted), tmp_path / name).result
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    answers = load(tmp_path / "middle").predict([row["text"] for row in rows])
    right = sum(answer.label == row["label"] for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) == pytest.approx(runs["middle"].tuned.test, abs=1e-6)
    assert runs["middle"].cost.forward_tokens == runs["plain"].cost.forward_tokens
    told = json.loads((tmp_path / "middle" / "adapter" / "readout" / "readout.json").read_text())
    assert told["views"] == views and ", ".join(views) in told["no_adapter"]
    refused = small.call("export", str(tmp_path / "middle"), "--to", str(tmp_path / "exported"))
    assert refused.code and "mean@middle" in refused.err, refused.err


@pytest.mark.few(1)
@pytest.mark.parametrize("model", ["llama", "t5"])
def test_a_search_by_a_readout_that_reads_a_middle_layer_goes_on(model, tmp_path):
    by_readout = {"readout": "ridge", "views": ["answer", "mean@middle"], "score": "readout", "judge": "readout"}
    recipe = small.recipe(tmp_path, model, **{f"method__{key}": value for key, value in by_readout.items()})
    result = small.tune(recipe, tmp_path / "whole")
    assert result["steps"] > 3
    with pytest.raises(KeyboardInterrupt):
        small.tune(recipe, tmp_path / "stopped", small.Stop(step=3))
    small.resume(tmp_path / "stopped")
    assert small.artefacts(tmp_path / "whole") == small.artefacts(tmp_path / "stopped")


def test_views_are_chosen_by_the_leave_one_out_loss(tmp_path):
    """Something is read beside the answer in one of the two tasks here, and only where the loss falls by it."""
    chosen = []
    for noisy in (False, True):
        losses = {}
        for views in (["answer"], ["answer", "mean"], ["answer", "answer@middle"], "auto"):
            name = views if views == "auto" else ", ".join(views)
            place = tmp_path / f"{name}{noisy}"
            place.mkdir()
            recipe = readout_recipe(place, method__views=views)
            if noisy:
                noise = [{**r, "label": ["negative", "positive"][i // 2 % 2]} for i, r in enumerate(small.rows(40, 3))]
                small.write_rows(place / "train.jsonl", noise)
            tune(recipe, place / "run")
            told = json.loads((place / "run" / "adapter" / "readout" / "readout.json").read_text())
            assert load(place / "run").predict(TEXTS)
            losses[name] = told["loss"]
        chosen.append(told["views"])
        assert losses["auto"] == losses[", ".join(told["views"])]
        assert losses["auto"] <= losses["answer"]
    assert sorted(map(len, chosen)) == [1, 2]


def test_a_damaged_readout_is_told(tmp_path):
    from tandemtune.errors import RunError

    tune(readout_recipe(tmp_path), tmp_path / "run")
    (tmp_path / "run" / "adapter" / "readout" / "readout.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"readout\.safetensors cannot be read"):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"readout": "rigde"}, "did you mean 'ridge'"),
        ({"readout": "ridge", "views": ["means"]}, "expected answer or mean"),
        ({"readout": "ridge", "prior": "even"}, "prior"),
    ],
)
def test_what_cannot_be_solved_is_told_before_anything_is_loaded(changes, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config({"model": "pypi:flan-t5-small", "task": "trec", "method": {"name": "c-lora", **changes}})


@pytest.mark.parametrize("prior", [[0.2, 0.3, 0.5], [0.9, 0.2], [1.0, 0.0]])
def test_a_prior_that_is_none_of_the_labels_is_found_without_a_model(tmp_path, prior):
    recipe = readout_recipe(tmp_path)
    recipe["method"]["prior"] = prior
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", recipe))
    assert called.code == 2 and "expected 2 shares above 0 that add up to 1" in called.err


def test_the_template_with_the_lowest_leave_one_out_loss_is_taken_and_kept(tmp_path):
    # the second template shows the words that tell; the first one hides the end of the text behind its own words
    recipe = readout_recipe(tmp_path)
    recipe["task"]["templates"] = ["{text} . it was {mask}", "the film {text} and so it was very {mask}"]
    del recipe["task"]["template"]
    run = tune(recipe, tmp_path / "run")
    facts = RunFolder.open(tmp_path / "run").read_facts()
    assert len(facts.templates) == 2
    best = min(facts.templates, key=lambda one: one.loss)
    assert facts.template == best.template
    assert run.result.tuned.dev_loss is not None
    again = load(tmp_path / "run")
    assert str(again.scorer.task.template) == facts.template


def test_the_time_of_choosing_a_template_is_part_of_the_runs_time(tmp_path):
    recipe = readout_recipe(tmp_path)
    recipe["task"]["templates"] = ["the film {text} and so it was very {mask}"]
    run = tune(recipe, tmp_path / "run")
    first, *_ = [json.loads(line) for line in (tmp_path / "run" / "clock.jsonl").read_text().splitlines()]
    assert first["step"] == 0 and 0 < first["seconds"] < run.result.cost.seconds


def test_a_template_that_cannot_be_used_is_passed_over(tmp_path):
    recipe = readout_recipe(tmp_path)
    recipe["task"]["templates"] = ["{mask} : {text}"]
    tune(recipe, tmp_path / "run")
    facts = RunFolder.open(tmp_path / "run").read_facts()
    assert [bool(one.refused) for one in facts.templates] == [False, True]
    assert facts.template == recipe["task"]["template"]


THREE = ["{text} . it was {mask}", "the film {text} and so it was very {mask}", "{text} {mask}", "{mask} : {text}"]


def joined_recipe(place, model="llama", **changes):
    recipe = readout_recipe(place, model, **changes)
    del recipe["task"]["template"]
    return {**recipe, "task": {**recipe["task"], "templates": THREE, "together": 3}}


@pytest.mark.parametrize("model", sparse(["llama", "t5"], ["t5"]))
def test_the_best_templates_are_read_together(model, tmp_path):
    """As one vector of each row that holds those of all three prompts, one after the other."""
    run = tune(joined_recipe(tmp_path, model), tmp_path / "run")
    facts, result = RunFolder.open(tmp_path / "run").read_facts(), run.result
    best = sorted((one for one in facts.templates if one.loss is not None), key=lambda one: one.loss)
    assert len(facts.templates) == 4 and len(best) == 3
    again = load(tmp_path / "run")
    assert [str(one.template) for one in again.scorer.task.wordings] == [one.template for one in best]
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    answers = again.predict([row["text"] for row in rows])
    assert answers == run.predict([row["text"] for row in rows])
    right = sum(answer.label == row["label"] for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) == pytest.approx(result.tuned.test, abs=1e-6)
    assert again.evaluate(rows).score == pytest.approx(result.tuned.test, abs=1e-6)
    views = []
    for one in best:
        single = readout_recipe(tmp_path, model, task__template=one.template)
        tune(single, tmp_path / f"run{len(views)}")
        scorer = load(tmp_path / f"run{len(views)}").scorer
        views.append(read(scorer.engine, scorer.batch([Example({"text": text}) for text in TEXTS]), {}).views[ANSWER])
    batch = again.scorer.batch([Example({"text": text}) for text in TEXTS])
    assert torch.allclose(read(again.scorer.engine, batch, {}).views[ANSWER], torch.cat(views, dim=1), atol=1e-6)


class StoppedBeforeScores(Callback):
    def on_testing(self):
        raise KeyboardInterrupt


def test_the_card_names_all_templates_that_are_read_and_all_passes_are_counted(tmp_path):
    """In a run that was stopped, too: it goes on with the templates that it began with."""
    with pytest.raises(KeyboardInterrupt):
        small.tune(joined_recipe(tmp_path), tmp_path / "run", StoppedBeforeScores())
    small.resume(tmp_path / "run")
    best, *others = load(tmp_path / "run").scorer.task.wordings
    card = json.loads((tmp_path / "run" / "task_card.json").read_text())
    readme = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert card["template"] == str(best.template)
    assert [one["template"] for one in card["together"]] == [str(one.template) for one in others]
    assert all(str(one.template) in readme for one in others)
    facts = RunFolder.open(tmp_path / "run").read_facts()
    labelled = facts.train_tokens + facts.dev_tokens  # of three prompts for each row
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    judged = [one.tokens for one in facts.templates]
    assert sum(sorted(judged)[:3]) <= labelled <= sum(sorted(judged)[1:])
    assert result["cost"]["forward_tokens"] == labelled + sum(judged)
    small.write_rows(tmp_path / "more.jsonl", [{"text": text} for text in TEXTS])
    called = small.call("predict", tmp_path / "run", "--input", tmp_path / "more.jsonl")
    assert called.code == 0, called.err
    called = small.call("export", tmp_path / "run", "--to", tmp_path / "exported")
    assert called.code and "several templates together" in called.err and not (tmp_path / "exported").exists()


def left_open(place, model, shots, seed, **changes):
    """A recipe whose templates are read together as far as their losses say so."""
    made = joined_recipe(place, model, **changes)
    return {**made, "task": {**made["task"], "together": "auto", "shots": shots, "seed": seed}}


@pytest.mark.parametrize(
    ("model", "shots", "seed", "count"),
    sparse([("llama", 4, 5, 1), ("llama", 9, 6, 2), ("gpt2", 4, 5, 3)], [("llama", 9, 6, 2)]),
    ids=["the best one", "two", "three, of which the second does not help alone"],
)
def test_templates_are_read_together_where_the_loss_of_rows_left_out_falls(model, shots, seed, count, tmp_path):
    """The losses are those of runs with so many, at the price of no further pass; what is decided holds for all that comes later."""
    recipe = left_open(tmp_path, model, shots, seed)
    lines = []
    run = tune(recipe, tmp_path / "run", callbacks=[Told(lines)])
    facts = RunFolder.open(tmp_path / "run").read_facts()
    assert facts.together.count == count and len(facts.together.losses) == 3
    assert facts.together.losses[0] == min(one.loss for one in facts.templates if one.loss is not None)
    how = "the best template is read alone" if count == 1 else f"the best {count} templates are read together"
    numbers = ", ".join(f"{number}: {loss:.4f}" for number, loss in enumerate(facts.together.losses, 1))
    assert f"{how}; leave-one-out losses by how many there are: {numbers}" in lines
    for number, loss in enumerate(facts.together.losses, 1):
        recipe["task"]["together"] = number
        named = tune(recipe, tmp_path / f"{number}")
        assert RunFolder.open(tmp_path / f"{number}").read_facts().together is None
        solved = json.loads((tmp_path / f"{number}" / "adapter" / "readout" / "readout.json").read_text())
        assert solved["loss"] == pytest.approx(loss, abs=2e-4)
        if number == count:
            assert named.result.tuned == run.result.tuned
            assert named.result.cost.forward_tokens == run.result.cost.forward_tokens
            assert load(tmp_path / f"{number}").predict(TEXTS) == load(tmp_path / "run").predict(TEXTS)
    assert len(load(tmp_path / "run").scorer.task.wordings) == count
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert load(tmp_path / "run").evaluate(rows).score == pytest.approx(run.result.tuned.test, abs=1e-6)


class Told(Callback):
    def __init__(self, lines):
        self._lines = lines

    def on_progress(self, text):
        self._lines.append(text)


@pytest.mark.parametrize(
    "go_on", [small.resume, lambda folder: finish(folder, progress="none")], ids=["resume", "finish"]
)
def test_a_stopped_run_goes_on_with_as_many_templates_as_it_decided(go_on, tmp_path):
    recipe = left_open(tmp_path, "llama", 9, 6)
    small.tune(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        small.tune(recipe, tmp_path / "run", StoppedBeforeScores())
    before = (tmp_path / "run" / "run.json").read_bytes()
    assert json.loads(before)["together"]["count"] == 2
    go_on(tmp_path / "run")
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert small.artefacts(tmp_path / "run") == small.artefacts(tmp_path / "whole")


def test_a_run_whose_facts_do_not_say_how_many_are_read_together_is_used_as_its_recipe_says(tmp_path):
    """As those are that began before this could be decided."""
    answers = tune(joined_recipe(tmp_path), tmp_path / "run").predict(TEXTS)
    path = tmp_path / "run" / "run.json"
    facts = json.loads(path.read_text())
    del facts["together"]
    path.write_text(json.dumps(facts))
    again = load(tmp_path / "run")
    assert len(again.scorer.task.wordings) == 3 and again.predict(TEXTS) == answers


def test_losses_of_several_templates_are_printed_where_they_decide(tmp_path):
    recipe = left_open(tmp_path, "llama", 9, 6)
    path = small.write_recipe(tmp_path / "recipe.json", recipe)
    called = small.call("templates", path)
    tune(recipe, tmp_path / "run")
    losses = RunFolder.open(tmp_path / "run").read_facts().together.losses
    assert 'With together = "auto" the best 2 templates are read together' in called.out
    assert all(f"{number}: {loss:.4f}" in called.out for number, loss in enumerate(losses, 1))
    assert "read together" not in small.call("templates", path, "task.together=2").out
    assert len(json.loads(small.call("templates", path, "--json").out)) == 4


@pytest.mark.parametrize(
    ("task", "method", "said"),
    [
        ({}, {"name": "readout"}, "there is one template"),
        ({"together": "auto"}, {"name": "readout"}, "together: auto, but there is one template"),
        (
            {"together": "auto", "templates": "known"},
            {"name": "lora", "readout": "ridge"},
            "set [method] name to readout",
        ),
        ({"together": "some", "templates": "known"}, {"name": "readout"}, 'expected a whole number or "auto", got'),
        ({"templates": "known"}, {"name": "manual"}, "set [method] name to readout"),
        ({"templates": "known"}, {"name": "icl", "readout": "ridge"}, "set [method] name to readout"),
        ({"templates": "known"}, {"name": "lora", "readout": "ridge"}, "set [method] name to readout"),
    ],
)
def test_templates_are_read_together_by_a_readout_alone(task, method, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config({"model": "pypi:flan-t5-small", "task": {"name": "trec", "together": 3, **task}, "method": method})


def test_templates_are_ranked_on_the_command_line_without_test_rows(tmp_path):
    recipe = readout_recipe(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    del recipe["task"]["test"]
    path = small.write_recipe(tmp_path / "recipe.json", recipe)
    called = small.call("templates", path, "--template", "{text} it is so {mask}", "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert len(found) == 2 and found[0]["loss"] <= found[1]["loss"]
    assert all(0 <= one["score"] <= 1 and one["standard_error"] > 0 for one in found)


def test_templates_of_a_mentor_are_judged_beside_the_recipes_own(tmp_path):
    """Through files: a question, the answer beside it, and the same command again; what was said is kept."""
    recipe = readout_recipe(tmp_path)
    path = small.write_recipe(tmp_path / "recipe.json", recipe)
    ask = ("templates", path, "--mentor", "2", "--said", tmp_path / "said", "mentor.client=file", "--json")
    called = small.call(*ask, "mentor.show_rows=0")
    assert called.code == 3 and "answer-" in called.err and "resume" not in called.err
    (question,) = (tmp_path / "said").rglob("question-*.md")
    text = question.read_text(encoding="utf-8")
    texts = [json.loads(line)["text"] for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert recipe["task"]["template"] in text and not any(row in text for row in texts)
    words = {"negative": "bad", "positive": "good"}
    wordings = [{"template": t, "words": words} for t in ("the film {text} was {mask}", "{nothing} {mask}")]
    question.with_name(question.name.replace("question", "answer")).write_text(json.dumps(wordings), encoding="utf-8")
    called = small.call(*ask)
    assert called.code == 3, "one was refused, so it is asked once more"
    (again,) = [q for q in question.parent.glob("question-*") if q != question]
    assert "{nothing} is no column" in again.read_text(encoding="utf-8")
    again.with_name(again.name.replace("question", "answer")).write_text("[]", encoding="utf-8")
    called = small.call(*ask)
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert {one["template"] for one in found} == {recipe["task"]["template"], "the film {text} was {mask}"}
    assert [one["labels"] for one in found if one["template"].startswith("the film")] == [
        {"negative": ["bad"], "positive": ["good"]}
    ]
    shown = small.call(*ask[:-1], "mentor.show_rows=3", "--said", tmp_path / "other")
    assert shown.code == 3
    (question,) = (tmp_path / "other").rglob("question-*.md")
    assert any(row in question.read_text(encoding="utf-8") for row in texts), "rows only where they are asked for"
    rows = small.rows(40, 3)
    for number, row in enumerate(rows):  # labels at random, so that many are misread
        row["text"] += f" {number}"
    small.write_rows(tmp_path / "dev.jsonl", rows)
    asked = small.call(
        *ask[:-1],
        f"task.dev={tmp_path / 'dev.jsonl'}",
        "task.dev_shots=8",
        "mentor.show_rows=20",
        "--said",
        tmp_path / "third",
    )
    assert asked.code == 3
    (question,) = (tmp_path / "third").rglob("question-*.md")
    told = question.read_text(encoding="utf-8")
    assert not any(row["text"] in told for row in rows), "training rows alone leave the machine"


def test_known_templates_fit_their_tasks():
    from tandemtune.tasks.catalogue import TASKS
    from tandemtune.tasks.templates import Template

    for name, several in known_templates().items():
        assert len(several) >= 4
        for one in several:
            assert len(one.words) == len(TASKS[name].labels)
            assert Template.parse(one.template).pieces[-1] == ("slot", "mask")


@pytest.mark.parametrize("keep", ["better", "clearly-better"])
def test_what_was_tuned_is_kept_only_where_the_dev_rows_gain_from_it(keep, tmp_path):
    """Labels that have nothing to do with the texts: whatever a search finds on the training rows, the dev rows do not gain."""
    rows_with_a_signal(tmp_path)
    recipe = small.recipe(tmp_path, "llama", task__shots=8)
    own = {"name": "lora", "lr": 0.01, "steps": 8, "dev_every": 2}
    recipe["method"] = {**own, "readout": {"kind": "ridge", "keep": keep}}
    noise = [{**row, "label": ["negative", "positive"][i // 2 % 2]} for i, row in enumerate(small.rows(40, 6))]
    small.write_rows(tmp_path / "train.jsonl", noise)
    run = tune(recipe, tmp_path / "run")
    gain = run.result.gain
    assert gain is not None and gain.rows == 16
    assert gain.kept == (gain.mean > (gain.standard_error if keep == "clearly-better" else 0))
    assert 0 < gain.mean < gain.standard_error  # by luck: one rule takes it, the other one does not
    assert (run.result.kept_step > 0) == gain.kept
    assert (run.result.tuned == run.result.zero_shot_readout) == (not gain.kept)
    assert run.predict(TEXTS) == load(tmp_path / "run").predict(TEXTS)


def test_a_gain_beyond_its_standard_error_is_kept(tmp_path):
    rows_with_a_signal(tmp_path)
    recipe = small.recipe(tmp_path, "llama", task__shots=8)
    recipe["method"] = {"name": "lora", "lr": 0.03, "steps": 30, "readout": {"kind": "bias", "keep": "better"}}
    result = tune(recipe, tmp_path / "run").result
    assert result.gain is not None and result.gain.mean > result.gain.standard_error > 0
    assert result.gain.kept and result.kept_step > 0
    assert result.tuned.dev_loss < result.zero_shot_readout.dev_loss


@pytest.mark.parametrize("keep", ["tuned", "better", "clearly-better"])
def test_one_dev_row_shows_no_gain(keep, tmp_path):
    """It has no standard error, so a rule that asks for a gain keeps the start, and a note says so before the search."""
    rows_with_a_signal(tmp_path)
    rows = small.rows(20, 1)
    first = rows[0]["label"]
    few = [row for row in rows if row["label"] == first][:5] + [row for row in rows if row["label"] != first][:1]
    small.write_rows(tmp_path / "train.jsonl", few)
    recipe = small.recipe(tmp_path, "llama", task__shots="all", task__dev_shots=1, task__short_classes="share")
    own = {"name": "lora", "lr": 0.05, "steps": 6, "dev_every": 1}
    recipe["method"] = {**own, "readout": {"kind": "ridge", "keep": keep}}
    run = tune(recipe, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["dev_rows"] == 1
    assert any("one dev row" in note for note in facts["notes"]) == (keep != "tuned")
    assert (run.result.kept_step > 0) == (keep == "tuned")
    assert run.result.gain is None if keep == "tuned" else not run.result.gain.kept


ROWS_OF_A_SEARCH = ["zero-shot, readout", "tuned, label words alone", "tuned, readout"]


@pytest.mark.parametrize("keep", sparse(["tuned", "better", "clearly-better"], ["tuned", "clearly-better"]))
def test_words_that_were_proposed_are_a_search_without_turns(keep, tmp_path):
    """What they add to the readout is measured, and they are kept as the recipe says."""
    rows_with_a_signal(tmp_path)
    recipe = small.recipe(tmp_path, "llama", task__shots=8, task__seed=3)
    recipe["method"] = {"name": "opro", "prompt_tokens": 3, "readout": {"kind": "ridge", "keep": keep}}
    recipe["alternate"] = {"rounds": 3, "proposer": "mutation"}
    called = small.call("run", small.write_recipe(tmp_path / "recipe.json", recipe), "--out", tmp_path / "run")
    assert called.code == 0, called.err
    result = RunFolder.open(tmp_path / "run").read_result()
    taken = [line["taken"] for line in small.journal(tmp_path / "run") if line["event"] == "proposal"]
    assert result.steps == 0 and len(taken) == 3 and any(place is not None for place in taken)
    gain = result.gain
    assert gain is not None
    wanted = {"tuned": -math.inf, "better": 0.0, "clearly-better": gain.standard_error}[keep]
    assert gain.kept == (gain.mean > wanted) == (result.kept_record > 0)
    assert [row.name for row in result.scores()][-3:] == ROWS_OF_A_SEARCH
    assert "nothing was searched" not in called.out
    assert ("kept what was proposed" in called.out) == gain.kept
    page = small.call("report", tmp_path / "run", "--out", tmp_path / "page.html")
    assert page.code == 0 and "after step 0 of 0" not in (tmp_path / "page.html").read_text()


def test_demonstrations_are_another_model_than_the_pretrained_one(tmp_path):
    recipe = readout_recipe(tmp_path, task__max_tokens=20)
    recipe["method"] = {"name": "icl", "readout": "ridge"}
    result = tune(recipe, tmp_path / "run").result
    assert result.tuned_words != result.zero_shot and result.gain is None
    assert [row.name for row in result.scores()][-3:] == ROWS_OF_A_SEARCH


def test_what_solving_costs_is_counted(tmp_path):
    plain = tune(readout_recipe(tmp_path), tmp_path / "plain").result
    recipe = readout_recipe(tmp_path)
    recipe["task"]["templates"] = [recipe["task"].pop("template"), "{text} so it is {mask}"]
    chosen = tune(recipe, tmp_path / "chosen").result
    facts = RunFolder.open(tmp_path / "plain").read_facts()
    assert plain.cost.forward_tokens == facts.train_tokens + facts.dev_tokens
    assert chosen.cost.forward_tokens > 2 * plain.cost.forward_tokens


def test_templates_cost_what_they_are_judged_by(tmp_path, monkeypatch):
    """Rows that no template is judged by cost nothing, nor does a template that cannot be used."""
    monkeypatch.setattr(LabelAnswers, "most_judged", 4)
    recipe = readout_recipe(tmp_path)
    recipe["task"]["templates"] = [recipe["task"]["template"], "{text} and it was {mask}", "{mask} : {text}"]
    result = tune(recipe, tmp_path / "run").result
    facts = RunFolder.open(tmp_path / "run").read_facts()
    labelled = facts.train_tokens + facts.dev_tokens  # of 32 rows
    assert [bool(one.tokens) for one in facts.templates] == [not one.refused for one in facts.templates]
    assert all(one.tokens < labelled / 4 for one in facts.templates) and any(one.refused for one in facts.templates)
    assert result.cost.forward_tokens == labelled + sum(one.tokens for one in facts.templates)


@pytest.mark.parametrize("keep", ["tuned", "better"])
def test_readouts_that_are_compared_are_counted(keep, tmp_path):
    """Where the search began, at its best point, and the one that is kept."""
    costs = []
    for readout in ("none", {"kind": "ridge", "keep": keep}):
        recipe = readout_recipe(tmp_path)
        recipe["method"] = {"name": "lora", "lr": 0.03, "steps": 30, "readout": readout}
        run = tune(recipe, tmp_path / f"run{len(costs)}")
        costs.append(run.result.cost.forward_tokens)
    facts = RunFolder.open(tmp_path / "run1").read_facts()
    assert run.result.gain is not None
    assert costs[1] - costs[0] == 3 * (facts.train_tokens + facts.dev_tokens)


def test_more_tokens_than_were_given_are_told(tmp_path):
    """Those of a turn that costs more than was left, and those of templates and readout, which no bound ends."""
    recipe = small.recipe(tmp_path, "llama", run__max_forward_tokens=300)
    notes = tune(recipe, tmp_path / "run").result.notes
    assert any("times the 300 of max_forward_tokens: a turn is never cut" in note for note in notes)
    enough = small.recipe(tmp_path, "llama", run__max_forward_tokens=10**7)
    assert not any("max_forward_tokens" in note for note in tune(enough, tmp_path / "enough").result.notes)
    solved = readout_recipe(tmp_path, run__max_forward_tokens=100)
    solved["task"]["templates"] = ["{text} so it is {mask}"]
    result = tune(solved, tmp_path / "solved").result
    (note,) = (note for note in result.notes if "max_forward_tokens" in note)
    judged = sum(one.tokens for one in RunFolder.open(tmp_path / "solved").read_facts().templates)
    assert note.startswith(f"{result.cost.forward_tokens:,} forward tokens were used")
    assert f"{judged:,} chose a template and {result.cost.forward_tokens - judged:,} solved the readout" in note
    assert "a turn is never cut" not in note


def test_more_rows_than_a_solver_takes_are_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MOST_LOGISTIC", 20)
    recipe = readout_recipe(tmp_path, method__readout="affine")
    recipe["model"]["name"] = "nobody/has-such-a-model"
    said = "at most 20 labelled ones of 2 labels, got 32: take readout ridge"
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", recipe), "model.kind=causal")
    assert called.code == 2 and said in called.err, called.err
    with pytest.raises(UsageError, match=said):
        tune({**recipe, "model": {**recipe["model"], "kind": "causal"}}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    tune(readout_recipe(tmp_path), tmp_path / "ridge")
    tune(
        readout_recipe(tmp_path, method__readout="bias"), tmp_path / "bias"
    )  # solved among labels, whatever rows there are
    monkeypatch.setattr(members, "MOST_LOGISTIC", 1000)
    monkeypatch.setattr(members, "MOST_NUMBERS", 2 * 30**2)
    with pytest.raises(UsageError, match="at most 30 labelled ones of 2 labels, got 32"):
        tune(readout_recipe(tmp_path, method__readout="affine"), tmp_path / "many")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prior": "foo"}, 'prior: expected "balanced", "train" or a share for each label'),
        ({"prior": ["a", "b"]}, "such as [0.3, 0.7], got ['a', 'b']"),
        ({"views": 3}, 'views: expected "auto", a view or a list of views, such as ["answer", "mean"], got 3'),
        ({"views": "foo"}, "view 'foo': expected answer or mean"),
    ],
)
def test_settings_of_a_readout_that_are_none(changes, said, tmp_path):
    recipe = readout_recipe(tmp_path)
    recipe["method"] |= changes
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        load_config(recipe)
    assert len(refused.value.problems) == 1


def test_a_single_view_is_a_list_of_one(tmp_path):
    assert load_config(readout_recipe(tmp_path, method__views="mean")).method.readout.views == ["mean"]


def test_templates_of_images_are_not_chosen_from(tmp_path):
    called = small.call("templates", small.write_recipe(tmp_path / "recipe.json", images.recipe(tmp_path)))
    assert called.code == 2 and "the mean of its names in all templates" in called.err, called.err
