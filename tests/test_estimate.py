"""What `tandemtune validate` says that a run will read is what the run then reads."""

from __future__ import annotations

import pytest
import transformers

import small
import writing
from tandemtune.config import load_config
from tandemtune.data_card import data_card
from tandemtune.models.load import may_share, read_config
from tandemtune.wiring import check

LONG = "it was the film and the plot and the acting , so we saw it and we loved it . {text} it was {mask}"
PHRASES = {"negative": "a very dull film", "positive": "great , very good plot and acting"}
SEARCH = {"method__order": "together", "task__template": LONG}


def told_and_read(recipe, place):
    config = load_config(recipe)
    expected = data_card(config, check(config)).expected
    cost = small.tune(recipe, place / "run")["cost"]
    return (expected.forward, expected.backward), (cost["forward_tokens"], cost["backward_tokens"])


@pytest.mark.grid
@pytest.mark.parametrize("model", ["llama", "t5"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": {"name": "lora", "steps": 4}},
        {"method": {"name": "bbt", "budget": 20, "d": 8, "popsize": 4, "prompt_tokens": 8}},
        {"task__choices": "phrases", "task__labels": PHRASES},
    ],
    ids=["words", "gradients", "a prompt", "choices"],
)
def test_prompts_that_begin_alike(tmp_path, model, changes):
    recipe = small.recipe(tmp_path, model, **SEARCH, method__budget=20)
    for key, value in changes.items():
        section, _, name = key.partition("__")
        recipe[section] = {**recipe[section], name: value} if name else value
    told, read = told_and_read(recipe, tmp_path)
    assert told == pytest.approx(read, rel=0.06)


@pytest.mark.few(4)
@pytest.mark.grid
@pytest.mark.parametrize(
    "changes",
    [
        {"name": "lora", "steps": 8, "batch_size": 2, "accumulate": 4},
        {"name": "c-lora", "kl_penalty": 0.1, "kl_rows": 8},
        {"name": "c-lora", "popsize": 8, "elites": 2, "subsample": 2, "budget": 48},
        {"name": "c-lora", "readout": "ridge", "judge": "readout"},
    ],
    ids=["accumulate", "kl", "elites", "judge"],
)
def test_what_beside_the_candidates_costs(changes, tmp_path):
    recipe = small.recipe(tmp_path, "llama")
    kept = {} if changes["name"] == "lora" else recipe["method"]
    recipe["method"] = {**kept, **changes}
    (forward, backward), (read, back) = told_and_read(recipe, tmp_path)
    assert 0.75 < read / forward < 1.2, (read, forward)
    assert back == pytest.approx(backward, rel=0.2)


@pytest.mark.parametrize("model", ["llama", "t5"])
@pytest.mark.parametrize("objective", ["ce", "reward"])
def test_texts(tmp_path, model, objective):
    recipe = writing.recipe(tmp_path, model, **SEARCH, method__objective=objective, method__budget=20)
    told, read = told_and_read(recipe, tmp_path)
    assert told == pytest.approx(read, rel=0.06)


def test_a_model_that_cannot_be_told_positions_shares_nothing():
    assert may_share(read_config(str(small.model_folder("llama")), None))
    assert not may_share(transformers.BloomConfig())


def test_a_prompt_beside_answers_is_limited_as_in_a_run(tmp_path):
    recipe = writing.recipe(tmp_path, task__max_new_tokens=50)
    config = load_config(recipe)
    (lengths,) = {part.lengths.limit for part in data_card(config, check(config)).report.parts.values()}
    assert lengths == 64 - 50


def test_templates_that_may_be_read_together_count_as_three(tmp_path):
    several = {"task__templates": [f"{text} {{text}} {{mask}}" for text in ("it", "so", "very", "a film")]}
    recipe = {**small.recipe(tmp_path, "llama", **several), "method": {"name": "readout"}}

    def scored(together):
        config = load_config({**recipe, "task": {**recipe["task"], "together": together}})
        return data_card(config, check(config)).expected.scored

    assert scored("auto") == scored(3) == 3 * scored(1)
