"""Overrides of a recipe: ``section.key=value`` on the command line, (key, value) in Python."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tandemtune.config.parts import PARTS, THEN
from tandemtune.config.schema import shortened
from tandemtune.config.sections import SECTIONS, Tables, as_table, keys_of
from tandemtune.plugins import near

Override = str | tuple[str, Any]


def apply(tables: Tables, overrides: Sequence[Override]) -> list[str]:
    """Put overrides into a recipe's tables.

    Returns:
        One sentence for each that cannot be used.
    """
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
            said = f"no such setting{hint}" if hint else "expected section.key=value, for example method.budget=1000"
            problems.append(f"override {item!r}: {said}")
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
    if len(inner) > 2:
        return _set_entry(table, inner[1:], value, item)
    if len(inner) == 2:  # an option of a part, which may also stand in the section itself
        noun, option = inner
        part = as_table(table.get(noun, {}))
        if not isinstance(part, dict):
            return [f"[{section}] {noun} is no table, so {item!r} cannot be applied"]
        table[noun] = {**part, option: value}
        _forget(table, section, [option])
        return []
    (key,) = inner
    if key in nouns:  # a whole part
        said = as_table(value)
        _forget(table, section, said if isinstance(said, dict) else ())
        value = said if isinstance(table.get(key), Mapping) else value
    for noun in nouns:
        part = as_table(table.get(noun))
        if isinstance(part, dict) and key in part:
            del part[key]
            table[noun] = part
    table[key] = value
    return []


def _set_entry(method: Tables, path: Sequence[str], value: Any, item: str) -> list[str]:
    """Change one entry of `then`: its number from 1, a key or a part's option."""
    number, *inner = path
    entries = method.get("then", ())
    place = int(number) - 1
    if not isinstance(entries, list | tuple) or not 0 <= place < len(entries):
        count = len(entries) if isinstance(entries, list | tuple) else 0
        return [f"override {item!r}: entry {number} of then, and there are {count}: they are counted from 1"]
    entry = entries[place]
    entry = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping):
        return [f"override {item!r}: entry {number} of then is no table"]
    if len(inner) == 2:
        part = as_table(entry.get(inner[0], {}))
        value = {**part, inner[1]: value} if isinstance(part, dict) else {inner[1]: value}
    method["then"] = [*entries[:place], {**entry, inner[0]: value}, *entries[place + 1 :]]
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
        whole = whole or (key.startswith(f"{THEN}.") and len(steps) in (4, 5) and steps[2].isdecimal())
        return steps if whole and all(steps) else None
    owner = next((section for section, parts in PARTS.items() if steps[0] in parts), None)
    if owner and len(steps) <= 2:
        return [owner, *steps]
    if len(steps) > 1:
        return None
    owners = [section for section in SECTIONS if key in keys_of(section)]
    if len(owners) > 1:
        return f"{' and '.join(owners)} both have {key}: write {' or '.join(f'{o}.{key}' for o in owners)}"
    return [owners[0], key] if owners else None


def _near_key(key: str) -> str:
    """The key that was meant, with its section."""
    full = {f"{section}.{k}": f"{section}.{k}" for section in SECTIONS for k in keys_of(section)}
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
