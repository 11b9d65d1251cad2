"""Malformed recipes, data and models: one readable message, exit code 2, and nothing left behind."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import images
import small
import tiny
import writing
from tandemtune import plugins
from tandemtune.config.parts import PARTS
from tandemtune.config.reading import SECTIONS

MOST = 3000
"""Longest message, in characters, that still counts as readable."""

Recipe = dict[str, dict[str, Any]]
Change = Callable[[Path, Recipe], Any]


@dataclass(frozen=True)
class Case:
    """Something malformed.

    Args:
        name: what is wrong.
        change: changes a good recipe or the files in its folder; may return other content for the recipe file.
        late: only the model or its tokenizer can tell, so `validate` is content.
        tells: words that the message must hold.
        suffix: ending of the recipe file.
        overrides: given on the command line.
        code: exit code of a run.
    """

    name: str
    change: Change
    late: bool = False
    tells: str = ""
    suffix: str = ".json"
    overrides: tuple[str, ...] = ()
    code: int = 2


CASES: list[Case] = []


def case(name: str, change: Change, **options: Any) -> None:
    CASES.append(Case(name, change, **options))


# --- files that are no recipe -----------------------------------------------------------------------------

for name, content in {
    "no TOML": b"[model\nname=",
    "a key twice": b"[model]\nname='a'\nname='b'\n",
    "a section twice": b"[model]\n[model]\n",
    "broken UTF-8": b"[model]\nname = '\xff\xfe'\n",
    "UTF-16": "[model]\n".encode("utf-16"),
    "zeros": b"\0" * 1000,
    "a binary file": bytes(range(256)) * 40,
    "an archive": b"PK\x03\x04" + bytes(range(200)),
    "deep arrays": b"a = " + b"[" * 50_000,
    "deep tables": b"[" + b"a." * 20_000 + b"a]\n",
    "a number of 10,000 digits": b"[task]\nseed = " + b"9" * 10_000,
    "nothing": b"",
    "a comment only": b"# nothing\n",
    "one long line": b"x" * 100_000,
    "a long key": b"[model]\n" + b"k" * 100_000 + b" = 1\n",
    "a long value": b"[model]\nname = 'x'\nkind = '" + b"v" * 100_000 + b"'\n",
    "a date": b"[model]\nname = 2020-01-01\n[task]\nname = 'sst2'\n",
    "an array of tables": b"[[model]]\nname = 'x'\n[[task]]\nname = 'sst2'\n",
}.items():
    case(f"TOML: {name}", lambda place, recipe, content=content: content, suffix=".toml")

for name, content in {
    "cut": b'{"model": {"name": "x"',
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "a string": b'"model"',
    "deep": b"[" * 100_000,
    "deep objects": b'{"model":' * 100_000,
    "trailing": b"{} {}",
    "broken UTF-8": b'{"model": "\xff"}',
    "a number of 10,000 digits": b'{"task": {"seed": ' + b"9" * 10_000 + b"}}",
    "half of a surrogate pair": b'{"model": {"name": "\\ud800"}, "task": {"name": "sst2"}, "x": 1}',
}.items():
    case(f"JSON: {name}", lambda place, recipe, content=content: content)


def as_folder(place: Path, recipe: Recipe) -> None:
    (place / "recipe.json").mkdir()


case("a folder as recipe", as_folder, tells="cannot be read")
case("no recipe", lambda place, recipe: ..., tells="no recipe")

# --- every key with values of another kind ----------------------------------------------------------------

TEXT: tuple[Any, ...] = (3, True, 1.5, ["a"], {"a": "b"})
COUNT: tuple[Any, ...] = ("many", True, 1.5, -1, ["a"], {}, float("nan"))
NUMBER: tuple[Any, ...] = ("much", True, -1.0, [1.0], float("nan"), float("inf"))
CHOICE: tuple[Any, ...] = ("nonsense", 3, True, [])
WRONG: dict[str, tuple[Any, ...]] = {
    "model.name": (*TEXT, "", None),
    "model.kind": CHOICE,
    "model.dtype": (*CHOICE, None),
    "model.quantize": (*CHOICE, "int4"),
    "model.device": (*TEXT, ""),
    "model.target": ("query", [], [3], {}),
    "model.revision": TEXT,
    "model.threads": (*COUNT, 0, 10**9),
    "model.compile": CHOICE,
    "model.tf32": ("yes", 1, []),
    "task.name": (*TEXT[:3], "pypi:nothing"),
    "task.train": (*TEXT, None),
    "task.test": TEXT,
    "task.dev": TEXT,
    "task.data": TEXT,
    "task.template": (*TEXT, None, "", "{text}", "{mask}", "{text} {mask} {mask}", "{text {mask}", "{} {mask} {text}"),
    "task.templates": (
        3,
        True,
        "x",
        {},
        [3],
        [{"template": 3}],
        [{"labels": {}}],
        [{"template": "{text} {mask}", "labels": {"a": "b"}}],
    ),
    "task.short_classes": CHOICE,
    "task.blank_rows": CHOICE,
    "task.together": (*COUNT, 0, 3, "auto"),
    "task.labels": (3, [], {}, {"a": "b"}, {"a": 1, "b": 2}, {"a": {}, "b": "c"}, {"a": [], "b": []}, None),
    "task.label_column": (*TEXT, "none"),
    "task.test_share": (*NUMBER, 0.0, 1.0),
    "task.truncate": CHOICE,
    "task.metric": (*CHOICE, "f1"),
    "task.positive": TEXT,
    "task.shots": (*COUNT, 0, 10**30),
    "task.dev_shots": (*COUNT, 0),
    "task.seed": COUNT,
    "task.max_tokens": (*COUNT, 3),
    "task.test_rows": (*COUNT, 0),
    "method.name": (*CHOICE, None),
    "method.budget": (*COUNT, 0, 4),
    "method.d": (*COUNT, 0, 6, 10**12),
    "method.r": (*COUNT, 0, 10**12),
    "method.alpha": (*NUMBER, 0.0, 1e300),
    "method.sigma": (*NUMBER, 0.0, 1e300, 1e-320),
    "method.popsize": (*COUNT, 3, 10**12),
    "method.scale": CHOICE,
    "method.order": CHOICE,
    "method.subspace": CHOICE,
    "method.width": (*COUNT, 0),
    "method.demonstrations": (*COUNT, 0),
    "method.variant": CHOICE,
    "method.amplitude": (*NUMBER, 0.0),
    "method.shrink": (*NUMBER, 0.0, 1.5),
    "method.sigma_end": (*NUMBER, 0.0, 1e300),
    "method.noise_rank": (*COUNT, 0),
    "method.lazy": (*COUNT, 0),
    "method.share": (*NUMBER, 0.0, 1.0),
    "method.warm_start": COUNT,
    "method.incumbent": CHOICE,
    "method.factors": CHOICE,
    "method.guard": CHOICE,
    "method.refused": CHOICE,
    "method.judge": CHOICE,
    "method.then": (
        "es",
        3,
        True,
        {},
        [3],
        [{"steps": 0}],
        [{"optimizer": "es", "tunable": "bias"}],
        [{"name": "nobody"}],
    ),
    "method.score": CHOICE,
    "method.l2_penalty": NUMBER,
    "method.kl_penalty": NUMBER,
    "method.kl_rows": (*COUNT, 0),
    "method.calibrate": ("yes", 1, None, "Auto"),
    "method.ema": (*NUMBER, 1.0),
    "method.subsample": (*COUNT, 0),
    "method.elites": COUNT,
    "method.layers": ("some", "last:0", "last:x", [], [-1], [0, 0], ["0"], 3, True, {}),
    "method.covariance": CHOICE,
    "method.objective": CHOICE,
    "method.readout": CHOICE,
    "method.type": (3, True, [], {}, None),
    "method.config": (3, True, "x", [1]),
    "method.prior": ("some", 3, True, {}),
    "method.keep": CHOICE,
    "method.all_right": CHOICE,
    "method.rewards": (3, True, {}, {"x": "y"}),
    "method.sampled_at": (*NUMBER,),
    "method.grades": (*COUNT, 0, 101),
    "method.rubric": (3, True, [], {}),
    "method.show_references": ("yes", 1, []),
    "method.views": ("last", 3, True, {}, [3]),
    "method.dev_every": (*COUNT, 0),
    "method.patience": (*COUNT, 0),
    "task.scored_rows": (*COUNT, 0),
    "task.choices": CHOICE,
    "method.tunable": CHOICE,
    "method.optimizer": CHOICE,
    "method.steps": (*COUNT, 0),
    "method.lr": (*NUMBER, 0.0),
    "method.batch_size": (*COUNT, 0),
    "method.schedule": CHOICE,
    "method.warmup": COUNT,
    "method.weight_decay": NUMBER,
    "method.clip": (*NUMBER, 0.0),
    "method.accumulate": (*COUNT, 0),
    "method.prompt_tokens": (*COUNT, 0, 10**6),
    "method.prompt_text": TEXT,
    "method.vocabulary": CHOICE,
    "method.projection": CHOICE,
    "alternate.rounds": COUNT,
    "alternate.mode": CHOICE,
    "alternate.actions": ("yes", 1, []),
    "alternate.race_steps": (*COUNT, 0),
    "alternate.round_steps": COUNT,
    "alternate.final_steps": COUNT,
    "alternate.proposer": CHOICE,
    "alternate.snapshots": (*COUNT, 0),
    "alternate.proposals": (*COUNT, 0),
    "alternate.select": CHOICE,
    "alternate.accept": CHOICE,
    "alternate.heat": (*NUMBER, 0.0),
    "alternate.reset_moments": ("yes", 1, []),
    "alternate.noise": (*NUMBER, 0.0),
    "method.margin": (*NUMBER, 0.0),
    "alternate.manual": TEXT,
    "alternate.definition": TEXT,
    "mentor.client": CHOICE,
    "mentor.mentor": (*TEXT, "pypi:nothing"),
    "mentor.style": CHOICE,
    "mentor.thinking": ("yes", 1, []),
    "mentor.max_completion_tokens": (*COUNT, 0),
    "mentor.wait": NUMBER,
    "mentor.base_url": TEXT,
    "mentor.key_env": TEXT,
    "mentor.creativity": NUMBER,
    "mentor.timeout": (*NUMBER, 0.0),
    "mentor.retries": COUNT,
    "mentor.cpu_threads": (*COUNT, 0),
    "mentor.context": (*COUNT, 0, 255),
    "mentor.token_cap": (*COUNT, 0),
    "mentor.money_cap": (*NUMBER, 0.0),
    "mentor.price_in": NUMBER,
    "mentor.price_out": NUMBER,
    "mentor.currency": TEXT,
    "mentor.show_rows": COUNT,
    "mentor.on_failure": CHOICE,
    "mentor.max_failures": (*COUNT, 0),
    "run.executor": CHOICE,
    "run.shard": (*COUNT, 0),
    "run.address": (3, True, [], {}),
    "run.workers": (*COUNT, 0),
    "run.cpus": (*NUMBER, 0.0),
    "run.gpus": NUMBER,
    "run.late": (*NUMBER, 1.0),
    "run.start_seconds": (*NUMBER, 0.0),
    "run.max_memory": (*NUMBER, 0.0),
    "run.max_seconds": (*NUMBER, 0.0),
    "run.report_to": (3, True, {}, [3], "nonsense"),
    "task.unseen_share": (*NUMBER, 0.0, 1.0),
    "task.answer": (3, True, [], {}),
    "task.answer_schema": (3, True, []),
    "task.chat": (3, "x", [], {}),
    "task.system": TEXT,
    "task.chat_arguments": (3, "x", []),
    "task.max_new_tokens": (*COUNT, 0),
    "task.references": (*COUNT, 0),
    "task.reward_seconds": (*NUMBER, 0.0),
    "task.stop": ("x", 3, True, {}, [3]),
    "run.max_generated_tokens": (*COUNT, 0),
    "run.yardsticks": ("x", 3, True, {}, [3], ["nonsense"]),
    "task.class_weights": ("x", 3, True, [], {"positive": 0}),
    "run.max_forward_tokens": (*COUNT, 0),
    "run.checkpoint_seconds": NUMBER,
}


def put(recipe: Recipe, key: str, value: Any) -> None:
    section, _, name = key.partition(".")
    recipe.setdefault(section, {})[name] = value


PROMPT, ADAMW, FIREWORKS = {"tunable": "prompt"}, {"optimizer": "adamw"}, {"optimizer": "fireworks"}
OWNERS: dict[str, dict[str, Any]] = {
    "noise_rank": {"optimizer": "es", "tunable": "full", "subspace": "none", "order": "together"},
    "lazy": {
        "optimizer": {"kind": "spsa", "noise_rank": 2},
        "tunable": "full",
        "subspace": "none",
        "order": "together",
    },
    "share": {"optimizer": "guided-spsa"},
    "sigma_end": {"optimizer": "es"},
    **dict.fromkeys(("variant", "amplitude", "shrink"), FIREWORKS),
    **dict.fromkeys(("lr", "batch_size", "schedule", "warmup", "weight_decay", "clip", "accumulate", "steps"), ADAMW),
    **dict.fromkeys(("prompt_tokens", "prompt_text", "vocabulary", "projection"), PROMPT),
    "width": {"tunable": "adapter"},
    "demonstrations": {"tunable": "demonstrations", "optimizer": "none"},
    "margin": {"objective": "hinge"},
    "views": {"readout": "ridge"},
    "rewards": {"objective": "reward"},
    "sampled_at": {"objective": "reward"},
    "grades": {"objective": "reward"},
    "rubric": {"objective": "reward"},
    "show_references": {"objective": "reward"},
    "type": {"tunable": "peft"},
    "config": {"tunable": {"kind": "peft", "type": "IA3"}},
}
"""Parts that an option belongs to, where those of the good recipe do not have it."""


def put_wrong(recipe: Recipe, key: str, value: Any) -> None:
    """A setting with a wrong value in a recipe whose parts have it."""
    name = key.partition(".")[2]
    for noun, kind in OWNERS.get(name, {}).items() if key.startswith("method.") else ():
        put(recipe, f"method.{noun}", kind)
    if key == "alternate.noise":
        put(recipe, "alternate.proposer", "perturbed")
    if name in ("address", "workers", "cpus", "gpus", "late", "start_seconds"):
        put(recipe, "run.executor", "ray")
    put(recipe, key, value)


for key, values in WRONG.items():
    for value in values:
        shown = repr(value) if len(repr(value)) < 30 else "a long one"
        case(
            f"{key} = {shown}",
            lambda place, recipe, key=key, value=value: put_wrong(recipe, key, value),
            tells=key.partition(".")[2],
        )

for section in ("model", "task", "method", "run"):
    for value in (3, 1.5, [], True):
        case(f"[{section}] = {value!r}", lambda place, recipe, s=section, value=value: recipe.update({s: value}))
    case(f"[{section}] and a key too many", lambda place, recipe, s=section: recipe[s].update(nonsense=1))
case("no [model]", lambda place, recipe: recipe.pop("model") and None)
case("no [task]", lambda place, recipe: recipe.pop("task") and None)
case("a section too many", lambda place, recipe: recipe.update(methods={}))
case("a template of 100 kB", lambda place, recipe: put(recipe, "task.template", "{text} " + "it was " * 15_000))

for override in ("nonsense", "=", "name=x", "method.budget", "a.b.c=1", "method.budget=[", "task.seed=" + "9" * 9000):
    case(f"override {override[:30]}", lambda place, recipe: None, overrides=(override,))

# --- data ---------------------------------------------------------------------------------------------------

GOOD = small.rows(12, seed=1)


def jsonl(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: Any, separator: str = ",", header: str = "text,label") -> bytes:
    lines = [
        header.replace(",", separator),
        *(separator.join([row["text"].replace(",", ";"), row["label"]]) for row in rows),
    ]
    return ("\n".join(lines) + "\n").encode()


def with_row(row: Any, at: int = 5) -> bytes:
    return jsonl([*GOOD[:at], row, *GOOD[at:]])


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("train.jsonl", b"", "empty"),
    "blank": ("train.jsonl", b"\n \n\t\n", "empty"),
    "broken UTF-8": ("train.jsonl", jsonl(GOOD) + b'{"text": "\xc3\xa9\xc3", "label": "positive"}\n', "line 25"),
    "cut UTF-16": ("train.jsonl", jsonl(GOOD).decode().encode("utf-16")[:-1], "UTF-16"),
    "zeros": ("train.jsonl", b"\0" * 500, "NUL"),
    "binary": ("train.jsonl", bytes(range(256)) * 30, "train.jsonl"),
    "no JSON": ("train.jsonl", b"text label\n", "line 1: not valid JSON"),
    "a cut row": ("train.jsonl", jsonl(GOOD)[:-20], "line 24: not valid JSON"),
    "a list as row": ("train.jsonl", with_row(["a", "positive"]), "line 6: expected a JSON object"),
    "a number as row": ("train.jsonl", with_row(3), "line 6"),
    "null as row": ("train.jsonl", with_row(None), "line 6"),
    "NaN as row": ("train.jsonl", with_row(float("nan")), "line 6"),
    "deep row": ("train.jsonl", jsonl(GOOD) + b'{"text": ' + b"[" * 100_000 + b"\n", "line 25"),
    "deep objects": ("train.jsonl", jsonl(GOOD) + b'{"text":' * 100_000 + b"\n", "line 25"),
    "a number of 10,000 digits": ("train.jsonl", b'{"text": ' + b"9" * 10_000 + b"}\n", "line 1"),
    "no text column": ("train.jsonl", jsonl({"txt": r["text"], "label": r["label"]} for r in GOOD), "no column 'text'"),
    "no label column": ("train.jsonl", jsonl({"text": row["text"]} for row in GOOD), "no column 'label'"),
    "one row without text": ("train.jsonl", with_row({"label": "positive"}), "line 6: no column 'text'"),
    "one row without label": ("train.jsonl", with_row({"text": "fine"}), "line 6: no column 'label'"),
    "text null": ("train.jsonl", with_row({"text": None, "label": "positive"}), "line 6, field 'text'"),
    "text NaN": ("train.jsonl", with_row({"text": float("nan"), "label": "positive"}), "line 6, field 'text'"),
    "text infinite": ("train.jsonl", with_row({"text": float("inf"), "label": "positive"}), "line 6, field 'text'"),
    "text list": ("train.jsonl", with_row({"text": ["a"], "label": "positive"}), "line 6, field 'text'"),
    "text object": ("train.jsonl", with_row({"text": {"a": 1}, "label": "positive"}), "line 6, field 'text'"),
    "text true": ("train.jsonl", with_row({"text": True, "label": "positive"}), "line 6, field 'text'"),
    "text blank": ("train.jsonl", with_row({"text": " \n ", "label": "positive"}), "line 6: every text is empty"),
    "text with NUL": ("train.jsonl", with_row({"text": "a\0b", "label": "positive"}), "NUL"),
    "half a surrogate pair": ("train.jsonl", with_row({"text": "a\ud800", "label": "positive"}), "surrogate"),
    "text too long": ("train.jsonl", with_row({"text": "good " * 300_000, "label": "positive"}), "characters"),
    "label unknown": ("train.jsonl", with_row({"text": "fine", "label": "positiv"}), "did you mean 'positive'?"),
    "label null": ("train.jsonl", with_row({"text": "fine", "label": None}), "line 6, field 'label'"),
    "label NaN": ("train.jsonl", with_row({"text": "fine", "label": float("nan")}), "line 6, field 'label'"),
    "label number": ("train.jsonl", with_row({"text": "fine", "label": 7}), "line 6, field 'label'"),
    "label list": ("train.jsonl", with_row({"text": "fine", "label": ["positive"]}), "line 6, field 'label'"),
    "label empty": ("train.jsonl", with_row({"text": "fine", "label": ""}), "line 6, field 'label'"),
    "label huge": ("train.jsonl", with_row({"text": "fine", "label": "x" * 100_000}), "line 6, field 'label'"),
    "one class": ("train.jsonl", jsonl({**row, "label": "positive"} for row in GOOD), "'negative' has 0"),
    "too few of a class": ("train.jsonl", jsonl(GOOD[:3]), "too few rows"),
    "copies": ("train.jsonl", jsonl(GOOD[:6] * 20), "too few rows with distinct texts"),
    "CSV empty": ("train.csv", b"", "empty"),
    "CSV header only": ("train.csv", b"text,label\n", "no rows"),
    "CSV other columns": ("train.csv", table(GOOD, header="a,b"), "no column 'text'"),
    "CSV a column twice": ("train.csv", table(GOOD, header="text,text"), "column"),
    "CSV ragged": ("train.csv", table(GOOD) + b"one,two,three\n", "line 26: 3 cells, expected 2"),
    "CSV open quote": ("train.csv", table(GOOD) + b'"open,positive\n', "broken CSV"),
    "CSV broken UTF-8": ("train.csv", table(GOOD) + b"\xc3\xa9\xc3,positive\n", "line 26"),
    "CSV label missing": ("train.csv", table(GOOD) + b"fine,\n", "line 26, field 'label'"),
    "CSV label nan": ("train.csv", table(GOOD) + b"fine,nan\n", "line 26, field 'label'"),
    "TSV ragged": ("train.tsv", table(GOOD, "\t") + b"one\n", "line 26"),
    "TSV of another kind": ("train.tsv", b"text label\n" + table(GOOD), "no column 'text'"),
    "Parquet that is none": ("train.parquet", b"PAR1" + b"\0" * 50, "Parquet"),
    "Parquet empty": ("train.parquet", b"", "empty"),
    "another ending": ("train.txt", jsonl(GOOD), "ending '.txt' is not known"),
    "no ending": ("train", jsonl(GOOD), "ending"),
    "xlsx": ("train.xlsx", b"PK\x03\x04", "ending"),
}


def spoil(place: Path, recipe: Recipe, key: str, name: str, content: bytes) -> None:
    (place / f"bad-{name}").write_bytes(content)
    recipe["task"][key] = str(place / f"bad-{name}")


for name, (file, content, tells) in BAD_FILES.items():
    for key in ("train", "dev"):
        case(
            f"{key} rows: {name}",
            lambda place, recipe, k=key, file=file, content=content: spoil(place, recipe, k, file, content),
            tells=tells,
        )


def point_at(key: str, source: str) -> Change:
    return lambda place, recipe: put(recipe, f"task.{key}", source.replace("PLACE", str(place)))


for key in ("train", "test", "dev"):
    case(f"{key}: missing", point_at(key, "PLACE/missing.jsonl"), tells="no such file")
    case(f"{key}: nearly the name", point_at(key, "PLACE/tran.jsonl"), tells="did you mean 'train.jsonl'?")
    case(f"{key}: a folder", point_at(key, "PLACE"), tells="is a folder")
    case(f"{key}: a path below a file", point_at(key, "PLACE/train.jsonl/x.jsonl"), tells="no such file")
    case(f"{key}: another ending", point_at(key, "PLACE/recipe.txt"), tells="no such file")
    case(f"{key}: no such home", point_at(key, "~nobody-has-this-name/x.jsonl"), tells="no usable path")
    case(f"{key}: an endless name", point_at(key, "x" * 10_000 + ".jsonl"))
    case(f"{key}: NUL in the name", point_at(key, "a\0b.jsonl"))
    case(f"{key}: a hub address that is none", point_at(key, "hub:a b:c:d"), tells="expected hub:NAME")
    case(f"{key}: empty", point_at(key, ""))
case("train: a device", point_at("train", "/dev/null"), tells="no regular file")


def set_task(**values: Any) -> Change:
    return lambda place, recipe: recipe["task"].update(values)


case(
    "the template shows the label", set_task(template="{text} {label} {mask}"), tells="the prompt would hold the answer"
)
case("a label word twice", set_task(labels={"negative": "bad", "positive": "bad"}), tells="used for both")
case("an empty label word", set_task(labels={"negative": "", "positive": "bad"}), tells="an empty label word")
case("a brace in a label word", set_task(labels={"negative": "{x}", "positive": "bad"}), tells="brace")
case("a line break in a label word", set_task(labels={"negative": "a\nb", "positive": "bad"}), tells="line break")
case("an empty label", set_task(labels={"": "good", "positive": "bad"}), tells="an empty name")
case("positive is no label", set_task(metric="f1", positive="posit"), tells="not one of the labels")
case("a known task without files", lambda place, recipe: recipe.update(task={"name": "sst2", "data": str(place)}))

# --- what the tokenizer can tell ---------------------------------------------------------------------------

case(
    "unknown label word",
    set_task(labels={"negative": "xyzzy", "positive": "great"}),
    tells="unknown to the tokenizer",
)
case("one of several unknown", set_task(labels={"negative": ["bad", "xyzzy"], "positive": "great"}))
case(
    "the same first piece",
    set_task(labels={"negative": "great film", "positive": "great plot"}),
    tells="begin with the same piece",
)
case("a template longer than max_tokens", set_task(max_tokens=4), tells="alone is longer than max_tokens")
case(
    "a template longer than the model",
    set_task(template="{text} " + "it was " * 50 + "{mask}"),
    tells="alone is longer",
)

# --- what only the model can tell ---------------------------------------------------------------------------

case("layers beyond the model", lambda p, r: put(r, "method.layers", [4]), late=True, tells="beyond the model's last")
case("more layers than the model has", lambda p, r: put(r, "method.layers", "last:5"), late=True, tells="has 4 layers")
case("a target that is none", lambda p, r: put(r, "model.target", ["q_proj", "v_proj"]), late=True, tells="q_proj")
case("a device that is none", lambda p, r: put(r, "model.device", "toaster"), tells="cannot be used here")
case("a device that is not here", lambda p, r: put(r, "model.device", "cuda:97"), tells="cuda:97")


def causal(template: str) -> Change:
    def change(place: Path, recipe: Recipe) -> None:
        put(recipe, "model.name", str(small.model_folder("gpt2")))
        put(recipe, "task.template", template)

    return change


case("a causal template goes on", causal("{text} it was {mask} film"), tells="must be the last word")
case("a causal template with text behind", causal("it was {mask} : {text}"), tells="must be the last word")


def a_model(spoilt: Callable[[Path], Any]) -> Change:
    def change(place: Path, recipe: Recipe) -> None:
        shutil.copytree(small.model_folder("bert"), place / "model")
        spoilt(place / "model")
        put(recipe, "model.name", str(place / "model"))

    return change


def edit_config(**values: Any) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")

    return edit


def cut(name: str, share: float) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return edit


def without_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def not_a_number(folder: Path) -> None:
    model = tiny.model("bert")
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.fill_(float("nan"))
    model.save_pretrained(folder)


case("no such model folder", lambda p, r: put(r, "model.name", str(p / "no-model")), tells="does not exist")
case("a model folder in no home", lambda p, r: put(r, "model.name", "~nobody-has-this-name/m"), tells="no usable path")
case("an empty model folder", a_model(lambda f: [path.unlink() for path in f.iterdir()]), tells="cannot be loaded")
case("a file as model", lambda p, r: put(r, "model.name", str(p / "train.jsonl")), tells="does not exist")
case("no config", a_model(lambda f: (f / "config.json").unlink()), tells="cannot be loaded")
case("a cut config", a_model(cut("config.json", 0.5)), tells="cannot be loaded")
case("an unknown model type", a_model(edit_config(model_type="nonsense")), tells="nonsense")
case("a model of pictures", a_model(edit_config(model_type="vit", architectures=["ViTModel"])), tells="is no masked")
case("no weights", a_model(lambda f: (f / "model.safetensors").unlink()), late=True, tells="cannot be loaded")
case("cut weights", a_model(cut("model.safetensors", 0.5)), late=True, tells="cannot be loaded")
case("empty weights", a_model(cut("model.safetensors", 0)), late=True, tells="cannot be loaded")
case("no tokenizer", a_model(without_vocabulary), late=True)
case("a cut tokenizer", a_model(cut("tokenizer.json", 0.5)), late=True)
case("weights of NaN", a_model(not_a_number), late=True, tells="no usable numbers")


# --- texts, choices, images, clusters ------------------------------------------------------------------------------


def written(model: str = "llama", **changes: Any) -> Change:
    """A recipe of texts, with changes; the folder stands for PLACE."""

    def change(place: Path, recipe: Recipe) -> None:
        for name, seed in (("train", 1), ("test", 2)):
            small.write_rows(place / f"{name}.jsonl", writing.rows(12, seed))
        writing.rewards_in(place)
        made = json.dumps(writing.recipe(place, model, **changes)).replace("PLACE", str(place))
        recipe.clear()
        recipe.update(json.loads(made))

    return change


def reward(name: str, **options: Any) -> dict[str, Any]:
    return {"method__objective": {"kind": "reward", "rewards": [f"PLACE/rewards.py:{name}"]}, **options}


def of_images(**changes: Any) -> Change:
    def change(place: Path, recipe: Recipe) -> None:
        made = images.recipe(place, **changes)
        recipe.clear()
        recipe.update(made)

    return change


case("texts: a masked model", written("bert"), tells="which writes no texts")
case("texts: a template goes on", written(task__template="{text} {mask} film"), tells="must be the last word")
case("texts: no such column", written(task__answer="answr"), tells="did you mean 'answer'?")
case("texts: nothing to judge by", written(task__answer=None, task__metric=None), tells="or answer, where it")
case(
    "texts: a schema that is none",
    written(task__metric="json_schema", task__answer_schema={"type": "x"}),
    tells="1 problem",
)
case("texts: no room for a prompt", written(task__max_new_tokens=62), tells="leave no room for a prompt")
case(
    "texts: no room in a decoder",
    written("bart", task__max_new_tokens=64),
    late=True,
    tells="max_new_tokens: answers of 64 tokens, behind 1 that the model's decoder begins with, are more than its 64 positions",
)
case("texts: a reward raises", written(**reward("raises")), late=True, tells="(completion 'great film'): KeyError")
case("texts: a reward of one row", written(**reward("short")), late=True, tells="gave 1 number for 2 texts")
case(
    "texts: a metric of words",
    written(task__metric="PLACE/rewards.py:word"),
    late=True,
    tells="expected a list of 2 numbers",
)
for weight in (float("nan"), float("inf"), None, True, [1]):
    case(
        f"texts: a weight of {weight}",
        written(method__objective={"kind": "reward", "rewards": {"token_f1": weight}}),
        tells="the weight of token_f1",
    )
for key, value in {"stop": ["."], "answer_schema": {"type": "object"}}.items():
    case(f"labels: {key}", set_task(**{key: value}), tells=f"{key}: for tasks that are answered with texts")
case("labels: written tokens", lambda p, r: put(r, "run.max_generated_tokens", 100), tells="nothing is written")
case(
    "choices: a masked model",
    lambda p, r: put(r, "task.choices", "phrases") or put(r, "method.readout", "none"),
    tells="which writes no texts",
)
case("images: chat", of_images(task__chat=True), tells="chat: images are compared with texts")
case("images: choices", of_images(task__choices="phrases"), tells="choices: an image has the class")
case(
    "a cluster that is not there",
    lambda p, r: put(r, "run.executor", {"kind": "ray", "address": "127.0.0.1:1"}),
    late=True,
    tells="cluster at 127.0.0.1:1 cannot be used" if find_spec("ray") else "ray needs the package ray",
    code=1 if find_spec("ray") else 2,
)


# --- the check ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with good data and a good recipe for it."""
    place = tmp_path_factory.mktemp("good")
    return place, small.recipe(place, method__budget=10, run__max_seconds=5.0)


