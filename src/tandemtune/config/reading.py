"""Reads recipes: gives every setting to the part that owns it, and reports all problems at once."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

import tandemtune.methods as methods
from tandemtune import plugins
from tandemtune.config.schema import PARTS, RunConfig, cut, shortened
from tandemtune.config.task import answers_of
from tandemtune.errors import ConfigError, DataError, UsageError
from tandemtune.plugins import Member, Options, near
from tandemtune.tasks.encodings import decoded

RECIPES = "tandemtune.recipes"
SECTIONS: dict[str, type[Options]] = {
    name: owner for name, f in RunConfig.model_fields.items() if isinstance(owner := f.annotation, type)
}
NEEDED = ("model", "task")
"""Sections that every recipe has; the others have defaults throughout."""
S = TypeVar("S", bound=Options)
Tables = dict[str, Any]
Override = str | tuple[str, Any]


@dataclass
class _Findings:
    """What was found while a recipe was read.

    Args:
        problems: one sentence each.
        unused: settings that have no effect with the parts that were chosen.
        wrong: names of settings that cannot be used, by section.
    """

    problems: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    wrong: dict[str, set[str]] = field(default_factory=dict)


def load_config(recipe: str | Path | Mapping[str, Any], overrides: Sequence[Override] = ()) -> RunConfig:
    """Read a recipe.

    Args:
        recipe: a path of a TOML (or JSON) file, the name of a recipe that comes with the package, or a nested dict.
        overrides: ``section.key=value`` strings or (key, value) pairs; the section may be left out where the key is unique.

    Raises:
        ConfigError: lists every problem that was found.
    """
    return load_with_notes(recipe, overrides)[0]


def load_with_notes(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[Override] = ()
) -> tuple[RunConfig, tuple[str, ...]]:
    """As `load_config`, with a sentence for each setting that has no effect with the parts that were chosen.

    Raises:
        ConfigError: lists every problem that was found.
    """
    plugins.load_plugins()
    source, tables = _read(recipe)
    found = _Findings()
    found.problems += _apply(tables, overrides)
    config = _checked(tables, found)
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
    other = load_config({**tables, "method": {"name": method, "readout": kept["readout"]}}).method
    return config.model_copy(update={"method": other.model_copy(update={"name": kept["name"]})})


def recipes() -> dict[str, Path]:
    """Recipes that come with the package: name -> file."""
    folder = Path(str(resources.files(RECIPES)))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


# ---- from tables to sections -------------------------------------------------------------------------------------


def _checked(tables: Mapping[str, Any], found: _Findings) -> RunConfig | None:
    """All sections, each checked by itself, then what does not fit together; as far as it can be told in spite of problems."""
    for name in tables:
        if name not in SECTIONS:
            found.problems.append(
                f"[{name}]: unknown section{near(str(name), SECTIONS)}, expected {', '.join(SECTIONS)}"
            )
    if tables.get("method", {}) == {}:
        tables = {**tables, "method": {"name": methods.WHERE_NOTHING_IS_SAID}}
    method = tables["method"]
    named = method.get("name") if isinstance(method, Mapping) else None
    preset = methods.METHODS.get(named if isinstance(named, str) else methods.DEFAULT)
    task = tables.get("task")
    settings = preset.settings_for(answers_of(task if isinstance(task, Mapping) else {})) if preset else {}
    made: dict[str, Any] = {}
    for name, owner in SECTIONS.items():
        given = tables.get(name, {})
        if not isinstance(given, Mapping):
            found.problems.append(f"[{name}]: expected a section, got {shortened(given)}")
        elif name in NEEDED and name not in tables:
            found.problems.append(f"[{name}]: missing")
        else:
            table = arranged(name, given, settings.get(name, {}), found)
            made[name] = _section(name, owner, table, found)
            continue
        made[name] = _stand_in(owner, {})
    if any(section is None for section in made.values()):
        return None
    config = RunConfig.model_construct(**made)  # the sections have been checked, or stand in for one that is wrong
    for line in config.problems():
        words = set(re.findall(r"\w+", line))
        section = line[1:].partition("]")[0]
        named = any(key in found.wrong.get(other, ()) for other, key in re.findall(r"\[(\w+)\] (\w+)", line))
        if not named and not words & found.wrong.get(section, set()):  # else a consequence of what is told already
            found.problems.append(line)
    return config


def arranged(
    section: str, given: Mapping[str, Any], preset: Mapping[str, Any], found: _Findings | None = None
) -> Tables:
    """A section in which every option lies with the part that owns it, over a method's own settings.

    Args:
        section: its name.
        given: what a recipe says; options of parts may stand in the section itself.
        preset: what the method's name stands for.
        found: problems and settings without effect are added here.
    """
    found = found or _Findings()
    defaults = PARTS.get(section, {})
    table = {key: value for key, value in preset.items() if key not in defaults}
    parts = {noun: _part(noun, kind, given.get(noun), preset.get(noun)) for noun, kind in defaults.items()}
    if "subspace" in parts and "subspace" not in given and "subspace" not in preset:
        optimizer = _class_of("optimizer", parts["optimizer"])
        if optimizer is not None and getattr(optimizer, "uses", "") not in ("sampler", "estimator"):
            parts["subspace"] = {"kind": "none"}
    own = SECTIONS[section].model_fields
    for key, value in given.items():
        if key in parts:
            continue
        if key in own or not parts:
            table[key] = value
        else:
            _give(section, key, value, parts, given, found)
    return {**table, **parts}


def _part(noun: str, default: str, given: Any, preset: Any) -> Any:
    """A part's table: the recipe's over the method's where both mean the same member."""
    misplaced = isinstance(given, Member) and given.noun != noun
    given = given if misplaced else _as_table(given)
    if not (given is None or isinstance(given, Mapping)):
        return given  # explained when it is checked
    base = {"kind": default, **(preset or {})}
    if not given or given.get("kind", base["kind"]) == base["kind"]:
        return {**base, **(given or {})}
    return dict(given)


