"""Charts by matplotlib: SVG for pages, with text kept as text, and SVG or PNG files for papers and slides.

Every chart is drawn for wide and for narrow windows and carries its numbers as a table. Series differ by dash and marker as well
as by colour. In a page, text takes the colour of its surroundings and series take `--series-1` ... `--series-8`. The same input
gives the same bytes. matplotlib is imported when the first chart is drawn.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from markupsafe import Markup

from tandemtune.report.numbers import Content, aligned, clean, drawable, fitted, number, rough
from tandemtune.report.page import LIGHT, Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")
WIDE, NARROW = 760, 360
"""Widths of the two drawings of a chart in a page, in CSS pixels."""
MOST_POINTS = 600
"""Points of a cloud or of a band that are drawn; of more, evenly spread ones."""
MOST_ROWS = 400
"""Rows of a chart's table; of more, evenly spread ones."""

_INK, _PAPER = "#010203", "#fefefd"  # colours that nothing else has, so that pages can replace them
_DASHES: tuple[Any, ...] = ("-", (0, (6, 3)), (0, (2, 2)), (0, (8, 3, 2, 3)), (0, (4, 2, 1, 2, 1, 2)))
_MARKERS = "oDs^Xvp*"


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


@dataclass(frozen=True, kw_only=True)
class Chart(ABC):
    """What all charts have.

    Args:
        title: what the chart shows; it stands above the drawing in a page.
        description: first sentence for screen readers, instead of one made from the labels.
    """

    kind: ClassVar[str] = "chart"
    title: str
    description: str = ""

    @abstractmethod
    def empty(self) -> bool:
        """Whether there is nothing to draw."""

    @abstractmethod
    def table(self) -> Grid:
        """The chart's numbers."""

    @abstractmethod
    def words(self) -> str:
        """The chart in a few sentences."""

    @abstractmethod
    def size(self, width: int) -> int:
        """Height of a drawing of this width."""

    @abstractmethod
    def draw(self, figure: Figure, width: int) -> None:
        """Put the chart on a figure."""

    def context(self) -> dict[str, Any]:
        """What the template shows."""
        if self.empty():
            return {"empty": f"{self.title}: there is nothing to draw yet."}
        wide, narrow = self.svg(WIDE), self.svg(NARROW)
        return {
            "empty": "",
            "title": self.title,
            "wide": wide[0],
            "wide_key": wide[1],
            "narrow": narrow[0],
            "narrow_key": narrow[1],
            "table": self.table(),
        }

    def svg(self, width: int) -> tuple[Markup, str]:
        """The chart as an `<svg>` element for pages, and the key that its ids begin with.

        Args:
            width: in CSS pixels.
        """
        return _inline(self.file("svg", width), clean(self.title), clean(self.words()))

    def file(self, kind: Literal["svg", "png"], width: int = WIDE) -> bytes:
        """The chart as a file of its own, dark on white.

        Args:
            kind: of the file.
            width: in CSS pixels; a PNG has three times as many of its own.
        """
        figure = self.figure(width)
        with _style():
            place = io.BytesIO()
            if kind == "svg":
                figure.savefig(place, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
            else:
                figure.savefig(place, format="png", dpi=216, facecolor="white", metadata={"Software": None})
            return place.getvalue()

    def figure(self, width: int = WIDE) -> Figure:
        """The chart as a figure of matplotlib, to be changed and saved by its own means.

        Args:
            width: in CSS pixels.
        """
        with _style():
            from matplotlib.figure import Figure

            figure = Figure(figsize=(width / 72, self.size(width) / 72), dpi=72, layout="constrained")
            self.draw(figure, width)
            return figure

    def _repr_svg_(self) -> str | None:
        """The chart in a notebook."""
        return None if self.empty() else str(self.svg(WIDE)[0])

    def save(self, place: Path) -> None:
        """Write the chart as the file's suffix says: ``.svg`` or ``.png``."""
        place.write_bytes(self.file("png" if place.suffix == ".png" else "svg"))


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
            for x, text in zip(one.xs, _column(one), strict=True):
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
        _head(axes, self.y_label, width)
        _scales(axes, self.x_log, self.y_log)
        handles = [
            _curve(axes, one, index, len(self.series), self._drawable(one), width)
            for index, one in enumerate(self.series)
        ]
        axes.set_xlabel(clean(fitted(self.x_label, width // 8)))
        if self.y_limits is not None:
            axes.set_ylim(*self.y_limits)
        xs = [x for one in self.series for x in one.xs if drawable(x) is not None]
        _ticks(axes, width, self.x_log, self.y_log, whole=all(x == int(x) for x in xs if x is not None))
        _marks(axes, self.marks, width)
        names = [one.name for one in self.series]
        if len(names) > 1 or names[0] != self.y_label:
            _legend(figure, handles, names, width)

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
        axes.axvline(0, color=_INK, linewidth=0.8)
        _rows(axes, [name for name, _ in self.bars], width)
        axes.set_xlabel(clean(fitted(self.x_label, width // 8)))
        _ticks(axes, width, False, False, rows=True)

    def _said(self, value: float | None) -> str:
        return f"{rough(drawable(value))} {fitted(self.unit, 8)}".strip()


@dataclass(frozen=True, kw_only=True)
class DotChart(Chart):
    """Measurements as dots on a common axis, a row each, with an interval around their middle.

    Args:
        x_label: name of the axis.
        rows: from top to bottom.
        limits: ends of the axis; None: the data's.
    """

    x_label: str
    rows: Sequence[Dots]
    limits: tuple[float, float] | None = (0.0, 1.0)

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
            cells: list[Content] = [row.name, *map(_three, (row.middle, row.low, row.high)), *single]
            rows.append([*cells, *([row.note] if noted else [])])
        return Grid(headers, rows, f"Data of: {self.title}", {1, 2, 3})

    def draw(self, figure: Figure, width: int) -> None:
        axes = figure.add_subplot()
        for place, row in enumerate(self.rows):
            if row.low is not None and row.high is not None:
                axes.plot(
                    [row.low, row.high], [place] * 2, color=LIGHT[0], linewidth=5, alpha=0.35, solid_capstyle="butt"
                )
            if len(row.values) > 1 or row.middle is None:
                axes.plot(row.values, [place] * len(row.values), "o", color=LIGHT[1], markersize=5, alpha=0.8, mew=0)
            if row.middle is not None:
                axes.plot([row.middle], [place], "D", color=LIGHT[0], markersize=7, mec=_PAPER)
                right = max([row.middle, *row.values, *([row.high] if row.high is not None else [])])
                axes.annotate(
                    _three(row.middle),
                    (right, place),
                    (8, 0),
                    textcoords="offset points",
                    va="center_baseline",
                    annotation_clip=False,
                )
        if self.limits is not None:
            low, high = self.limits
            axes.set_xlim(low, high + (high - low) * (0.16 if width < 500 else 0.08))
            axes.set_xticks([low + (high - low) * k / 5 for k in range(6)])
        _rows(axes, [row.name for row in self.rows], width)
        axes.set_xlabel(clean(fitted(self.x_label, width // 8)))
        _ticks(axes, width, False, False, rows=True, fixed=self.limits is not None)


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
        rows: list[list[Content]] = [[name, _three(y), *map(rough, xs)] for name, y, xs in self.points]
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
            _scales(axes, log, False)
            front = [self.points[i] for i in self.front(panel)]
            axes.step(
                [costs[panel] for _, _, costs in front],
                [y for _, y, _ in front],
                where="post",
                color=_INK,
                alpha=0.4,
                linewidth=1.2,
            )
            handles = [
                axes.plot(
                    [costs[panel]], [y], marker=_MARKERS[i % len(_MARKERS)], color=_ink(i), ls="", ms=9, mec=_PAPER
                )[0]
                for i, (_, y, costs) in enumerate(self.points)
            ]
            axes.margins(0.12)
            axes.set_xlabel(clean(self.x_labels[panel]))
            if panel == 0 or width <= 500:
                _head(axes, self.y_label, width // count if width > 500 else width)
            _ticks(axes, width // count if width > 500 else width, log, False)
        _legend(figure, handles, [name for name, _, _ in self.points], width)


def save_all(charts: Mapping[str, Chart], folder: Path, kind: Literal["svg", "png"]) -> None:
    """Write charts into a folder, each as a file of its name.

    Args:
        charts: by name.
        folder: it is made if it is not there.
        kind: of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in charts.items():
        chart.save(folder / f"{name}.{kind}")


def thinned(rows: Sequence[T], most: int) -> list[T]:
    """Evenly spread members of a sequence, its ends among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i] for i in sorted({round(i * (len(rows) - 1) / (most - 1)) for i in range(most)})]


# ---- parts of a drawing -------------------------------------------------------------------------------------------


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib's own defaults, whatever a user's file says, with our few changes."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "charts need matplotlib, which is not installed: run `pip install matplotlib`, then write the report again"
        ) from error
    defaults: dict[Any, Any] = {
        key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith(("backend", "webagg"))
    }
    changes: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "tandemtune",
        "text.parse_math": False,
        "font.size": 12,
        "axes.titlesize": 12,
        "axes.labelsize": 12,
        "legend.fontsize": 12,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.facecolor": "none",
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "grid.color": _INK,
        "grid.alpha": 0.16,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "lines.linewidth": 2,
    }
    with matplotlib.rc_context({**defaults, **changes}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has it
        yield


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:z.3f}"


def _column(one: Series) -> list[Content]:
    """The values of a series as a table has them."""
    values = aligned([None if y is None else float(y) for y in one.ys], 6)
    if one.low is None or one.high is None:
        return list(values)
    edges = [
        "" if low is None or high is None else f"{rough(low, 4)} to {rough(high, 4)}"
        for low, high in zip(one.low, one.high, strict=True)
    ]
    if one.style == "band":
        return list(edges)
    return [f"{value} ({edge})" if edge else value for value, edge in zip(values, edges, strict=True)]


def _ink(index: int) -> str:
    return LIGHT[index % len(LIGHT)]


def _head(axes: Axes, text: str, width: int) -> None:
    """The name of the vertical axis, level and above it."""
    axes.set_title(clean(fitted(text, width // 9)), loc="left", fontsize=12, alpha=0.8)


def _scales(axes: Axes, x_log: bool, y_log: bool) -> None:
    if x_log:
        axes.set_xscale("log")
    if y_log:
        axes.set_yscale("log")


def _ticks(
    axes: Axes, width: int, x_log: bool, y_log: bool, *, rows: bool = False, fixed: bool = False, whole: bool = False
) -> None:
    """Few ticks with numbers as the tables have them; on the horizontal axis between whole numbers none."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    def text(value: float, place: int | None = None) -> str:
        return number(float(f"{value:.6g}"))

    for axis, log, count in ((axes.xaxis, x_log, max(2, width // 90)), (axes.yaxis, y_log, 6)):
        if rows and axis is axes.yaxis:
            continue
        if log:
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,), numticks=count + 1))
            axis.set_minor_formatter(NullFormatter())
        elif not (fixed and axis is axes.xaxis):
            axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10], integer=whole and axis is axes.xaxis))
        axis.set_major_formatter(FuncFormatter(text))
    axes.grid(axis="x" if rows else "y")
    axes.tick_params(length=0 if rows else 3, axis="y")


def _rows(axes: Axes, names: Sequence[str], width: int) -> None:
    """Names beside horizontal rows, the first on top."""
    most = 34 if width > 500 else 24
    axes.set_yticks(range(len(names)), [clean(fitted(name, most)) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)


def _curve(
    axes: Axes, one: Series, index: int, of: int, points: Sequence[tuple[float, float, float, float]], width: int
) -> Any:
    """Draw a series; returns what the legend shows."""
    xs, ys, *_ = zip(*points, strict=True) if points else ((), ())
    ink, marker = _ink(index), _MARKERS[index % len(_MARKERS)]
    if one.style == "points":
        xs, ys = zip(*thinned(list(zip(xs, ys, strict=True)), MOST_POINTS), strict=True) if xs else ((), ())
        size = 6 if len(xs) <= 60 else 4
        return axes.plot(xs, ys, marker=marker, color=ink, linestyle="", markersize=size, alpha=0.8, mew=0)[0]
    band = None
    if one.low is not None and points:
        xs_of, _, edge_lows, edge_highs = zip(*thinned(points, MOST_POINTS), strict=True)
        band = axes.fill_between(xs_of, edge_lows, edge_highs, color=ink, alpha=0.18, linewidth=0)
    if one.style == "band":
        return band
    count = sum(not math.isnan(y) for y in ys)
    sparse = max(1, len(xs) // 8)  # markers of a long curve, apart from those of its neighbours
    every: Any = None if count <= min(30, width // 12) else ((index * sparse // max(of, 1)) % sparse, sparse)
    return axes.plot(
        xs,
        ys,
        color=ink,
        linestyle=_DASHES[index % len(_DASHES)],
        marker=marker if every is None or of > 1 else None,
        markevery=every,
        markersize=5,
        mew=0,
    )[0]


def _marks(axes: Axes, marks: Sequence[Mark], width: int) -> None:
    """Vertical lines; their texts where they do not stand on each other."""
    placed = [mark for mark in marks if drawable(mark.x) is not None]
    low, high = axes.get_xlim()
    room = (high - low) * 18 / width
    crowded = {b.x for a, b in pairwise(placed) if abs(b.x - a.x) < room}
    for mark in placed:
        axes.axvline(mark.x, color=_INK, alpha=0.6, linewidth=1, linestyle=(0, (4, 3)))
        if mark.x not in crowded:
            axes.annotate(
                clean(fitted(mark.text, 28)),
                (mark.x, 1),
                (-4, -4),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                rotation=90,
                rotation_mode="anchor",
                ha="right",
                va="baseline",
                fontsize=10,
                in_layout=False,
            )


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], width: int) -> None:
    """Samples with names above the drawing."""
    shown = [clean(fitted(name, 44 if width > 500 else 34)) or " " for name in names]
    labels = [f"\u2060{name}" if name.startswith("_") else name for name in shown]  # matplotlib leaves out "_..."
    columns = max(1, int((width - 20) // (44 + 7.5 * max(map(len, labels)))))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderpad=0, handlelength=2.4)


# ---- as part of a page --------------------------------------------------------------------------------------------

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_FONT = re.compile(r"(font: [^;]*?|font-family: )'[^;]*")
_PLACES = ("d", "x", "y", "points", "transform")
_INKS = {
    **{colour: f"var(--series-{place},{colour})" for place, colour in enumerate(LIGHT, 1)},
    _INK: "currentColor",
    _PAPER: "var(--paper,#ffffff)",
}


def _inline(content: bytes, title: str, description: str) -> tuple[Markup, str]:
    """matplotlib's file as an element of a page: named, in the page's colours, with ids of its own. Texts stay as they are."""
    root = ElementTree.fromstring(content)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _restyle(element)
    size = root.get("viewBox", "").split()[2:]
    drawing = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    key = f"chart-{hashlib.sha256(repr((title, description, size, drawing)).encode()).hexdigest()[:12]}"
    _rename(root, key)
    root.attrib = {
        "xmlns": _SVG[1:-1],
        "width": f"{float(size[0]):.0f}",
        "height": f"{float(size[1]):.0f}",
        "viewBox": root.get("viewBox", ""),
        "role": "img",
        "aria-labelledby": f"{key}-t {key}-d",
    }
    for place, (name, said) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(name, {"id": f"{key}-{name[0]}"})
        element.text = said
        root.insert(place, element)
    for element in root.iter():
        element.tail = None if element is root else "\n"
    return Markup(ElementTree.tostring(root, encoding="unicode")), key


def _restyle(element: ElementTree.Element) -> None:
    """A page's colours and font in the styles of an element, and places to a hundredth."""
    style = element.get("style")
    if style is not None:
        style = _FONT.sub(r"\1system-ui, sans-serif", style)
        element.set("style", re.sub("#[0-9a-f]{6}", lambda found: _INKS.get(found[0], found[0]), style))
    for name in _PLACES:
        if name in element.attrib:
            short = re.sub(r"(\.\d\d)\d+", r"\1", element.attrib[name])
            element.set(name, " ".join(short.split()))


def _rename(root: ElementTree.Element, key: str) -> None:
    """Ids that begin with `key` for what is referred to, and none for the rest."""
    used: dict[str, str] = {}

    def new(name: str) -> str:
        return used.setdefault(name, f"{key}-{len(used)}")

    for element in root.iter():
        if _HREF in element.attrib:
            element.set("href", "#" + new(element.attrib.pop(_HREF).removeprefix("#")))
        clip = element.get("clip-path")
        if clip is not None:
            element.set("clip-path", f"url(#{new(clip[5:-1])})")
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", used[name])