def prepared(good: tuple[Path, Recipe], place: Path) -> Recipe:
    for name in ("train.jsonl", "test.jsonl"):
        shutil.copy(good[0] / name, place / name)
    recipe = copy.deepcopy(good[1])
    recipe["task"] |= {"train": str(place / "train.jsonl"), "test": str(place / "test.jsonl")}
    return recipe


def assert_refused(called: small.Called, what: str, codes: tuple[int, ...] = (2,)) -> None:
    assert called.code in codes, (what, called)
    lines = called.err.splitlines()
    assert lines and lines[0].startswith("tandemtune: "), (what, called.err[:MOST])
    assert all(line.startswith("  - ") for line in lines[1:]), (what, called.err[:MOST])
    assert "Traceback" not in called.err + called.out, what
    assert 20 < len(called.err) < MOST, (what, len(called.err))
    assert called.err.replace("\n", " ").isprintable(), (what, called.err[:MOST])


def test_every_setting_and_every_option_of_every_part_is_tried():
    assert len({case.name for case in CASES}) == len(CASES)
    settings = {f"{section}.{key}" for section, owner in SECTIONS.items() for key in owner.model_fields}
    settings |= {
        f"{section}.{key}"
        for section, nouns in PARTS.items()
        for noun in nouns
        for member in plugins.members(noun).values()
        for key, field in member.model_fields.items()
        if not field.exclude
    }
    assert set(WRONG) == settings


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused(case, good, tmp_path):
    recipe = prepared(good, tmp_path)
    content = case.change(tmp_path, recipe)
    path = tmp_path / f"recipe{case.suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is None and not path.exists():
        path.write_text(json.dumps(recipe), encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    called = small.call("validate", path, *case.overrides)
    if not case.late:
        assert_refused(called, f"validate: {case.name}")
        assert case.tells in called.err, called.err
        assert called.out == ""
    else:
        assert (called.code, called.err) == (0, ""), called
    called = small.call("run", path, *case.overrides, "--out", tmp_path / "deep" / "run")
    assert_refused(called, f"run: {case.name}", (case.code,))
    assert case.tells in called.err, called.err
    assert sorted(tmp_path.rglob("*")) == before, "something was left behind"


def test_the_good_recipe_is_good(good, tmp_path):
    path = small.write_recipe(tmp_path / "recipe.json", prepared(good, tmp_path))
    assert small.call("validate", path).code == 0
    assert small.call("run", path, "--out", tmp_path / "run").code == 0


@pytest.mark.slow
def test_long_lines_are_taken_and_cut(good, tmp_path):
    recipe = prepared(good, tmp_path)
    source = random.Random(3)
    rows = [{**row, "text": " ".join(source.choices(tiny.WORDS, k=25_000))} for row in GOOD]
    assert min(len(row["text"]) for row in rows) > 100_000
    small.write_rows(tmp_path / "train.jsonl", rows)
    called = small.call("run", small.write_recipe(tmp_path / "r.json", recipe), "--out", tmp_path / "run")
    assert called.code == 0, called.err
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert facts["train_tokens"] == 8 * 64, "64 positions is what the tiny model has"


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        [10**20, -(10**400), "x" * 5000, "{text}", "last:1", "~", "/", "..", "hub:x", "pypi:x", "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
SAFE = {"model.device", "model.threads", "method.budget", "run.max_seconds", "method.popsize", "task.train"}


@pytest.mark.parametrize("examples", [30, pytest.param(100, marks=pytest.mark.slow)])
def test_mutated_recipes_run_or_are_refused(examples, good, tmp_path):
    """Whatever is put in: either the run is done, or it is refused and leaves nothing."""

    @given(data=st.data())
    @settings(max_examples=examples, deadline=None, derandomize=True)
    def one(data):
        runs_or_is_refused(data, good, tmp_path)

    one()


def runs_or_is_refused(data, good, tmp_path):
    recipe = copy.deepcopy(good[1])
    for _ in range(data.draw(st.integers(1, 3))):
        section = data.draw(st.sampled_from(sorted(recipe)))
        if not isinstance(recipe[section], dict) or data.draw(st.integers(0, 19)) == 0:
            recipe[section] = data.draw(JUNK)
            continue
        key = data.draw(st.sampled_from([key for key in WRONG if key.startswith(section) and key not in SAFE]))
        recipe[section][key.partition(".")[2]] = data.draw(JUNK)
    path, folder = tmp_path / "recipe.json", tmp_path / "run"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    validated = small.call("validate", path)
    called = small.call("run", path, "--out", folder)
    if called.code == 0:
        assert validated.code == 0 and (folder / "result.json").exists()
        shutil.rmtree(folder)
        return
    assert_refused(called, repr(recipe))
    assert not folder.exists()


def rows_like(draw: Any) -> bytes:
    """Good rows with a few bytes changed, cut out or put in."""
    content = bytearray(jsonl(GOOD))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 2))
        kind = draw(st.sampled_from(["change", "cut", "insert"]))
        if kind == "change":
            content[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 40))]
        else:
            content[at:at] = draw(st.binary(min_size=1, max_size=6))
    return bytes(content)