def _as_table(part: Any) -> Any:
    """A part as the table of what was said about it: of a name, of a member, or of a table; anything else as it is."""
    if isinstance(part, Member):
        return {"kind": plugins.address_of(type(part)), **part.model_dump(exclude_unset=True)}
    if isinstance(part, str):
        return {"kind": part}
    return dict(part) if isinstance(part, Mapping) else part


def _give(section: str, key: str, value: Any, parts: Tables, given: Mapping[str, Any], found: _Findings) -> None:
    """Put a setting that stands in the section itself where it belongs, above what a method's name stands for."""
    classes = {noun: _class_of(noun, part) for noun, part in parts.items()}
    owners = [noun for noun, owner in classes.items() if owner is not None and key in owner.model_fields]
    owners = [noun for noun in owners if not classes[noun].model_fields[key].exclude]  # type: ignore[union-attr]
    if len(owners) > 1:
        full = " or ".join(f"{section}.{noun}.{key}" for noun in owners)
        found.problems.append(f"[{section}] {key}: an option of the {' and of the '.join(owners)}, too: write {full}")
    elif owners:
        (noun,) = owners
        said = _as_table(given.get(noun))
        if isinstance(said, Mapping) and key in said and said[key] != value:
            found.problems.append(
                f"[{section}] {key}: {shortened(value)} here and {shortened(said[key])} in {section}.{noun}: leave one out"
            )
        parts[noun][key] = value
    elif None in classes.values():
        return  # the unknown member is a problem of its own
    else:
        others = [
            f"{noun} {name}"
            for noun in parts
            for name, member in plugins.members(noun).items()
            if key in member.model_fields and not member.model_fields[key].exclude
        ]
        if others:
            chosen = ", ".join(f"{noun} {part['kind']}" for noun, part in parts.items())
            found.unused.append(
                f"[{section}] {key}: no effect with {chosen}; it is an option of {', '.join(others[:4])}"
            )
            return
        options = [*SECTIONS[section].model_fields, *(k for c in classes.values() if c for k in c.model_fields)]
        found.problems.append(
            f"[{section}] {key}: unknown key{near(key, _keys(section))}, expected {', '.join(dict.fromkeys(options))}"
        )


def _class_of(noun: str, part: Any) -> type[Member] | None:
    try:
        found = plugins.find(noun, part["kind"])
    except (UsageError, TypeError, KeyError, AttributeError):
        return None
    return found if isinstance(found, type) else None


def _section(name: str, owner: type[S], table: Tables, found: _Findings) -> S | None:
    """A section; with the wrong settings left out if it can still be made, so that more problems can be found."""
    wrong = found.wrong.setdefault(name, set())
    for _ in range(100):
        try:
            return owner.model_validate(table)
        except ValidationError as error:
            before = set(wrong)
            for detail, lines in _told(name, owner, error.errors()):
                found.problems += [line for line in lines if not _follows(line, name, before)]
                place = [str(part) for part in detail["loc"]]
                if place and _removed(table, place):
                    wrong.add(place[1] if place[0] in PARTS.get(name, {}) and len(place) > 1 else place[0])
                if not place and detail["type"] == "value_error":  # names the setting itself
                    for line in str(detail["ctx"]["error"]).splitlines():
                        key = line.partition(":")[0]
                        if key in table and key in owner.model_fields:
                            del table[key]
                            wrong.add(key)
            if wrong == before:
                return _stand_in(owner, table)
    return None


