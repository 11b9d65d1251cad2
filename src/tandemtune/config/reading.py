"""Reads recipes: gives every setting to the part that owns it, and reports all problems at once."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import tandemtune.methods as methods
from tandemtune import plugins
from tandemtune.config.overrides import Override, apply
from tandemtune.config.retired import without_retired
from tandemtune.config.schema import RunConfig, cut, shortened
from tandemtune.config.sections import SECTIONS, Findings, Tables, arranged, checked_section, stand_in
from tandemtune.config.task import answers_of, with_images
from tandemtune.config.then import with_entries
from tandemtune.errors import ConfigError, DataError
from tandemtune.plugins import near, near_or_all
from tandemtune.tasks.encodings import decoded

__all__ = ["SECTIONS", "arranged", "load_config", "load_with_notes", "recipes", "with_parts_of"]

RECIPES = "tandemtune.recipes"
ROWS = (".csv", ".tsv", ".jsonl", ".ndjson", ".jsonlines", ".parquet")
"""Endings of files of rows, which are no recipes."""
NEEDED = ("model", "task")
"""Sections that every recipe has; the others have defaults throughout."""


def load_config(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[Override] = (), *, ended: bool = False
) -> RunConfig:
    """Read a recipe.

    Args:
        recipe: a path of a TOML (or JSON) file, the name of a recipe that comes with the package, or a nested dict.
        overrides: ``section.key=value`` strings or (key, value) pairs; the section may be left out where the key is unique.
        ended: it comes from the folder of a run that has ended, whose rewards may have gone, and settings may have been retired.

    Raises:
        ConfigError: lists every problem that was found.
    """
    return load_with_notes(recipe, overrides, ended=ended)[0]


def load_with_notes(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[Override] = (), *, ended: bool = False
) -> tuple[RunConfig, tuple[str, ...]]:
    """As `load_config`, with a sentence for each setting that has no effect with the parts that were chosen.

    Raises:
        ConfigError: lists every problem that was found.
    """
    plugins.load_plugins()
    source, tables = _read(recipe)
    found = Findings()
    found.problems += apply(tables, overrides)
    tables, retired = without_retired(tables)
    config = _checked(tables, found)
    if not ended:
        found.problems += retired
    if config is not None and not ended:
        found.problems += config.code_problems()
        if not found.wrong.get("task"):  # else it may be a consequence
            found.problems += [f"[task] {line}" for line in config.task.idle_problems()]
    if found.problems or config is None:
        raise ConfigError(list(dict.fromkeys(found.problems)), source)
    return config, tuple(found.unused)


def with_parts_of(config: RunConfig, method: str) -> RunConfig:
    """The same recipe with what another method tunes, and by whom; its own name and readout stay.

    Args:
        config: a recipe.
        method: a method's name; "" changes nothing.
    """
    if not method:
        return config
    tables = config.model_dump(mode="json")
    kept = {key: tables["method"][key] for key in ("name", "readout")}
    other = load_config({**tables, "method": {"name": method, "readout": kept["readout"]}}, ended=True).method
    return config.model_copy(update={"method": other.model_copy(update={"name": kept["name"]})})


def recipes() -> dict[str, Path]:
    """Recipes that come with the package: name -> file."""
    folder = Path(str(resources.files(RECIPES)))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


# ---- from tables to sections -------------------------------------------------------------------------------------


def _checked(tables: Mapping[str, Any], found: Findings) -> RunConfig | None:
    """All sections, each checked by itself, then what does not fit together; as far as it can be told in spite of problems."""
    for name in tables:
        if name not in SECTIONS:
            found.problems.append(f"[{name}]: unknown section{near_or_all(str(name), SECTIONS)}")
    if tables.get("method", {}) == {}:
        tables = {**tables, "method": {"name": methods.WHERE_NOTHING_IS_SAID}}
    method = tables["method"]
    named = method.get("name") if isinstance(method, Mapping) else None
    if isinstance(method, Mapping) and not {"name", "optimizer"} & method.keys():
        found.unused.append(
            f"[method] has settings and no name, so {methods.DEFAULT} is meant; a name says otherwise "
            f'(name = "{methods.WHERE_NOTHING_IS_SAID}" is what a recipe without [method] gets)'
        )
    preset = methods.METHODS.get(named if isinstance(named, str) else methods.DEFAULT)
    task = tables.get("task")
    if isinstance(task, Mapping):
        with suppress(DataError):  # told when the section is checked
            task = with_images(task)
            tables = {**tables, "task": task}
    answers = answers_of(task if isinstance(task, Mapping) else {})
    settings = preset.settings_for(answers) if preset else {}
    made: dict[str, Any] = {}
    for name, owner in SECTIONS.items():
        given = tables.get(name, {})
        if not isinstance(given, Mapping):
            found.problems.append(f"[{name}]: expected a section, got {shortened(given)}")
        elif name in NEEDED and name not in tables:
            found.problems.append(f"[{name}]: missing")
        else:
            table = arranged(name, given, settings.get(name, {}), found)
            if name == "method":
                table = with_entries(table, answers, found)
            made[name] = checked_section(name, owner, table, found)
            continue
        made[name] = stand_in(owner, {})
    if any(section is None for section in made.values()):
        return None
    config = RunConfig.model_construct(**made)  # the sections have been checked, or stand in for one that is wrong
    if (
        found.wrong.get("task") and config.task.answers != answers
    ):  # what stands in is answered otherwise, so that nothing can be told of what fits it
        return config
    for line in config.problems():
        words = set(re.findall(r"\w+", line))
        section = line[1:].partition("]")[0]
        named = any(key in found.wrong.get(other, ()) for other, key in re.findall(r"\[(\w+)\] (\w+)", line))
        if not named and not words & found.wrong.get(section, set()):  # else a consequence of what is told already
            found.problems.append(line)
    return config


# ---- reading -----------------------------------------------------------------------------------------------------


def _read(recipe: str | Path | Mapping[str, Any]) -> tuple[str, Tables]:
    if isinstance(recipe, Mapping):
        tables = {key: dict(value) if isinstance(value, Mapping) else value for key, value in recipe.items()}
        return "recipe", _named(tables)
    path = Path(recipe)
    known = recipes()
    if path.suffix.lower() in ROWS:
        raise ConfigError([f"a file of rows and no recipe: `tandemtune init {path}` makes one of it"], str(path))
    try:
        if not path.exists() and str(recipe) in known:
            path = known[str(recipe)]
        text, _ = decoded(path.read_bytes(), "the file")
        tables = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        here = [str(file) for file in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        hint = near(str(recipe), [*known, *here]) or f": expected a file, or one of {', '.join(known)}"
        raise ConfigError([f"no recipe {str(recipe)!r}{hint}"], str(recipe)) from None
    except (OSError, ValueError, RecursionError, DataError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, IsADirectoryError):
            reason = f"a folder (of images, a folder for each class, `tandemtune run quickstart-images task.train={path}` makes a run)"
        raise ConfigError(
            [f"cannot be read as {'JSON' if path.suffix == '.json' else 'TOML'}: {reason}"], cut(str(path), 200)
        ) from None
    if not isinstance(tables, dict):
        raise ConfigError([f"expected sections, found {type(tables).__name__}"], str(path))
    return str(path), _named(tables)


def _named(tables: Tables) -> Tables:
    """``model = "..."`` and the like are short for a section with that name."""
    short = {key: {"name": tables[key]} for key in ("model", "task", "method") if isinstance(tables.get(key), str)}
    return {**tables, **short}
