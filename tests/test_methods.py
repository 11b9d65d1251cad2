"""Every method of the table is a recipe: it runs on real loops, predicts what it scored, and resumes to the bit."""

from __future__ import annotations

import functools
import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

import small
import tandemtune
from grids import sparse
from small import resume, tune
from tandemtune import autotune, load
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, ModelError
from tandemtune.methods import METHODS
from tandemtune.problem import content_free
from tandemtune.report.live import LiveReport
from tandemtune.types import Example

ROUNDS = {
    "alternate__rounds": 2,
    "alternate__round_steps": 3,
    "alternate__final_steps": 2,
    "alternate__snapshots": 2,
    "alternate__proposer": "random",
}
SHORT = {"method__steps": 6}
CHANGES = {
    "icl": {"method__demonstrations": 2, "task__max_tokens": 20},
    "maao": ROUNDS,
    "maao-race": {**ROUNDS, "alternate__race_steps": 1, "alternate__proposals": 2, "alternate__final_steps": 8},
    "tandem": {**ROUNDS, "method__budget": 35},
    "opro": {"alternate__rounds": 3, "alternate__proposer": "random"},
    "mezo": {"method__popsize": 2, "method__budget": 14, "method__lr": 1e-2},
    "mezo-gv": {"method__budget": 42},
    "lozo": {"method__popsize": 2, "method__budget": 14, "method__lr": 1e-2, "method__lazy": 2},
    "fzoo": {"method__budget": 28},
    "es": {"method__budget": 28},
    "gap3": {"method__budget": 28, "method__prompt_tokens": 3},
}
PROMPTS = {"prompt-tuning", "p-tuning-v2", "bbt", "bbtv2", "maao", "maao-race", "opro", "tandem"}
NOBODY = {"manual", "icl", "label-bias", "readout"}


def recipe_of(name, place, model="bert", **changes):
    optimizer = METHODS[name].settings.get("method", {}).get("optimizer", {})
    follows = optimizer.get("kind") == "adamw"
    given = {
        "method__name": name,
        "method__budget": 35,
        **(SHORT if follows and name not in ("maao", "maao-race", "opro") else {}),
        **({"method__prompt_tokens": 3} if name in PROMPTS else {}),
        **CHANGES.get(name, {}),
        **changes,
    }
    if name == "mezo" or "method__popsize" not in given:
        given.setdefault("method__popsize", 4)
    return small.recipe(place, model, **given)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("methods")


def stopped_and_resumed(recipe, folder, after):
    """A run that is stopped after some turns, and resumed."""
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, folder, small.Stop(step=after))
    resume(folder)
    return small.artefacts(folder)


MODELS = ["bert", "t5", "gpt2"]
PLAIN = {name: MODELS[(index + 1) % 3] for index, name in enumerate(METHODS)} | {"gap3": "bert"}
WITH_READOUT = {name: MODELS[index % 3] for index, name in enumerate(METHODS)} | {"gap3": "gpt2"}
"""Models that the methods run on, so that each runs on two of them."""
READ_SOON = ("c-lora", "mezo", "bbtv2", "gap3", "lora", "prompt-tuning", "icl", "maao")
"""Methods whose readout `make test` looks at: one for each kind of search and of what is tuned."""


@pytest.fixture(scope="module")
def straight(place):
    """Runs that nobody disturbs, each made once: (method) -> its folder and result."""

    @functools.cache
    def made(name):
        return place / f"straight-{name}", tune(recipe_of(name, place, PLAIN[name]), place / f"straight-{name}")

    return made


