"""Runs that end by their tokens: what rounds share."""

from __future__ import annotations

import small


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
