"""Runs of a comparison as forks of one process that has read the model: each is as if it were alone."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import tomli_w

import small
from tandemtune import shared
from tandemtune.comparisons import execute, read_plan
from tandemtune.comparisons.plan import Plan
from tandemtune.comparisons.processes import Kept, Processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are forks on Linux only")

DYING = """
import os

def alone(predictions, gold):
    os.kill(os.getpid(), 9)

def with_its_worker(predictions, gold):
    os.kill(os.getppid(), 9)
    os.kill(os.getpid(), 9)
"""


def plan_of(place: Path, **methods: dict[str, object]) -> Plan:
    content = small.recipe(place)
    content["method"] = {"popsize": 4, "dev_every": 2}
    content["model"]["threads"] = None
    del content["task"]["seed"], content["model"]["threads"]
    task = content.pop("task")
    plan = {
        "seeds": [5],
        "baseline": next(iter(methods)),
        "all": {
            f"{section}.{key}": value
            for section, table in content.items()
            for key, value in table.items()
            if section != "method"
        },
        "methods": methods,
        "tasks": {"small": {"task": task}},
    }
    (place / "plan.toml").write_text(tomli_w.dumps(plan), encoding="utf-8")
    return read_plan(place / "plan.toml", place / "runs")


def test_runs_that_share_a_worker_are_those_of_a_process_each(tmp_path):
    """What one writes to the weights, or how it dies, is unknown to the next one; a worker that died is begun anew."""
    (tmp_path / "dying.py").write_text(DYING, encoding="utf-8")
    search = {"method.budget": 24, "method.r": 1, "method.d": 8, "method.popsize": 4, "method.layers": "all"}
    plan = plan_of(
        tmp_path,
        mezo={"method.name": "mezo", "method.tunable": "full", "method.budget": 12},
        dies={**search, "method.name": "c-lora", "task.metric": f"{tmp_path}/dying.py:alone"},
        full={"method.name": "full", "method.steps": 2},
        kills={**search, "method.name": "c-lora", "task.metric": f"{tmp_path}/dying.py:with_its_worker"},
        **{"c-lora": {**search, "method.name": "c-lora"}},
    )
    records = {record.method: record for record in execute(plan, lambda line: None)}
    assert {name for name, record in records.items() if record.result is None} == {"dies", "kills"}
    assert all("SIGKILL" in str(records[name].failure) for name in ("dies", "kills"))
    for cell in plan.cells:
        if records[cell.method].result is not None:
            alone = tmp_path / "alone" / cell.method
            recipe = cell.config.model_dump(mode="json")
            recipe["model"]["threads"] = plan.threads
            small.tune(recipe, alone)
            assert small.artefacts(cell.folder) == small.artefacts(alone), cell.method


def test_one_process_reads_a_model_for_all_of_its_runs(tmp_path):
    """As many workers as runs at a time; the least needed one makes room for another model."""
    kept = [Kept(str(small.model_folder(name)), None, "float32", None, 1, "cpu") for name in ("bert", "gpt2")]
    processes, seen = Processes(1, tmp_path), []
    for index, held in enumerate([kept[0], kept[0], kept[1], kept[1]]):
        log = tmp_path / f"{index}.log"
        assert processes.run(["ls", "nothing"], held, log) == 2, "an exit code comes back"
        assert "tandemtune: " in log.read_text(encoding="utf-8") or "Usage" in log.read_text(encoding="utf-8")
        (worker,) = processes._running
        seen.append(worker.pid)
    processes.close()
    assert seen[0] == seen[1] != seen[2] == seen[3] and not processes._running
    for pid in set(seen):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_model_that_cannot_be_read_is_told_by_each_run(tmp_path):
    plan = plan_of(tmp_path, lora={"method.name": "lora", "method.steps": 2})
    cell = plan.cells[0]
    model = Path(cell.config.model.name)
    broken = tmp_path / "broken"
    broken.mkdir()
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (broken / "config.json").write_text(json.dumps(config), encoding="utf-8")
    section = cell.config.model.model_copy(update={"name": str(broken)})
    cell = cell.__class__(
        cell.method, cell.task, cell.model, 5, cell.config.model_copy(update={"model": section}), cell.folder
    )
    (record,) = execute(plan.__class__(**{**vars(plan), "cells": (cell,)}), lambda line: None)
    assert record.result is None and str(broken) in str(record.failure) and "Traceback" not in str(record.failure)


def test_what_runs_have_in_common_is_computed_once(tmp_path, monkeypatch):
    """The pretrained model on the test rows, to the bit; by label words, and with the vectors that a readout reads."""
    recipes = {
        "words": small.recipe(tmp_path, method__budget=12),
        "readout": {**small.recipe(tmp_path), "method": {"name": "readout"}},
        "again": {**small.recipe(tmp_path), "method": {"name": "lora", "steps": 1}},
    }
    for name, recipe in recipes.items():
        small.tune(recipe, tmp_path / "alone" / name)
    common = tmp_path / "common"
    common.mkdir()
    monkeypatch.setenv(shared.FOLDER, str(common))
    counts = []
    for name, recipe in recipes.items():
        small.tune(recipe, tmp_path / "together" / name)
        counts.append(len(list(common.iterdir())))
        assert small.artefacts(tmp_path / "together" / name) == small.artefacts(tmp_path / "alone" / name), name
    assert counts == [1, 2, 2], "label words alone are another pass than with vectors"
    for path in common.iterdir():
        path.write_bytes(b"torn")
    small.tune(recipes["again"], tmp_path / "torn")
    assert small.artefacts(tmp_path / "torn") == small.artefacts(tmp_path / "alone" / "again")
