"""Several searches of one run, one after another: each goes on from the best point of the one before, by an objective of its own."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest

import choosing
import images
import small
import tandemtune
import writing
from dying import begun, forking, in_child, picked
from executors.stubs import Virtual
from grids import sparse
from small import Stop, resume, tune
from tandemtune import plugins, wiring
from tandemtune.comparisons.plan import read_plan
from tandemtune.config import load_config
from tandemtune.config.schema import UNBOUNDED
from tandemtune.errors import ConfigError
from tandemtune.report.run_page import run_charts, run_page
from tandemtune.report.text import summary
from tandemtune.runs.store import RunFolder
from tandemtune.wiring import planned

CMAES = {"optimizer": {"kind": "cma-es", "popsize": 4}, "d": 8, "budget": 40, "dev_every": 2}
ADAMW = {"optimizer": {"kind": "adamw", "lr": 0.01}, "steps": 6, "dev_every": 2}
ES = {"optimizer": {"kind": "es", "popsize": 4, "sigma": 0.05}, "subspace": "none", "budget": 24, "dev_every": 2}
SEARCHES = {"sampler": CMAES, "estimator": ES, "gradient": ADAMW}
LEAST: dict[str, Any] = {"model": "m", "task": {"name": "sst2"}}
LORA = {"tunable": {"kind": "lora", "r": 1, "layers": "all"}}


def recipe(place: Path, first: dict[str, Any], *then: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A recipe of several searches over LoRA."""
    made = small.recipe(place, **changes)
    return {**made, "method": {**LORA, **first, "then": list(then)}}


