"""A guard: a point is kept for a gain on dev that exceeds its standard error, and the search stops without one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import small
import writing
from tandemtune import autotune
from tandemtune.config import load_config
from tandemtune.errors import ConfigError
from tandemtune.evaluators.features import read
from tandemtune.evaluators.views import ANSWER
from tandemtune.readout.design import Design
from tandemtune.readout.fitting import FORMS, choose, leave_one_out
from tandemtune.runs.records import EndRecord, Evaluation, StartRecord
from tandemtune.search.guard import Guard, gain_of
from tandemtune.search.state import SearchState

GUARDED = {"method__guard": "standard-error", "method__factors": "b"}


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        ([0.9, 0.9, 0.9, 0.9], True),  # every row gains the same: no doubt
        ([0.0, 1.1, 1.1, 1.1], False),  # one row gains much
        ([0.5, 0.7, 0.4, 1.0], True),
        ([1.0, 1.0, 1.0, 1.0], False),
        ([1.5, 1.0, 1.0, 1.0], False),
        ([0.0, 0.0, 0.0, math.inf], False),
    ],
)
def test_a_gain_has_to_exceed_its_standard_error(after, kept):
    found = gain_of(np.ones(4), np.array(after))
    assert found.kept == kept and found.rows == 4


def test_gain_by_hand():
    found = gain_of(np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.0, 3.0]))
    assert (found.mean, found.standard_error) == (0.5, round(0.5 / math.sqrt(3), 6))


def test_numbers_are_better_than_none():
    assert gain_of(np.array([1.0, np.nan]), np.ones(2)).kept
    assert not gain_of(np.full(2, np.nan), np.full(2, np.nan)).kept


def test_one_row_says_nothing():
    assert not gain_of(np.ones(1), np.zeros(1)).kept


class Told:
    """An evaluator that says what it is told to."""

    def __init__(self, *losses):
        self.losses, self.asked = [np.array(one) for one in losses], []

    def dev_losses(self, point):
        found = self.losses[int(point[0][0])]
        self.asked.append(int(point[0][0]))
        return Evaluation(loss=float(found.mean()), score=0.0), found


def test_points_are_compared_with_the_one_that_is_kept():
    evaluator = Told([1.0, 1.0], [0.2, 1.1], [0.9, 0.9], [0.8, 0.95], [0.7, 0.7])
    guard, points = Guard(evaluator, True), [{0: torch.tensor([float(i)])} for i in range(5)]
    start = StartRecord(event="start", schema_=2, phase="", train_loss=1.0, dev=Evaluation(loss=1.0, score=0.0))
    state = SearchState.beginning(points[0], start)
    kept = []
    for number, point in enumerate(points[1:], 1):
        state.incumbent, state.step = point, number
        dev, gain = guard.look(state, point)
        state.take(EndRecord(event="end", step=number, stop_reason="", dev=dev, gain=gain))
        kept.append((gain.kept, gain.mean, state.best_step, state.stale))
    # the second has the lowest loss of the first three, but by one row alone
    assert kept == [(False, 0.35, 0, 1), (True, 0.1, 2, 0), (False, 0.025, 2, 1), (True, 0.2, 4, 0)]
    assert evaluator.asked == [0, 1, 2, 3, 4]
    again = Guard(evaluator, True)  # of a resumed run, which has no losses of the kept point's rows
    assert again.look(state, points[3])[1].mean == -0.175 and evaluator.asked[5:] == [4, 3]


def test_patience_counts_looks_without_a_gain(tmp_path):
    recipe = small.recipe(tmp_path, "llama", **GUARDED, method__patience=2, method__alpha=1e-6, method__budget=400)
    result = small.tune(recipe, tmp_path / "run")
    assert result["stop_reason"] == "patience" and result["steps"] == 4 and result["kept_step"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"method__factors": "b"},
        {"method__factors": "b", "method__subsample": 8},
        {"method__name": "f-lora"},
        {"method__name": "es", "method__ema": 0.5},
        {"method__name": "gap3", "method__prompt_tokens": 3, "method__layers": None},
    ],
    ids=["c-lora", "fresh rows", "f-lora", "es", "gap3"],
)
def test_a_search_goes_back_from_what_the_guard_refused(changes, tmp_path):
    """Every generation after a look begins at the kept point, and no generation is scored twice."""
    recipe = small.recipe(
        tmp_path, "bert", method__guard="standard-error", method__refused="go-back", method__dev_every=1, method__alpha=3.0, **changes
    )  # fmt: skip
    result = small.tune(recipe, tmp_path / "run")
    start, *turns = [r for r in small.journal(tmp_path / "run") if r["event"] in ("start", "generation")]
    refused = [turn for turn in turns if not turn["gain"]["kept"]]
    assert refused and result["kept_step"] == max([0, *(turn["step"] for turn in turns if turn["gain"]["kept"])])
    assert len({tuple(turn["losses"]) for turn in turns}) == len(turns)
    kept = start["train_loss"]
    for turn in turns:
        if turn["incumbent"] is not None:
            assert turn["incumbent"] == pytest.approx(kept, abs=1e-5)
        kept = turn["train_loss"] if turn["gain"]["kept"] else kept


@pytest.mark.parametrize("judge", ["words", "readout"])
def test_a_stopped_search_ends_as_if_it_never_had_been(judge, tmp_path):
    """Losses of the kept point's rows are in no file; they are taken again."""
    changes = {**GUARDED, "method__judge": judge, "method__readout": "ridge", "method__alpha": 3.0}
    recipe = small.recipe(tmp_path, "llama", **changes, method__budget=120, run__checkpoint_seconds=1000.0)
    result = small.tune(recipe, tmp_path / "whole")
    turns = [r for r in small.journal(tmp_path / "whole") if r["event"] == "generation" and r["dev"]]
    assert all(turn["gain"]["rows"] == 8 for turn in turns)
    assert result["kept_step"] == max([0, *(turn["step"] for turn in turns if turn["gain"]["kept"])])
    with pytest.raises(KeyboardInterrupt):
        small.tune(recipe, tmp_path / "stopped", small.Stop(step=7))
    small.resume(tmp_path / "stopped")
    assert small.artefacts(tmp_path / "whole") == small.artefacts(tmp_path / "stopped")


