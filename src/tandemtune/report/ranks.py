"""Ranks of methods, and how far they are those that published scores lead one to expect."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from statistics import StatisticsError, correlation, mean
from typing import Any

from tandemtune.plan import Expected

ROUNDING = 1.5e-6
"""Scores are recorded to six digits: differences up to this are none."""
NAMED = 3
"""Pairs of methods that change places, as many as are named."""


def ranks(scores: Mapping[str, float]) -> dict[str, float]:
    """Places by score, 1 for the highest; ties share the mean of theirs.

    Args:
        scores: by name.

    Returns:
        Ranks in the same order.
    """
    found = {}
    for name, score in scores.items():
        above = sum(other > score + ROUNDING for other in scores.values())
        equal = sum(abs(other - score) <= ROUNDING for other in scores.values())
        found[name] = 1 + above + (equal - 1) / 2
    return found


def against_expected(
    expected: Expected, rows: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, str]
) -> dict[str, Any]:
    """Expected and measured order of the methods, for each column that has expectations and on average over these.

    Args:
        expected: published scores.
        rows: the methods as `comparison.compared` has them, in the order of the plan.
        tasks: the task of each column.

    Returns:
        The ``source``; ``columns``, and their ``average`` (None of a single one), each with the ``methods`` that are expected there
        (both scores, and both ranks among the ``n`` methods that have both), Spearman's rank ``correlation`` (None where it is not
        defined), and ``swapped``: pairs of methods, the expected better first, that were measured the other way round, largest
        differences of ranks first. A method is averaged where it has all columns; one of whose runs any is missing is not measured.
    """
    published: dict[str, dict[str, float]] = {}
    measured: dict[str, dict[str, float]] = {}
    for column, task in tasks.items():
        if task in expected.tasks:
            cells = {name: row["columns"][column] for name, row in rows.items()}
            published[column] = {name: expected.tasks[task][name] for name in rows if name in expected.tasks[task]}
            measured[column] = {name: cell["mean"] for name, cell in cells.items() if cell["n"] == cell["of"] > 0}
    columns = {column: _order(published[column], measured[column]) for column in published}
    average = _order(_means(published), _means(measured)) if len(columns) > 1 else None
    return {"source": expected.source, "columns": columns, "average": average}


def _means(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The average score of each name that all columns have."""
    first, *others = scores.values()
    whole = [name for name in first if all(name in other for other in others)]
    return {name: mean(column[name] for column in scores.values()) for name in whole}


def _order(published: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, Any]:
    both = [name for name in published if name in measured]
    wanted, found = (ranks({name: scores[name] for name in both}) for scores in (published, measured))
    gaps = {
        (one, other): (wanted[other] - wanted[one], found[one] - found[other])
        for one, other in itertools.permutations(both, 2)
    }
    swapped = [pair for pair, (before, after) in gaps.items() if before > 0 and after > 0]
    methods = {
        name: {
            "expected": score,
            "measured": measured.get(name),
            "expected_rank": wanted.get(name),
            "measured_rank": found.get(name),
        }
        for name, score in published.items()
    }
    return {
        "methods": methods,
        "n": len(both),
        "correlation": _correlation([wanted[name] for name in both], [found[name] for name in both]),
        "swapped": [list(pair) for pair in sorted(swapped, key=lambda pair: -sum(gaps[pair]))],
    }


def _correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    try:
        return correlation(one, other)
    except StatisticsError:  # fewer than two, or all ties
        return None


# ---- as text -----------------------------------------------------------------------------------------------------


def rank_rows(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Expected beside measured ranks as text cells.

    Args:
        found: what `against_expected` returned.

    Returns:
        Headers and rows, a method each.
    """
    orders = _orders(found)
    headers = ["method", *(f"{column}, {what}" for column, _ in orders for what in ("expected", "measured"))]
    methods = dict.fromkeys(name for order in found["columns"].values() for name in order["methods"])
    rows = []
    for name in methods:
        places = [order["methods"].get(name, {}) for _, order in orders]
        rows.append([name, *(_place(place.get(f"{of}_rank")) for place in places for of in ("expected", "measured"))])
    return headers, rows


def rank_sentences(found: Mapping[str, Any]) -> list[str]:
    """What expected and measured ranks say together, a line for each column.

    Args:
        found: what `against_expected` returned.

    Returns:
        Where the expected scores are from, then the lines.
    """
    averaged = "; the average is over the tasks that stand here" if found["average"] else ""
    source = f"Expected: {found['source'].rstrip('.')}. Ranks are among the methods that have both scores{averaged}."
    return [source, *(f"{column}: {_said(order)}" for column, order in _orders(found))]


def _orders(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [*found["columns"].items(), *([("average", found["average"])] if found["average"] else [])]


def _said(order: Mapping[str, Any]) -> str:
    count, value, swapped = order["n"], order["correlation"], order["swapped"]
    if count < 2:
        return f"too few methods have both scores (n = {count})."
    told = (
        "no rank correlation, since all methods tie" if value is None else f"Spearman's rank correlation {value:z.2f}"
    )
    told += f" (n = {count} methods); "
    if not swapped:
        return f"{told}no pair changes places."
    told += f"{len(swapped)} of {count * (count - 1) // 2} pairs {'changes' if len(swapped) == 1 else 'change'} places"
    named = "; ".join(" and ".join(_moved(name, order["methods"][name]) for name in pair) for pair in swapped[:NAMED])
    return f"{told}, {'most of all' if len(swapped) > NAMED else 'namely'} {named}."


def _moved(name: str, place: Mapping[str, Any]) -> str:
    return f"{name} (expected {_place(place['expected_rank'])}, measured {_place(place['measured_rank'])})"


def _place(rank: float | None) -> str:
    return "-" if rank is None else f"{rank:g}"
