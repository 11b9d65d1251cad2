"""Plans and records of a test's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tandemtune.errors import ConfigError
from tandemtune.compare.plan import Plan, read_plan

LOST = math.inf
OWN = """
[all]
"model.name" = "some/model"
[tasks]
small = { "task.train" = "train.jsonl", "task.template" = "{text} {mask}", "task.labels" = { no = "bad", yes = "good" } }
"""


def plan_of(place: Path, text: str, *overrides: str) -> Plan:
    (place / "plan.toml").write_text(text, encoding="utf-8")
    return read_plan(place / "plan.toml", place / "out", overrides)


def problems_of(place: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan_of(place, text, *overrides)
    return list(caught.value.problems)


def run_of(
    method: str, seed: int, test: float | None, task: str = "t", model: str = "", **changes: Any
) -> dict[str, Any]:
    """A record as a comparison has it; `changes` are of its result or, where that has no such key, of its cost."""
    record: dict[str, Any] = {"method": method, "task": task, "model": model, "seed": seed, "folder": "x"}
    if test is not None and math.isinf(test):
        return {**record, "failure": "lost"}
    cost = {"seconds": 60.0, "peak_rss_mb": 100.0, "forward_tokens": 10, "candidates": 5}
    result = {
        "metric": "accuracy",
        "zero_shot": {"test": 0.5, "calibrated": {"test": 0.6}},
        "tuned": {"test": test, "dev": 0.7, "calibrated": {"test": 0.65}},
        "majority": 0.4,
        "stop_reason": "budget",
        "versions": {"torch": "2"},
    }
    for key, value in changes.items():
        (result if key in result else cost)[key] = value
    return {**record, "result": {**result, "cost": cost}}
