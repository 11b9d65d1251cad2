"""The engine's benchmark on a tiny model: its contenders compute the same losses, and its numbers add up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import small
from tandemtune import bench

NAMES = {"naive", "engine", "engine_float32", "floor", "adamw_step"}


@pytest.fixture
def plan(tmp_path: Path) -> bench.Plan:
    small.recipe(tmp_path)
    shutil.copy(tmp_path / "train.jsonl", tmp_path / "sst2.train.jsonl")
    shutil.copy(tmp_path / "test.jsonl", tmp_path / "sst2.test.jsonl")
    return bench.Plan(
        str(small.model_folder("llama")), "sst2", str(tmp_path), shots=4, popsize=5, repeats=2, layers=3, threads=1
    )


@pytest.fixture(autouse=True)
def known_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny vocabulary does not hold the words of the catalogue's row."""
    from tandemtune.tasks.catalogue import TASKS, TaskRow

    words = {"negative": ("terrible",), "positive": ("great",)}
    row = TaskRow(
        name="sst2", summary="", words=words, masked="{text} . it was {mask} .", causal="{text} . it was {mask}"
    )
    monkeypatch.setitem(TASKS, "sst2", row)


def test_contenders_agree_and_numbers_add_up(plan: bench.Plan) -> None:
    found = bench.measure(plan)
    assert found["agreement"]["largest difference to one by one, float32"] < 1e-5
    assert set(found["seconds_per_candidate"]) == NAMES
    assert list(found["by_layer"]) == ["0", "2", "3"]
    for spread in [*found["seconds_per_candidate"].values(), *found["ratios"].values()]:
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    json.dumps(found)


def test_naive_equals_the_engine_at_every_layer(plan: bench.Plan) -> None:
    work, point = bench.contenders(plan, "float32")
    for block in work.scorer.tunable.blocks:
        vectors = bench.candidates(work, block, 3) * 10
        batch = work.objective.evaluate(point, {block: vectors})
        assert torch.allclose(bench.naive(work, point, block, vectors).double(), torch.tensor(batch), atol=1e-5)


def test_the_floor_runs_exactly_the_remaining_layers(plan: bench.Plan) -> None:
    work, point = bench.contenders(plan, "float32")
    floor = bench.Floor(work, point, 5)
    seen: list[int] = []
    for index, layer in enumerate(work.scorer.backbone.layers):
        layer.register_forward_hook(lambda module, args, output, i=index: seen.append(i))
    floor.run(2)
    assert seen == [2, 3]


def test_the_floor_has_as_many_tokens_as_the_texts(plan: bench.Plan) -> None:
    work, point = bench.contenders(plan, "float32")
    texts, seen = work.objective.train, []
    floor = bench.Floor(work, point, 5)
    work.scorer.backbone.layers[3].register_forward_hook(lambda module, args, output: seen.append(args[0].shape[:2]))
    floor.run(3)
    ((rows, length),) = seen
    assert rows == 5 * len(texts)
    assert texts.tokens <= len(texts) * length < texts.tokens + len(texts)


def test_every_prompt_has_the_length_that_was_asked_for(plan: bench.Plan) -> None:
    from dataclasses import replace

    work, _ = bench.contenders(replace(plan, length=20), "float32")
    assert {group.ids.shape[1] for group in work.objective.train.groups} == {20}


def test_a_gradient_step_changes_the_adapter_only(plan: bench.Plan) -> None:
    work, _ = bench.contenders(plan, "float32")
    before = {k: v.clone() for k, v in work.scorer.backbone.model.state_dict().items()}
    step = bench.gradient_step(work)
    step()
    after = work.scorer.backbone.model.state_dict()
    assert all(
        torch.equal(v, after[k.replace("_proj.weight", "_proj.base_layer.weight") if k not in after else k])
        for k, v in before.items()
    )


def test_a_search_by_the_plain_loop_writes_the_same_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32: the same candidates are taken in every generation, with the same losses up to rounding."""
    from tandemtune import tune
    from tandemtune.evaluators.label_words import LabelWordEvaluator

    recipe = small.recipe(tmp_path, "llama", method__budget=200)
    tune(recipe, tmp_path / "engine")

    def one_by_one(
        self: LabelWordEvaluator,
        point: dict[int, torch.Tensor],
        candidates: dict[int, torch.Tensor],
        rows: object = None,
    ) -> object:
        from types import SimpleNamespace

        tunable = self.engine.tunable
        scorer = SimpleNamespace(
            engine=self.engine, tunable=tunable, backbone=SimpleNamespace(model=self.engine.stack.model)
        )
        ((block, vectors),) = candidates.items()
        work = SimpleNamespace(scorer=scorer, objective=self)
        return bench.naive(work, point, block, vectors).double().numpy()  # type: ignore[arg-type]

    monkeypatch.setattr(LabelWordEvaluator, "evaluate", one_by_one)
    tune(recipe, tmp_path / "plain")
    journals = [
        [json.loads(line) for line in (tmp_path / name / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("engine", "plain")
    ]
    assert len(journals[0]) == len(journals[1]) > 20
    for one, other in zip(*journals, strict=True):
        assert {k: one.get(k) for k in ("step", "layer", "accepted", "candidates", "stop_reason")} == {
            k: other.get(k) for k in ("step", "layer", "accepted", "candidates", "stop_reason")
        }
        assert one.get("losses") == pytest.approx(other.get("losses"), abs=1e-5)


def test_peak_memory_is_that_of_the_program_and_not_of_its_parent() -> None:
    import subprocess
    import sys

    hold = torch.ones(120_000_000)  # 480 MB in this process
    code = "from tandemtune.system import peak_rss_mb; print(peak_rss_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 < float(done.stdout) < 400
    assert hold[0] == 1
