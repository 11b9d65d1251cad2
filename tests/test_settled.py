"""What is measured at the start of a run: cheap beside a generation, recorded, and kept."""

from __future__ import annotations

import json
import shutil

import pytest

import small
from small import resume, tune
from tandemtune.errors import ModelError
from tandemtune.evaluators.label_words import LabelWordEvaluator
from tandemtune.models.layers import LayerStack


def facts(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


@pytest.fixture
def scored(monkeypatch):
    """How many candidates each evaluation had."""
    counts = []
    plain = LabelWordEvaluator.evaluate

    def counted(self, point, candidates, generation=None):
        counts.append(len(next(iter(candidates.values()))))
        return plain(self, point, candidates, generation)

    monkeypatch.setattr(LabelWordEvaluator, "evaluate", counted)
    return counts


def test_a_short_search_is_not_held_up_by_trials(tmp_path, scored, monkeypatch):
    monkeypatch.setattr("tandemtune.autotune.chunks.TRIED_TOKENS", 1)
    tune(small.recipe(tmp_path, model__dtype="mixed", method__popsize=12, method__budget=26), tmp_path / "run")
    *tried, first, second = scored
    assert set(tried) == {1} and len(tried) <= 3  # one candidate: compiling cannot pay, and how long it will take
    assert (first, second) == (13, 13)  # the search
    assert facts(tmp_path / "run")["compiled"] == 1.0


def broken(self, wanted=True):
    if wanted:
        raise RuntimeError("no compiler was found\nand more")
    return 0


def test_without_a_compiler_a_search_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(LayerStack, "compile", broken)
    monkeypatch.setattr("tandemtune.autotune.chunks.WORTH_COMPILING", 0.0)
    tune(small.recipe(tmp_path, model__dtype="mixed"), tmp_path / "run")
    assert facts(tmp_path / "run")["compiled"] == 1.0
    with pytest.raises(ModelError, match=r"no compiler was found: set compile to never"):
        tune(small.recipe(tmp_path, model__compile="always"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_float32_and_never_try_nothing(tmp_path, scored, monkeypatch):
    monkeypatch.setattr("tandemtune.autotune.chunks.WORTH_COMPILING", 0.0)
    for index, changes in enumerate(({}, {"model__dtype": "mixed", "model__compile": "never"})):
        scored.clear()
        tune(small.recipe(tmp_path, method__budget=10, **changes), tmp_path / f"run-{index}")
        assert scored[-2:] == [5, 5] and set(scored[:-2]) == {4}  # a few candidates to say how long it will take
        assert facts(tmp_path / f"run-{index}")["compiled"] is None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_run_resumes_to_the_bit(tmp_path):
    recipe = small.recipe(tmp_path, "llama", model__compile="always")
    tune(recipe, tmp_path / "straight")
    assert facts(tmp_path / "straight")["compiled"] < 1.0

    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "stopped", small.Stop(step=3))
    resume(tmp_path / "stopped")
    assert small.artefacts(tmp_path / "stopped") == small.artefacts(tmp_path / "straight")
