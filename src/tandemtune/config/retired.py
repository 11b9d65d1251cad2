"""Settings that have been retired: what is said to a recipe that has one, and how a run that was made with it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tandemtune.config.parts import THEN
from tandemtune.config.sections import Tables


@dataclass(frozen=True)
class Retired:
    """A value of a setting of [method], or of an entry of its `then`, that there is no more.

    Args:
        key: the setting.
        value: its value.
        instead: what is read in its place.
        why: why it has gone, where that was measured, and what to take.
    """

    key: str
    value: Any
    instead: Any
    why: str

    def said(self, section: str) -> str:
        """The problem of a recipe that has it."""
        return f"[{section}] {self.key}: {self.value} was retired: {self.why}"


RETIRED = (
    Retired(
        "order",
        "bandit",
        "in-turn",
        "choosing the next layer by its gains was never better than layers in turn (docs/experiments/searches.md, Remedies): leave order "
        'out, or take "together"',
    ),
)


def without_retired(tables: Tables) -> tuple[Tables, list[str]]:
    """A recipe in which retired values are replaced, and one sentence for each of them.

    Args:
        tables: the sections of a recipe, whatever they hold.
    """
    method = tables.get("method")
    if not isinstance(method, Mapping):
        return tables, []
    made, problems = _replaced("method", method)
    entries = made.get("then")
    if isinstance(entries, list | tuple):
        found = [
            _replaced(f"{THEN} {number}", entry) if isinstance(entry, Mapping) else (entry, [])
            for number, entry in enumerate(entries, 1)
        ]
        made = {**made, "then": [entry for entry, _ in found]}
        problems += [line for _, lines in found for line in lines]
    return ({**tables, "method": made}, problems) if problems else (tables, [])


def _replaced(section: str, table: Mapping[str, Any]) -> tuple[Tables, list[str]]:
    gone = [one for one in RETIRED if table.get(one.key) == one.value]
    return {**table, **{one.key: one.instead for one in gone}}, [one.said(section) for one in gone]
