"""Experiment trackers: what a run tells them, how it goes on after a stop, and what happens where one is missing or fails."""

from __future__ import annotations

import importlib
import json
import re
import sys

import pytest

import small
import writing
from tandemtune import plugins
from tandemtune.errors import ConfigError, UsageError
from tandemtune.runs.store import RunFolder
from tandemtune.trackers import TensorBoard

WANDB = """
runs = []

class Run:
    def __init__(self, options):
        self.options, self.lines, self.code = options, [], None
        self.id = options["id"] or "chosen"
    def log(self, values, step):
        if broken:
            raise OSError("no such host")
        self.lines.append((step, values))
    def finish(self, exit_code):
        self.code = exit_code

def init(**options):
    if refused:
        raise RuntimeError("no key: log in first")
    runs.append(Run(options))
    return runs[-1]

broken = refused = False
"""
MLFLOW = """
from types import SimpleNamespace as Bag

runs, params, metrics = {}, {}, []

class MlflowClient:
    def get_experiment_by_name(self, name):
        return None
    def create_experiment(self, name):
        return f"experiment {name}"
    def create_run(self, experiment, run_name):
        runs["r1"] = [experiment, run_name]
        return Bag(info=Bag(run_id="r1"))
    def log_param(self, run, key, value):
        params[key] = value
    def update_run(self, run, status):
        runs[run].append(status)
    def log_batch(self, run, metrics):
        globals()["metrics"].extend(metrics)
    def set_terminated(self, run, status):
        runs[run].append(status)
"""
ENTITIES = """
from collections import namedtuple

Metric = namedtuple("Metric", "key value timestamp step")
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Modules by the names of the trackers' packages that write down what they are told."""
    place = tmp_path / "packages"
    for name, text in {"wandb": WANDB, "mlflow": MLFLOW}.items():
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text(text, encoding="utf-8")
    (place / "mlflow" / "entities.py").write_text(ENTITIES, encoding="utf-8")
    for name in ("wandb", "mlflow", "mlflow.entities"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(place))
    yield importlib.import_module
    for name in ("wandb", "mlflow", "mlflow.entities"):
        sys.modules.pop(name, None)


def looks(folder):
    """(step, dev loss) of every line of the journal that has one."""
    turns = [line for line in small.journal(folder) if line["event"] in ("start", "generation") and line.get("dev")]
    return [(line.get("step", 0), line["dev"]["loss"]) for line in turns]


def test_every_turn_is_told(tmp_path, packages):
    result = small.tune(small.recipe(tmp_path, run__report_to="wandb"), tmp_path / "run")
    (run,) = packages("wandb").runs
    assert (run.options["project"], run.options["name"], run.code) == ("tandemtune", "run", 0)
    assert run.options["config"]["method.budget"] == "60"
    assert [(step, values["dev/loss"]) for step, values in run.lines if "dev/loss" in values] == looks(tmp_path / "run")
    turns = [line for line in small.journal(tmp_path / "run") if line["event"] == "generation"]
    told = [(step, v["train/loss"], v["cost/candidates"]) for step, v in run.lines if "population/best_loss" in v]
    assert told == [(line["step"], line["train_loss"], line["costs"]["candidates"]) for line in turns]
    last = run.lines[-1][1]
    assert last["final/tuned/test_accuracy"] == result["tuned"]["test"]
    assert last["final/zero-shot/dev_accuracy"] == result["zero_shot"]["dev"]
    tokens = [values["cost/forward_tokens"] for _, values in run.lines if "cost/forward_tokens" in values]
    assert tokens == sorted(tokens) and tokens[-1] <= result["cost"]["forward_tokens"] + 1


def test_written_tokens_are_told(tmp_path, packages):
    changes = {"method__objective": "metric", "method__budget": 10, "run__report_to": "wandb"}
    small.tune(writing.recipe(tmp_path, **changes), tmp_path / "run")
    (run,) = packages("wandb").runs
    told = [(step, v["cost/generated_tokens"]) for step, v in run.lines if "population/best_loss" in v]
    turns = [line for line in small.journal(tmp_path / "run") if line["event"] == "generation"]
    assert told == [(line["step"], line["costs"]["generated"]) for line in turns] and told


