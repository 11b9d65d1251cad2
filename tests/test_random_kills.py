"""A hundred processes that are killed whenever it comes: what they leave is finished, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import small
from dying import begun, forked, forking
from mentor import loopback
from small import resume, tune

pytestmark = [pytest.mark.slow, forking]

SEARCH = {"method__budget": 60, "method__dev_every": 2}
STEPS = {"method__budget": None, "method__layers": None, "method__d": None, "method__r": None, "method__popsize": None}
GRADIENT = {**STEPS, "method__steps": 12, "method__batch_size": 3}
ROUNDS = {
    **STEPS,
    "method__name": "maao",
    "method__prompt_tokens": 4,
    "method__batch_size": 4,
    "method__lr": 0.1,
    "alternate__rounds": 2,
    "alternate__round_steps": 3,
    "alternate__final_steps": 4,
    "alternate__snapshots": 2,
    "alternate__proposals": 3,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sampler": ("bert", SEARCH),
    "estimator": ("bert", {**STEPS, "method__name": "mezo", "method__budget": 40}),
    "gradient": ("gpt2", {**GRADIENT, "method__name": "lora"}),
    "text": ("bert", {**STEPS, "method__name": "gap3", "method__budget": 40, "method__popsize": 8}),
    "mutation": ("bert", {**ROUNDS, "alternate__proposer": "mutation"}),
    "recorded mentor": ("gpt2", {**ROUNDS, "alternate__definition": "Is it good?"}),
    "readout": ("gpt2", {**SEARCH, "method__readout": "ridge"}),
    "texts": (
        "gpt2",
        {
            **SEARCH,
            "task__labels": None,
            "task__answer": "label",
            "task__max_new_tokens": 4,
            "method__objective": {"kind": "reward", "sampled_at": 0.7},
        },
    ),
}
DEATHS = 15
"""Of each kind: a hundred with those of the comparison."""
COMPARED_DEATHS = 6


def killed(work: Callable[[], Any], seconds: float) -> bool:
    """Whether a process that does this work was still at it after so many seconds, when it was killed."""
    pid = forked(work)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        time.sleep(0.001)
    for child in [*children(pid), pid]:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def children(pid: int) -> list[int]:
    """Processes that a process has started, where the system tells."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in listed.read_text(encoding="ascii").split()] if listed.exists() else []


@pytest.fixture(scope="module")
def conversations(tmp_path_factory) -> Iterator[Path]:
    """What a mentor once said, recorded by a run against a server."""
    place = tmp_path_factory.mktemp("said")
    with loopback.serving() as server:
        said = [["the movie was", "a good plot", "so dull"], ["we saw this film", "is it fine", "they loved acting"]]
        server.answers = [loopback.say("yes"), *(loopback.say(json.dumps({"prompts": prompts})) for prompts in said)]
        mentor = {"client": "endpoint", "mentor": "tiny", "base_url": server.url, "style": "chat", "retries": 0}
        tune(recipe_of("recorded mentor", place) | {"mentor": mentor}, place / "run")
    yield place / "run" / "conversations.jsonl"


def recipe_of(kind: str, place: Path, checkpoint_seconds: float = 0.0) -> dict[str, Any]:
    model, changes = KINDS[kind]
    return small.recipe(place, model, **changes, run__checkpoint_seconds=checkpoint_seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_end_as_if_they_never_had_been_killed(kind, tmp_path, request):
    source = random.Random(kind)
    mentor = {}
    if kind == "recorded mentor":
        path = request.getfixturevalue("conversations")
        mentor = {"mentor": {"client": "recorded", "mentor": str(path), "style": "chat"}}
    begin = time.monotonic()
    tune(recipe_of(kind, tmp_path) | mentor, tmp_path / "straight")
    straight, seconds = small.artefacts(tmp_path / "straight"), time.monotonic() - begin
    deaths = 0
    for number in range(10 * DEATHS):
        folder = tmp_path / f"run {number}"
        recipe = recipe_of(kind, tmp_path, source.choice([0.0, 0.0, 1000.0])) | mentor

        def work(recipe: Any = recipe, folder: Path = folder) -> None:
            resume(folder) if begun(folder) else tune(recipe, folder)

        while killed(work, source.uniform(0.0, seconds)):
            deaths += 1
            seconds *= 1.05  # so that a busy machine gets to the end some time
        seconds *= 0.8  # and an idle one does not always
        assert small.artefacts(folder) == straight
        assert not list(folder.glob(".*.tmp"))
        if deaths >= DEATHS:
            return
    pytest.fail(f"only {deaths} deaths: the runs are too short to be killed")


def test_a_comparison_ends_as_if_it_never_had_been_killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = small.recipe(tmp_path)
    task = {key: value for key, value in content["task"].items() if key != "seed"}
    plan = f"""
    seeds = [5]
    baseline = "lora"
    [all]
    model = {{ name = {json.dumps(content["model"]["name"])}, dtype = "float32", threads = 1 }}
    run.checkpoint_seconds = 0
    [methods]
    c-lora = {{ "method.budget" = 200, d = 8, r = 1, popsize = 4, layers = "all", dev_every = 2 }}
    lora = {{ "method.steps" = 6, dev_every = 2 }}
    [tasks.small.task]
    """
    lines = [f"{key} = {json.dumps(value)}" for key, value in task.items() if key != "labels"]
    lines += ["[tasks.small.task.labels]", *(f"{label} = {json.dumps(word)}" for label, word in task["labels"].items())]
    (tmp_path / "plan.toml").write_text("\n".join([plan, *lines]), encoding="utf-8")

    def compared(name: str) -> dict[str, dict[str, bytes]]:
        found = sorted((tmp_path / name / "small").glob("*/5"))
        assert len(found) == 2
        return {folder.parent.name: small.artefacts(folder) for folder in found}

    def work(name: str) -> None:
        called = small.call("compare", "plan.toml", "--out", name)
        assert called.code == 0, called.err

    begin = time.monotonic()
    work("straight")
    source, seconds = random.Random("compare"), time.monotonic() - begin
    straight, deaths, number = compared("straight"), 0, 0
    while deaths < COMPARED_DEATHS:
        name, number = f"killed {number}", number + 1
        while killed(lambda name=name: work(name), source.uniform(0.1, 1.0) * seconds):
            deaths, seconds = deaths + 1, 1.1 * seconds
        seconds *= 0.8
        assert compared(name) == straight
