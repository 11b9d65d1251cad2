"""The method that is taken where a recipe names none: what it decides, that it is told, and that it goes on as it began."""

from __future__ import annotations

import json

import pytest

import choosing
import small
import tiny
import writing
from tandemtune import load, resume, tune
from tandemtune.callbacks import Callback
from tandemtune.config import load_config
from tandemtune.errors import ConfigError
from tandemtune.runs.store import RunFolder

TEXTS = ["a great film", "the plot was dull and bad"]


def recipe(place, **changes):
    made = small.recipe(place, "llama", **changes)
    made["method"] = {"name": "auto", "steps": 6}
    made["task"]["templates"] = [made["task"].pop("template"), "the film {text} and so it was {mask}"]
    return made


def facts_of(folder):
    found = RunFolder.open(folder).read_facts()
    assert found is not None
    return found


def test_template_readout_and_lora_are_decided_in_one_run(tmp_path):
    run = tune(recipe(tmp_path), tmp_path / "run")
    facts, result = facts_of(tmp_path / "run"), run.result
    assert facts.template == min(facts.templates, key=lambda one: one.loss).template
    assert result.method == "auto" and result.cost.gradient_steps == 6 and facts.instead == ""
    if result.gain is not None and not result.gain.kept:
        assert result.kept_step == 0 and result.tuned == result.zero_shot_readout
    assert (tmp_path / "run" / "adapter" / "readout" / "readout.json").is_file()
    assert run.predict(TEXTS) == load(tmp_path / "run").predict(TEXTS)


def test_without_memory_for_gradients_the_readout_is_left_and_the_run_resumes(tmp_path, monkeypatch):
    said = []

    class Listener(Callback):
        def on_progress(self, message):
            said.append(message)

        def on_testing(self):
            raise KeyboardInterrupt

    made = recipe(tmp_path)
    with monkeypatch.context() as short_of_memory:
        short_of_memory.setattr("tandemtune.devices.free_memory", lambda device: 0.01)
        with pytest.raises(KeyboardInterrupt):
            small.tune(made, tmp_path / "cut", Listener())
        whole = tune(made, tmp_path / "whole")
    assert any("a backward pass may take" in line and "nothing is searched" in line for line in said)
    assert facts_of(tmp_path / "cut").instead == "readout"
    resume(tmp_path / "cut")  # there is memory now, but the run goes on as it began
    assert small.artefacts(tmp_path / "cut") == small.artefacts(tmp_path / "whole")
    assert whole.result.cost.gradient_steps == whole.result.cost.candidates == 0
    assert whole.predict(TEXTS) == load(tmp_path / "cut").predict(TEXTS)
    alone = {**made, "method": {"name": "readout", "views": "auto"}}
    assert tune(alone, tmp_path / "alone").result.tuned == whole.result.tuned
    asked = json.loads((tmp_path / "cut" / "recipe.json").read_text())
    assert asked["method"]["optimizer"]["kind"] == "adamw"  # the recipe stays what was asked for


def test_a_masked_model_is_told_that_no_template_is_chosen(tmp_path):
    """The templates that are known for a task are for models that answer behind the text."""
    said = []

    class Listener(Callback):
        def on_progress(self, message):
            said.append(message)

    made = small.recipe(tmp_path, "bert", task__name="sst2", task__template=None, task__labels=None)
    made["method"] = {"name": "auto", "steps": 2}
    small.tune(made, tmp_path / "run", Listener())
    assert facts_of(tmp_path / "run").templates == ()
    assert sum("no template is chosen" in line for line in said) == 1


