"""A section of a recipe: every setting lies with the part that owns it, and all that is wrong is said at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tandemtune import plugins
from tandemtune.config.method import Then
from tandemtune.config.parts import PARTS, THEN, parts_of
from tandemtune.config.schema import RunConfig, shortened
from tandemtune.errors import UsageError
from tandemtune.plugins import Member, Options, near, near_or_all

SECTIONS: dict[str, type[Options]] = {
    name: owner for name, f in RunConfig.model_fields.items() if isinstance(owner := f.annotation, type)
}
S = TypeVar("S", bound=Options)
Tables = dict[str, Any]


@dataclass
class Findings:
    """What was found while a recipe was read.

    Args:
        problems: one sentence each.
        unused: settings that have no effect with the parts that were chosen.
        wrong: names of settings that cannot be used, by section.
    """

    problems: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    wrong: dict[str, set[str]] = field(default_factory=dict)


def owner_of(section: str) -> type[Options]:
    """What a section, or an entry of `then`, is checked by."""
    return Then if section.startswith(THEN) else SECTIONS[section]


def arranged(
    section: str, given: Mapping[str, Any], preset: Mapping[str, Any], found: Findings | None = None
) -> Tables:
    """A section in which every option lies with the part that owns it, over a method's own settings.

    Args:
        section: its name.
        given: what a recipe says; options of parts may stand in the section itself.
        preset: what the method's name stands for.
        found: problems and settings without effect are added here.
    """
    found = found or Findings()
    defaults = parts_of(section)
    table = {key: value for key, value in preset.items() if key not in defaults}
    parts = {noun: _part(noun, kind, given.get(noun), preset.get(noun)) for noun, kind in defaults.items()}
    if "subspace" in parts and "subspace" not in given and "subspace" not in preset:
        optimizer = class_of("optimizer", parts["optimizer"])
        if optimizer is not None and getattr(optimizer, "uses", "") not in ("sampler", "estimator"):
            parts["subspace"] = {"kind": "none"}
    own = owner_of(section).model_fields
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
    given = given if misplaced else as_table(given)
    if not (given is None or isinstance(given, Mapping)):
        return given  # explained when it is checked
    base = {"kind": default, **(preset if isinstance(preset, Mapping) else {})}  # [method]'s own fault is told there
    if not given or given.get("kind", base["kind"]) == base["kind"]:
        return {**base, **(given or {})}
    return dict(given)


def as_table(part: Any) -> Any:
    """A part as the table of what was said about it: of a name, of a member, or of a table; anything else as it is."""
    if isinstance(part, Member):
        return {"kind": plugins.address_of(type(part)), **part.model_dump(exclude_unset=True)}
    if isinstance(part, str):
        return {"kind": part}
    return dict(part) if isinstance(part, Mapping) else part


def _give(section: str, key: str, value: Any, parts: Tables, given: Mapping[str, Any], found: Findings) -> None:
    """Put a setting that stands in the section itself where it belongs, above what a method's name stands for."""
    classes = {noun: class_of(noun, part) for noun, part in parts.items()}
    owners = [noun for noun, owner in classes.items() if owner is not None and key in owner.model_fields]
    owners = [noun for noun in owners if not classes[noun].model_fields[key].exclude]  # type: ignore[union-attr]
    if len(owners) > 1:
        full = " or ".join(f"{section}.{noun}.{key}" for noun in owners)
        found.problems.append(f"[{section}] {key}: an option of the {' and of the '.join(owners)}, too: write {full}")
    elif owners:
        (noun,) = owners
        said = as_table(given.get(noun))
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
        options = [*owner_of(section).model_fields, *(k for c in classes.values() if c for k in c.model_fields)]
        hint = near(key, keys_of(section)) or near_or_all(key, options)
        found.problems.append(f"[{section}] {key}: unknown key{hint}")


def keys_of(section: str) -> list[str]:
    """Settings of a section and options of all members of its parts."""
    inner = [k for noun in parts_of(section) for m in plugins.members(noun).values() for k in m.model_fields]
    return list(dict.fromkeys([*owner_of(section).model_fields, *inner]))


def class_of(noun: str, part: Any) -> type[Member] | None:
    try:
        found = plugins.find(noun, part["kind"])
    except (UsageError, TypeError, KeyError, AttributeError):
        return None
    return found if isinstance(found, type) else None


def checked_section(name: str, owner: type[S], table: Tables, found: Findings) -> S | None:
    """A section; with the wrong settings left out if it can still be made, so that more problems can be found."""
    wrong = found.wrong.setdefault(name, set())
    for _ in range(100):
        try:
            return owner.model_validate(table)
        except ValidationError as error:
            unknown = [str(d["loc"][0]) for d in error.errors() if d["type"] == "extra_forbidden"]
            wrong.update(meant for key in unknown for meant in get_close_matches(key, owner.model_fields, n=1))
            before = set(wrong)
            for detail, lines in _told(name, owner, error.errors(), table):
                found.problems += [line for line in lines if not _follows(line, name, before)]
                place = [str(part) for part in detail["loc"]]
                if place and _removed(table, place):
                    wrong.add(place[1] if place[0] in parts_of(name) and len(place) > 1 else place[0])
                if not place and detail["type"] == "value_error":  # names the setting itself
                    for line in str(detail["ctx"]["error"]).splitlines():
                        key = line.partition(":")[0]
                        if key in table and key in owner.model_fields:
                            del table[key]
                            wrong.add(key)
            if wrong == before:
                return stand_in(owner, table)
    return None


