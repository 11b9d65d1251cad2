"""Runs whose model lies on a device that is none (`elsewhere.py`): nothing of it is mixed with what lies on the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EVERY = (
    "test_methods.py::test_every_method_runs_and_predicts_what_it_scored",
    "test_readout_runs.py",
    "test_text_runs.py",
    "test_race.py",
)
SOME = (
    "test_methods.py::test_every_method_takes_a_readout_at_its_end[c-lora]",
    "test_methods.py::test_every_method_takes_a_readout_at_its_end[lora]",
)
TYPES = "not lozo and not full and not stopped"
"""Methods among all weights ask for the type of a weight, which is none there."""


NUMBERS = pytest.mark.parametrize("single", ["", "1"], ids=["with float64", "without"])


def ended(tests: tuple[str, ...], single: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "0",
            "-p",
            "elsewhere",
            *options,
            *(str(HERE / one) for one in tests),
        ],
        cwd=HERE.parent,
        env={**os.environ, "SINGLE": single, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@NUMBERS
def test_runs_on_another_device(single):
    done = ended(SOME, single)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@NUMBERS
def test_every_kind_of_run_on_another_device(single):
    done = ended(EVERY, single, "-k", TYPES)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