def clear_cut(place, count, wrong=0):
    """A recipe over rows whose first word is nearly their label, a few of them labelled otherwise."""
    others = [word for word in tiny.WORDS if word not in small.LABELS.values()][: count // 2]
    rows = [{"text": f"{word} {one}", "label": label} for one in others for label, word in small.LABELS.items()]
    for row in rows[:wrong]:
        row["label"] = "negative" if row["label"] == "positive" else "positive"
    made = recipe(place, task__shots="all", task__dev_shots=8, task__test=None)
    small.write_rows(place / "train.jsonl", rows)
    return made


def test_where_the_readout_is_right_on_all_rows_nothing_is_tuned_and_the_run_says_so(tmp_path):
    made = clear_cut(tmp_path, 60)
    path = small.write_recipe(tmp_path / "clear.json", made)
    called = small.call("run", path, "--out", tmp_path / "run")
    said = "the readout of the pretrained model is right on all 60 labelled rows, each predicted by all other rows"
    assert called.code == 0 and (called.out + called.err).replace("\n", " ").count(said) == 1, called.err
    assert "the search will take" not in called.err and "nothing was searched" in called.out
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert (result["steps"], result["stop_reason"], result["gain"]) == (0, "all rows right", None)
    assert any(said in note for note in result["notes"]) and result["zero_shot_readout"]["dev"] == 1.0
    reported = small.call("report", tmp_path / "run", "--out", tmp_path / "run.md")
    assert reported.code == 0 and said in (tmp_path / "run.md").read_text(encoding="utf-8"), reported.err

    class Cut(Callback):
        def on_start(self, record, resumed, seconds):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small.tune(made, tmp_path / "cut", Cut())
    resume(tmp_path / "cut")
    assert small.artefacts(tmp_path / "cut") == small.artefacts(tmp_path / "run")


@pytest.mark.parametrize(
    ("count", "wrong", "changes"),
    [(58, 0, {}), (60, 1, {}), (60, 0, {"all_right": "search"})],
    ids=["few rows", "one is wrong", "wanted"],
)
def test_lora_is_trained_where_a_row_may_be_set_right_or_it_is_wanted(tmp_path, count, wrong, changes):
    made = clear_cut(tmp_path, count, wrong)
    made["method"] |= changes
    result = small.tune(made, tmp_path / "run")
    assert result["steps"] == 6 and result["gain"]["rows"] == 16


def test_without_memory_for_gradients_and_without_a_readout_nothing_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("tandemtune.devices.free_memory", lambda device: 0.01)
    made = recipe(tmp_path)
    made["method"]["readout"] = "none"
    with pytest.raises(ConfigError, match="set readout to ridge, or name a method that needs forward passes only"):
        tune(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_names_its_optimizer_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tandemtune.devices.free_memory", lambda device: 0.01)
    made = recipe(tmp_path)
    made["method"] = {"name": "auto", "optimizer": {"kind": "random", "popsize": 4}, "budget": 20}
    run = tune(made, tmp_path / "run")
    assert facts_of(tmp_path / "run").instead == "" and run.result.cost.candidates > 0


STEPS = {"name": "auto", "steps": 4, "dev_every": 2}


def of_texts(place, model="llama", **changes):
    made = writing.recipe(place, model, **changes)
    made["method"] = dict(STEPS)
    return made


def of_choices(place):
    made = choosing.columns(place)
    made["method"] = dict(STEPS)
    return made


@pytest.mark.parametrize("made", [of_texts, lambda place: of_texts(place, "t5"), of_choices])
def test_whole_answers_are_learned_by_lora_and_kept_where_dev_gains(tmp_path, made):
    result = tune(made(tmp_path), tmp_path / "run").result
    assert result.cost.gradient_steps == 4 and result.zero_shot_readout is None
    looks = [record for record in small.journal(tmp_path / "run") if record.get("gain") is not None]
    assert looks and (result.kept_step > 0) == any(look["gain"]["kept"] for look in looks)


def test_texts_that_only_a_reward_judges_are_searched(tmp_path):
    place = f"{writing.rewards_in(tmp_path)}:length"
    made = writing.recipe(tmp_path, task__answer=None, task__metric=place)
    made["method"] = {"name": "auto", "budget": 16, "popsize": 4}  # four and the incumbent, three times
    result = tune(made, tmp_path / "run").result
    assert result.metric == "length" and result.cost.candidates == 15 and result.cost.generated_tokens > 0


def test_without_memory_for_gradients_whole_answers_are_searched(tmp_path, monkeypatch):
    monkeypatch.setattr("tandemtune.devices.free_memory", lambda device: 0.01)
    made = of_texts(tmp_path, run__max_forward_tokens=3000)
    result = tune(made, tmp_path / "run").result
    assert facts_of(tmp_path / "run").instead == "c-lora"
    assert result.method == "auto" and result.cost.candidates > 0 and result.cost.gradient_steps == 0


def test_a_method_takes_its_readout_along_where_label_words_answer(tmp_path):
    es_lora = {"name": "es-lora", "budget": 16, "popsize": 4}
    found = {}
    for name, made in (("words", small.recipe(tmp_path, "llama")), ("texts", writing.recipe(tmp_path))):
        found[name] = load_config({**made, "method": es_lora}).method
    assert (found["words"].readout.kind, found["words"].judge) == ("ridge", "readout")
    assert (found["texts"].readout.kind, found["texts"].judge) == ("none", "words")
    assert found["texts"].optimizer == found["words"].optimizer
