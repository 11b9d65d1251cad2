"""Before a search begins a run says how long it will take."""

from __future__ import annotations

import re

import pytest

import small
import writing
from tandemtune.callbacks import Callback
from tandemtune.config.schema import UNBOUNDED


class Lines(Callback):
    """What a run said before its start."""

    def __init__(self):
        self.said, self.started = [], False

    def on_progress(self, text):
        if not self.started:
            self.said.append(text)

    def on_start(self, record, resumed, seconds):
        self.started = True

    @property
    def forecast(self):
        return [text for text in self.said if "would take about" in text or "will take about" in text]


@pytest.mark.grid
@pytest.mark.parametrize(
    ("method", "settings", "amount"),
    [
        ("c-lora", {}, "60 candidates"),
        ("lora", {"steps": 4, "budget": None, "d": None, "popsize": None}, "4 steps"),
        ("mezo", {"steps": 3, "budget": None, "d": None, "popsize": None, "layers": None, "r": None}, "3 steps"),
    ],
)
@pytest.mark.parametrize("model", ["bert", "t5"])
def test_a_run_says_how_long_it_will_take(method, settings, amount, model, tmp_path):
    changes = {f"method__{name}": value for name, value in settings.items()}
    lines = Lines()
    small.tune(small.recipe(tmp_path, model, method__name=method, **changes), tmp_path / "run", lines)
    assert len(lines.forecast) == 1 and amount in lines.forecast[0]
    assert re.search(r"about \d+ (s|min) here", lines.forecast[0])


def test_it_says_how_much_will_be_written_at_most(tmp_path):
    """Texts of candidates that are judged by them, and in any search those of looks at dev rows."""
    most = {}
    for objective in ("reward", "ce"):
        lines, folder = Lines(), tmp_path / objective
        recipe = writing.recipe(tmp_path, method__objective=objective, method__budget=20, method__dev_every=2)
        result = small.tune(recipe, folder, lines)
        (found,) = re.findall(r"20 candidates and up to ([\d,]+) written tokens", lines.forecast[0])
        most[objective] = int(found.replace(",", ""))
        start = small.journal(folder)[0]["costs"]["generated"]
        assert 0 < result["cost"]["generated_tokens"] - start <= most[objective]
    assert most["reward"] > 4 * most["ce"]


def test_it_says_when_time_ends_the_search_sooner(tmp_path):
    lines = Lines()
    recipe = small.recipe(tmp_path, method__budget=4_000_000, run__max_seconds=0.05)
    small.tune(recipe, tmp_path / "run", lines)
    assert "the search ends after 0.05 s" in lines.forecast[0] and "min here" in lines.forecast[0]


@pytest.mark.parametrize(
    ("settings", "unit"),
    [
        ({"method__budget": 4_000_000}, "candidates"),
        ({"method__budget": UNBOUNDED}, "candidates"),
        ({"method__name": "lora", "method__steps": 4_000_000, "method__batch_size": 4}, "gradient_steps"),
    ],
    ids=["candidates", "nothing else", "steps"],
)
def test_tokens_end_a_search_sooner(settings, unit, tmp_path):
    lines = Lines()
    recipe = small.recipe(tmp_path, "llama", run__max_forward_tokens=5_000, **settings)
    result = small.tune(recipe, tmp_path / "run", lines)
    (said,) = lines.forecast
    done = int(re.search(r"for about ([\d,]+) ", said)[1].replace(",", ""))
    assert result["stop_reason"] == "max_forward_tokens" and "max_forward_tokens" in said
    assert done == pytest.approx(result["cost"][unit], rel=0.35)


def test_nothing_is_said_where_nothing_is_searched(tmp_path):
    lines = Lines()
    small.tune({**small.recipe(tmp_path), "method": {"name": "readout"}}, tmp_path / "run", lines)
    assert lines.started and not lines.forecast