def _stand_in(owner: type[S], table: Mapping[str, Any]) -> S | None:
    """A section whose required settings are missing or wrong, so that what does not fit elsewhere can be found all the same."""
    required = [key for key, f in owner.model_fields.items() if f.is_required()]
    if any(key in parts for key in required for parts in PARTS.values()):
        return None
    return owner.model_construct(**{**dict.fromkeys(required, ""), **table})


def _follows(line: str, section: str, wrong: set[str]) -> bool:
    """Whether a problem is that something is missing which was only left out because it is wrong, or because of its name."""
    key, _, said = line.removeprefix(f"[{section}] ").partition(": ")
    return said.startswith("missing") and (key in wrong or "name" in wrong)


def _removed(table: Tables, place: Sequence[str]) -> bool:
    """Take out of a table what stands at a place, at most two levels deep."""
    key, rest = place[0], place[1:]
    inner = table.get(key)
    if rest and isinstance(inner, dict) and "kind" in inner and rest[0] in inner:
        del inner[rest[0]]
        return True
    if isinstance(inner, dict) and "kind" in inner:
        table[key] = {"kind": next(parts[key] for parts in PARTS.values() if key in parts)}
        return bool(inner != table[key])
    return table.pop(key, None) is not None


# ---- reading -----------------------------------------------------------------------------------------------------


def _read(recipe: str | Path | Mapping[str, Any]) -> tuple[str, Tables]:
    if isinstance(recipe, Mapping):
        tables = {key: dict(value) if isinstance(value, Mapping) else value for key, value in recipe.items()}
        return "recipe", _named(tables)
    path = Path(recipe)
    known = recipes()
    try:
        if not path.exists() and str(recipe) in known:
            path = known[str(recipe)]
        text, _ = decoded(path.read_bytes(), "the file")
        tables = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        hint = near(str(recipe), known) or f": expected a file, or one of {', '.join(known)}"
        raise ConfigError([f"no recipe {str(recipe)!r}{hint}"], str(recipe)) from None
    except (OSError, ValueError, RecursionError, DataError) as error:
        reason = getattr(error, "strerror", None) or error
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


# ---- overrides ---------------------------------------------------------------------------------------------------


def _apply(tables: Tables, overrides: Sequence[Override]) -> list[str]:
    problems: list[str] = []
    for item in overrides:
        if isinstance(item, str):
            key, equals, text = item.partition("=")
            value = _value(text.strip())
        else:
            (key, value), equals = item, "="
            item = f"{key}={shortened(value)}"
        path = _path(key.strip()) if equals else None
        if path is None:
            hint = _near_key(key.strip()) if equals else ""
            problems.append(f"override {item!r}{hint}: expected section.key=value, for example method.budget=1000")
        elif isinstance(path, str):
            problems.append(f"override {item!r}: {path}")
        else:
            problems += _set(tables, path, value, item)
    return problems


def _set(tables: Tables, path: Sequence[str], value: Any, item: str) -> list[str]:
    section, *inner = path
    table = tables.setdefault(section, {})
    if isinstance(table, str):
        table = tables[section] = {"name": table}
    if not isinstance(table, dict):
        return [f"[{section}] is no section, so {item!r} cannot be applied"]
    nouns = PARTS.get(section, {})
    if len(inner) == 2:  # an option of a part, which may also stand in the section itself
        noun, option = inner
        part = _as_table(table.get(noun, {}))
        if not isinstance(part, dict):
            return [f"[{section}] {noun} is no table, so {item!r} cannot be applied"]
        table[noun] = {**part, option: value}
        _forget(table, section, [option])
        return []
    (key,) = inner
    if key in nouns:  # a whole part
        said = _as_table(value)
        _forget(table, section, said if isinstance(said, dict) else ())
        value = said if isinstance(table.get(key), Mapping) else value
    for noun in nouns:
        part = _as_table(table.get(noun))
        if isinstance(part, dict) and key in part:
            del part[key]
            table[noun] = part
    table[key] = value
    return []


def _forget(table: Tables, section: str, options: Iterable[str]) -> None:
    """Take out of a section what it says itself of options of its parts."""
    for option in options:
        if option not in SECTIONS[section].model_fields:
            table.pop(option, None)


