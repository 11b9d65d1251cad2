"""Races: proposals and the trained prompt take the same steps side by side, and the best of them goes on."""

from __future__ import annotations

import copy
import functools
import re
from itertools import pairwise

import pytest
import torch

import small
from grids import sparse
from small import resume, tune
from tandemtune import autotune, wiring
from tandemtune.config import load_config
from tandemtune.errors import ConfigError
from tandemtune.optimizers.base import Incumbent
from tandemtune.search.schedule import Stage
from tandemtune.tunables.base import INPUT

BEFORE, LEG, TURNS = 3, 2, 17
RACE = {
    "method__name": "maao-race",
    "method__prompt_tokens": 3,
    "method__batch_size": 3,
    "method__dev_every": 4,
    "method__lr": 0.25,
    "alternate__round_steps": BEFORE,
    "alternate__race_steps": LEG,
    "alternate__final_steps": TURNS - BEFORE,
    "alternate__snapshots": 1,
    "alternate__proposals": 3,
    "alternate__proposer": "random",
}
PROPOSERS = ("mutation", "random", "perturbed")


def of(lines, event):
    return [line for line in lines if line["event"] == event]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One finished run for each proposer: (recipe, folder, result, journal)."""

    @functools.cache
    def made(name):
        place = tmp_path_factory.mktemp(name)
        recipe = small.recipe(place, **{**RACE, "alternate__proposer": name})
        result = tune(recipe, place / "run")
        return recipe, place / "run", result, small.journal(place / "run")

    return made


@pytest.mark.parametrize("name", PROPOSERS)
def test_a_race_ends_with_one_and_the_run_takes_as_many_steps_as_without(done, name):
    _, _, result, lines = done(name)
    legs, steps, (proposal,) = of(lines, "race"), of(lines, "step"), of(lines, "proposal")
    entrants = 4 if name == "perturbed" else 7  # noise has no words that something was learned from
    assert proposal["raced"] and proposal["taken"] is None and proposal["trained_dev"]
    assert [len(leg["entrants"]) for leg in legs] == ([4, 2] if name == "perturbed" else [7, 2])
    assert len(legs[0]["entrants"]) == entrants and len(legs[-1]["kept"]) == 1
    assert [leg["step"] for leg in legs] == [BEFORE + LEG * (i + 1) for i in range(len(legs))]
    assert [line["step"] for line in steps] == [*range(1, BEFORE + 1), *range(legs[-1]["step"] + 1, TURNS + 1)]
    assert result["steps"] == TURNS and result["stop_reason"] == "steps"
    run = sum(len(leg["entrants"]) for leg in legs) * LEG
    assert result["cost"]["gradient_steps"] == len(steps) + run
    assert result["cost"]["candidates"] == 3


@pytest.mark.parametrize("name", PROPOSERS)
def test_the_worst_drop_out_and_the_trained_prompt_last(done, name):
    _, _, _, lines = done(name)
    legs = of(lines, "race")
    for leg in legs:
        losses = [entry["train"]["loss"] + entry["dev"]["loss"] for entry in leg["entrants"]]
        assert leg["entrants"][0]["name"] == "continuing"
        assert leg["dev"] == leg["entrants"][leg["kept"][0]]["dev"]
        assert losses[leg["kept"][0]] == min(losses)
    for leg, later in pairwise(legs):
        names = [(leg["entrants"][place]["name"], leg["entrants"][place]["text"]) for place in sorted(leg["kept"])]
        assert [(entry["name"], entry["text"]) for entry in later["entrants"]] == names


def test_where_a_readout_judges_dev_rows_it_judges_a_race(tmp_path):
    """Its losses and those of label words on the training rows are not added up."""
    changes = {"method__readout": "ridge", "method__judge": "readout", "task__seed": 1}
    tune(small.recipe(tmp_path, **RACE | changes), tmp_path / "run")
    first, *_ = of(small.journal(tmp_path / "run"), "race")
    devs = [entry["dev"]["loss"] for entry in first["entrants"]]
    sums = [entry["train"]["loss"] + entry["dev"]["loss"] for entry in first["entrants"]]
    best = devs.index(min(devs))
    assert first["kept"][0] == best != sums.index(min(sums)), "chosen so that it makes a difference"


def test_every_loss_comes_out_again(done):
    """Residuals begin at words + (trained - first words); all take the same rows, with the moments of the steps before."""
    recipe, _, _, lines = done("random")
    problem = autotune.build(load_config(recipe).with_absolute_paths())
    words = problem.scorer.vocabulary

    def stepped(parameter, optimizer, step):
        found = problem.evaluator.gradient({INPUT: parameter.detach().clone()}, [INPUT], step)
        gradient = found.blocks[INPUT]
        parameter.grad = gradient * min(1.0, 1.0 / float(gradient.norm()))
        optimizer.step()
        return found.loss

    def made(vector, moments=None):
        parameter = torch.nn.Parameter(vector.clone())
        optimizer = torch.optim.AdamW([parameter], lr=0.25, weight_decay=0.0)
        if moments is not None:
            optimizer.load_state_dict(moments)
        return parameter, optimizer

    start = problem.scorer.parameters.initial()[INPUT]
    trained, before = made(start)
    for line in of(lines, "step")[:BEFORE]:
        assert stepped(trained, before, line["step"] - 1) == pytest.approx(line["loss"], abs=2e-5)
    learned = trained.detach() - start
    runners = {}
    (first, *_) = of(lines, "race")
    for entry in first["entrants"]:
        vector = trained.detach() if entry["ids"] is None else words.vectors(entry["ids"]).reshape(-1)
        vector = vector + learned if entry["name"] == "residual" else vector
        runners[entry["name"], entry["text"]] = made(vector, copy.deepcopy(before.state_dict()))
    assert {name for name, _ in runners} == {"continuing", "proposed", "residual"}
    for leg in of(lines, "race"):
        for entry in leg["entrants"]:
            runner = runners[entry["name"], entry["text"]]
            losses = [stepped(*runner, leg["step"] - LEG + i) for i in range(LEG)]
            assert losses == pytest.approx(entry["losses"], abs=5e-5)
            found = problem.evaluator.measure({INPUT: runner[0].detach()})
            assert found.loss == pytest.approx(entry["train"]["loss"], abs=5e-5)
    won = leg["entrants"][leg["kept"][0]]
    for line in of(lines, "step")[BEFORE:]:
        loss = stepped(*runners[won["name"], won["text"]], line["step"] - 1)
        assert loss == pytest.approx(line["loss"], abs=2e-4)


def test_nobody_races_against_nobody(tmp_path):
    """The control takes the same steps in one go, and is plain prompt tuning."""
    tune(small.recipe(tmp_path, **{**RACE, "alternate__proposer": "none"}), tmp_path / "none")
    plain = {key: value for key, value in RACE.items() if not key.startswith("alternate")}
    tune(
        small.recipe(tmp_path, **plain | {"method__name": "prompt-tuning", "method__steps": TURNS}), tmp_path / "plain"
    )
    losses = [[line["loss"] for line in of(small.journal(tmp_path / name), "step")] for name in ("none", "plain")]
    assert losses[0] == losses[1] and len(losses[0]) == TURNS


@pytest.mark.grid
@pytest.mark.parametrize("seconds", [0.0, 1000.0], ids=["checkpoints", "journal"])
@pytest.mark.parametrize("lines", [4, 5, 6, 7, 8])
def test_stopped_anywhere_in_a_race(done, tmp_path, lines, seconds):
    """Start, three steps, the proposal, two legs."""
    recipe, folder, _, _ = done("mutation")
    stopped = {**recipe, "run": {"checkpoint_seconds": seconds}}
    with pytest.raises(KeyboardInterrupt):
        tune(stopped, tmp_path / "run", small.Stop(lines=lines))
    resume(tmp_path / "run")
    assert small.artefacts(tmp_path / "run") == small.artefacts(folder)


@pytest.mark.parametrize("moments", [(3, 5, 6), pytest.param((2, 3, 4, 5, 6, 7), marks=pytest.mark.slow)], ids=len)
def test_a_race_may_come_before_any_other_step(tmp_path, moments):
    """Two rounds at once, stopped after lines of theirs: the start, a proposal and two legs in each round."""
    changes = {"alternate__rounds": 2, "alternate__round_steps": 0, "alternate__final_steps": 12}
    recipe = small.recipe(tmp_path, **RACE | changes)
    tune(recipe, tmp_path / "whole")
    legs = [(line["round"], len(line["entrants"])) for line in of(small.journal(tmp_path / "whole"), "race")]
    assert legs == [(1, 4), (1, 2), (2, 7), (2, 2)], "nothing is learned before the first race that words could keep"
    for lines in moments:
        folder = tmp_path / f"stopped after {lines}"
        with pytest.raises(KeyboardInterrupt):
            tune({**recipe, "run": {"checkpoint_seconds": 0.0}}, folder, small.Stop(lines=lines))
        resume(folder)
        assert small.artefacts(folder) == small.artefacts(tmp_path / "whole"), lines


def test_later_rounds_race_with_what_was_learned_since_the_last_words(tmp_path):
    changes = {"alternate__rounds": 2, "alternate__final_steps": 20, "alternate__proposals": 1}
    recipe = small.recipe(tmp_path, **RACE | changes)
    result = tune(recipe, tmp_path / "run")
    legs = of(small.journal(tmp_path / "run"), "race")
    assert {leg["round"] for leg in legs} == {1, 2} and result["steps"] == 2 * BEFORE + 20
    assert "race 2" in small.call("show", tmp_path / "run").out
    assert small.call("report", tmp_path / "run").code == 0


@pytest.mark.parametrize(
    ("proposer", "rounds", "needed", "legs"),
    [("random", 1, 8, "7 and 2"), ("random", 3, 24, "7 and 2"), ("perturbed", 2, 16, "4 and 2")],
)
def test_races_are_not_longer_than_the_run(tmp_path, proposer, rounds, needed, legs):
    """Turns that are planned are turns that are taken, and those of the races are among them."""
    changes = {"alternate__proposer": proposer, "alternate__rounds": rounds, "alternate__race_steps": 4}
    short = small.recipe(tmp_path, **RACE | changes | {"alternate__final_steps": needed - 1})
    told = f"final_steps: {needed - 1}.*{rounds} x 2 x 4 = {needed}.*at most {legs} entrants"
    with pytest.raises(ConfigError, match=told):
        tune(short, tmp_path / "refused")
    result = tune(small.recipe(tmp_path, **RACE | changes | {"alternate__final_steps": needed}), tmp_path / "run")
    assert result["steps"] == rounds * BEFORE + needed


@pytest.mark.parametrize("kind", sparse(["gradients", "generations"], ["generations"]))
def test_a_run_whose_races_take_most_of_its_tokens_says_so_when_it_begins(tmp_path, kind):
    recipe = small.recipe(tmp_path, **RACE) if kind == "gradients" else searching(tmp_path)
    tune(recipe, tmp_path / "whole")
    lines = small.journal(tmp_path / "whole")[1:-1]
    used = [line["costs"]["forward"] + line["costs"]["backward"] for line in lines]
    (last,) = [place for place, line in enumerate(lines) if line["event"] == "race" and len(line["kept"]) == 1]
    raced = used[last] - used[lines.index(of(lines, "proposal")[0])]
    depth = autotune.build(load_config(recipe).with_absolute_paths()).evaluator.depth
    for share, told in ((0.6, True), (0.4, False)):
        limit = round(raced / depth / share)
        bounded = {**recipe, "run": {**recipe["run"], "max_forward_tokens": limit}}
        tune(bounded, tmp_path / str(share))
        result = small.call("show", tmp_path / str(share)).out
        found = re.search(
            rf"the race will use about [\d,]+ of the {limit:,} tokens of max_forward_tokens \((\d+)%\)",
            " ".join(result.split()),
        )
        assert bool(found) == told
        assert found is None or abs(int(found[1]) - 60) < 6


def test_how_early_a_race_with_the_defaults_is_over(tmp_path):
    """In steps and in tokens, as docs/maao.md has it: 6 rows of each of two classes, 4 a step."""
    recipe = small.recipe(tmp_path, method__name="maao-race", method__budget=None, task__shots=6, method__batch_size=4)
    for name in ("d", "r", "popsize", "layers", "dev_every"):
        recipe["method"].pop(name)
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "run", small.Stop(step=24))
    lines = small.journal(tmp_path / "run")
    legs, steps = of(lines, "race"), of(lines, "step")
    assert [len(leg["entrants"]) for leg in legs] == [15, 4, 2] and legs[-1]["step"] == 18
    used = {line["step"]: line["costs"]["forward"] + line["costs"]["backward"] for line in [*steps, legs[-1]]}
    plain = 200 * (used[24] - used[18]) / 6
    assert 0.5 < used[18] / plain < 0.7


# ---- searches that race ------------------------------------------------------------------------------------------

SEARCHES = {
    "tandem": {"method__name": "tandem", "method__layers": "all", "method__r": 1},
    "prompt by cma-es": {"method__name": "maao", "method__optimizer": "cma-es"},
    "es": {
        "method__name": "tandem",
        "method__layers": "all",
        "method__r": 1,
        "method__optimizer": "es",
        "method__order": "together",
    },
}


def searching(place, kind="tandem", **changes):
    """A race of generations before any other turn: three prompts of random words and the one that the run begins with."""
    settings = {
        "method__prompt_tokens": 3,
        "method__popsize": 4,
        "method__d": 8,
        "method__dev_every": 3,
        "alternate__mode": "race",
        "alternate__rounds": 1,
        "alternate__round_steps": 0,
        "alternate__race_steps": LEG,
        "alternate__final_steps": 10,
        "alternate__proposals": 3,
        "alternate__proposer": "random",
        "method__budget": None,
    }
    made = small.recipe(place, "gpt2", **settings | SEARCHES[kind] | changes)
    for name in ("batch_size", "lr"):
        made["method"].pop(name, None)
    return made


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """One finished race of generations for each kind: (recipe, folder, result, journal)."""

    @functools.cache
    def made(kind):
        place = tmp_path_factory.mktemp("searched")
        recipe = searching(place, kind)
        result = tune(recipe, place / "run")
        return recipe, place / "run", result, small.journal(place / "run")

    return made


@pytest.mark.parametrize("kind", SEARCHES)
def test_searches_race_too(searched, kind):
    _, folder, result, lines = searched(kind)
    legs, turns = of(lines, "race"), of(lines, "generation")
    assert [len(leg["entrants"]) for leg in legs] == [4, 2]
    assert legs[0]["entrants"][0]["name"] == "continuing"
    for leg in legs:
        losses = [entry["train"]["loss"] + entry["dev"]["loss"] for entry in leg["entrants"]]
        assert losses[leg["kept"][0]] == min(losses)
        assert all(len(entry["losses"]) == LEG for entry in leg["entrants"])
    assert [line["step"] for line in turns] == [*range(legs[-1]["step"] + 1, 11)] and result["steps"] == 10
    each = len(turns[0]["losses"]) + (turns[0]["incumbent"] is not None)
    raced = sum(len(leg["entrants"]) for leg in legs) * LEG
    assert result["cost"]["candidates"] == each * (raced + len(turns)) + 3
    assert len({tuple(entry["losses"]) for entry in legs[0]["entrants"]}) > 1
    assert "lowest: " in small.call("show", folder).out


def test_generations_of_a_race_come_out_again(searched):
    """Each entrant begins at the same layers with its own words, and is asked for the same random numbers."""
    recipe, _, _, lines = searched("tandem")
    problem = autotune.build(load_config(recipe).with_absolute_paths())
    words, initial = problem.scorer.vocabulary, problem.scorer.parameters.initial()
    (first, second) = of(lines, "race")
    standing = {}
    for leg in (first, second):
        for entry in leg["entrants"]:
            name = entry["text"]
            if leg is first:
                vector = initial[INPUT] if entry["ids"] is None else words.vectors(entry["ids"]).reshape(-1)
                point = {**initial, INPUT: vector}
                phase = wiring.make_phase(problem, point, Stage("race", round=1001))
                standing[name] = point, phase
            point, phase = standing[name]
            there = []
            for step in range(leg["step"] - LEG, leg["step"]):
                _, blocks = phase.turn(step)
                optimizer = phase.optimizer(blocks)
                vectors = dict(phase.up(blocks, optimizer.ask()))
                losses = problem.evaluator.evaluate(point, vectors, step)
                here = problem.evaluator.evaluate(point, {b: point[b].unsqueeze(0) for b in blocks}, step)[0]
                best = int(losses.argmin())
                better = losses[best] < here
                optimizer.tell(losses, incumbent=Incumbent(here, best if better else None))
                point = {**point, **{b: v[best].cpu() for b, v in vectors.items()}} if better else point
                there.append(min(here, losses[best]))
            standing[name] = point, phase
            assert there == pytest.approx(entry["losses"], abs=2e-5)
    won = second["entrants"][second["kept"][0]]
    assert problem.evaluator.measure(standing[won["text"]][0]).loss == pytest.approx(won["train"]["loss"], abs=2e-5)


@pytest.mark.grid
@pytest.mark.parametrize("seconds", [0.0, 1000.0], ids=["checkpoints", "journal"])
@pytest.mark.parametrize("lines", [2, 3, 4, 6])
@pytest.mark.parametrize("name", ["tandem", "prompt by cma-es"])
def test_a_race_of_searches_stopped_anywhere(searched, tmp_path, name, lines, seconds):
    """The start, a proposal, two legs, and generations; of a prompt each leg moves the same block from where the race began."""
    recipe, folder, _, _ = searched(name)
    with pytest.raises(KeyboardInterrupt):
        tune({**recipe, "run": {"checkpoint_seconds": seconds}}, tmp_path / "run", small.Stop(lines=lines))
    resume(tmp_path / "run")
    assert small.artefacts(tmp_path / "run") == small.artefacts(folder)


def test_a_searched_prompt_keeps_what_it_has_learned_in_a_later_race(tmp_path):
    recipe = searching(tmp_path, "prompt by cma-es", alternate__round_steps=3, alternate__proposals=1)
    tune(recipe, tmp_path / "run")
    (leg, *_) = of(small.journal(tmp_path / "run"), "race")
    assert [entry["name"] for entry in leg["entrants"]] == ["continuing", "proposed", "residual"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"method__name": "gap3", "method__layers": None, "method__r": None, "method__d": None},
            "genetic searches words itself",
        ),
        ({"alternate__actions": True, "alternate__proposer": "mutation"}, "decisions of the next round are not raced"),
    ],
)
def test_races_that_make_no_sense(tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        load_config(searching(tmp_path, **changes))
