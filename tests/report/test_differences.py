"""Differences between methods of finished comparisons, out of their folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import made
import pytest

import differences

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "differences.py"


@pytest.fixture
def folder(tmp_path):
    """Two tasks of two seeds; one method is .1 and .2 above the other, whose runs began at .5 with a readout."""
    for task, gain in (("first", 0.1), ("second", 0.2)):
        for seed in (1, 2):
            for method, score in (("a", 0.6 + gain), ("b", 0.6)):
                run = made.run_of(method, seed, score, task, zero_shot_readout=made.scores(0.5, 0.4, 0.4))
                place = tmp_path / "all" / "model" / task / method / str(seed)
                place.mkdir(parents=True)
                (place / "result.json").write_text(run.result.model_dump_json(), encoding="utf-8")
    return tmp_path / "all" / "model"


def test_pairs_and_tasks_and_what_is_corrected(folder):
    runs = differences.read([folder, folder])  # the same runs twice are the same pairs
    first, second, third = differences.differences(runs, ["a - b", "a - b@readout", "b - a"], 1).splitlines()[2:]
    # four pairs of one sign: 2 of 16 flips are as far from zero; two tasks: 2 of 4; alone means no correction
    assert first == "| a - b | 4 | +0.150 | 0.125 |  | 4, 0 | 2, 0 | 0.500 | +0.100 to +0.200 |"
    assert second.startswith("| a - b@readout | 4 | +0.250 | 0.125 | 0.250 | 4, 0 |")
    assert third.startswith("| b - a | 4 | -0.150 | 0.125 | 0.250 | 0, 4 | 0, 2 |")


def test_models_are_told_apart(folder):
    runs = differences.read([folder.parent])
    assert {run.task for run in runs} == {"model/first", "model/second"}


@pytest.mark.slow
def test_the_script_prints_both_tables_and_says_what_there_is(folder):
    def call(*pairs):
        return subprocess.run(
            [sys.executable, SCRIPT, folder, "--pairs", *pairs, "--tasks", "second"], capture_output=True, text=True
        )

    found = call("a - b")
    assert "| a | 2 | 0.800 ± 0.000 (2) | 0.800 ± 0.000 |" in found.stdout and "+0.200 to +0.200" in found.stdout
    assert "there are a, b" in call("a - c").stderr and 'expected "A - B"' in call("a").stderr
