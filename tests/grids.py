"""Grids of cases of which `make test` runs a part, and `make test-slow` all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any

import pytest


def sparse(values: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """Values of a parameter, or of several as tuples; those that are not in `kept` are slow."""
    return [
        value
        if value in kept
        else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]


def covering(cases: Sequence[Collection[Hashable]]) -> set[int]:
    """Places of so few cases that each value stands in one of them, and none more often than another where that can be."""
    missing, used, taken = {value for case in cases for value in case}, Counter[Hashable](), set[int]()
    while missing:
        place = max(
            (place for place in range(len(cases)) if place not in taken),
            key=lambda place: (len(missing & {*cases[place]}), -sum(used[value] for value in cases[place]), -place),
        )
        taken.add(place)
        missing -= {*cases[place]}
        used.update(cases[place])
    return taken


def thin(items: Iterable[pytest.Item]) -> None:
    """Mark as slow what a test marked as `grid` need not be run with for each value of its parameters to be met, and of one marked as
    `few` all cases but so many, evenly spread.

    Parameters that the mark `grid` names are one: each combination of their values is met.
    """
    grids: dict[Any, list[pytest.Item]] = {}
    several: dict[Any, list[pytest.Item]] = {}
    for item in items:
        if not hasattr(item, "callspec"):
            continue
        if item.get_closest_marker("few"):
            several.setdefault(item.function, []).append(item)
        elif item.get_closest_marker("grid"):
            grids.setdefault(item.function, []).append(item)
    for cases in several.values():
        count = cases[0].get_closest_marker("few").args[0]
        kept = {place * len(cases) // count for place in range(count)}
        for place, case in enumerate(cases):
            if place not in kept:
                case.add_marker("slow")
    for cases in grids.values():
        together = cases[0].get_closest_marker("grid").args
        kept = covering([_values(case.callspec.params, together) for case in cases])
        for place, case in enumerate(cases):
            if place not in kept:
                case.add_marker("slow")


def _values(parameters: dict[str, Any], together: Sequence[str]) -> set[tuple[str, int, str]]:
    """What a case stands for: (parameter, place in it where it is a tuple, value)."""
    joined = {" ".join(together): [parameters[name] for name in together]} if together else {}
    alone = {name: value for name, value in parameters.items() if name not in together}
    return {
        (name, place, repr(one))
        for name, value in {**alone, **joined}.items()
        for place, one in enumerate(value if isinstance(value, tuple) else (value,))
    }
