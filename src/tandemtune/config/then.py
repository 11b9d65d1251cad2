"""Entries of `then`: what each says of who searches next, over what it leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tandemtune.methods as methods
from tandemtune.config.method import COMMON, SearchSettings, Then
from tandemtune.config.parts import THEN
from tandemtune.config.schema import shortened
from tandemtune.config.sections import Findings, Tables, arranged, as_table, checked_section, class_of
from tandemtune.methods import Method
from tandemtune.plugins import near

OF_THE_RUN = ("tunable", "readout", "then")
"""Keys of [method] that an entry cannot have."""


def with_entries(table: Tables, answers: str, found: Findings) -> Tables:
    """The table of [method] with every entry of its `then` complete and checked.

    Args:
        table: arranged, see `arranged`.
        answers: how the task is answered.
        found: problems and settings without effect are added here.
    """
    entries = table.get("then", ())
    if not isinstance(entries, list | tuple):
        found.problems.append(
            f'[method] then: expected a list of tables such as [{{ optimizer = "es", objective = "reward" }}], got {shortened(entries)}'
        )
        entries = ()
    made = [_entry(number, entry, table, answers, found) for number, entry in enumerate(entries, 1)]
    return {**table, "then": tuple(entry for entry in made if entry is not None)}


def _entry(number: int, given: Any, method: Tables, answers: str, found: Findings) -> Then | None:
    section = f"{THEN} {number}"
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping):
        found.problems.append(f"[{section}]: expected a table, got {shortened(given)}")
        return None
    for key in OF_THE_RUN:
        if key in given:
            found.problems.append(f"[{section}] {key}: one for the whole run, leave it out here and set it in [method]")
    given = {key: value for key, value in given.items() if key not in OF_THE_RUN}
    name = given.get("name")
    preset = methods.METHODS.get(name) if isinstance(name, str) else None
    if name and preset is None:
        options = list(methods.METHODS)
        found.problems.append(
            f"[{section}] name: unknown method {shortened(name)}{near(str(name), options)}, expected {', '.join(options)}"
        )
        given = {key: value for key, value in given.items() if key != "name"}
    if preset is not None:
        found.problems += _not_meant(section, preset, method, answers)
    return checked_section(
        section, Then, arranged(section, given, _below(given, preset, method, answers), found), found
    )


def _below(given: Mapping[str, Any], preset: Method | None, method: Tables, answers: str) -> Tables:
    """What an entry leaves out: what its name stands for, or all that [method] says where it names no optimizer, else what does not
    depend on who searches."""
    if preset is not None:
        said = preset.settings_for(answers).get("method", {})
        return {key: value for key, value in said.items() if key in SearchSettings.model_fields}
    own = {key: value for key, value in method.items() if key in SearchSettings.model_fields}
    before, after = (as_table(one) for one in (method["optimizer"], given.get("optimizer")))
    if after is None:
        return own
    if not isinstance(after, Mapping) or not isinstance(before, Mapping):
        return {}
    kept = {key: value for key, value in own.items() if key in COMMON}
    if after.get("kind", before.get("kind")) == before.get("kind"):
        kept["optimizer"] = before
    classes = [class_of("optimizer", {**before, **part}) for part in ({}, after)]
    if all(getattr(one, "uses", "") in ("sampler", "estimator") for one in classes):
        kept["subspace"] = own["subspace"]
    return kept


def _not_meant(section: str, preset: Method, method: Tables, answers: str) -> Iterator[str]:
    """What a method's name stands for beside the search, and [method] does not say."""
    if preset.settings_for(answers).get("alternate", {}).get("rounds"):
        yield (
            f"[{section}] name: {preset.name} takes turns with proposals, which are no part of `then`: name another method, or an optimizer"
        )
    wanted = preset.settings_for(answers).get("method", {}).get("tunable", {})
    tunable = as_table(method.get("tunable"))
    if not isinstance(tunable, Mapping):
        return
    kind = class_of("tunable", tunable)
    known = {
        "kind": tunable.get("kind"),
        **{key: field.default for key, field in (kind.model_fields if kind else {}).items()},
        **tunable,
    }
    other = {key: value for key, value in {"kind": "lora", **wanted}.items() if known.get(key) != value}
    if other:
        told = ", ".join(
            f"{key} {shortened(value)}, and [method] has {shortened(known.get(key))}" for key, value in other.items()
        )
        yield (
            f"[{section}] name: {preset.name} means a tunable of {told}: one point is handed on, so set that in [method], or name an "
            "optimizer here in place of a method"
        )