def test_a_resumed_run_goes_on_in_the_same_one(tmp_path, packages):
    plain = small.tune(small.recipe(tmp_path), tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt):
        small.tune(small.recipe(tmp_path, run__report_to=["wandb", "mlflow"]), tmp_path / "run", small.Stop(step=5))
    wandb, mlflow = packages("wandb"), packages("mlflow")
    assert (wandb.runs[0].code, mlflow.runs["r1"][-1]) == (1, "KILLED")
    result = small.resume(tmp_path / "run")
    first, second = wandb.runs
    assert (second.options["id"], second.options["resume"], second.code) == ("chosen", "allow", 0)
    steps = [step for run in (first, second) for step, values in run.lines if "population/best_loss" in values]
    assert steps == [line["step"] for line in small.journal(tmp_path / "run") if line["event"] == "generation"]
    assert mlflow.runs["r1"] == ["experiment tandemtune", "run", "RUNNING", "KILLED", "RUNNING", "FINISHED"]
    assert mlflow.params["task.seed"] == "5"
    assert [m.step for m in mlflow.metrics if m.key == "population/best_loss"] == steps
    assert result["tuned"] == plain["tuned"]
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == (tmp_path / "plain" / "journal.jsonl").read_bytes()


def test_labels_of_any_name_are_settings_that_every_tracker_takes(tmp_path, packages):
    names = {"negative": "Food (hot) & cold", "positive": "don't know"}
    small.write_rows(tmp_path / "named.jsonl", [{**row, "label": names[row["label"]]} for row in small.rows(20, 1)])
    recipe = small.recipe(tmp_path, run__report_to="mlflow", method__budget=5)
    words = recipe["task"]["labels"]
    recipe["task"] |= {
        "train": str(tmp_path / "named.jsonl"),
        "test": None,
        "labels": {names[label]: word for label, word in words.items()},
    }
    small.tune(recipe, tmp_path / "run")
    told = packages("mlflow").params
    assert all(re.fullmatch(r"[/\w.\- ]+", key) for key in told), "MLflow refuses others"
    assert json.loads(told["task.labels"]).keys() == {*names.values()}


def test_what_is_missing_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(TensorBoard, "package", "no_such_package")
    with pytest.raises(
        UsageError, match=r"report_to: tensorboard needs no_such_package, .* pip install no_such_package"
    ):
        small.tune(small.recipe(tmp_path, run__report_to="tensorboard"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"report_to: unknown tracker 'tensorbord' \(did you mean 'tensorboard'"):
        small.tune(small.recipe(tmp_path, run__report_to=["tensorbord"]), tmp_path / "run")
    assert set(plugins.members("tracker")) == {"tensorboard", "wandb", "mlflow"}


def test_one_that_cannot_be_opened_leaves_nothing(tmp_path, packages):
    packages("wandb").refused = True
    with pytest.raises(UsageError, match="wandb cannot be opened: no key: log in first"):
        small.tune(small.recipe(tmp_path, run__report_to="wandb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_that_fails_does_not_end_the_run(tmp_path, packages):
    packages("wandb").broken = True
    recipe = small.write_recipe(tmp_path / "mine.json", small.recipe(tmp_path, run__report_to="wandb"))
    called = small.call("run", recipe, "--out", tmp_path / "run")
    assert called.code == 0 and called.out.count("wandb failed (no such host); the run goes on without it") == 1
    assert (tmp_path / "run" / "result.json").exists()


def test_event_files_hold_the_whole_run_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(KeyboardInterrupt):
        small.tune(small.recipe(tmp_path, run__report_to="tensorboard"), tmp_path / "run", small.Stop(step=5))
    result = small.resume(tmp_path / "run")
    found = EventAccumulator(str(tmp_path / "run" / "tracking" / "tensorboard"))
    found.Reload()
    told = [(event.step, event.value) for event in found.Scalars("dev/loss")]
    expected = looks(tmp_path / "run")
    assert [step for step, _ in told] == [step for step, _ in expected]
    assert [loss for _, loss in told] == pytest.approx([loss for _, loss in expected], rel=1e-6)
    (test,) = found.Scalars("final/tuned/test_accuracy")
    assert test.value == pytest.approx(result["tuned"]["test"], rel=1e-6)
    RunFolder.check_free(tmp_path / "run", overwrite=True)
