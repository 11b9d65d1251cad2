"""Small real runs of every kind, made once for all tests of reports."""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import small
from tandemtune import tune
from tandemtune.mentor import Reply

ROUNDS = {"rounds": 2, "round_steps": 4, "final_steps": 3, "snapshots": 2}
SHORT = {"prompt_tokens": 4}
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "c-lora": {},
    "lora": {"method": {"name": "lora", "steps": 7}},
    "prompt-tuning": {"method": {"name": "prompt-tuning", "steps": 7, **SHORT}},
    "p-tuning-v2": {"method": {"name": "p-tuning-v2", "steps": 7, **SHORT}},
    "bbt": {"method": {"name": "bbt", **SHORT}},
    "bbtv2": {"method": {"name": "bbtv2", **SHORT}},
    "bbt in rounds": {"method": {"name": "bbt", **SHORT}, "alternate": {**ROUNDS, "proposer": "mutation"}},
    **{
        f"maao {proposer}": {"method": {"name": "maao", **SHORT}, "alternate": {**ROUNDS, "proposer": proposer}}
        for proposer in ("mutation", "random", "perturbed", "none")
    },
    "proposer alone": {
        "method": {"name": "maao", **SHORT},
        "alternate": {
            **ROUNDS,
            "rounds": 4,
            "round_steps": 0,
            "final_steps": 0,
            "proposer": "mutation",
            "accept": "if_better",
        },
    },
    "mentor": {
        "method": {"name": "maao", "prompt_tokens": 8},
        "alternate": {**ROUNDS, "proposer": "mentor", "accept": "always"},
        "mentor": {"client": "endpoint", "mentor": "strange <mentor>"},
        "task": {"name": "<script>alert('task')</script> & \"x\""},
    },
}
ROUNDED = [kind for kind in KINDS if "alternate" in KINDS[kind] and kind != "maao none"]
SAID = '\n- the plot was fine\n- <script>alert(1)</script><img src=x onerror=alert(2)> film\n- a good film\n- </td></table> & "it\'s"'


class StrangeMentor:
    """Says what would hurt a page that believed it."""

    name = "strange <mentor>"
    offers = frozenset[str]()

    def ask(self, request):
        return Reply(SAID + f"\n- we saw it {'very ' * (request.seed % 3)}so\n", 10, 20, "stop", "<i>m</i>")

    def close(self):
        pass


@functools.cache
def place() -> Path:
    """A folder for all runs; it is left to the system's temporary folder until the process ends."""
    made = tempfile.TemporaryDirectory(prefix="tandemtune-reports-")
    _kept.append(made)
    return Path(made.name)


_kept: list[Any] = []


def recipe(kind: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """The recipe of a kind."""
    found = small.recipe(place(), **changes)
    for section, settings in KINDS[kind].items():
        found[section] = {**found.get(section, {}), **settings}
    return found


@functools.cache
def run(kind: str) -> Path:
    """The folder of a finished run of a kind; not to be changed."""
    folder = place() / kind.replace(" ", "-")
    with patch("tandemtune.mentoring._mentor_client", lambda config: StrangeMentor()):
        tune(recipe(kind), folder)
    return folder


def copy(kind: str, to: Path) -> Path:
    """A copy of a finished run, to be changed."""
    return Path(shutil.copytree(run(kind), to / "run"))


SWEEP: dict[str, dict[str, dict[str, Any]]] = {f"d={d}": {"method": {"d": d, "budget": 30}} for d in (8, 16, 200)}
MIXED: dict[str, dict[str, dict[str, Any]]] = {
    "c-lora": {},
    "prompt tuning": {"method": {"name": "prompt-tuning", "steps": 7, **SHORT}},
    "maao <mutation>": KINDS["maao mutation"],
}
TASKS: dict[str, dict[str, Any]] = {"first": {}, "second & last": {"template": "it was {mask} . {text}"}}


@functools.cache
def comparison(kind: str) -> tuple[Path, tuple[dict[str, Any], ...]]:
    """The folder and the records of a comparison: "sweep" (one task) or "mixed" (two tasks); not to be changed."""
    methods, tasks = (SWEEP, {"first": TASKS["first"]}) if kind == "sweep" else (MIXED, TASKS)
    out = place() / f"comparison-{kind}"
    records = []
    for (task, settings), (method, changes), seed in itertools.product(tasks.items(), methods.items(), (1, 2)):
        wanted = small.recipe(place())
        for section, more in changes.items():
            wanted[section] = {**wanted.get(section, {}), **more}
        wanted["task"] |= {**settings, "seed": seed}
        folder = out / slug(task) / slug(method) / str(seed)
        folder.parent.mkdir(parents=True, exist_ok=True)
        record = {"method": method, "task": task, "model": "", "seed": seed, "folder": str(folder)}
        records.append({**record, "result": tune(wanted, folder)})
    return out, tuple(records)


def slug(name: str) -> str:
    """A folder's name."""
    return re.sub("[^A-Za-z0-9.=]+", "-", name).strip("-")
