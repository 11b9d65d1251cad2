"""Bars and dots, a row for each name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tandemtune.report.charts.base import Chart
from tandemtune.report.charts.drawing import INK, PAPER, draw_ticks, name_rows, three
from tandemtune.report.charts.series import Dots
from tandemtune.report.numbers import Content, clean, drawable, fitted, rough
from tandemtune.report.page import LIGHT, Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class BarChart(Chart):
    """Horizontal bars from zero, each with its value in words.

    Args:
        x_label: what the length of a bar means.
        bars: names with values; what is None or not finite has no bar.
        unit: written behind every value.
        limits: ends of the axis; None: the data's.
    """

    x_label: str
    bars: Sequence[tuple[str, float | None]]
    unit: str = ""
    limits: tuple[float, float] | None = None

    def empty(self) -> bool:
        return all(drawable(value) is None for _, value in self.bars)

    def size(self, width: int) -> int:
        return 52 + 26 * len(self.bars)

    def words(self) -> str:
        said = [f"{name}: {self._said(value)}." for name, value in self.bars]
        return " ".join([self.description or f"Bar chart of {self.x_label}.", *said])

    def table(self) -> Grid:
        name = f"{self.x_label} ({self.unit})" if self.unit else self.x_label
        rows: list[list[Content]] = [[bar, None if value is None else float(value)] for bar, value in self.bars]
        return Grid(["", name], rows, f"Data of: {self.title}", {1})

    def draw(self, figure: Figure, width: int) -> None:
        axes = figure.add_subplot()
        values = [drawable(value) or 0.0 for _, value in self.bars]
        axes.barh(range(len(values)), values, color=LIGHT[0], height=0.7)
        room = max(map(abs, values)) or 1.0
        for place, (_, value) in enumerate(self.bars):
            end = drawable(value) or 0.0
            side = -1 if end < 0 else 1
            axes.annotate(
                self._said(value),
                (end, place),
                (4 * side, 0),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center_baseline",
            )
        low, high = self.limits or (min(0.0, *values), max(0.0, *values))
        axes.set_xlim(low - (0.25 * room if low < 0 else 0), high + (0.3 if width < 500 else 0.15) * room)
        axes.axvline(0, color=INK, linewidth=0.8)
        name_rows(axes, [name for name, _ in self.bars], width)
        axes.set_xlabel(clean(fitted(self.x_label, width // 8)))
        draw_ticks(axes, width, False, False, rows=True)

    def _said(self, value: float | None) -> str:
        return f"{rough(drawable(value))} {fitted(self.unit, 8)}".strip()


@dataclass(frozen=True, kw_only=True)
class DotChart(Chart):
    """Measurements as dots on a common axis, a row each, with an interval around their middle.

    Args:
        x_label: name of the axis.
        rows: from top to bottom.
        limits: ends of the axis; the data's where some of it lies outside.
    """

    x_label: str
    rows: Sequence[Dots]
    limits: tuple[float, float] = (0.0, 1.0)

    def empty(self) -> bool:
        return all(row.middle is None and not row.values for row in self.rows)

    def size(self, width: int) -> int:
        return 52 + 30 * len(self.rows)

    def words(self) -> str:
        said = []
        for row in self.rows:
            interval = "" if row.low is None else f" (interval {rough(row.low)} to {rough(row.high)})"
            said.append(f"{row.name}: {rough(row.middle)}{interval}.")
        return " ".join([self.description or f"Dot plot of {self.x_label}.", *said])

    def table(self) -> Grid:
        several = any(len(row.values) > 1 for row in self.rows)
        noted = any(row.note for row in self.rows)
        headers = ["", self.x_label, "from", "to", *(["single runs"] if several else []), *(["note"] if noted else [])]
        rows: list[list[Content]] = []
        for row in self.rows:
            single = [", ".join(rough(value) for value in row.values)] if several else []
            cells: list[Content] = [row.name, *map(three, (row.middle, row.low, row.high)), *single]
            rows.append([*cells, *([row.note] if noted else [])])
        return Grid(headers, rows, f"Data of: {self.title}", {1, 2, 3})

    def draw(self, figure: Figure, width: int) -> None:
        axes = figure.add_subplot()
        low, high = self.limits
        inside = all(low <= value <= high for row in self.rows for value in row.numbers())
        for place, row in enumerate(self.rows):
            if row.low is not None and row.high is not None:
                axes.plot(
                    [row.low, row.high], [place] * 2, color=LIGHT[0], linewidth=5, alpha=0.35, solid_capstyle="butt"
                )
            if len(row.values) > 1 or row.middle is None:
                axes.plot(row.values, [place] * len(row.values), "o", color=LIGHT[1], markersize=5, alpha=0.8, mew=0)
            if row.middle is not None:
                axes.plot([row.middle], [place], "D", color=LIGHT[0], markersize=7, mec=PAPER)
                right = max([row.middle, *row.values, *([row.high] if row.high is not None else [])])
                axes.annotate(
                    three(row.middle),
                    (right, place),
                    (8, 0),
                    textcoords="offset points",
                    va="center_baseline",
                    annotation_clip=False,
                )
        if inside:
            axes.set_xlim(low, high + (high - low) * (0.16 if width < 500 else 0.08))
            axes.set_xticks([low + (high - low) * k / 5 for k in range(6)])
        name_rows(axes, [row.name for row in self.rows], width)
        axes.set_xlabel(clean(fitted(self.x_label, width // 8)))
        draw_ticks(axes, width, False, False, rows=True, fixed=inside)