def texts(place: Path, first: dict[str, Any], *then: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The same where answers are written."""
    made = writing.recipe(place, **changes)
    return {**made, "method": {**LORA, **first, "then": list(then)}}


def problems(made: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(made)
    return list(caught.value.problems)


def events(folder: Path) -> list[str]:
    return [line["event"] for line in small.journal(folder)]


def check_handed_over(folder: Path, result: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What holds of every run of several searches: its hand-overs are returned."""
    lines = small.journal(folder)
    places = [place for place, line in enumerate(lines) if line["event"] == "handover"]
    assert [lines[place]["stretch"] for place in places] == list(range(2, count + 1))
    losses = [line["dev"]["loss"] for line in lines[places[-1] :] if line.get("dev")]
    number, kept = result["kept_record"], lines[result["kept_record"]]
    assert kept["event"] != "handover" and result["kept_step"] == kept.get("step", 0), "what found it, in any stretch"
    chosen = kept if number > places[-1] else lines[places[-1]]  # what was handed over is measured anew
    assert chosen["dev"]["loss"] == min(losses) <= lines[places[-1]]["dev"]["loss"]
    assert result["tuned"]["dev_loss"] == pytest.approx(chosen["dev"]["loss"], abs=1e-5)
    spent = [line["costs"]["forward"] for line in lines[1:-1]]
    assert spent == sorted(spent) and len(set(spent)) == len(spent), "measuring what is handed over costs something"
    return [lines[place] for place in places]


@pytest.mark.grid
@pytest.mark.parametrize("after", SEARCHES)
@pytest.mark.parametrize("before", SEARCHES)
def test_any_kind_goes_on_from_any(tmp_path, before, after):
    made = recipe(tmp_path, SEARCHES[before], SEARCHES[after])
    result = tune(made, tmp_path / "run")
    (handed,) = check_handed_over(tmp_path / "run", result, 2)
    lines = small.journal(tmp_path / "run")
    seen = {
        line["step"]: line["dev"]["loss"] for line in lines if line["event"] in ("generation", "step") and line["dev"]
    }
    seen[0] = lines[0]["dev"]["loss"]
    own = {step: loss for step, loss in seen.items() if step <= handed["step"]}
    if handed["last"] is not None:
        own[handed["step"]] = handed["last"]["loss"]
    assert own[handed["kept_step"]] == min(own.values()), "what is handed over is best on dev"
    assert handed["dev"]["loss"] == pytest.approx(min(own.values()), abs=1e-6), "the same model by the same objective"
    assert handed["reason"] == ("steps" if before == "gradient" else "budget")
    begun_with = lines[lines.index(handed) + 1]
    if after == "sampler":
        assert begun_with["incumbent"] == pytest.approx(handed["train_loss"], abs=1e-5)
    if after == "gradient":
        assert begun_with["gradient_norm"] > 0
    assert result["steps"] == lines[-1]["step"]


def test_gradients_find_a_way_from_a_point_that_no_search_has_moved(tmp_path):
    still = {**CMAES, "optimizer": {"kind": "cma-es", "popsize": 4, "sigma": 1e-6}}
    tune(recipe(tmp_path, still, ADAMW), tmp_path / "run")
    steps = [line for line in small.journal(tmp_path / "run") if line["event"] == "step"]
    assert all(line["gradient_norm"] > 1e-4 for line in steps)


STILL = {**CMAES, "objective": "accuracy", "optimizer": {"kind": "random", "popsize": 4, "sigma": 1e-6}}


def test_the_record_of_the_kept_point_is_that_which_found_it(tmp_path):
    result = tune(recipe(tmp_path, ADAMW, STILL), tmp_path / "run")
    lines = small.journal(tmp_path / "run")
    (place,) = [place for place, line in enumerate(lines) if line["event"] == "handover"]
    kept = lines[result["kept_record"]]
    assert 0 < result["kept_record"] < place and kept["event"] == "step"
    assert kept["step"] == result["kept_step"] == lines[place]["kept_step"] > 0
    assert kept["dev"]["loss"] == min(line["dev"]["loss"] for line in lines[:place] if line["dev"])


def test_where_no_stretch_finds_anything_the_start_is_kept_and_that_is_said(tmp_path):
    result = tune(recipe(tmp_path, STILL, STILL), tmp_path / "run")
    assert result["kept_record"] == result["kept_step"] == 0 and result["steps"] > 0
    page = run_page(RunFolder.open(tmp_path / "run"))
    assert "No point was better on dev than the one that the search began with" in page


def vectors() -> list[str]:
    """Optimizers of vectors that come with the package."""
    load_config({"model": "m", "task": "sst2"})
    members = plugins.members("optimizer")
    return sorted(
        name
        for name, one in members.items()
        if one.uses in ("sampler", "estimator", "gradient") and one.__module__.startswith("tandemtune.")
    )


def turn_of(name: str) -> dict[str, Any]:
    """One turn of an optimizer."""
    member = plugins.find("optimizer", name)
    options = {"kind": name} | ({"popsize": 4} if "popsize" in member.model_fields else {})
    return {"optimizer": options, "order": "together", "steps": 1, "budget": 5}


def all_pairs(names: Sequence[str]) -> list[str]:
    """A row of names in which each stands behind each, itself too: a walk over all edges of the complete graph."""
    left = {name: list(names) for name in names}
    path, found = [names[0]], []
    while path:
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            found.append(path.pop())
    return found


@pytest.mark.slow  # test_any_kind_goes_on_from_any has the kinds of them
def test_every_optimizer_takes_over_from_every_other(tmp_path):
    names = all_pairs(vectors())
    assert {*pairwise(names)} == {*product(vectors(), repeat=2)}
    made = recipe(tmp_path, *map(turn_of, names))
    made["method"]["tunable"] = {"kind": "lora", "r": 1, "layers": [3]}
    result = tune(made, tmp_path / "run")
    handed = check_handed_over(tmp_path / "run", result, len(names))
    assert [one["phase"] for one in handed] == names[1:]
    assert result["steps"] == len(names), "each has had its turn"


def test_the_reward_after_the_references(tmp_path):
    reward = {**ES, "objective": "reward", "order": "together", "budget": 12}
    made = texts(tmp_path, {"name": "lora", "steps": 6, "dev_every": 2}, reward)
    result = tune(made, tmp_path / "run")
    (handed,) = check_handed_over(tmp_path / "run", result, 2)
    assert handed["dev"]["loss"] == pytest.approx(-handed["dev"]["score"]), "the reward is the metric here"
    best = json.loads((tmp_path / "run" / "result.json").read_text())["tuned"]
    assert best["dev_loss"] == pytest.approx(-best["dev"], abs=1e-5), "the result is judged by the last objective"
    assert result["method"] == "lora, then es" and result["found_by"] in (
        "lora (stretch 1 of 2)",
        "es (stretch 2 of 2)",
    )


def test_steps_budget_and_patience_end_a_search_and_not_the_run(tmp_path):
    flat = {
        **CMAES,
        "objective": "accuracy",
        "budget": 400,
        "patience": 2,
        "optimizer": {"kind": "random", "popsize": 4, "sigma": 1e-6},
    }
    result = tune(
        recipe(tmp_path, flat, {**ES, "patience": None}, {**ADAMW, "objective": "ce", "patience": None}),
        tmp_path / "run",
    )
    handed = check_handed_over(tmp_path / "run", result, 3)
    assert [one["reason"] for one in handed] == ["patience", "budget"]
    lines = small.journal(tmp_path / "run")
    assert lines[-1]["stop_reason"] == "steps"
    second = [line for line in lines if line["event"] == "generation" and line["phase"] == "es"]
    assert len(second) * 4 == ES["budget"], "a budget is of one search"


GRADIENTS = {"optimizer": {"kind": "adamw", "lr": 0.01}, "steps": 4, "dev_every": 2}
SAMPLES = {
    "optimizer": {"kind": "cma-es", "popsize": 4},
    "subspace": {"kind": "random", "d": 8},
    "budget": 15,
    "dev_every": 2,
}
FEW = {"popsize": 4, "budget": 15, "dev_every": 2}
KINDS_SOON = ("images", "class prompts", "phrases", "words", "all weights", "calibrated", "a readout")
KINDS: dict[str, tuple[Callable[[Path], dict[str, Any]], dict[str, Any], dict[str, Any]]] = {
    "images": (images.recipe, {"tunable": "lora", **SAMPLES}, {**GRADIENTS, "objective": "hinge"}),
    "class prompts": (images.recipe, {"tunable": "class-prompt", **GRADIENTS}, {**SAMPLES, "objective": "accuracy"}),
    "phrases": (choosing.phrases, {"tunable": "lora", **GRADIENTS}, {**SAMPLES, "objective": "accuracy"}),
    "columns": (choosing.columns, {"tunable": "lora", **SAMPLES}, GRADIENTS),
    "prompts": (small.recipe, {"tunable": {"kind": "prompt", "prompt_tokens": 3}, **SAMPLES}, GRADIENTS),
    "deep prompts": (small.recipe, {"tunable": {"kind": "deep-prompt", "prompt_tokens": 3}, **GRADIENTS}, SAMPLES),
    "words": (small.recipe, {"name": "gap3", "prompt_tokens": 3, **FEW}, {"objective": "accuracy"}),
    "adapters": (small.recipe, {"tunable": "adapter", **SAMPLES}, GRADIENTS),
    "biases": (small.recipe, {"tunable": "bias", **GRADIENTS}, SAMPLES),
    "one factor": (small.recipe, {"tunable": {"kind": "lora", "factors": "b"}, **SAMPLES}, GRADIENTS),
    "peft": (small.recipe, {"tunable": {"kind": "peft", "type": "IA3"}, **GRADIENTS}, SAMPLES),
    "all weights": (
        small.recipe,
        {"tunable": "full", **GRADIENTS},
        {**GRADIENTS, "optimizer": "sgd", "objective": "hinge"},
    ),
    "calibrated": (small.recipe, {"tunable": "lora", **GRADIENTS}, {**SAMPLES, "calibrate": True, "kl_penalty": 0.1}),
    "a readout": (small.recipe, {"tunable": "lora", "readout": "ridge", "judge": "readout", **GRADIENTS}, SAMPLES),
    "a guard": (
        small.recipe,
        {"tunable": "lora", "guard": "standard-error", **SAMPLES},
        {**GRADIENTS, "guard": "none"},
    ),
}


@pytest.mark.few(4)
@pytest.mark.parametrize("kind", sparse(KINDS, KINDS_SOON))
def test_every_kind_of_task_and_tunable(tmp_path, kind):
    make, first, second = KINDS[kind]
    made = {**make(tmp_path), "method": {**first, "then": [second]}}
    result = tune(made, tmp_path / "run")
    lines = small.journal(tmp_path / "run")
    (handed,) = [line for line in lines if line["event"] == "handover"]
    losses = [line["dev"]["loss"] for line in lines[lines.index(handed) :] if line.get("dev")]
    number = result["kept_record"]
    chosen = lines[number] if number > lines.index(handed) else handed
    assert chosen["dev"]["loss"] == min(losses) <= handed["dev"]["loss"]
    predicted = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    fields = [row["fields"]["text"] if [*row["fields"]] == ["text"] else row["fields"] for row in predicted][:4]
    answers = tandemtune.load(tmp_path / "run").predict(fields)
    assert [answer.label for answer in answers] == [row["label"] for row in predicted][:4]


@pytest.mark.parametrize("make", sparse([recipe, texts], [texts]))
def test_workers_score_every_stretch_as_the_run_itself_does(tmp_path, make):
    last = "accuracy" if make is recipe else {"kind": "reward", "sampled_at": 0.7}
    made = make(tmp_path, {**CMAES, "budget": 15}, {**ADAMW, "steps": 2}, {**ES, "objective": last, "budget": 8})
    for name, executor in {"local": {"kind": "local", "shard": 2}, "workers": Virtual()}.items():
        tune({**made, "run": {**made["run"], "executor": executor}}, tmp_path / name)
    assert small.artefacts(tmp_path / "workers") == small.artefacts(tmp_path / "local")


class TestShares:
    def tokens(self, place: Path, name: str, first: dict[str, Any], *then: dict[str, Any], limit: int) -> list[float]:
        """Tokens that had been spent at each hand-over and at the end, as shares of the limit."""
        endless = [{**one, "budget": 100_000} for one in (first, *then)]
        made = recipe(place, *endless, run__max_forward_tokens=limit)
        result = tune(made, place / name)
        assert result["stop_reason"] == "max_forward_tokens"
        lines = small.journal(place / name)
        depth = json.loads((place / name / "run.json").read_text())["depth"]
        before = [lines[place_ - 1] for place_, line in enumerate(lines) if line["event"] == "handover"]
        assert all(line["reason"] == "max_forward_tokens" for line in lines if line["event"] == "handover")
        return [line["costs"]["forward"] / depth / limit for line in [*before, lines[-2]]]

    def test_equal_where_nothing_is_said(self, tmp_path):
        found = self.tokens(tmp_path, "run", CMAES, ES, limit=20_000)
        assert 0.5 <= found[0] < 0.56 and 1.0 <= found[1] < 1.06

    def test_as_an_entry_says(self, tmp_path):
        found = self.tokens(tmp_path, "run", CMAES, {**ES, "share": 0.8}, limit=20_000)
        assert 0.2 <= found[0] < 0.26 and 1.0 <= found[1] < 1.06

    def test_what_is_left_goes_to_the_next(self, tmp_path):
        made = recipe(tmp_path, {**CMAES, "budget": 10}, {**ES, "budget": 100_000}, run__max_forward_tokens=20_000)
        result = tune(made, tmp_path / "run")
        (handed,) = check_handed_over(tmp_path / "run", result, 2)
        assert handed["reason"] == "budget" and result["stop_reason"] == "max_forward_tokens"
        assert result["cost"]["forward_tokens"] >= 20_000

    def test_of_seconds_too(self, tmp_path):
        endless = [{**one, "budget": 10_000_000} for one in (CMAES, ES)]
        result = tune(recipe(tmp_path, *endless, run__max_seconds=1.0), tmp_path / "run")
        (handed,) = check_handed_over(tmp_path / "run", result, 2)
        assert handed["reason"] == result["stop_reason"] == "max_seconds"


def chain(place: Path) -> dict[str, Any]:
    """Three searches, short enough to be killed anywhere."""
    return recipe(
        place,
        {**CMAES, "budget": 15, "ema": 0.5},
        {**ADAMW, "steps": 3},
        {**ES, "objective": "accuracy", "budget": 12, "subsample": 3, "guard": "standard-error"},
        run__checkpoint_seconds=0.0,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("then")


@pytest.fixture(scope="module")
def straight(place):
    tune(chain(place), place / "straight")
    return small.artefacts(place / "straight")


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_walked_through_from_every_line(place, straight, every):
    lines = len(small.journal(place / "straight"))
    for count in range(1, lines, every):
        folder = place / f"cut-{count}"
        shutil.copytree(place / "straight", folder)
        journal = folder / "journal.jsonl"
        kept = journal.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        journal.write_text("".join(kept), encoding="utf-8")
        for name in ("result.json", "predictions.jsonl", "task_card.json"):
            (folder / name).unlink()
        for old in folder.glob("checkpoint*"):
            old.unlink()
        resume(folder)
        assert small.artefacts(folder) == straight, count
        shutil.rmtree(folder)


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_stopped_after_every_line_and_resumed(place, straight, every):
    handovers = [number for number, event in enumerate(events(place / "straight")) if event == "handover"]
    for count in [number for handed in handovers for number in (handed, handed + 1, handed + 2)][::every]:
        folder = place / f"stopped-{count}"
        with suppress(KeyboardInterrupt):
            tune(chain(place), folder, Stop(lines=count))
        resume(folder)
        assert small.artefacts(folder) == straight, count
        shutil.rmtree(folder)


@forking
@pytest.mark.parametrize("every", [18, pytest.param(6, marks=pytest.mark.slow)])
def test_killed_at_moments_around_the_hand_overs(place, straight, every):
    log = place / f"moments-{every}.json"
    assert in_child(lambda: tune(chain(place), place / f"counted-{every}"), log=log) == 0
    for stop in picked(json.loads(log.read_text(encoding="utf-8")))[::every]:
        folder = place / f"killed-{stop}"
        assert in_child(lambda folder=folder: tune(chain(place), folder), stop) == -signal.SIGKILL
        if begun(folder):
            resume(folder)
            assert small.artefacts(folder) == straight, stop
        shutil.rmtree(folder, ignore_errors=True)


def test_finished_by_hand_in_the_first_search(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tune(chain(tmp_path), tmp_path / "run", Stop(step=2))
    result = tandemtune.finish(tmp_path / "run", progress="none").result
    assert result is not None and result.stop_reason == "finished by hand"
    assert "handover" not in events(tmp_path / "run")
    assert any(note.startswith("the run ended in stretch 1 of 3 (c-lora)") for note in result.notes)


class TestRecipes:
    def made(self, method: Any, *then: Any) -> Any:
        return load_config({**LEAST, "method": {**method, "then": list(then)}})

    def test_what_an_entry_leaves_out(self):
        config = self.made(
            {"name": "lora", "objective": "hinge", "dev_every": 7, "patience": 3, "steps": 20},
            {"optimizer": "es", "popsize": 8},
            {"objective": "accuracy", "optimizer": "cma-es"},
            {"name": "c-lora"},
        )
        first, second, third = config.method.then
        assert (first.optimizer.kind, first.optimizer.popsize) == ("es", 8)
        assert (first.objective.kind, first.dev_every, first.patience) == ("hinge", 7, 3)
        assert (first.subspace.kind, first.steps, first.budget) == ("random", None, 2000)
        assert (second.objective.kind, second.optimizer.kind) == ("accuracy", "cma-es")
        assert (third.name, third.objective.kind, third.optimizer.kind) == ("c-lora", "ce", "cma-es")
        assert config.title == "lora, then es, then cma-es, then c-lora"

    def test_the_same_optimizer_goes_on_as_it_is(self):
        config = self.made({"name": "c-lora", "popsize": 10, "d": 32, "budget": 500}, {"objective": "f1"})
        (entry,) = config.method.then
        assert entry.optimizer == config.method.optimizer and entry.subspace == config.method.subspace
        assert (entry.budget, entry.objective.kind) == (500, "f1")

    def test_what_is_written_down_reads_the_same(self):
        config = self.made({"name": "lora"}, {"optimizer": {"kind": "es", "sigma": 0.02}, "share": 0.3}, "c-lora")
        assert load_config(config.model_dump(mode="json")) == config

    def test_overrides(self):
        told = {**LEAST, "method": "lora"}
        whole = load_config(told, ['method.then=[{optimizer = "es", objective = "accuracy"}, {optimizer = "sgd"}]'])
        assert [entry.optimizer.kind for entry in whole.method.then] == ["es", "sgd"]
        assert (
            load_config(told, [("then", [{"optimizer": "es", "objective": "accuracy"}, "c-lora"])]).title
            == "lora, then es, then c-lora"
        )
        one = load_config(
            {**told, "method": {"name": "lora", "then": [{"optimizer": "es"}, "c-lora"]}},
            ["method.then.1.budget=77", "method.then.1.optimizer.sigma=0.5", "method.then.2.popsize=6"],
        )
        assert one.method.then[0].budget == 77 and one.method.then[0].optimizer.sigma == 0.5
        assert one.method.then[1].optimizer.popsize == 6
        with pytest.raises(ConfigError, match="entry 2 of then, and there are 1"):
            load_config({**told, "method": {"name": "lora", "then": ["c-lora"]}}, ["method.then.2.budget=5"])

    def test_objects(self):
        from tandemtune import CMAES, ES

        config = self.made(
            {"name": "lora"}, {"optimizer": ES(popsize=8)}, {"optimizer": CMAES(popsize=6), "sigma": 0.5}
        )
        assert [entry.optimizer.popsize for entry in config.method.then] == [8, 6]

    @pytest.mark.parametrize(
        ("method", "then", "said"),
        [
            ({"name": "lora"}, {"optimizer": "adamw", "objective": "accuracy"}, "then 1] objective: 'accuracy' has no gradient"),
            ({"name": "lora"}, {"optimizer": "es", "tunable": "bias"}, "then 1] tunable: one for the whole run"),
            ({"name": "lora"}, {"optimizer": "es", "readout": "ridge"}, "then 1] readout: one for the whole run"),
            ({"name": "lora"}, {"name": "es-lora"}, "means a tunable of factors 'b', and [method] has 'both', layers 'last:50%', and [method] has 'all'"),
            ({"name": "lora"}, {"name": "bitfit"}, "bitfit means a tunable of kind 'bias'"),
            ({"name": "lora"}, {"name": "maao"}, "then 1] name: maao takes turns with proposals"),
            ({"name": "lora"}, {"name": "lorra"}, "then 1] name: unknown method 'lorra' (did you mean 'lora'?)"),
            ({"name": "lora"}, {"name": "readout"}, "where nothing is tuned there is nothing to go on from"),
            ({"name": "readout"}, {"optimizer": "es"}, "where nothing is tuned there is nothing to go on from"),
            ({"name": "auto"}, {"optimizer": "es"}, "[method] name: auto may take another method's parts"),
            ({"name": "maao"}, {"optimizer": "es"}, "[method] then: rounds with proposals"),
            ({"name": "full"}, {"optimizer": "spsa"}, "directions of its own"),
            ({"name": "gap3"}, {"optimizer": "adamw"}, "then 1] optimizer: 'adamw' with tunable 'text'"),
            ({"name": "lora"}, {"optimizer": "es", "popsiz": 4}, "then 1] popsiz: unknown key (did you mean 'popsize'?)"),
            ({"name": "lora"}, {"optimizer": "es", "budget": 4}, "then 1] budget: 4 is less than one generation"),
            ({"name": "lora"}, {"optimizer": "cma-es", "calibrate": True, "steps": 0}, "then 1] steps"),
            ({"name": "c-lora", "calibrate": True}, {"optimizer": "adamw"}, "got optimizer adamw, as [method] says: say otherwise in the entry"),
            ({"name": "lora"}, {"optimizer": "es", "then": ["lora"]}, "then 1] then: one for the whole run"),
            ({"name": "lora"}, {"optimizer": "es", "share": 1.0}, "then 1] share"),
            ({"name": "lora"}, 3, "then 1]: expected a table, got 3"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_handed_over_is_refused_before_a_model_is_loaded(self, method, then, said):
        found = problems({**LEAST, "method": {**method, "then": [then]}})
        assert any(said in line for line in found), found
        assert all(line.startswith("[method") for line in found)

    def test_shares_that_leave_nothing(self):
        found = problems(
            {
                **LEAST,
                "method": {
                    "name": "lora",
                    "then": [{"optimizer": "es", "share": 0.6}, {"optimizer": "sgd", "share": 0.4}],
                },
            }
        )
        assert found == ["[method] then: shares of 1 or more together leave nothing to [method]: lower them"]

    def test_planned(self):
        assert planned(
            self.made({"name": "lora", "steps": 30}, {"optimizer": "es", "popsize": 10, "budget": 100})
        ) == wiring.stages.Planned(40, "steps")
        both = self.made({"name": "c-lora", "budget": 300}, {"optimizer": "fireworks", "budget": 100})
        assert planned(both) == wiring.stages.Planned(400, "candidates")


def test_what_people_are_shown(tmp_path):
    made = recipe(tmp_path, {"name": "lora", **ADAMW}, {**ES, "objective": "accuracy"})
    result = tune(made, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    charts = run_charts(folder)
    assert {"loss", "loss-2"} <= set(charts), "losses of two objectives are no one curve"
    ends = [max(x for series in charts[name].series for x in series.xs) for name in ("loss", "loss-2")]
    assert ends[0] <= 6 < ends[1]
    page = run_page(folder)
    assert "es takes over" in page
    shown = summary(folder)
    assert {look.stretch for look in shown.looks} == {1, 2}
    assert any(line.startswith("es takes over after step 6 (steps)") for line in shown.story)
    readme = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "found by `lora, then es`" in readme and "- the point that is kept was found by" in readme
    card = json.loads((tmp_path / "run" / "task_card.json").read_text(encoding="utf-8"))
    assert card["method"]["then"][0]["optimizer"]["kind"] == "es"
    assert result["found_by"] in readme and result["found_by"] in page
    one = recipe(tmp_path, ADAMW, ES)
    tune(one, tmp_path / "one")
    assert "loss-2" not in run_charts(RunFolder.open(tmp_path / "one")), "one objective is one curve"


def test_validate_says_what_each_stretch_does(tmp_path):
    made = recipe(
        tmp_path,
        {"name": "lora", "steps": 6},
        {**ES, "objective": "accuracy", "share": 0.25},
        run__max_forward_tokens=90_000,
    )
    path = small.write_recipe(tmp_path / "recipe.json", made)
    called = small.call("validate", path)
    assert called.code == 0, called.err
    assert "stretch 1: lora (adamw), objective ce, 6 steps, 75% of what [run] allows" in called.out
    assert "stretch 2: es, objective accuracy, 24 candidates, 25% of what [run] allows" in called.out
    alone = [small.write_recipe(tmp_path / f"{n}.json", {**made, "method": part, "run": {}}) for n, part in enumerate(
        ({"name": "lora", **LORA, "steps": 6}, {**LORA, **ES, "objective": "accuracy"})
    )]  # fmt: skip
    tokens = [_tokens(small.call("validate", one).out) for one in (path, *alone)]
    assert tokens[0] > sum(tokens[1:]), "both, and what is handed over is measured"


def _tokens(said: str) -> float:
    (number, unit) = re.findall(r"at most about ([\d.,]+)( M)? forwards", said)[0]
    return float(number.replace(",", "")) * (1e6 if unit else 1)


def test_in_a_plan(tmp_path):
    made = small.recipe(tmp_path)
    plan = {
        "seeds": [1],
        "budget": {"forward_tokens": 50_000},
        "all": {f"model.{key}": value for key, value in made["model"].items()},
        "tasks": {"small": {f"task.{key}": value for key, value in made["task"].items() if key != "seed"}},
        "methods": {
            "lora": {"method.name": "lora"},
            "then": {"method.name": "lora", "method.then": [{"optimizer": "es", "objective": "accuracy"}, "c-lora"]},
        },
    }
    cells = {cell.method: cell.config for cell in read_plan(plan, tmp_path / "out").cells}
    assert [one.method.name for one in cells["then"].stretches] == ["lora", "es", "c-lora"]
    assert all(one.method.budget == one.method.steps == UNBOUNDED for one in cells["then"].stretches), (
        "tokens end all of them"
    )
    with pytest.raises(ConfigError, match="candidates are counted in each stretch"):
        read_plan({**plan, "budget": {"candidates": 500}}, tmp_path / "out")
