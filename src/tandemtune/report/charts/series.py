"""What charts are made of: curves, marks and rows of dots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    pass

T = TypeVar("T")
MOST_POINTS = 600
"""Points of a cloud or of a band that are drawn; of more, evenly spread ones."""
MOST_ROWS = 400
"""Rows of a chart's table; of more, evenly spread ones."""


@dataclass(frozen=True, slots=True)
class Series:
    """A named curve or cloud of points.

    Args:
        name: what the legend says.
        xs: positions.
        ys: values; None and what is not finite leave a gap.
        low: lower edge of a band around the curve.
        high: upper edge.
        style: "line", "points", or "band" (without the curve).
    """

    name: str
    xs: Sequence[float | None]
    ys: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    style: Literal["line", "points", "band"] = "line"

    def __post_init__(self) -> None:
        sizes = {len(values) for values in (self.xs, self.ys, self.low, self.high) if values is not None}
        if len(sizes) > 1 or (self.low is None) != (self.high is None):
            raise ValueError(f"series {self.name!r}: expected as many ys, and lower and upper edges, as xs")


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a chart at one position, and what happened there or what the value stands for."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Dots:
    """One row of a `DotChart`.

    Args:
        name: what stands beside it.
        values: the single measurements.
        middle: their mean, or the one measurement that `low` and `high` belong to; None for none.
        low: lower end of the interval.
        high: upper end.
        note: what its table says beside it.
    """

    name: str
    values: Sequence[float]
    middle: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""

    def numbers(self) -> list[float]:
        """All that is drawn."""
        return [*self.values, *(value for value in (self.middle, self.low, self.high) if value is not None)]


def thinned(rows: Sequence[T], most: int) -> list[T]:
    """Evenly spread members of a sequence, its ends among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i] for i in sorted({round(i * (len(rows) - 1) / (most - 1)) for i in range(most)})]
