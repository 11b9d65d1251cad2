"""Runs of a comparison in processes that serve several of them, in forks or in themselves: each is as if it were alone."""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w
import torch
import transformers

import small
import writing
from tandemtune import devices, shared
from tandemtune.comparisons import execute, read_plan, worker
from tandemtune.comparisons.beginning import Beginning
from tandemtune.comparisons.ending import STOPPED
from tandemtune.comparisons.plan import Plan
from tandemtune.comparisons.processes import Kept, Processes

running = importlib.import_module("tandemtune.comparisons.execute")
processes_module = importlib.import_module("tandemtune.comparisons.processes")
linux = pytest.mark.skipif(sys.platform != "linux", reason="runs are forks on Linux only")
FORKS, STAYING = pytest.param(False, id="forks", marks=linux), pytest.param(True, id="staying")
BOTH = pytest.mark.parametrize("stay", [FORKS, STAYING])
SOON_FORKS = pytest.mark.parametrize("stay", [FORKS, pytest.param(True, id="staying", marks=pytest.mark.slow)])
"""For what a process that stays has in common with others; test_one_process_makes_the_runs_of_a_model has one, too."""

OWN = """
import os

CALLS = []

def alone(predictions, gold):
    os.kill(os.getpid(), 9)

def counted(predictions, gold):
    CALLS.append(1)
    return sum(a == b for a, b in zip(predictions, gold)) / len(gold) - len(CALLS) / 1000

def with_its_worker(predictions, gold):
    os.kill(os.getppid(), 9)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def compared(monkeypatch) -> Callable[[Plan, bool], dict[str, Any]]:
    """Makes a plan's runs in processes of one kind; records by method."""

    def made(plan: Plan, stay: bool) -> dict[str, Any]:
        monkeypatch.setattr(running, "Processes", functools.partial(Processes, stay=stay))
        return {record.method: record for record in execute(plan, lambda line: None)}

    return made


def plan_of(place: Path, **methods: dict[str, object]) -> Plan:
    return plan_like(place, small.recipe(place), **methods)


def plan_like(place: Path, content: dict[str, Any], **methods: dict[str, object]) -> Plan:
    """Runs of a recipe, one for each change of its method, or of the recipe itself."""
    task, model = ({**content[section]} for section in ("task", "model"))
    del task["seed"], model["threads"]
    method = {} if methods else {f"method.{key}": value for key, value in content["method"].items()}
    plan = {
        "seeds": [5],
        "baseline": next(iter(methods), "same"),
        "all": {
            **{f"model.{key}": value for key, value in model.items()},
            **{f"run.{key}": value for key, value in content["run"].items()},
        },
        "methods": methods or {"same": method},
        "tasks": {"small": {"task": task}},
    }
    (place / "plan.toml").write_text(tomli_w.dumps(plan), encoding="utf-8")
    return read_plan(place / "plan.toml", place / "runs")


SEARCH = {
    "method.name": "c-lora",
    "method.popsize": 4,
    "method.budget": 24,
    "method.r": 1,
    "method.d": 8,
    "method.layers": "all",
}


@pytest.mark.slow
@BOTH
def test_runs_that_share_a_worker_are_those_of_a_process_each(tmp_path, compared, stay):
    """What one does to weights, settings and code, or how it dies, is unknown to the next; a worker that died is begun anew."""
    own = tmp_path / "own.py"
    own.write_text(OWN, encoding="utf-8")
    dying = {"dies": f"{own}:alone"} | ({} if stay else {"kills": f"{own}:with_its_worker"})
    metrics = {**dying, "counted": f"{own}:counted", "counted again": f"{own}:counted"}
    own_code = {
        name: {**SEARCH, "task.metric": metric, "method.d": 8 + 4 * i}
        for i, (name, metric) in enumerate(metrics.items())
    }
    plan = plan_of(
        tmp_path,
        mezo={"method.name": "mezo", "method.tunable": "full", "method.budget": 12},
        dies=own_code.pop("dies"),
        full={"method.name": "full", "method.steps": 2},
        lora={"method.name": "lora", "method.steps": 2},
        **own_code,
        **{
            "prompt-tuning": {"method.name": "prompt-tuning", "method.steps": 2},
            "readout": {"method.name": "readout"},
            "mixed": {**SEARCH, "model.dtype": "mixed"},
            "c-lora": SEARCH,
        },
    )
    records = compared(plan, stay)
    assert {name for name, record in records.items() if record.result is None} == {*dying}
    assert all("SIGKILL" in str(records[name].failure) for name in dying)
    for cell in plan.cells:
        if records[cell.method].result is not None:
            alone = tmp_path / "alone" / cell.method
            recipe = cell.config.model_dump(mode="json")
            recipe["model"]["threads"] = plan.threads
            for name in [name for name in sys.modules if name.startswith("tandemtune_file_")]:
                del sys.modules[name]  # its counter begins anew
            small.tune(recipe, alone)
            assert small.artefacts(cell.folder) == small.artefacts(alone), cell.method


