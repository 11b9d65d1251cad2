"""Ranks of methods, and how far they are those that published scores lead one to expect."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from statistics import StatisticsError, correlation, mean
from typing import TYPE_CHECKING

from tandemtune.runs.records import Record

if TYPE_CHECKING:
    from tandemtune.comparisons.expected import Expected

ROUNDING = 1.5e-6
"""Scores are recorded to six digits: differences up to this are none."""
NAMED = 3
"""Pairs of methods that change places, as many as are named."""


class Place(Record):
    """A method's expected and measured score, and its ranks among the methods that have both."""

    expected: float
    measured: float | None
    expected_rank: float | None
    measured_rank: float | None


class Order(Record):
    """Expected beside measured ranks in one column.

    Args:
        methods: those that are expected there.
        n: how many have both scores.
        correlation: Spearman's; None where it is not defined.
        swapped: pairs of methods, the expected better first, that were measured the other way round, largest differences of
            ranks first.
    """

    methods: dict[str, Place]
    n: int
    correlation: float | None
    swapped: tuple[tuple[str, str], ...]


class Ranking(Record):
    """Expected beside measured ranks: where the expected scores are from, each column that has some, and their average (None
    of a single column)."""

    source: str
    columns: dict[str, Order]
    average: Order | None

    @property
    def orders(self) -> list[tuple[str, Order]]:
        """The columns, then their average."""
        return [*self.columns.items(), *([("average", self.average)] if self.average else [])]


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
    expected: Expected,
    means: Mapping[str, Mapping[str, float | None]],
    methods: Sequence[str],
    tasks: Mapping[str, str],
) -> Ranking:
    """Expected and measured order of the methods, for each column that has expectations and on average over these.

    Args:
        expected: published scores.
        means: measured scores by column and method, of methods whose runs there are all finished.
        methods: in the order of the plan.
        tasks: the task of each column.

    Returns:
        The orders. A method is averaged where it has all columns.
    """
    published: dict[str, dict[str, float]] = {}
    measured: dict[str, dict[str, float]] = {}
    for column, task in tasks.items():
        if task in expected.tasks:
            published[column] = {name: expected.tasks[task][name] for name in methods if name in expected.tasks[task]}
            measured[column] = {name: value for name, value in means[column].items() if value is not None}
    columns = {column: _order(published[column], measured[column]) for column in published}
    average = _order(_means(published), _means(measured)) if len(columns) > 1 else None
    return Ranking(source=expected.source, columns=columns, average=average)


def _means(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The average score of each name that all columns have."""
    first, *others = scores.values()
    whole = [name for name in first if all(name in other for other in others)]
    return {name: mean(column[name] for column in scores.values()) for name in whole}


def _order(published: Mapping[str, float], measured: Mapping[str, float]) -> Order:
    both = [name for name in published if name in measured]
    wanted, found = (ranks({name: scores[name] for name in both}) for scores in (published, measured))
    gaps = {
        (one, other): (wanted[other] - wanted[one], found[one] - found[other])
        for one, other in itertools.permutations(both, 2)
    }
    swapped = [pair for pair, (before, after) in gaps.items() if before > 0 and after > 0]
    methods = {
        name: Place(
            expected=score,
            measured=measured.get(name),
            expected_rank=wanted.get(name),
            measured_rank=found.get(name),
        )
        for name, score in published.items()
    }
    return Order(
        methods=methods,
        n=len(both),
        correlation=_correlation([wanted[name] for name in both], [found[name] for name in both]),
        swapped=tuple(sorted(swapped, key=lambda pair: -sum(gaps[pair]))),
    )


def _correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    try:
        return correlation(one, other)
    except StatisticsError:  # fewer than two, or all ties
        return None


# ---- as text -----------------------------------------------------------------------------------------------------


def rank_rows(found: Ranking) -> tuple[list[str], list[list[str]]]:
    """Expected beside measured ranks as text cells.

    Args:
        found: what `against_expected` returned.

    Returns:
        Headers and rows, a method each.
    """
    headers = ["method", *(f"{column}, {what}" for column, _ in found.orders for what in ("expected", "measured"))]
    methods = dict.fromkeys(name for order in found.columns.values() for name in order.methods)
    rows = []
    for name in methods:
        cells = [name]
        for _, order in found.orders:
            place = order.methods.get(name)
            cells += [_place(place.expected_rank), _place(place.measured_rank)] if place else ["-", "-"]
        rows.append(cells)
    return headers, rows


def rank_sentences(found: Ranking) -> list[str]:
    """What expected and measured ranks say together, a line for each column.

    Args:
        found: what `against_expected` returned.

    Returns:
        Where the expected scores are from, then the lines.
    """
    averaged = "; the average is over the tasks shown here" if found.average else ""
    source = f"Expected: {found.source.rstrip('.')}. Ranks are among the methods that have both scores{averaged}."
    return [source, *(f"{column}: {_said(order)}" for column, order in found.orders)]


def _said(order: Order) -> str:
    count, value, swapped = order.n, order.correlation, order.swapped
    if count < 2:
        return f"too few methods have both scores (n = {count})."
    told = (
        "no rank correlation, since all methods tie" if value is None else f"Spearman's rank correlation {value:z.2f}"
    )
    told += f" (n = {count} methods); "
    if not swapped:
        return f"{told}no pair changes places."
    told += f"{len(swapped)} of {count * (count - 1) // 2} pairs {'changes' if len(swapped) == 1 else 'change'} places"
    named = "; ".join(" and ".join(_moved(name, order.methods[name]) for name in pair) for pair in swapped[:NAMED])
    return f"{told}, {'most of all' if len(swapped) > NAMED else 'namely'} {named}."


def _moved(name: str, place: Place) -> str:
    return f"{name} (expected {_place(place.expected_rank)}, measured {_place(place.measured_rank)})"


def _place(rank: float | None) -> str:
    return "-" if rank is None else f"{rank:g}"
