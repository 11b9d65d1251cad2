"""Runs that end by their tokens: what rounds share, what fireworks plan with, what an overrun says."""

from __future__ import annotations

import pytest

import small
from tandemtune.config import load_config
from tandemtune.errors import ConfigError


def test_the_last_stretch_has_its_share(tmp_path):
    """Without shares, the first rounds would use up all tokens."""
    rounds = {"alternate__rounds": 3, "alternate__round_steps": 4, "alternate__final_steps": 8}
    recipe = small.recipe(
        tmp_path, "llama", method__name="maao", method__layers=None, method__prompt_tokens=2, method__dev_every=1,
        alternate__proposer="random", **rounds,
    )  # fmt: skip
    whole = small.tune(recipe, tmp_path / "whole")["cost"]
    limit = (whole["forward_tokens"] + whole["backward_tokens"]) * 2 // 3
    result = small.tune({**recipe, "run": {**recipe["run"], "max_forward_tokens": limit}}, tmp_path / "short")
    records = small.journal(tmp_path / "short")
    events = [record["event"] for record in records if record["event"] in ("step", "proposal")]
    assert events.count("proposal") == 3
    last = max(i for i, event in enumerate(events) if event == "proposal")
    assert events[last + 1 :] and set(events[last + 1 :]) == {"step"}
    assert result["stop_reason"] == "max_forward_tokens"


def test_an_overrun_is_told(tmp_path):
    recipe = small.recipe(tmp_path, "llama", run__max_forward_tokens=1)
    result = small.tune(recipe, tmp_path / "run")
    (note,) = [note for note in result["notes"] if "max_forward_tokens" in note]
    assert f"{result['cost']['forward_tokens']:,} tokens were used of 1 " in note
    free = small.tune(small.recipe(tmp_path, "llama", run__max_forward_tokens=10**9), tmp_path / "free")
    assert not [note for note in free["notes"] if "max_forward_tokens" in note]


def test_a_warm_start_out_of_a_saddle_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='set factors to "b"'):
        load_config(small.recipe(tmp_path, "llama", method__warm_start=2))
    load_config(small.recipe(tmp_path, "llama", method__warm_start=2, method__factors="b"))