@pytest.mark.slow
@SOON_FORKS
def test_rewards_in_a_process_of_their_own_end_with_their_run(tmp_path, compared, stay):
    place = f"{writing.rewards_in(tmp_path)}:length"
    recipe = writing.recipe(
        tmp_path, method__budget=8, method__objective={"kind": "reward", "rewards": {place: 1.0, "token_f1": 0.5}}
    )
    plan = plan_like(tmp_path, recipe)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    records = compared(plan, stay)
    assert [record.failure for record in records.values()] == [None]
    recipe["model"]["threads"] = plan.threads
    small.tune(recipe, tmp_path / "alone")
    assert small.artefacts(plan.cells[0].folder) == small.artefacts(tmp_path / "alone")
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before


def kept(model: str = "bert", device: str = "cpu") -> Kept:
    return Kept(str(small.model_folder(model)), None, "float32", None, 1, device)


@pytest.mark.parametrize(
    ("stay", "device"), [pytest.param(False, "cpu", marks=[linux, pytest.mark.slow]), (None, "meta")]
)
def test_one_process_makes_the_runs_of_a_model(tmp_path, stay, device):
    """As many workers as runs at a time; the least needed one makes room for another model, and none outlives a run that is
    to be alone and stays in it, as all do on what is no processor."""
    processes, seen = Processes(1, tmp_path, stay), []
    for index, (model, alone) in enumerate(
        [("bert", False), ("bert", False), ("gpt2", False), ("gpt2", True), ("gpt2", False)]
    ):
        log = tmp_path / f"{index}.log"
        assert processes.run(["ls", "tasks"], kept(model, device), log, alone=alone) == 0
        seen += [worker.pid for worker in processes._running] or [None]
    assert seen[0] == seen[1] != seen[2] and len(seen) == 5
    assert (seen[3] is None and seen[4] != seen[2]) if stay is None else seen[2] == seen[3] == seen[4]
    assert processes.run(["ls", "nothing"], kept("gpt2", device), log) == 2, "an exit code comes back"
    assert "tandemtune: " in log.read_text(encoding="utf-8") or "Usage" in log.read_text(encoding="utf-8")
    processes.close()
    assert not processes._running
    for pid in {*seen} - {None}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
@SOON_FORKS
def test_a_model_that_cannot_be_read_is_told_by_each_run(tmp_path, compared, stay):
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
    (record,) = compared(plan.__class__(**{**vars(plan), "cells": (cell,)}), stay).values()
    assert record.result is None and str(broken) in str(record.failure) and "Traceback" not in str(record.failure)


@pytest.mark.slow
@BOTH
def test_runs_that_are_stopped_or_killed_are_gone_on_with(tmp_path, stay):
    """By Ctrl-C of the comparison, and by whatever ends a process; nothing that was measured is lost."""
    recipe = small.recipe(tmp_path, method__budget=400)
    path, folder = small.write_recipe(tmp_path / "recipe.json", recipe), tmp_path / "run"
    small.tune(recipe, tmp_path / "straight")
    journal, codes = folder / "journal.jsonl", []

    def begun(processes: Processes, *words: str) -> threading.Thread:
        lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
        log = tmp_path / "log"
        thread = threading.Thread(target=lambda: codes.append(processes.run([*words, "--quiet"], kept(), log)))
        thread.start()
        until = time.monotonic() + 60
        while not (journal.exists() and journal.read_bytes().count(b"\n") > lines + 3):
            assert time.monotonic() < until and thread.is_alive(), log.read_text(encoding="utf-8")
            time.sleep(0.005)
        return thread

    processes = Processes(1, tmp_path, stay)
    thread = begun(processes, "run", str(path), "--out", str(folder))
    processes.stop()
    thread.join()
    assert codes == [STOPPED] and "go on with: tandemtune resume" in (tmp_path / "log").read_text(encoding="utf-8")
    assert processes.run(["ls", "tasks"], kept(), tmp_path / "log") == STOPPED, "no other is begun"
    processes = Processes(1, tmp_path, stay)
    thread = begun(processes, "resume", str(folder))
    (process,) = processes._running
    (victim,) = [process.pid] if stay else [child.pid for child in psutil.Process(process.pid).children()]
    os.kill(victim, signal.SIGKILL)
    thread.join()
    assert codes == [STOPPED, -signal.SIGKILL] and not (folder / "result.json").exists()
    assert processes.run(["resume", str(folder), "--quiet"], kept(), tmp_path / "log") == 0
    processes.close()
    assert small.artefacts(folder) == small.artefacts(tmp_path / "straight")


