"""Resolved recipes as reports read them: single settings, what a method used, TOML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w

from tandemtune.runs.listing import method_title


def setting(recipe: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """One setting of a recipe; the default if the recipe does not have it, or leaves it open.

    Args:
        recipe: a resolved recipe.
        path: sections and key with dots between them, such as ``method.optimizer.kind``.
        default: see above.
    """
    found: Any = recipe
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return default if found is None else found


def method_of(recipe: Mapping[str, Any], default: str) -> str:
    """The method's name, and those of what comes behind."""
    method = setting(recipe, "method", {})
    return method_title(method) if setting(recipe, "method.name") else default


def objectives(recipe: Mapping[str, Any]) -> list[Any]:
    """What each stretch of a recipe minimises, one after another."""
    return [setting(one, "objective") for one in (setting(recipe, "method", {}), *setting(recipe, "method.then", ()))]


def rounds(recipe: Mapping[str, Any]) -> int:
    """In how many rounds somebody proposes points; 0 where nobody does."""
    return int(setting(recipe, "alternate.rounds", 0))


def proposer(recipe: Mapping[str, Any]) -> str:
    """Who proposes; nobody in a recipe without rounds."""
    return str(setting(recipe, "alternate.proposer.kind", "")) if rounds(recipe) else ""


def used(recipe: Mapping[str, Any], unit: str = "") -> dict[str, Any]:
    """The settings that a run made use of: without what is left open or off, rounds that nobody proposes in, and a mentor that
    nobody asks.

    Args:
        recipe: a resolved recipe.
        unit: what its progress is counted in; a budget of candidates bounds nothing where that is "steps".
    """
    idle = {"alternate"} if not rounds(recipe) else set()
    idle |= {"mentor"} if proposer(recipe) != "mentor" else set()
    found: dict[str, Any] = {}
    for section, content in recipe.items():
        known = _known(content)
        if section == "method":
            known = {k: value for k, value in known.items() if isinstance(value, bool) or (value != 0 and value != [])}
            if unit == "steps" and "then" not in known:
                known.pop("budget", None)
        if section == "run":
            known = {key: value for key, value in known.items() if value not in ([], "none")}
        if section not in idle and known:
            found[section] = known
    return found


def as_toml(recipe: Mapping[str, Any]) -> str:
    """Settings as TOML; what is None is left out, as in a file."""
    return tomli_w.dumps(_known(recipe)).strip()


def flat(recipe: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every setting with its path, such as ``("method", "optimizer", "kind")``: names of labels may have dots.

    Args:
        recipe: a resolved recipe, or a part of one.
        before: path of that part.
    """
    for key, value in recipe.items():
        path = (*before, str(key))
        if isinstance(value, Mapping) and value:
            yield from flat(value, path)
        else:
            yield path, value


def value_text(value: Any) -> str:
    """A setting as a table has it."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _known(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _known(item) for key, item in value.items() if item is not None}
    return [_known(item) for item in value if item is not None] if isinstance(value, list | tuple) else value