@pytest.mark.parametrize("examples", [25, pytest.param(60, marks=pytest.mark.slow)])
def test_mutated_rows_are_taken_or_refused(examples, good, tmp_path):
    """Both happen; what `validate` takes, a run takes, and what one refuses the other refuses in the same words."""
    outcomes = set()

    @given(data=st.data())
    @settings(max_examples=examples, deadline=None, derandomize=True)
    def one(data):
        recipe = copy.deepcopy(good[1])
        (tmp_path / "rows.jsonl").write_bytes(rows_like(data.draw))
        recipe["task"]["train"] = str(tmp_path / "rows.jsonl")
        path = small.write_recipe(tmp_path / "recipe.json", recipe)
        checked = small.call("validate", path)
        made = small.call("run", path, "--out", tmp_path / "run", "--quiet")
        outcomes.add(checked.code)
        if checked.code:
            assert_refused(checked, "rows")
            assert "rows.jsonl" in checked.err and made == checked
            assert not (tmp_path / "run").exists()
        else:
            assert made.code == 0, made.err
            shutil.rmtree(tmp_path / "run")

    one()
    assert outcomes == {0, 2}


def test_a_hub_model_without_network(good, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    recipe = prepared(good, tmp_path)
    put(recipe, "model.name", "nobody-has-this-name/no-model")
    path = small.write_recipe(tmp_path / "recipe.json", recipe)
    called = small.call("run", path, "--out", tmp_path / "run")
    assert_refused(called, "hub", (1, 2))
    assert "nobody-has-this-name/no-model" in called.err and not (tmp_path / "run").exists()


def test_parquet_without_the_columns(good, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a": np.arange(3)}), tmp_path / "train.parquet")
    recipe = prepared(good, tmp_path)
    put(recipe, "task.train", str(tmp_path / "train.parquet"))
    called = small.call("run", small.write_recipe(tmp_path / "r.json", recipe), "--out", tmp_path / "run")
    assert_refused(called, "parquet")
    assert "no column 'text'" in called.err and not (tmp_path / "run").exists()
