"""Written tokens: what stands in a run's ledger is what its search wrote, and no search writes more than is said before it."""

from __future__ import annotations

import json
import re

import pytest

import small
import writing
from grids import sparse
from small import Stop, artefacts, journal, resume, tune
from tandemtune.answers import texts
from tandemtune.evaluators.writing import Writer, tokens_of
from tandemtune.search.loop import Search

STEPS = {"method__budget": None, "method__layers": None, "method__d": None, "method__r": None, "method__popsize": None}
SHORT = {"task__stop": list("aeiou"), "task__max_new_tokens": 24}
"""Texts are far shorter than they may be, and of different lengths."""
REWARD = {"method__objective": "reward"}
ROUNDS = {"alternate__rounds": 2, "alternate__round_steps": 2, "alternate__final_steps": 2, "alternate__snapshots": 2}
RANDOM = {"alternate__proposer": "random"}
TRAINED = {**STEPS, "method__name": "maao", "method__lr": 0.1, "method__prompt_tokens": 3, "method__batch_size": 4}
OPRO = {**STEPS, "method__name": "opro", "method__prompt_tokens": 3, "alternate__rounds": 3}
TANDEM = {**STEPS, **REWARD, "method__name": "tandem", "method__prompt_tokens": 3, "method__popsize": 4}
TANDEM |= {"method__d": 8, "method__r": 1}
RACE = {"alternate__mode": "race", "alternate__race_steps": 1, "method__steps": 10}
THEN = {"method__then": [{"name": "c-lora", "objective": "reward", "budget": 16, "popsize": 4, "d": 8}]}
RUNS = {
    "reference": {},
    "reward": {**REWARD, "method__dev_every": 3},
    "lora": {**STEPS, "method__name": "lora", "method__steps": 4},
    "then": {**STEPS, "method__name": "lora", "method__steps": 3, **THEN},
    "guard": {**REWARD, "method__guard": "standard-error", "method__dev_every": 3},
    "maao": {**TRAINED, **ROUNDS, **RANDOM},
    "opro": {**OPRO, **RANDOM},
    "tandem": {**TANDEM, **ROUNDS, **RANDOM},
    "race": {
        **TANDEM,
        **RACE,
        **RANDOM,
        "alternate__rounds": 1,
        "alternate__round_steps": 2,
        "alternate__proposals": 3,
    },
    "elites": {**REWARD, "method__subsample": 2, "method__elites": 4},
    "kl": {**REWARD, "method__objective": {"kind": "reward", "kl_penalty": 1.0, "kl_rows": 4}},
}


@pytest.fixture
def written(monkeypatch) -> list[int]:
    """What a search writes, and the texts of its penalty, call by call."""
    found, inside = [], []

    def during(owner, name):
        real = getattr(owner, name)

        def called(*given, **named):
            inside.append(name)
            try:
                return real(*given, **named)
            finally:
                inside.pop()

        monkeypatch.setattr(owner, name, called)

    def write(self, *given, **named):
        made = real(self, *given, **named)
        if inside:
            found.append(tokens_of(made))
        return made

    real = Writer.write
    monkeypatch.setattr(Writer, "write", write)
    during(Search, "run")
    during(texts, "_kl_penalty")
    return found


@pytest.mark.few(5)
@pytest.mark.parametrize("name", RUNS)
def test_the_ledger_holds_all_that_a_search_wrote(tmp_path, written, name):
    result = tune(writing.recipe(tmp_path, **SHORT, **RUNS[name]), tmp_path / "run")
    assert written and result["cost"]["generated_tokens"] == sum(written)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", sparse(["guard", "opro", "race", "then"], ("opro", "race")))
def test_a_stopped_run_has_the_ledger_of_one_that_was_not(tmp_path, name):
    recipe = writing.recipe(tmp_path, **SHORT, **RUNS[name])
    tune(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "cut", Stop(lines=3))
    resume(tmp_path / "cut")
    assert artefacts(tmp_path / "cut") == artefacts(tmp_path / "whole")


def test_a_journal_whose_beginning_counts_nothing_goes_on(tmp_path):
    """As versions wrote it that did not count what was written before the first turn."""
    recipe = writing.recipe(tmp_path, **SHORT, **REWARD, run__checkpoint_seconds=1000.0)
    tune(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "cut", Stop(step=2))
    place = tmp_path / "cut" / "journal.jsonl"
    first, *others = map(json.loads, place.read_text().splitlines())
    begun = first.pop("costs")
    for line in others:
        line["costs"] = {name: count - begun.get(name, 0) for name, count in line["costs"].items()}
    small.write_rows(place, [first, *others])
    result = resume(tmp_path / "cut")
    whole = journal(tmp_path / "whole")[-2]["costs"]["generated"]
    assert result["cost"]["generated_tokens"] == whole - begun["generated"] and begun["generated"] > 0


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name", sparse(["maao", "opro", "tandem", "race", "elites", "kl", "then"], ("maao", "race", "kl"))
)
def test_validate_says_how_much_will_be_written_at_most(tmp_path, name):
    """Nearly all of it is written where answers are as long as they may be."""
    recipe = writing.recipe(tmp_path, **RUNS[name])
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", recipe))
    (said,) = re.findall(r"written, among these: at most about ([\d,.]+) in the search", called.out + called.err)
    assert "tokens: at most about" in called.out + called.err
    most, rounding = float(said.replace(",", "")), 1.05
    found = tune(recipe, tmp_path / "run")["cost"]["generated_tokens"]
    assert 0.5 * most <= found <= most * rounding
