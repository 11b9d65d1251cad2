"""Mixed precision: 16-bit products, everything else in 32 bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import oracle
import small
import tiny
import writing
from tandemtune import load, tune
from tandemtune.answers import labels
from tandemtune.autotune import formats
from tandemtune.models.linear import is_linear
from tandemtune.models.precision import mix


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.randint(5, len(tiny.WORDS), (6, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return oracle.all_logits(model, ids).float()


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_only_the_products_of_the_layers_are_rounded(name: str) -> None:
    home = tiny.backbone(name)
    exact = logits(home.model)
    paths = tuple(f"{path}." for path in home.architecture.paths)
    mix(home.model, home.architecture.paths)
    for place, module in home.model.named_modules():
        inside = place.startswith(paths) and is_linear(module)
        formats = {parameter.dtype for parameter in module.parameters(recurse=False)}
        assert formats <= {torch.bfloat16 if inside else torch.float32}
    found = logits(home.model)
    assert not torch.equal(found, exact)
    assert (found - exact).abs().mean() < 0.05 * exact.std()


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_it_is_nearer_to_float32_than_plain_16_bit(name: str) -> None:
    exact = logits(tiny.model(name))
    home = tiny.backbone(name)
    mix(home.model, home.architecture.paths)
    low = tiny.model(name).to(torch.bfloat16)
    assert (logits(home.model) - exact).abs().mean() < (logits(low) - exact).abs().mean()


@pytest.mark.parametrize(("least", "taken"), [(-1.0, "bfloat16"), (1.1, "float32")])
def test_auto_takes_it_only_where_it_ranks_like_float32(
    least: float, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "mixed_is_faster", lambda device: True)
    monkeypatch.setattr(formats, "RELIABLE", least)
    tune(small.recipe(tmp_path, "llama", model__dtype="auto"), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert facts["dtype"] == taken
    tried = ["bfloat16"] if taken == "bfloat16" else ["bfloat16", "mixed"]
    assert list(facts["rank_correlation"]) == tried
    assert all(-1 <= value <= 1 for value in facts["rank_correlation"].values())


def test_all_formats_are_tried_on_one_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether losses are calibrated is decided once, by float32."""
    asked: list[str] = []
    monkeypatch.setattr(formats, "mixed_is_faster", lambda device: True)
    monkeypatch.setattr(formats, "RELIABLE", 1.1)
    monkeypatch.setattr(labels, "_better_calibrated", lambda scorer, *_: asked.append(scorer.facts.dtype) or True)
    tune(small.recipe(tmp_path, "llama", model__dtype="auto", method__calibrate="auto"), tmp_path / "run")
    assert asked == ["float32"]
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["calibrated"] is True


def test_losses_that_are_all_alike_say_nothing_of_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "mixed_is_faster", lambda device: True)
    recipe = writing.recipe(tmp_path, task__metric="exact_match", method__objective="reward", model__dtype="auto")
    tune(recipe, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert facts["dtype"] == "float32" and facts["rank_correlation"] is None


def test_two_losses_say_nothing_of_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MeZO's pair has one order or the other in any format."""
    monkeypatch.setattr(formats, "mixed_is_faster", lambda device: True)
    recipe = small.recipe(tmp_path, "llama", model__dtype="auto")
    recipe["method"] = {"name": "mezo", "budget": 4}
    tune(recipe, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert facts["dtype"] == "float32" and facts["rank_correlation"] is None


def test_auto_does_not_try_it_where_it_is_not_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "mixed_is_faster", lambda device: False)
    tune(small.recipe(tmp_path, "llama", model__dtype="auto"), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert facts["dtype"] == "float32"
    assert facts["rank_correlation"] is None


@pytest.mark.parametrize("dtype", ["mixed", "bfloat16"])
def test_a_run_in_another_format_predicts_what_it_measured(dtype: str, tmp_path: Path) -> None:
    result = tune(small.recipe(tmp_path, "llama", model__dtype=dtype), tmp_path / "run").result
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = load(tmp_path / "run").predict([row["text"] for row in rows])
    right = sum(answer.label == row["label"] for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) == pytest.approx(result.tuned.test, abs=1e-6)


@pytest.mark.slow
def test_search_over_an_8_bit_model(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    result = tune(small.recipe(tmp_path, "llama", model__quantize="int8", model__dtype="auto"), tmp_path / "run").result
    assert result.cost.candidates > 0
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["dtype"] == "mixed"