def stand_in(owner: type[S], table: Mapping[str, Any]) -> S | None:
    """A section whose required settings are missing or wrong, so that what does not fit elsewhere can be found all the same."""
    required = [key for key, f in owner.model_fields.items() if f.is_required()]
    if any(key in parts for key in required for parts in PARTS.values()):
        return None
    return owner.model_construct(**{**dict.fromkeys(required, ""), **table})


def _follows(line: str, section: str, wrong: set[str]) -> bool:
    """Whether a problem is that something is missing which was only left out because it is wrong, or because of its name."""
    key, _, said = line.removeprefix(f"[{section}] ").partition(": ")
    if any(other in wrong for other in re.findall(rf"needs .*?\[{section}\] (\w+)", said)):
        return True
    answered = key == "labels" and not wrong.isdisjoint(("answer", "metric"))  # with texts, before that was left out
    return said.startswith("missing") and (key in wrong or "name" in wrong or answered)


def _removed(table: Tables, place: Sequence[str]) -> bool:
    """Take out of a table what stands at a place, at most two levels deep."""
    key, rest = place[0], place[1:]
    inner = table.get(key)
    if rest and isinstance(inner, dict) and "kind" in inner and rest[0] in inner:
        del inner[rest[0]]
        return True
    kinds = [parts[key] for parts in PARTS.values() if key in parts]
    if kinds and isinstance(inner, dict) and "kind" in inner:
        table[key] = {"kind": kinds[0]}
        return bool(inner != table[key])
    return table.pop(key, None) is not None


# ---- explaining --------------------------------------------------------------------------------------------------


def _told(
    section: str, owner: type[Options], errors: Sequence[ErrorDetails], table: Tables
) -> Iterable[tuple[ErrorDetails, list[str]]]:
    """Every error with its sentences; of the several errors of one setting that may be of different kinds, one tells at least."""
    depth = dict.fromkeys(parts_of(section), 2)
    settings: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in errors:
        place = tuple(map(str, detail["loc"]))
        settings.setdefault(place[: depth.get(place[0], 1)] if place else (), []).append(detail)
    for place, details in settings.items():
        lines = [_explained(section, owner, detail, table) for detail in details]
        if not any(lines):
            wanted = " or ".join(dict.fromkeys(d["msg"].removeprefix("Input should be ") for d in details))
            lines[0] = [f"[{section}] {'.'.join(place)}: expected {wanted}, got {shortened(details[0]['input'])}"]
        yield from zip(details, lines, strict=True)


def _explained(section: str, owner: type[Options], detail: ErrorDetails, table: Tables) -> list[str]:
    """One readable sentence for each problem inside one of pydantic's errors."""
    place = [str(part) for part in detail["loc"]]
    branches = {"str", "int", "bool", "list[str]", "list[int]"}
    branches |= {part for part in place[1:] if part.startswith(("function-", "literal[", "constrained-"))}
    nouns = parts_of(section)
    shown = [part for part in place if part not in branches and not (part in nouns and len(place) > 1)]
    where = f"[{section}]" + (f" {'.'.join(shown)}" if shown else "")
    if detail["type"] == "extra_forbidden":
        if place[0] in nouns:
            return [f"{where}: {_no_option(place[0], place[-1], table.get(place[0]))}"]
        return [f"{where}: unknown key{near_or_all(place[-1], owner.model_fields)}"]
    if detail["type"] == "missing":
        return [f"{where}: missing"]
    if detail["type"] == "value_error":
        lines = str(detail["ctx"]["error"]).splitlines()
        return [f"{where} {line}" if not shown else f"{where}: {line}" for line in lines]
    if any(part.startswith("literal[") for part in place[1:]):
        return []  # the other branch of "a number or a word" tells, or all branches together
    if {"int", "constrained-int"} & set(place[1:]) and detail["type"] == "int_type":
        kinds = get_args(owner.model_fields[place[0]].annotation)
        words = [f'"{word}"' for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        return [f"{where}: expected {' or '.join(['a whole number', *words])}, got {shortened(detail['input'])}"]
    if {"list[str]", "list[int]"} & {part.partition("[")[0] + "[" + part.partition("[")[2] for part in place}:
        if detail["type"] == "list_type":
            return []  # the other branch of "text or a list" tells
    elif "str" in place[1:]:
        given = detail["input"]
        return [] if isinstance(given, list) else [f"{where}: expected text or a list, got {shortened(given)}"]
    return [f"{where}: {detail['msg']}, got {shortened(detail['input'])}"]


def _no_option(noun: str, key: str, part: Any) -> str:
    """What is wrong with an option that a part does not have: another of its kind has it, or none."""
    members = plugins.members(noun)
    others = [name for name, one in members.items() if key in one.model_fields and not one.model_fields[key].exclude]
    if others:
        return f"no option of {noun} {part['kind']}, only of {', '.join(others)}: leave it out, or choose one of these"
    chosen = class_of(noun, part)
    own = list(chosen.model_fields) if chosen is not None else []
    return f"unknown key{near(key, own) or near_or_all(key, [k for one in members.values() for k in one.model_fields])}"