@pytest.mark.few(14)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_and_predicts_what_it_scored(name, place, straight):
    folder, result = straight(name)
    test = [json.loads(line) for line in (place / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    found = load(folder).predict([row["text"] for row in test])
    right = sum(answer.label == row["label"] for answer, row in zip(found, test, strict=True))
    assert right / len(test) == pytest.approx(result["tuned"]["test"], abs=1e-6)
    lines = small.journal(folder)
    turns = [line for line in lines if line["event"] in ("generation", "step", "race")]
    steps = sum(len(line["entrants"][0]["losses"]) if line["event"] == "race" else 1 for line in turns)
    assert steps == result["steps"]
    assert (not turns) == (name in NOBODY or name == "opro")
    scored = sum(
        len(line["losses"]) + (line["incumbent"] is not None) for line in lines if line["event"] == "generation"
    )
    drafts = sum(len(line["drafts"]) for line in lines if line["event"] == "proposal")
    assert result["cost"]["candidates"] == scored + drafts
    if name in NOBODY:
        assert result["cost"]["candidates"] == result["cost"]["gradient_steps"] == 0


@pytest.mark.few(4)
@pytest.mark.parametrize("name", sparse(METHODS, READ_SOON))
def test_every_method_takes_a_readout_at_its_end(name, place, tmp_path, monkeypatch):
    """And predicts with it what it scored; losses of a search may be calibrated, but not what the readout says."""
    monkeypatch.setattr("tandemtune.answers.labels._better_calibrated", lambda *_: True)
    recipe = recipe_of(name, place, WITH_READOUT[name], method__readout="ridge")
    run = tandemtune.tune(recipe, tmp_path / "run", progress="none")
    assert run.result is not None
    test = [json.loads(line) for line in (place / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    found = load(tmp_path / "run").predict([row["text"] for row in test])
    right = sum(answer.label == row["label"] for answer, row in zip(found, test, strict=True))
    assert right / len(test) == pytest.approx(run.result.tuned.test, abs=1e-6)
    assert (tmp_path / "run" / "adapter" / "readout" / "readout.json").is_file()
    card = json.loads((tmp_path / "run" / "task_card.json").read_text(encoding="utf-8"))
    readme = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert not card["calibrated"] and "divide the probabilities" not in readme


TUNING = [name for name in METHODS if name not in NOBODY | {"opro"}]


@pytest.mark.few(12)
@pytest.mark.parametrize("name", TUNING)
def test_every_method_resumes_to_the_bit(name, place, straight, tmp_path):
    seconds = (0.0, 1000.0)[TUNING.index(name) % 2]  # from checkpoints, or from the journal alone
    recipe = recipe_of(name, place, PLAIN[name], run__checkpoint_seconds=seconds)
    assert stopped_and_resumed(recipe, tmp_path / "stopped", 4) == small.artefacts(straight(name)[0])


def test_a_search_among_texts_needs_a_sentinel(place, tmp_path):
    with pytest.raises(ModelError, match="no sentinel"):
        tune(recipe_of("gap3", place, "t5"), tmp_path / "run")


FORMS = {
    "mezo on full weights": ("mezo", {"method__tunable": "full", "method__lr": 1e-4}),
    "es on full weights": ("es", {"method__tunable": "full", "method__noise_rank": 1, "method__lr": 1e-2}),
    "warm start": ("c-lora", {"method__warm_start": 2, "method__factors": "b", "method__budget": 60}),
    "l2_penalty": ("c-lora", {"method__l2_penalty": 0.1}),
    "l2_penalty without a subspace": ("es-lora", {"method__l2_penalty": 0.1}),
    "kl penalty": ("c-lora", {"method__kl_penalty": 0.5, "method__kl_rows": 4}),
    "calibrate": ("c-lora", {"method__calibrate": True}),
    "calibrate where dev says so": ("c-lora", {"method__calibrate": "auto"}),
    "moving average": ("c-lora", {"method__ema": 0.5}),
    "subsample": ("c-lora", {"method__subsample": 4}),
    "elites": ("c-lora", {"method__subsample": 4, "method__elites": 2, "method__budget": 48}),
    "c-lora on biases": ("c-lora", {"method__tunable": "bias"}),
    "f-lora on adapters": ("f-lora", {"method__tunable": "adapter", "method__width": 2}),
    "es on a prompt": ("es", {"method__tunable": "prompt", "method__prompt_tokens": 3}),
    "fireworks among the parameters": ("f-lora", {"method__subspace": "none", "method__order": "together"}),
    "tandem by fireworks": ("tandem", {"method__optimizer": "fireworks"}),
}


FORMS_SOON = (
    "es on full weights",
    "warm start",
    "kl penalty",
    "calibrate where dev says so",
    "elites",
    "tandem by fireworks",
)


@pytest.mark.few(3)
@pytest.mark.parametrize("form", sparse(FORMS, FORMS_SOON))
def test_other_forms_resume_to_the_bit(form, place, tmp_path):
    name, changes = FORMS[form]
    seconds = (1000.0, 0.0)[list(FORMS).index(form) % 2]
    recipe = recipe_of(name, place, run__checkpoint_seconds=seconds, **changes)
    tune(recipe, tmp_path / "straight")
    assert stopped_and_resumed(recipe, tmp_path / "stopped", 4) == small.artefacts(tmp_path / "straight")


# what moves a point


@pytest.mark.parametrize("name", ["mezo", "es"])
def test_a_moved_point_lowers_the_training_loss(name, place, tmp_path):
    sizes = {"mezo": {"method__popsize": 8, "method__lr": 0.3}, "es": {"method__popsize": 16, "method__lr": 0.03}}
    result = tune(recipe_of(name, place, **sizes[name], method__budget=480, method__dev_every=1000), tmp_path / "run")
    lines = [line for line in small.journal(tmp_path / "run") if line["event"] == "generation"]
    means = [np.mean(line["losses"]) for line in lines]
    assert np.mean(means[-3:]) < 0.97 * np.mean(means[:3])
    assert all(line["incumbent"] is None and line["accepted"] for line in lines)
    assert result["cost"]["gradient_steps"] == 0


def test_the_genetic_search_keeps_its_best_text(place, tmp_path):
    tune(recipe_of("gap3", place, method__dev_every=1), tmp_path / "run")
    lines = [line for line in small.journal(tmp_path / "run") if line["event"] == "generation"]
    assert len({line["text"] for line in lines}) > 1
    taken = [line for line in lines if line["accepted"]]
    assert taken
    assert all(line["train_loss"] == line["best"] for line in taken)


# remedies


def gains(folder):
    return [line for line in small.journal(folder) if line["event"] == "generation"]


def test_an_l2_penalty_makes_distance_dear(place, tmp_path):
    taken = {}
    for penalty in (0.0, 1000.0):
        folder = tmp_path / str(penalty)
        tune(recipe_of("c-lora", place, method__l2_penalty=penalty, method__alpha=1.0), folder)
        taken[penalty] = [line["accepted"] for line in gains(folder)]
        first = gains(folder)[0]
        assert min(first["losses"]) < first["incumbent"]  # a candidate is better, were it not for the distance
    assert taken[0.0][0]
    assert not any(taken[1000.0])


def test_an_l2_penalty_holds_steps_near_the_start_beside_a_subspace(place, tmp_path):
    away = {}
    for penalty in (0.0, 1000.0):
        folder = tmp_path / str(penalty)
        recipe = recipe_of("es-lora", place, method__l2_penalty=penalty, method__guard="none", method__dev_every=1)
        recipe["method"].update(readout="none", judge="words", budget=200, popsize=10)
        tune(recipe, folder)
        model = load(folder)
        start = model.scorer.parameters.initial()
        away[penalty] = sum(float((model.point[block] - start[block]).norm()) for block in start)
    assert 0 < away[1000.0] < away[0.0]


def test_kl_adds_what_moves_the_labels_of_other_rows(place, tmp_path):
    plain = recipe_of("c-lora", place, method__alpha=1.0)
    tune(plain, tmp_path / "plain")
    tune(recipe_of("c-lora", place, method__alpha=1.0, method__kl_penalty=2.0), tmp_path / "kl")
    one, other = gains(tmp_path / "plain")[0], gains(tmp_path / "kl")[0]
    assert other["incumbent"] == pytest.approx(one["incumbent"], abs=1e-5)  # the untuned model itself pays nothing
    assert all(b > a for a, b in zip(one["losses"], other["losses"], strict=True))
    assert other["costs"]["forward"] > one["costs"]["forward"]


@pytest.mark.parametrize("name", ["c-lora", "es"])
def test_the_average_lags_behind_the_incumbent(name, place, tmp_path):
    for decay in (0.0, 0.9):
        tune(
            recipe_of(name, place, method__ema=decay, method__dev_every=1, method__alpha=1.0),
            tmp_path / str(decay),
        )
    one, other = gains(tmp_path / "0.0"), gains(tmp_path / "0.9")
    assert [line["losses"] for line in one] == [line["losses"] for line in other]
    assert [line["dev"] for line in one] != [line["dev"] for line in other]
    start = small.journal(tmp_path / "0.9")[0]["dev"]["loss"]
    first = next(i for i, line in enumerate(one) if line["accepted"])
    assert abs(other[first]["dev"]["loss"] - start) < abs(one[first]["dev"]["loss"] - start)


@pytest.mark.parametrize(("incumbent", "told"), [("best", True), ("mean", False)])
def test_layers_gains_are_told_where_they_are_measured(incumbent, told, place, tmp_path):
    tune(recipe_of("c-lora", place, method__incumbent=incumbent), tmp_path / "run")
    shown = small.call("show", tmp_path / "run")
    assert shown.code == 0 and ("training loss fell by" in shown.out) == told
    line = gains(tmp_path / "run")[0]
    assert told or line["train_loss"] == pytest.approx(sum(line["losses"]) / len(line["losses"]))


def test_a_horizon_is_the_bound_that_is_reached_first(place, tmp_path):
    """Fireworks that will not catch up in what is left begin anew; more steps than a budget allows change nothing."""
    for steps in (None, 1000):
        wide = {"method__popsize": 60, "method__order": "together", "method__budget": 61 * 8, "method__alpha": 3.0}
        tune(recipe_of("f-lora", place, method__steps=steps, **wide), tmp_path / str(steps))
    one, other = (gains(tmp_path / name) for name in ("None", "1000"))
    assert len(one) == 8 and [line["losses"] for line in one] == [line["losses"] for line in other]


def test_subsamples_change_from_turn_to_turn(place, tmp_path):
    tune(recipe_of("c-lora", place, method__subsample=2, method__alpha=1e-6), tmp_path / "run")
    losses = [line["incumbent"] for line in gains(tmp_path / "run")]
    assert len({round(loss, 4) for loss in losses}) > 2  # one point, other rows


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("random-search", {}),
        ("f-lora", {}),
        ("f-lora", {"method__variant": "dynfwa", "method__popsize": 40, "method__d": 40, "method__budget": 246}),
        ("f-lora", {"method__popsize": 40, "method__budget": 246}),
        ("random-search", {"method__subsample": 4, "method__elites": 2, "method__budget": 48}),
    ],
    ids=["random", "lotfwa", "dynfwa", "lotfwa of two", "elites"],
)
def test_the_incumbent_is_scored_once(name, changes, place, tmp_path):
    tune(recipe_of(name, place, method__alpha=3.0, **changes), tmp_path / "run")
    lines = gains(tmp_path / "run")
    assert len(lines) >= 3 and any(line["accepted"] for line in lines)
    assert all(abs(loss - line["incumbent"]) > 1e-7 for line in lines for loss in line["losses"])


def test_elites_are_judged_on_all_rows(place, tmp_path):
    tune(recipe_of("c-lora", place, method__subsample=2, method__elites=2, method__budget=64), tmp_path / "run")
    for line in gains(tmp_path / "run"):
        again = [loss for _, loss in line["elites"]]
        assert len(again) == 2
        assert line["accepted"] == (min(again) < line["incumbent_again"])
        assert line["train_loss"] == (min(again) if line["accepted"] else line["incumbent_again"])


@pytest.mark.parametrize("worse", [False, True])
def test_dev_decides_whether_losses_are_calibrated(place, tmp_path, monkeypatch, worse):
    """The same decision holds for the search, the scores, a resumed run and predictions."""
    recipe = recipe_of("c-lora-calibrated", place, method__alpha=1.0)
    work = autotune.build(load_config(recipe))
    origin, evaluator = work.scorer.parameters.initial(), work.evaluator
    evaluator.empty = None
    plain = evaluator.measure(origin, "dev").loss
    evaluator.empty = content_free(work.scorer)
    calibrated = evaluator.measure(origin, "dev").loss
    assert plain != calibrated
    assert work.scorer.calibrates == (calibrated < plain)
    monkeypatch.setattr("tandemtune.answers.labels._better_calibrated", lambda *_: not worse)
    screen = io.StringIO()
    result = tune(recipe, tmp_path / "run", LiveReport(Console(file=screen, width=200)))
    assert ("those after contextual calibration" in screen.getvalue()) == (not worse)
    assert ("losses are not calibrated" in screen.getvalue()) == worse
    start = small.journal(tmp_path / "run")[0]["dev"]
    assert start["loss"] == pytest.approx(plain if worse else calibrated, abs=1e-5)
    assert load(tmp_path / "run").scorer.calibrates == (not worse)
    card = json.loads((tmp_path / "run" / "task_card.json").read_text(encoding="utf-8"))
    readme = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert (card["calibrated"], list(card["prior"].values())) == (not worse, result["tuned"]["prior"])
    assert ("divide the probabilities" in readme) == (not worse)
    same = tune(recipe_of("c-lora", place, method__alpha=1.0, method__calibrate=not worse), tmp_path / "other")
    assert same["tuned"] == result["tuned"]


def test_calibration_decides_what_is_reported_and_predicted(place, tmp_path):
    result = tune(recipe_of("c-lora", place, method__calibrate=True, method__alpha=1.0), tmp_path / "run")
    start = small.journal(tmp_path / "run")[0]["dev"]["score"]
    assert start == pytest.approx(result["zero_shot"]["calibrated"]["dev"], abs=1e-6)
    assert small.journal(tmp_path / "run")[0]["dev"]["loss"] == pytest.approx(
        result["zero_shot"]["calibrated"]["dev_loss"], abs=1e-5
    )
    assert {key: result["tuned"][key] for key in result["tuned"]["calibrated"]} == result["tuned"]["calibrated"]
    model = load(tmp_path / "run")
    scorer, texts = model.scorer, ["a great film", "the plot was dull", "a review of it"]
    plain, empty = (
        scorer.engine.logits(batch, model.point)
        for batch in (scorer.batch([Example({"text": text}) for text in texts]), content_free(scorer))
    )
    calibrated = torch.log_softmax(plain, dim=-1) - torch.softmax(empty, dim=-1).mean(dim=0).log()
    expected = torch.softmax(calibrated / scorer.temperature, dim=-1)
    found = [list(answer.probabilities.values()) for answer in model.predict(texts)]
    assert np.allclose(found, expected, atol=1e-5)


def test_a_full_covariance_of_many_parameters_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.setattr("tandemtune.wiring.scorer.FULL_LIMIT", 50)
    with pytest.raises(ConfigError, match="set covariance to separable"):
        tune(recipe_of("c-lora", place, method__subspace="none"), tmp_path / "run")


def test_no_room_for_demonstrations_is_said(place, tmp_path):
    with pytest.raises(ConfigError, match="no room for a demonstration"):
        tune(recipe_of("icl", place, task__max_tokens=512), tmp_path / "run")


def test_steps_among_all_weights_end_where_their_directions_do(place, tmp_path, monkeypatch):
    monkeypatch.setattr("tandemtune.wiring.stages.MOST_GENERATIONS", 3)
    recipe = recipe_of("mezo", place, method__tunable="full", method__budget=1000)
    result = tune(recipe, tmp_path / "run")
    assert (result["steps"], result["stop_reason"]) == (3, "steps")


@pytest.mark.parametrize("optimizer", ["spsa", "es", "guided-spsa"])
def test_differences_say_something_where_a_search_in_a_subspace_begins(place, tmp_path, optimizer):
    """With both factors of LoRA at zero a step and its opposite have the same loss, so that nothing would ever move."""
    tune(recipe_of("c-lora", place, method__optimizer=optimizer, method__lr=0.1, method__budget=20), tmp_path / "run")
    start, *rest = small.journal(tmp_path / "run")
    assert any(line["dev"]["loss"] != start["dev"]["loss"] for line in rest if line.get("dev"))


def test_a_warm_start_begins_elsewhere(place, tmp_path):
    for pairs in (0, 2):
        tune(
            recipe_of("c-lora", place, method__warm_start=pairs, method__factors="b", method__budget=60),
            tmp_path / str(pairs),
        )
    first, warm = (gains(tmp_path / name)[4]["losses"] for name in ("0", "2"))
    assert first != warm
    assert all(map(math.isfinite, warm))


# tandem


def test_tandem_scores_the_words_with_the_tuned_model(place, tmp_path):
    recipe = recipe_of("tandem", place, alternate__accept="always", method__alpha=1.0)
    tune(recipe, tmp_path / "run")
    lines = small.journal(tmp_path / "run")
    read = [line["words"] for line in lines if line.get("words")]
    proposals = [line for line in lines if line["event"] == "proposal"]
    assert len(proposals) == 2
    before = [words for words in read[:3] if words["text"] == read[0]["text"]]
    assert len({words["loss"] for words in before}) > 1  # the same words, a model that has changed
    taken = proposals[0]["drafts"][proposals[0]["taken"]]
    after = lines[lines.index(proposals[0]) + 1]
    assert after["incumbent"] == pytest.approx(taken["loss"], abs=1e-5)
    assert all(line["layer"] >= 0 for line in lines if line["event"] == "generation")
    assert (tmp_path / "run" / "adapter" / "prompt").is_dir()


# what does not fit


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("c-lora", {"method__tunable": "none"}, "nothing is tuned"),
        ("c-lora", {"method__tunable": "text"}, "genetic"),
        ("gap3", {"method__tunable": "lora"}, "genetic"),
        ("c-lora", {"method__tunable": "full"}, "choose es or spsa"),
        ("es", {"method__popsize": 5}, "popsize: Input should be a multiple of 2, got 5"),
        ("c-lora", {"method__elites": 2, "method__subsample": 4, "method__incumbent": "mean"}, "elites.* incumbent"),
        ("gap3", {"method__ema": 0.5}, "ema"),
        ("lora", {"method__l2_penalty": 0.1}, "l2_penalty"),
        ("es", {"method__tunable": "full", "method__l2_penalty": 0.1}, "l2_penalty"),
        ("lora", {"method__kl_penalty": 0.1}, "without gradient"),
        ("mezo", {"method__tunable": "full", "model__dtype": "bfloat16"}, "float32"),
        ("mezo", {"method__tunable": "full", "method__budget": 50_000}, "has 20,000 at most: set budget to 40,000"),
        ("es", {"method__noise_rank": 2}, "low-rank"),
        ("mezo", {"method__noise_rank": 2}, "low-rank"),
        ("mezo", {"method__tunable": "full", "method__lazy": 2}, "noise_rank"),
        ("fzoo", {"method__tunable": "full"}, "signs"),
        ("mezo-gv", {"method__tunable": "full"}, "another tunable"),
        ("c-lora", {"method__elites": 2}, "subsample"),
        ("tandem", {"method__ema": 0.5}, "rounds"),
        ("tandem", {"method__kl_penalty": 0.5}, "untuned"),
        ("tandem", {"method__warm_start": 2}, 'differences say nothing: set factors = "b", or warm_start = 0'),
        ("gap3", {"method__budget": 4}, "popsize \\+ 1 = 5"),
    ],
)
def test_what_does_not_fit_is_refused(name, changes, said, place):
    with pytest.raises(ConfigError, match=said):
        load_config(recipe_of(name, place, **changes))


def test_kl_needs_rows_beside_the_split(place, tmp_path):
    with pytest.raises(ConfigError, match="holds no more"):
        tune(recipe_of("c-lora", place, method__kl_penalty=1.0, task__shots=6), tmp_path / "run")
    assert not (tmp_path / "run").exists()