def _path(key: str) -> list[str] | str | None:
    """Section, part and option of an override's key; a sentence where two own it; None where nobody does."""
    steps = key.split(".")
    if steps[0] in SECTIONS:
        if len(steps) == 1:
            return [key, "name"] if "name" in SECTIONS[key].model_fields else None
        whole = len(steps) == 2 or (len(steps) == 3 and steps[1] in PARTS.get(steps[0], {}))
        return steps if whole and all(steps) else None
    owner = next((section for section, parts in PARTS.items() if steps[0] in parts), None)
    if owner and len(steps) <= 2:
        return [owner, *steps]
    if len(steps) > 1:
        return None
    owners = [section for section in SECTIONS if key in _keys(section)]
    if len(owners) > 1:
        return f"{' and '.join(owners)} both have {key}: write {' or '.join(f'{o}.{key}' for o in owners)}"
    return [owners[0], key] if owners else None


def _keys(section: str) -> list[str]:
    """Settings of a section and options of all members of its parts."""
    inner = [k for noun in PARTS.get(section, {}) for m in plugins.members(noun).values() for k in m.model_fields]
    return list(dict.fromkeys([*SECTIONS[section].model_fields, *inner]))


def _near_key(key: str) -> str:
    """The key that was meant, with its section."""
    full = {f"{section}.{k}": f"{section}.{k}" for section in SECTIONS for k in _keys(section)}
    options = full if "." in key else {name.rpartition(".")[2]: name for name in full}
    hint = near(key, options)
    if not hint or "." in key:
        return hint
    return f" (did you mean {options[hint.split(chr(39))[1]]!r}?)"


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):
        return text


# ---- explaining --------------------------------------------------------------------------------------------------


def _told(
    section: str, owner: type[Options], errors: Sequence[ErrorDetails]
) -> Iterable[tuple[ErrorDetails, list[str]]]:
    """Every error with its sentences; of the several errors of one setting that may be of different kinds, one tells at least."""
    depth = dict.fromkeys(PARTS.get(section, {}), 2)
    settings: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in errors:
        place = tuple(map(str, detail["loc"]))
        settings.setdefault(place[: depth.get(place[0], 1)] if place else (), []).append(detail)
    for place, details in settings.items():
        lines = [_explained(section, owner, detail) for detail in details]
        if not any(lines):
            wanted = " or ".join(dict.fromkeys(d["msg"].removeprefix("Input should be ") for d in details))
            lines[0] = [f"[{section}] {'.'.join(place)}: expected {wanted}, got {shortened(details[0]['input'])}"]
        yield from zip(details, lines, strict=True)


def _explained(section: str, owner: type[Options], detail: ErrorDetails) -> list[str]:
    """One readable sentence for each problem inside one of pydantic's errors."""
    place = [str(part) for part in detail["loc"]]
    branches = {"str", "int", "bool", "list[str]", "list[int]"}
    branches |= {part for part in place[1:] if part.startswith(("function-", "literal["))}
    nouns = PARTS.get(section, {})
    shown = [part for part in place if part not in branches and not (part in nouns and len(place) > 1)]
    where = f"[{section}]" + (f" {'.'.join(shown)}" if shown else "")
    if detail["type"] == "extra_forbidden":
        options = list(owner.model_fields)
        if place[0] in nouns:
            options = [k for m in plugins.members(place[0]).values() for k in m.model_fields]
        options = list(dict.fromkeys(options))
        return [f"{where}: unknown key{near(place[-1], options)}, expected {', '.join(options)}"]
    if detail["type"] == "missing":
        return [f"{where}: missing"]
    if detail["type"] == "value_error":
        lines = str(detail["ctx"]["error"]).splitlines()
        return [f"{where} {line}" if not shown else f"{where}: {line}" for line in lines]
    if any(part.startswith("literal[") for part in place[1:]):
        return []  # the other branch of "a number or all" tells, or all branches together
    if "int" in place[1:] and detail["type"] == "int_type":
        return [f'{where}: expected a whole number or "all", got {shortened(detail["input"])}']
    if {"list[str]", "list[int]"} & {part.partition("[")[0] + "[" + part.partition("[")[2] for part in place}:
        if detail["type"] == "list_type":
            return []  # the other branch of "text or a list" tells
    elif "str" in place[1:]:
        given = detail["input"]
        return [] if isinstance(given, list) else [f"{where}: expected text or a list, got {shortened(given)}"]
    return [f"{where}: {detail['msg']}, got {shortened(detail['input'])}"]
