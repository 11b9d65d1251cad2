"""Plans and records of a test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandemtune.comparisons.plan import Plan, read_plan
from tandemtune.errors import ConfigError

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
