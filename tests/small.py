"""Runs that take a second: a tiny model and a few rows on disk, and the command line in this process."""

from __future__ import annotations

import atexit
import functools
import io
import json
import logging
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import transformers
import typer

import tandemtune
import tiny
from tandemtune import cli
from tandemtune.callbacks import Callback
from tandemtune.runs.journal import read_journal

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

commands = functools.cache(typer.main.get_command)
"""The commands of an application, built once: that takes longer than most calls."""
TEMPLATES = {"masked": "{text} . it was {mask} .", "causal": "{text} . it was {mask}"}
LABELS = {"negative": "terrible", "positive": "great"}


@functools.cache
def model_folder(name: str = "bert") -> Path:
    """A tiny random model and its tokenizer as a local folder, made once and removed at the end."""
    place = Path(tempfile.mkdtemp(prefix="tandemtune-tiny-")) / name
    owner = os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(place.parent, ignore_errors=True))
    tiny.model(name).save_pretrained(place)
    tiny.tokenizer("masked" if name in tiny.MASKED else "causal").save_pretrained(place)
    return place


def rows(count: int, seed: int = 0, labels: Sequence[str] = tuple(LABELS)) -> list[dict[str, str]]:
    """Rows of random words, `count` for each label, all with different texts."""
    source = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count * len(labels):
        texts[" ".join(source.choices(tiny.WORDS, k=source.randint(3, 8)))] = None
    return [{"text": text, "label": labels[i % len(labels)]} for i, text in enumerate(texts)]


def write_rows(path: Path, content: Sequence[Mapping[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


def recipe(place: Path, model: str = "bert", **changes: Any) -> dict[str, dict[str, Any]]:
    """A recipe over files in `place` (made if they are not there); `section__key=value` changes it."""
    for name, seed in (("train", 1), ("test", 2)):
        if not (place / f"{name}.jsonl").exists():
            write_rows(place / f"{name}.jsonl", rows(12, seed))
    kind = "masked" if model in tiny.MASKED else "causal"  # an encoder-decoder answers behind the text, too
    made: dict[str, dict[str, Any]] = {
        "model": {"name": str(model_folder(model)), "dtype": "float32", "threads": 1},
        "task": {
            "name": "small",
            "train": str(place / "train.jsonl"),
            "test": str(place / "test.jsonl"),
            "template": TEMPLATES[kind],
            "labels": dict(LABELS),
            "shots": 4,
            "seed": 5,
        },
        "method": {"name": "c-lora", "budget": 60, "d": 8, "r": 1, "popsize": 4, "dev_every": 2, "layers": "all"},
        "run": {"checkpoint_seconds": 0.0},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        table = made.setdefault(section, {})
        if value is None:
            table.pop(name, None)
        else:
            table[name] = value
    return made


def write_recipe(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a recipe as JSON."""
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def tune(recipe: Mapping[str, Any], folder: str | Path, *callbacks: Callback, **options: Any) -> dict[str, Any]:
    """A run of a recipe without anything on the screen; its result as JSON has it."""
    return _result(tandemtune.tune(recipe, out=folder, callbacks=callbacks, progress="none", **options))


def resume(folder: str | Path, *callbacks: Callback) -> dict[str, Any]:
    """The rest of a run; its result as JSON has it."""
    return _result(tandemtune.resume(folder, callbacks=callbacks, progress="none"))


def _result(run: tandemtune.Run) -> dict[str, Any]:
    assert run.result is not None
    return run.result.plain()


class Stop(Callback):
    """Stops a run as Ctrl-C does.

    Args:
        step: after this turn.
        lines: when its journal holds so many lines.
    """

    def __init__(self, step: int | None = None, lines: int | None = None) -> None:
        self._step, self._wanted, self._lines = step, lines, 0

    def on_start(self, record: Any, resumed: int, seconds: float) -> None:
        self._lines = max(1, resumed)

    def on_turn(self, record: Any, state: Any, seconds: float, recorded: bool) -> None:
        self._one_more(recorded)
        if record.step == self._step:
            raise KeyboardInterrupt

    on_race = on_turn

    def on_proposal(self, record: Any, state: Any, seconds: float, recorded: bool) -> None:
        self._one_more(recorded)

    on_hand_over = on_proposal

    def _one_more(self, recorded: bool) -> None:
        self._lines += not recorded
        if self._wanted is not None and self._lines >= self._wanted:
            raise KeyboardInterrupt


def journal(folder: Path) -> list[dict[str, Any]]:
    """Records of a run's journal, with all their fields."""
    return [record.model_dump(mode="json", by_alias=True) for record in read_journal(folder / "journal.jsonl")]


def artefacts(folder: Path) -> dict[str, bytes]:
    """Every file of a run that may not depend on when it was stopped, as bytes; times are taken out of the results."""
    found = {name: (folder / name).read_bytes() for name in ("journal.jsonl", "predictions.jsonl")}
    files = sorted(path for path in (folder / "adapter").rglob("*") if path.is_file())
    found |= {str(path.relative_to(folder)): path.read_bytes() for path in files}
    for name in ("result.json", "task_card.json"):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        for volatile in ("seconds", "peak_rss_mb"):
            del content["cost"][volatile]
        found[name] = json.dumps(content).encode()
    return found


@dataclass(frozen=True)
class Called:
    """What one call of the command line did."""

    code: int
    out: str
    err: str


def call(*arguments: str | Path, before: Callable[[], None] = lambda: None) -> Called:
    """The command line in this process: exit code and what it wrote."""
    out, err, kept = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["tandemtune", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), mock.patch.object(typer.main, "get_command", commands):
            before()
            cli.main()
            code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = kept
        logging.captureWarnings(False)
    return Called(code, out.getvalue(), err.getvalue())
