"""Named points in a plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tandemtune.report.charts.base import Chart
from tandemtune.report.charts.drawing import (
    INK,
    MARKERS,
    PAPER,
    draw_head,
    draw_legend,
    draw_ticks,
    ink_of,
    set_scales,
    three,
)
from tandemtune.report.numbers import Content, clean, rough
from tandemtune.report.page import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class ScatterChart(Chart):
    """Scores against several costs, a panel each, with the Pareto front: what nothing else beats in both.

    Args:
        y_label: the score, where more is better.
        x_labels: the costs, where less is better.
        points: (name, score, a cost for each panel).
    """

    y_label: str
    x_labels: Sequence[str]
    points: Sequence[tuple[str, float, Sequence[float]]]

    def empty(self) -> bool:
        return not self.points

    def size(self, width: int) -> int:
        legend = 20 * math.ceil(len(self.points) / (1 if width < 500 else 3))
        return legend + (300 if width > 500 else 210 * len(self.x_labels))

    def words(self) -> str:
        said = [self.description or f"Scatter plots of {self.y_label} against {', '.join(self.x_labels)}."]
        for panel, label in enumerate(self.x_labels):
            said.append(f"On the Pareto front of {label}: {', '.join(self.points[i][0] for i in self.front(panel))}.")
        return " ".join(said)

    def table(self) -> Grid:
        rows: list[list[Content]] = [[name, three(y), *map(rough, xs)] for name, y, xs in self.points]
        headers = ["", self.y_label, *self.x_labels]
        best = {(row, 2 + panel) for panel in range(len(self.x_labels)) for row in self.front(panel)}
        return Grid(headers, rows, f"Data of: {self.title} (★ on the Pareto front)", set(range(1, len(headers))), best)

    def front(self, panel: int) -> list[int]:
        """The points that no other beats in both score and cost, from the cheapest to the dearest."""
        order = sorted(range(len(self.points)), key=lambda i: (self.points[i][2][panel], -self.points[i][1]))
        found: list[int] = []
        for index in order:
            if not found or self.points[index][1] > self.points[found[-1]][1]:
                found.append(index)
        return found

    def draw(self, figure: Figure, width: int) -> None:
        count = len(self.x_labels)
        grid = (1, count) if width > 500 else (count, 1)
        panels = figure.subplots(*grid, sharey=True, squeeze=False).flat
        handles: list[Any] = []
        for panel, axes in enumerate(panels):
            xs = [costs[panel] for _, _, costs in self.points]
            log = min(xs) > 0 and max(xs) >= 10 * min(xs)
            set_scales(axes, log, False)
            front = [self.points[i] for i in self.front(panel)]
            axes.step(
                [costs[panel] for _, _, costs in front],
                [y for _, y, _ in front],
                where="post",
                color=INK,
                alpha=0.4,
                linewidth=1.2,
            )
            handles = [
                axes.plot(
                    [costs[panel]], [y], marker=MARKERS[i % len(MARKERS)], color=ink_of(i), ls="", ms=9, mec=PAPER
                )[0]
                for i, (_, y, costs) in enumerate(self.points)
            ]
            axes.margins(0.12)
            axes.set_xlabel(clean(self.x_labels[panel]))
            if panel == 0 or width <= 500:
                draw_head(axes, self.y_label, width // count if width > 500 else width)
            draw_ticks(axes, width // count if width > 500 else width, log, False)
        draw_legend(figure, handles, [name for name, _, _ in self.points], width)
