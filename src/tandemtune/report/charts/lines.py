"""Curves and clouds of points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tandemtune.report.charts.base import Chart
from tandemtune.report.charts.drawing import (
    column_of,
    draw_curve,
    draw_head,
    draw_legend,
    draw_marks,
    draw_ticks,
    set_scales,
)
from tandemtune.report.charts.series import MOST_ROWS, Mark, Series, thinned
from tandemtune.report.numbers import Content, clean, drawable, fitted, number
from tandemtune.report.page import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class LineChart(Chart):
    """Curves and clouds of points.

    Args:
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        series: what to draw.
        marks: vertical lines with a text.
        x_log: logarithmic horizontal axis; what is not positive is left out.
        y_log: the same for the vertical axis.
        y_limits: ends of the vertical axis; None: the data's.
        height: of the wide drawing.
    """

    x_label: str
    y_label: str
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    x_log: bool = False
    y_log: bool = False
    y_limits: tuple[float, float] | None = None
    height: int = 360

    def empty(self) -> bool:
        return not any(self._spots(one) for one in self.series if one.style != "band")

    def size(self, width: int) -> int:
        return self.height if width > 500 else min(self.height, 300)

    def words(self) -> str:
        said = [self.description or f"Line chart of {self.y_label} against {self.x_label}."]
        for one in self.series:
            spots = self._spots(one)
            if spots and one.style != "band":
                (x, y), (last_x, last_y), low = spots[0], spots[-1], min(spots, key=lambda spot: spot[1])
                said.append(
                    f"{one.name}: {number(y, 4)} at {number(x)}, {number(last_y, 4)} at {number(last_x)}, "
                    f"lowest {number(low[1], 4)} at {number(low[0])}."
                )
        said += [f"{mark.text} at {number(mark.x)}." for mark in self.marks]
        return " ".join(said)

    def table(self) -> Grid:
        cells: dict[tuple[float, int], dict[int, Content]] = {}
        for column, one in enumerate(self.series):
            seen: dict[float, int] = {}
            for x, text in zip(one.xs, column_of(one), strict=True):
                if (at := drawable(x)) is not None:
                    seen[at] = seen.get(at, 0) + 1
                    cells.setdefault((at, seen[at]), {})[column] = text
        for mark in self.marks:
            if (at := drawable(mark.x)) is not None:
                row = cells.setdefault((at, 1), {})
                row[-1] = f"{row[-1]}; {mark.text}" if -1 in row else mark.text
        last = [-1] if self.marks else []
        rows: list[list[Content]] = [
            [at, *(row.get(column) for column in range(len(self.series))), *(row.get(-1, "") for _ in last)]
            for (at, _), row in sorted(cells.items())
        ]
        kept = thinned(rows, MOST_ROWS)
        caption = f"Data of: {self.title}" + (f" ({len(kept)} of {len(rows)} rows)" if len(kept) < len(rows) else "")
        headers = [self.x_label, *(one.name for one in self.series), *("mark" for _ in last)]
        return Grid(headers, kept, caption, set(range(len(self.series) + 1)))

    def draw(self, figure: Figure, width: int) -> None:
        axes = figure.add_subplot()
        draw_head(axes, self.y_label, width)
        set_scales(axes, self.x_log, self.y_log)
        handles = [
            draw_curve(axes, one, index, len(self.series), self._drawable(one), width)
            for index, one in enumerate(self.series)
        ]
        axes.set_xlabel(clean(fitted(self.x_label, width // 8)))
        if self.y_limits is not None:
            axes.set_ylim(*self.y_limits)
        xs = [x for one in self.series for x in one.xs if drawable(x) is not None]
        draw_ticks(axes, width, self.x_log, self.y_log, whole=all(x == int(x) for x in xs if x is not None))
        draw_marks(axes, self.marks, width)
        names = [one.name for one in self.series]
        if len(names) > 1 or names[0] != self.y_label:
            draw_legend(figure, handles, names, width)

    def _spots(self, one: Series) -> list[tuple[float, float]]:
        return [(x, y) for x, y, _, _ in self._drawable(one) if not math.isnan(y)]

    def _drawable(self, one: Series) -> list[tuple[float, float, float, float]]:
        """(x, y, low, high), NaN for gaps; without what a logarithmic axis has no place for."""
        found = []
        edges = (one.low or one.ys, one.high or one.ys)
        for x, y, low, high in zip(one.xs, one.ys, *edges, strict=True):
            at = drawable(x)
            if at is None or (self.x_log and at <= 0):
                continue
            values = [drawable(value) for value in (y, low, high)]
            kept = [math.nan if v is None or (self.y_log and v <= 0) else v for v in values]
            found.append((at, kept[0], kept[1], kept[2]))
        return found
