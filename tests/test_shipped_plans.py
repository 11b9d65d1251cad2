"""The plans that come with the repository can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from grids import sparse
from tandemtune.comparisons.plan import read_plan
from tandemtune.methods import METHODS

PLANS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.toml"))


@pytest.mark.parametrize(
    "plan", sparse(PLANS, [plan for plan in PLANS if plan.stem != "race_small"]), ids=lambda path: path.stem
)
def test_a_plan_is_fine(plan, tmp_path):
    found = read_plan(plan, tmp_path)
    assert len(found.cells) >= 9
    assert found.baseline in found.methods


def test_the_family_is_the_whole_family():
    found = read_plan(next(path for path in PLANS if path.stem == "family"), Path("runs"))
    after_a_readout = {"auto", "es-lora", "mezo-gv", "lozo", "fzoo"}  # in searches_with_readout
    assert {cell.config.method.name for cell in found.cells} == set(METHODS) - after_a_readout


def test_the_papers_tasks_are_all_there():
    found = read_plan(next(path for path in PLANS if path.stem == "paper_tasks"), Path("runs"))
    assert {cell.task for cell in found.cells} == {"sst2", "yelp", "agnews", "dbpedia", "trec", "mrpc", "snli", "rte"}
    assert len({cell.model for cell in found.cells}) == 3
