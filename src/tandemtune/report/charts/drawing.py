"""Parts of a drawing, by matplotlib."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tandemtune.report.charts.series import MOST_POINTS, Mark, Series, thinned
from tandemtune.report.numbers import Content, aligned, clean, drawable, fitted, number, rough
from tandemtune.report.page import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PAPER = "#010203", "#fefefd"  # colours that nothing else has, so that pages can replace them
_DASHES: tuple[Any, ...] = ("-", (0, (6, 3)), (0, (2, 2)), (0, (8, 3, 2, 3)), (0, (4, 2, 1, 2, 1, 2)))
MARKERS = "oDs^Xvp*"


@contextmanager
def style() -> Iterator[None]:
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
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": INK,
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


def three(value: float | None) -> str:
    """A number with three decimals."""
    return "–" if value is None else f"{value:z.3f}"


def column_of(one: Series) -> list[Content]:
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


def ink_of(index: int) -> str:
    """The colour of a series, by its place."""
    return LIGHT[index % len(LIGHT)]


def draw_head(axes: Axes, text: str, width: int) -> None:
    """The name of the vertical axis, level and above it."""
    axes.set_title(clean(fitted(text, width // 9)), loc="left", fontsize=12, alpha=0.8)


def set_scales(axes: Axes, x_log: bool, y_log: bool) -> None:
    """Logarithmic axes where they are asked for."""
    if x_log:
        axes.set_xscale("log")
    if y_log:
        axes.set_yscale("log")


def draw_ticks(
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


def name_rows(axes: Axes, names: Sequence[str], width: int) -> None:
    """Names beside horizontal rows, the first on top."""
    most = 34 if width > 500 else 24
    axes.set_yticks(range(len(names)), [clean(fitted(name, most)) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)


def draw_curve(
    axes: Axes, one: Series, index: int, of: int, points: Sequence[tuple[float, float, float, float]], width: int
) -> Any:
    """Draw a series; returns what the legend shows."""
    xs, ys, *_ = zip(*points, strict=True) if points else ((), ())
    ink, marker = ink_of(index), MARKERS[index % len(MARKERS)]
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


def draw_marks(axes: Axes, marks: Sequence[Mark], width: int) -> None:
    """Vertical lines; their texts where they do not stand on each other."""
    placed = [mark for mark in marks if drawable(mark.x) is not None]
    low, high = axes.get_xlim()
    room = (high - low) * 18 / width
    crowded = {b.x for a, b in pairwise(placed) if abs(b.x - a.x) < room}
    for mark in placed:
        axes.axvline(mark.x, color=INK, alpha=0.6, linewidth=1, linestyle=(0, (4, 3)))
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


def draw_legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], width: int) -> None:
    """Samples with names above the drawing."""
    shown = [clean(fitted(name, 44 if width > 500 else 34)) or " " for name in names]
    labels = [f"\u2060{name}" if name.startswith("_") else name for name in shown]  # matplotlib leaves out "_..."
    columns = max(1, int((width - 20) // (44 + 7.5 * max(map(len, labels)))))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderpad=0, handlelength=2.4)
