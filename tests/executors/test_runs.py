"""Whole runs whose candidates are scored by workers, in this process: journal, adapter and everything else as in a local run."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import images
import small
import writing
from executors.stubs import MadeElsewhere, Virtual, worker_of
from grids import sparse
from small import Stop, artefacts, journal, resume, tune
from tandemtune.config import load_config
from tandemtune.errors import RunError
from tandemtune.evaluators.writing import Text
from tandemtune.executors import worker as workers
from tandemtune.executors.base import Answer

REWARD = {"method__objective": {"kind": "reward", "sampled_at": 0.7}}


def method(recipe, **table):
    """A recipe with another method."""
    return {**recipe, "method": table}


CASES = {
    "c-lora": lambda place: small.recipe(place),
    "drawn rows and elites": lambda place: small.recipe(place, method__subsample=4, method__elites=2),
    "calibrated, with a penalty": lambda place: small.recipe(
        place, "gpt2", method__calibrate=True, method__kl_penalty=0.1, method__l2_penalty=0.1
    ),
    "a readout scores": lambda place: small.recipe(
        place,
        method__readout="ridge",
        method__views=["answer", "mean@middle"],
        method__score="readout",
        method__budget=20,
    ),
    "es": lambda place: method(small.recipe(place, "t5"), name="es", budget=24, popsize=4, d=8, r=1, dev_every=2),
    "bbtv2": lambda place: method(small.recipe(place), name="bbtv2", budget=30, popsize=4, d=8, prompt_tokens=3),
    "mezo": lambda place: method(small.recipe(place, "llama"), name="mezo", steps=6, dev_every=2),
    "words": lambda place: method(small.recipe(place), name="gap3", budget=20, popsize=4, prompt_tokens=3),
    "likelihoods of texts": lambda place: writing.recipe(place),
    "rewards of texts": lambda place: writing.recipe(
        place, **{**REWARD, "task__metric": f"{writing.rewards_in(place)}:length"}
    ),
    "images": lambda place: method(
        images.recipe(place), name="c-lora", budget=30, d=8, r=1, popsize=4, layers="all", dev_every=2
    ),
}

SOON = ("drawn rows and elites", "a readout scores", "mezo", "words", "rewards of texts")


def with_executor(recipe, executor):
    return {**recipe, "run": {**recipe["run"], "executor": executor}}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TANDEMTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.few(3)
@pytest.mark.parametrize("case", sparse(CASES, SOON))
def test_equal_to_a_local_run_to_the_bit(tmp_path, case):
    recipe = CASES[case](tmp_path)
    tune(with_executor(recipe, {"kind": "local", "shard": 2}), tmp_path / "local")
    tune(with_executor(recipe, Virtual()), tmp_path / "workers")
    assert artefacts(tmp_path / "workers") == artefacts(tmp_path / "local")
    assert len(journal(tmp_path / "local")) > 4


def test_a_worker_dies_and_the_run_is_stopped_and_resumed(tmp_path):
    recipe = small.recipe(tmp_path)
    tune(with_executor(recipe, {"kind": "local", "shard": 2}), tmp_path / "local")
    with pytest.raises(KeyboardInterrupt):
        tune(with_executor(recipe, Virtual(dies=1.5)), tmp_path / "workers", Stop(step=5))
    resume(tmp_path / "workers")
    assert artefacts(tmp_path / "workers") == artefacts(tmp_path / "local")


def test_without_a_shard_the_whole_generation_is_one(tmp_path):
    """A run that says nothing of executors has the journal that it always had; one with a shard as large as the generation, too."""
    recipe = small.recipe(tmp_path, method__budget=20)
    tune(recipe, tmp_path / "plain")
    tune(with_executor(recipe, {"kind": "local", "shard": 100}), tmp_path / "one")
    assert journal(tmp_path / "one") == journal(tmp_path / "plain")


def elsewhere_of(problem):
    from tandemtune.elsewhere import AnotherProcess

    return AnotherProcess.of(problem)


@pytest.fixture
def problem(tmp_path):
    from tandemtune import autotune

    return autotune.build(load_config(small.recipe(tmp_path, run__executor={"kind": "local", "shard": 2})))


def test_a_worker_with_other_versions_is_refused(monkeypatch):
    wanted = workers.fingerprint()
    for name in ("torch", "code of tandemtune"):
        monkeypatch.setattr(workers, "fingerprint", lambda name=name: {**wanted, name: "1.0"})
        with pytest.raises(RunError, match=rf"other versions than those of the run: {name} .* there, 1\.0 here"):
            workers.Worker(wanted, b"not even read")


def test_a_worker_with_other_weights_rows_or_code_is_refused(problem, tmp_path):
    from dataclasses import replace

    elsewhere = elsewhere_of(problem)
    worker_of(elsewhere)
    for key, says in (("weights_sha256", "the model's weights"), ("rows_sha256", "the rows of task small")):
        with pytest.raises(RunError, match=says):
            worker_of(replace(elsewhere, facts={**elsewhere.facts, key: "0" * 64}))
    (tmp_path / "texts").mkdir()
    place = writing.rewards_in(tmp_path / "texts")
    recipe = writing.recipe(tmp_path / "texts", task__metric=f"{place}:length", method__objective="reward")
    from tandemtune import autotune

    elsewhere = elsewhere_of(autotune.build(load_config(recipe)))
    worker_of(elsewhere)
    place.write_text(place.read_text() + "\n# changed\n")
    with pytest.raises(RunError, match="the code of"):
        worker_of(elsewhere)


def test_a_worker_reads_no_data_files(problem, tmp_path):
    """Its rows come with the run; on its machine there may be no such files."""
    elsewhere = elsewhere_of(problem)
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "test.jsonl").unlink()
    worker_of(elsewhere)


@pytest.mark.parametrize(
    "texts", [None, [[Text((1, 2), 3, 0), Text((), 0)], [Text((5,), 1, None, broken=True), Text((7,), 1)]]]
)
def test_what_a_worker_found_comes_back_whole(texts):
    found = Answer(np.array([0.25, math.nan]), 4, 0.5, texts)
    back = workers.read(workers.plain(found))
    assert np.array_equal(back.losses, found.losses, equal_nan=True)
    assert (back.wrote, back.seconds, back.texts) == (found.wrote, found.seconds, found.texts)


OTHER = """
import pickle, sys
from tandemtune.executors.worker import Worker
from tandemtune.system import versions
given = pickle.load(open(sys.argv[1], "rb"))
losses = Worker(versions(), given["elsewhere"]).score(given["message"])[0]
open(sys.argv[2], "wb").write(losses)
"""
OLDER = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"}
"""What makes a processor compute as an older one does."""


@pytest.mark.slow
def test_on_another_processor_losses_differ_in_their_last_bits(problem, tmp_path):
    from tandemtune import wiring
    from tandemtune.executors.messages import Catalogue, Request, Told
    from tandemtune.search.schedule import Stage

    origin = problem.scorer.parameters.initial()
    phase = wiring.make_phase(problem, origin, Stage("tune"))
    candidates = phase.up((0,), np.random.default_rng(0).standard_normal((8, 8)))
    request = Request(origin, candidates, 0)
    message = Told().message(request, Catalogue().of(request))
    given = {"elsewhere": pickle.dumps(elsewhere_of(problem)), "message": message}
    (tmp_path / "given").write_bytes(pickle.dumps(given))
    command = [sys.executable, "-c", OTHER, str(tmp_path / "given"), str(tmp_path / "losses")]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run(command, check=True, env={**os.environ, **OLDER, "PYTHONPATH": path})
    there = np.frombuffer((tmp_path / "losses").read_bytes())
    here = problem.evaluator.evaluate(origin, candidates, 0)
    apart = np.abs(there - here).max() / np.abs(here).max()
    assert apart < 1e-5 and (there.argsort() == here.argsort()).all()


def test_settings(tmp_path):
    config = load_config(small.recipe(tmp_path), ["executor=ray", "workers=4", "shard=8", "address=auto"])
    assert config.run.executor.model_dump(exclude_unset=True) == {"workers": 4, "shard": 8, "address": "auto"}
    assert load_config(json.loads(config.model_dump_json())) == config
    assert load_config(small.recipe(tmp_path)).run.executor.kind == "local"
    assert MadeElsewhere.resources == (1, "cpu")


def test_methods_without_candidates_are_refused(tmp_path):
    from tandemtune.errors import ConfigError

    recipe = method(small.recipe(tmp_path, run__executor="ray"), name="lora", steps=3)
    with pytest.raises(ConfigError, match="ray shares out candidates, and adamw scores none"):
        load_config(recipe)