def test_candidates_are_scored_by_a_readout_solved_anew(tmp_path):
    """Each candidate's loss is that of a readout solved at it alone, with the settings that suit the start."""
    recipe = small.recipe(tmp_path, "llama", method__score="readout", method__readout="ridge", method__factors="b")
    problem = autotune.build(load_config(recipe))
    evaluator, engine = problem.evaluator, problem.scorer.engine
    start = problem.scorer.parameters.initial()
    generator = torch.Generator().manual_seed(0)
    several = {block: torch.randn(3, len(vector), generator=generator) for block, vector in start.items()}
    found = evaluator.evaluate(start, several)

    def design(point):
        reading = read(engine, evaluator.train, point)
        labels = evaluator.train.labels
        return Design([reading.views[ANSWER]], reading.logits, labels, "balanced", problem.scorer.task.labels)

    settings = choose(design(start), FORMS["ridge"])
    for number, loss in enumerate(found):
        alone = leave_one_out(design({block: vectors[number] for block, vectors in several.items()}), settings)
        log_p = torch.log_softmax(alone, dim=-1)
        assert loss == pytest.approx(float(-log_p.gather(1, evaluator.train.labels[:, None]).mean()), rel=1e-3)
    assert len(set(found.tolist())) == 3
    alone = {block: vector.unsqueeze(0) for block, vector in start.items()}
    assert evaluator.measure(start).loss == pytest.approx(evaluator.evaluate(start, alone)[0], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method__score": "readout"}, "score: readout needs a readout"),
        ({"method__judge": "readout"}, "judge: readout, but the recipe has none"),
        ({"method__guard": "standard-error", "method__objective": "f1"}, "needs a loss of each row"),
        ({"method__refused": "go-back"}, "no point is refused"),
        ({"method__name": "lora", "method__guard": "standard-error", "method__refused": "go-back"}, "without gradient"),
        ({"method__name": "maao", "method__guard": "standard-error"}, "alternate"),
    ],
)
def test_what_a_guard_cannot_do(changes, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        load_config(small.recipe(tmp_path, "llama", **changes, method__layers=None))


@pytest.mark.parametrize("rows", [1, 2])
def test_a_guard_over_one_dev_row_is_told(tmp_path, rows):
    recipe = writing.recipe(tmp_path, method__guard="standard-error", task__shots=2, task__dev_shots=rows)
    notes = small.tune(recipe, tmp_path / "run")["notes"]
    assert any("one dev row" in note for note in notes) == (rows == 1)