MEDDLES = r"""
import gc, json, logging, os, random, signal, sys, threading, time, warnings
import numpy, torch
from tandemtune.system import peak_rss_mb

def main():
    words = sys.argv[1:]
    state = {
        "peak": peak_rss_mb(),
        "environment": sorted(os.environ.items()), "folder": os.getcwd(), "words": words[2:], "path": sys.path,
        "random": torch.rand(1).item(), "known": logging.getLogger("known").level,
        "torch": [torch.get_num_threads(), torch.get_float32_matmul_precision(), str(torch.get_default_dtype()),
                  torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark],
        "filters": len(warnings.filters), "shown": warnings.showwarning.__module__,
        "logging": [logging.root.level, len(logging.root.handlers)],
        "signals": [str(signal.getsignal(signal.SIGINT)), str(signal.getsignal(signal.SIGTERM))],
        "input": sys.stdin.read(), "memory": gc.isenabled(),
    }
    with open(words[0], "w") as file:
        json.dump(state, file)
    print("not an answer", flush=True)
    os.write(1, b"nor this\n")
    os.environ["MEDDLED"] = "yes"
    os.environ.pop("HOME", None)
    os.chdir("/")
    sys.path.insert(0, "/meddled")
    sys.argv.append("more")
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = True
    warnings.simplefilter("error")
    logging.captureWarnings(True)
    logging.basicConfig(level=1)
    logging.getLogger("known").setLevel(1)
    random.seed(1)
    numpy.random.seed(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout = open(os.devnull, "w")
    b"x" * (3 * 10**8)
    if words[1] == "thread":
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    if words[1] == "process":
        import subprocess
        sys.left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if words[1] == "fails":
        sys.exit("said")

logging.getLogger("known").setLevel(30)
import tandemtune.comparisons.beginning
tandemtune.comparisons.beginning.PATIENCE = 0.2
"""


@SOON_FORKS
def test_each_run_finds_the_process_as_it_was(tmp_path, monkeypatch, stay):
    """Whatever the one before did to it; and one that leaves something running, or fails, ends a process that stays."""
    script = f"{MEDDLES}{processes_module._WORKER.replace('from tandemtune.cli import main', '')}"
    monkeypatch.setattr(processes_module, "_WORKER", script)
    processes, seen = Processes(1, tmp_path, stay), []
    for index, what in enumerate(["nothing", "nothing", "thread", "process", "fails"]):
        log = tmp_path / f"{index}.log"
        code = processes.run([str(tmp_path / f"{index}.json"), what], kept(), log)
        assert code == (what == "fails") and log.read_text(encoding="utf-8") == ("said\n" if code else "")
        seen.append([worker.pid for worker in processes._running])
    processes.close()
    assert len(seen[0]) == 1 and seen[0] == seen[1]
    assert seen[2:] == ([[], [], []] if stay else [seen[0]] * 3)
    first, *others = (json.loads((tmp_path / f"{index}.json").read_text(encoding="utf-8")) for index in range(5))
    assert first["input"] == "" and first["words"] == [] and "default_int_handler" in first["signals"][0]
    peaks = [state.pop("peak") for state in (first, *others)]
    assert sys.platform != "linux" or peaks[1] < peaks[0] + 150, "memory of the run before does not count"
    assert others[0] == first
    assert all({**other, "random": 0} == {**first, "random": 0} for other in others), (
        "each process has a seed of its own"
    )


@pytest.mark.parametrize("method", ["c-lora", "lora", "full", "readout", "prompt-tuning", "texts"])
def test_a_run_leaves_nothing_behind(tmp_path, method):
    """No model in memory, no thread and no process: the next run in its process has all of the room."""
    beginning, before = Beginning(), {id(model) for model in models()}
    if method == "texts":
        place = f"{writing.rewards_in(tmp_path)}:length"
        recipe = writing.recipe(
            tmp_path, method__budget=8, method__objective={"kind": "reward", "rewards": {place: 1.0}}
        )
    else:
        recipe = {**small.recipe(tmp_path), "method": {"name": method, **SHORT[method]}}
    small.tune(recipe, tmp_path / "run")
    assert beginning.restored()
    assert {id(model) for model in models()} <= before


SHORT = {
    "c-lora": {"budget": 24, "popsize": 4, "r": 1, "d": 8, "layers": "all"},
    "readout": {},
    **{name: {"steps": 2} for name in ("lora", "full", "prompt-tuning")},
}


def models() -> list[Any]:
    return [each for each in gc.get_objects() if issubclass(type(each), transformers.PreTrainedModel)]


def test_what_is_no_processor_keeps_its_runs_in_one_process(monkeypatch):
    """An accelerator that a process has opened is of no use to its forks."""
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert devices.is_accelerator("auto") == there
    assert devices.is_accelerator("cuda:1") and devices.is_accelerator("mps") and not devices.is_accelerator("cpu")
    assert not torch.cuda.is_initialized()
    assert worker._get_ready({"device": "cuda"}, None) and worker._get_ready({"device": "cpu"}, True)


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
