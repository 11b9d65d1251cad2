"""Line and bar charts: SVG for pages, Unicode for terminals, and the numbers behind them as tables.

Series differ by dash and marker as well as by colour. Text takes the colour of its surroundings, series take
`--series-1` ... `--series-8` where a page sets them. The same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from rich.cells import cell_len

from tandemtune.report.page import LIGHT, LIGHT_PAPER, Cell, aligned, escape, number, table


@dataclass(frozen=True, slots=True)
class Series:
    """A named curve or cloud of points.

    Args:
        name: what the legend says.
        xs: positions.
        ys: values; None and what is not finite (or beyond 1e300) leave a gap.
        spread: half widths around `ys`: error bars of points, a band around lines and steps.
        style: "line", "points", or "step" (a value holds until the next one).
    """

    name: str
    xs: Sequence[float | None]
    ys: Sequence[float | None]
    spread: Sequence[float | None] | None = None
    style: Literal["line", "points", "step"] = "line"

    def __post_init__(self) -> None:
        spread = len(self.xs) if self.spread is None else len(self.spread)
        if not len(self.xs) == len(self.ys) == spread:
            raise ValueError(
                f"series {self.name!r}: {len(self.xs)} xs, {len(self.ys)} ys and {spread} spreads; expected as many of each"
            )


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a chart at one position.

    Args:
        x: where.
        text: what happened there, or what the value stands for.
    """

    x: float
    text: str


Bar = tuple[str, float | None, float | None]


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    marks: Sequence[Mark] = (),
    x_log: bool = False,
    y_log: bool = False,
    width: int = 720,
    height: int = 360,
    description: str | None = None,
) -> str:
    """A chart of one or more series.

    Args:
        title: heading inside the drawing.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        series: what to draw.
        marks: vertical lines with a text above the plot.
        x_log: logarithmic horizontal axis; what is not positive is left out.
        y_log: the same for the vertical axis.
        width: of the drawing.
        height: of the drawing; it grows where the legend needs several rows.
        description: first sentence for screen readers, instead of one made from the labels.

    Returns:
        An `<svg>` element, or a sentence in a `<p>` if there is no point to draw.
    """
    plot = _Plot.of(series, marks, x_log, y_log)
    if plot is None:
        return _nothing(title, series)
    legend = [one for one in enumerate(series) if one[1].name and (len(series) > 1 or one[1].name != y_label)]
    drawing = _Drawing(title, width)
    drawing.legend(legend)
    drawing.text(0, drawing.down(_ROW), y_label, room=width, quiet=True)
    drawing.y += 4

    y = plot.axis("y", max(2, min(8, height // 45)))
    left = 14.0 + max(_breadth(label) for _, label in y.ticks)
    right = width - 14.0
    x = plot.axis("x", 9, (left, right, width))
    shown = _lanes(
        [(left + (right - left) * where, mark.text) for mark in marks if (where := x.place(mark.x)) is not None], right
    )
    lanes = 1 + max((lane for _, _, lane in shown if lane is not None), default=-1)
    top = drawing.y + _ROW * lanes + 4
    notes = [line for note in plot.notes() for line in _wrapped(note, width)]
    bottom = max(height - 2.0 * _ROW - 6 - _ROW * len(notes), top + height * 0.55)

    for value, label in y.ticks:
        at = _between(bottom, top, y.place(value))
        drawing.line(left, at, right, at, "0.16")
        drawing.text(left - 6, at + 4, label, anchor="end")
    drawing.line(left, bottom, right, bottom, "0.6")
    for value, label in x.ticks:
        at = _between(left, right, x.place(value))
        drawing.line(at, bottom, at, bottom + 4, "0.6")
        drawing.text(_inside(at, _breadth(label), width), bottom + 16, label, anchor="middle")
    drawing.text((left + right) / 2, bottom + 16 + _ROW, x_label, anchor="middle", room=right - left, quiet=True)
    for spot, text, lane in shown:
        upper = top - 4 if lane is None else top - 4 - _ROW * (lanes - 1 - lane)
        drawing.mark(spot, upper, bottom, text)
        if lane is not None:
            side, anchor = (3, "start") if spot + 3 + _breadth(_cut(text, _MARK_ROOM)) <= right else (-3, "end")
            drawing.text(spot + side, upper - 1, text, anchor=anchor, room=_MARK_ROOM, quiet=True)
    for index, one in enumerate(series):
        runs = [[_moved(point, (left, right), (bottom, top)) for point in run] for run in plot.runs(one, x, y)]
        drawing.series(index, one.style, runs, one.spread is not None, len(series), right - left)
    for row, note in enumerate(notes):
        drawing.text(0, bottom + 16 + _ROW * (2 + row), note, room=width, quiet=True)
    words = [description or f"Line chart of {y_label} against {x_label}.", *plot.words(), *plot.notes()]
    return drawing.finish(bottom + 2.0 * _ROW + 6 + _ROW * len(notes), " ".join(words))


def bar_chart(
    title: str,
    x_label: str,
    rows: Sequence[Bar],
    *,
    unit: str = "",
    reference: Mark | None = None,
    width: int = 720,
    description: str | None = None,
) -> str:
    """Horizontal bars from zero, each with its value in words.

    Args:
        title: heading inside the drawing.
        x_label: what the length of a bar means.
        rows: (name, value, half width of the error bar or None); a value that is not finite has no bar.
        unit: written behind every value.
        reference: a vertical line at a value, such as chance or a baseline.
        width: of the drawing; below 480 names stand above their bars.
        description: first sentence for screen readers, instead of one made from the label.

    Returns:
        An `<svg>` element, or a sentence in a `<p>` if there is no value to draw.
    """
    if all(_finite(value) is None for _, value, _ in rows):
        return f'<p class="empty">{escape(_no_bars(title))}</p>'
    axis_values = _bar_values(rows, reference)
    said = _said(rows, _cut(unit, 100.0))
    stacked = width < 480
    drawing = _Drawing(title, width)
    value_room = max(_breadth(text) for text in said)
    name_room = 0.0 if stacked else min(max(_breadth(name) for name, _, _ in rows), width * 0.36)
    left = 2.0 if stacked else name_room + 14
    right = max(width - (14.0 if stacked else value_room + 24), left + 40)
    x = _fitted(axis_values, False, 7, (left, right, width), nice=True)
    zero = _between(left, right, x.place(0.0))
    line = None if reference is None else x.place(reference.x)
    if reference is not None and line is not None:
        at = _between(left, right, line)
        row = drawing.down(_ROW)
        text_room = min(_breadth(reference.text), float(width))
        start = min(max(0.0, at - text_room / 2), width - text_room)
        drawing.text(start, row, reference.text, room=width, quiet=True)
    top = drawing.y + 6
    pitch = 40 if stacked else 26
    bottom = top + pitch * len(rows) + 4
    bases = [top + pitch * index + (18 if stacked else 4) for index in range(len(rows))]
    spans = [(base - 1, base + 19) for base in bases] if stacked else [(top, bottom)]  # of the lines: not over names
    for tick, label in x.ticks:
        at = _between(left, right, x.place(tick))
        for upper, lower in spans:
            drawing.line(at, upper, at, lower, "0.16")
        drawing.text(_inside(at, _breadth(label), width), bottom + 16, label, anchor="middle")
    for index, (name, value, spread) in enumerate(rows):
        base = bases[index]
        if stacked:
            drawing.text(0, base - 5, name, room=width - 16 - _breadth(said[index]))
            drawing.text(width - 2.0, base - 5, said[index], anchor="end")
        else:
            drawing.text(left - 8, base + 13, name, anchor="end", room=name_room)
            drawing.text(width - 2.0, base + 13, said[index], anchor="end")
        finite = _finite(value)
        if finite is None:
            continue
        drawing.bar(zero, _between(left, right, x.place(finite)), base, 18)
        if (half := _half(spread)) is not None:
            low, high = _ends(finite, half)
            drawing.whisker(_between(left, right, x.place(low)), _between(left, right, x.place(high)), base + 9)
    for upper, lower in spans:
        drawing.line(zero, upper, zero, lower, "0.6")
        if reference is not None and line is not None:
            drawing.mark(_between(left, right, line), upper, lower, reference.text, halo=True)
    drawing.text((left + right) / 2, bottom + 16 + _ROW, x_label, anchor="middle", room=width, quiet=True)
    words = [description or f"Bar chart of {x_label}."]
    words += [f"{name}: {text}." for (name, _, _), text in zip(rows, said, strict=True)]
    if reference is not None:
        words.append(f"Line at {number(reference.x)}: {reference.text}.")
    return drawing.finish(bottom + 2 * _ROW + 6, " ".join(words))


def line_figure(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    marks: Sequence[Mark] = (),
    x_log: bool = False,
    y_log: bool = False,
    height: int = 360,
    description: str | None = None,
) -> str:
    """A line chart drawn for wide and for narrow windows, with its numbers in a table that opens on demand.

    Args:
        title: heading inside the drawing.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        series: what to draw.
        marks: vertical lines with a text above the plot.
        x_log: logarithmic horizontal axis.
        y_log: logarithmic vertical axis.
        height: of the wide drawing.
        description: first sentence for screen readers.

    Returns:
        A `<figure>` for a section of a page, or a sentence if there is no point to draw.
    """
    wide, narrow = (
        line_chart(
            title, x_label, y_label, series,
            marks=marks, x_log=x_log, y_log=y_log, width=width, height=tall, description=description,
        )
        for width, tall in ((720, height), (_NARROW, min(height, 300)))
    )  # fmt: skip
    if _Plot.of(series, marks, x_log, y_log) is None:
        return wide
    return _figure(wide, narrow, data_table(title, x_label, series, marks=marks))


def bar_figure(
    title: str,
    x_label: str,
    rows: Sequence[Bar],
    *,
    unit: str = "",
    reference: Mark | None = None,
    description: str | None = None,
) -> str:
    """A bar chart drawn for wide and for narrow windows, with its numbers in a table that opens on demand.

    Args:
        title: heading inside the drawing.
        x_label: what the length of a bar means.
        rows: (name, value, half width of the error bar or None).
        unit: written behind every value.
        reference: a vertical line at a value.
        description: first sentence for screen readers.

    Returns:
        A `<figure>` for a section of a page, or a sentence if there is no value to draw.
    """
    wide, narrow = (
        bar_chart(title, x_label, rows, unit=unit, reference=reference, width=width, description=description)
        for width in (720, _NARROW)
    )
    if all(_finite(value) is None for _, value, _ in rows):
        return wide
    return _figure(wide, narrow, bar_table(title, x_label, rows, unit=unit, reference=reference))


def data_table(
    title: str, x_label: str, series: Sequence[Series], *, marks: Sequence[Mark] = (), most: int = 400
) -> str:
    """The numbers of a line chart: a row for every x, a column for every series.

    Args:
        title: the chart's.
        x_label: the chart's.
        series: the chart's.
        marks: the chart's; they get a column.
        most: rows; of more, evenly spread ones are kept, and the caption says so.

    Returns:
        A `<details>` element.
    """
    cells: dict[tuple[float, int], dict[int, Cell]] = {}
    for column, one in enumerate(series):
        seen: dict[float, int] = {}
        values = aligned([None if y is None else float(y) for y in one.ys], 6)
        halves = aligned([_half(spread) for spread in _spreads(one)], 6)
        for x, value, half in zip(one.xs, values, halves, strict=True):
            if (at := _finite(x)) is not None:
                seen[at] = seen.get(at, 0) + 1
                known = one.spread is not None and half != "–"
                cells.setdefault((at, seen[at]), {})[column] = f"{value} ± {half}" if known else value
    for mark in marks:
        if (at := _finite(mark.x)) is not None:
            row = cells.setdefault((at, 1), {})
            row[len(series)] = f"{row[len(series)]}; {mark.text}" if len(series) in row else mark.text
    headers = [x_label, *(one.name for one in series), *(["mark"] if marks else [])]
    rows: list[list[Cell]] = [
        [at, *(row.get(column) for column in range(len(series))), *([row.get(len(series), "")] if marks else [])]
        for (at, _), row in sorted(cells.items())
    ]
    kept = _thinned(rows, most)
    caption = f"Data of: {title}" + (f" ({len(kept)} of {len(rows)} rows)" if len(kept) < len(rows) else "")
    return _details(table(headers, kept, caption, numeric=range(len(series) + 1)))


def bar_table(title: str, x_label: str, rows: Sequence[Bar], *, unit: str = "", reference: Mark | None = None) -> str:
    """The numbers of a bar chart.

    Args:
        title: the chart's.
        x_label: the chart's.
        rows: the chart's.
        unit: the chart's.
        reference: the chart's; it becomes the last row.

    Returns:
        A `<details>` element.
    """
    name = f"{x_label} ({unit})" if unit else x_label
    lines: list[list[Cell]] = [[row[0], None if row[1] is None else float(row[1]), _half(row[2])] for row in rows]
    if reference is not None:
        lines.append([reference.text, float(reference.x), None])
    return _details(table(["", name, "±"], lines, f"Data of: {title}", numeric=(1, 2)))


def line_text(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    marks: Sequence[Mark] = (),
    x_log: bool = False,
    y_log: bool = False,
    height: int = 16,
) -> str:
    """A line chart for the terminal.

    Args:
        title: first line.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        series: what to draw, each with a glyph of its own; where several meet stands "*".
        marks: vertical lines, listed below.
        x_log: logarithmic horizontal axis.
        y_log: logarithmic vertical axis.
        height: rows of the plot.

    Returns:
        Lines of at most 80 columns without control characters, or a sentence if there is no point to draw.
    """
    plot = _Plot.of(series, marks, x_log, y_log)
    if plot is None:
        return _fit(_no_points(title, series), _COLUMNS)
    rows = max(height, 4)
    y = plot.axis("y", max(2, rows // 3))
    margin = max(len(label) for _, label in y.ticks)
    columns = _COLUMNS - margin - 2
    x = plot.axis("x", 8, (0.0, columns * _LETTER, columns * _LETTER))
    grid: list[list[str]] = [[" "] * columns for _ in range(rows)]
    placed = [mark for mark in marks if x.place(mark.x) is not None]
    for mark in placed:
        for line in grid:
            line[_cell(x.place(mark.x), columns)] = "┊"
    taken: dict[tuple[int, int], int] = {}
    met = False
    for index, one in enumerate(series):
        for cell in _cells(one, plot.runs(one, x, y), rows, columns):
            met = met or taken.get(cell, index) != index
            grid[cell[0]][cell[1]] = _GLYPHS[index % len(_GLYPHS)] if taken.setdefault(cell, index) == index else "*"
    labels = [""] * rows
    for value, label in y.ticks:
        labels[rows - 1 - _cell(y.place(value), rows)] = label
    lines = [_fit(title, _COLUMNS), _fit(y_label, _COLUMNS)]
    lines += [
        f"{label:>{margin}} {'┤' if label else '│'}{''.join(row)}" for label, row in zip(labels, grid, strict=True)
    ]
    rule, scale = ["─"] * columns, [" "] * _COLUMNS
    free = 0
    for value, label in x.ticks:
        at = _cell(x.place(value), columns)
        rule[at] = "┬"
        start = min(max(margin + 2 + at - len(label) // 2, 0), _COLUMNS - len(label))
        if start >= free:
            scale[start : start + len(label)] = label
            free = start + len(label) + 1
    lines += [f"{'':>{margin}} └{''.join(rule)}", "".join(scale)]
    name = _fit(x_label, columns)
    lines.append(" " * (margin + 2 + (columns - cell_len(name)) // 2) + name)
    legend = [f"{_GLYPHS[index % len(_GLYPHS)]} {_fit(one.name, 36)}" for index, one in enumerate(series) if one.name]
    legend += ["* several"] if met else []
    lines += _flowed(legend)
    lines += _flowed([f"┊ {_fit(mark.text, 36)} ({number(float(mark.x))})" for mark in placed])
    lines += [_fit(note, _COLUMNS) for note in plot.notes()]
    return "\n".join(line.rstrip() for line in lines)


def bar_text(title: str, x_label: str, rows: Sequence[Bar], *, unit: str = "", reference: Mark | None = None) -> str:
    """A bar chart for the terminal.

    Args:
        title: first line.
        x_label: what the length of a bar means.
        rows: (name, value, half width or None).
        unit: written behind every value.
        reference: a vertical line at a value, explained below.

    Returns:
        Lines of at most 80 columns without control characters, or a sentence if there is no value to draw.
    """
    if all(_finite(value) is None for _, value, _ in rows):
        return _fit(_no_bars(title), _COLUMNS)
    unit = _fit(unit, 14)
    said = [_fit(text, 40) for text in _said(rows, unit)]
    names = [_fit(name, 22) for name, _, _ in rows]
    name_room, value_room = max(map(cell_len, names)), max(map(cell_len, said))
    columns = _COLUMNS - name_room - value_room - 2
    x = _scaled(_bar_values([(name, value, None) for name, value, _ in rows], reference), False, 2)
    zero = round((x.place(0.0) or 0.0) * columns)
    line = None if reference is None else x.place(reference.x)
    lines = [_fit(title, _COLUMNS), _fit(x_label, _COLUMNS)]
    for name, text, (_, value, _) in zip(names, said, rows, strict=True):
        bar = [" "] * columns
        if (finite := _finite(value)) is not None:
            start, blocks = _blocks(x.place(finite) or 0.0, zero, columns)
            bar[start : start + len(blocks)] = blocks
        if line is not None:
            bar[_cell(line, columns)] = "┊"
        lines.append(f"{_padded(name, name_room)} {''.join(bar)} {' ' * (value_room - cell_len(text))}{text}")
    if reference is not None and line is not None:
        lines += _flowed([f"┊ {_fit(reference.text, 40)} ({number(float(reference.x))}{_behind(unit)})"])
    return "\n".join(row.rstrip() for row in lines)


# ---- scales -------------------------------------------------------------------------------------------------------

_HUGE = 1e300  # beyond it differences overflow
_TINY = 1e-290


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to places between 0 and 1; `low` and `high` are exponents on a logarithmic axis."""

    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float | None) -> float | None:
        at = _drawable(value, self.log)
        if at is None:
            return None
        return min(max((at - self.low) / (self.high - self.low), 0.0), 1.0)


def _finite(value: float | None) -> float | None:
    if value is None:
        return None
    plain = float(value)
    return plain if math.isfinite(plain) and abs(plain) <= _HUGE else None


def _half(spread: float | None) -> float | None:
    plain = _finite(spread)
    return None if plain is None else abs(plain)


def _drawable(value: float | None, log: bool) -> float | None:
    plain = _finite(value)
    if plain is None or not log:
        return plain
    return math.log10(plain) if plain > _TINY else None


def _scaled(values: Sequence[float], log: bool, wanted: int, *, nice: bool = False) -> _Axis:
    """An axis over values that are all drawable.

    Args:
        values: at least one.
        log: logarithmic.
        wanted: about how many ticks.
        nice: begin and end at a tick, or a little outside the values where that would be far away.
    """
    places = [at for value in values if (at := _drawable(value, log)) is not None]
    low, high = min(places), max(places)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-9 if log else _TINY):  # one value, as far as one can see
        margin = 0.5 if log else abs(low) * 0.1 if abs(low) > _TINY else 1.0
        low, high = low - margin, high + margin
    elif nice and log:
        margin = 0.04 * (high - low)
        low, high = max(low - margin, -300.0), min(high + margin, 305.0)  # ticks are finite
    if log:
        return _Axis(low, high, True, _log_ticks(low, high, wanted))
    step = _nice_step((high - low) / wanted, whole=not nice and all(value == int(value) for value in places))
    if nice:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return _Axis(low, high, False, _linear_ticks(low, high, step))


def _fitted(
    values: Sequence[float], log: bool, wanted: int, room: tuple[float, float, float], *, nice: bool = False
) -> _Axis:
    """The axis with the most ticks, up to `wanted`, whose labels stand apart.

    Args:
        values: at least one.
        log: logarithmic.
        wanted: about how many ticks at most.
        room: left and right end of the axis, and the width of the drawing that no label leaves.
        nice: as in `_scaled`.
    """
    left, right, width = room
    axis = _scaled(values, log, wanted, nice=nice)
    for count in range(wanted, 0, -1):
        axis = _scaled(values, log, count, nice=nice)
        sizes = [_breadth(label) for _, label in axis.ticks]
        middles = [
            _inside(_between(left, right, axis.place(value)), size, width)
            for (value, _), size in zip(axis.ticks, sizes, strict=True)
        ]
        ends = list(zip(middles, sizes, strict=True))
        if all(b - a >= (wa + wb) / 2 + 8 for (a, wa), (b, wb) in pairwise(ends)):
            return axis
    return _Axis(axis.low, axis.high, axis.log, axis.ticks[:1])


def _nice_step(raw: float, whole: bool) -> float:
    exponent = math.floor(math.log10(raw))
    step = next(
        found
        for found in (float(f"{digit}e{exponent + carry}") for digit, carry in ((1, 0), (2, 0), (5, 0), (1, 1), (2, 1)))
        if found >= raw * (1 - 1e-9)
    )
    return max(step, 1.0) if whole else step


def _linear_ticks(low: float, high: float, step: float) -> tuple[tuple[float, str], ...]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [float(f"{count * step:.15g}") for count in range(first, last + 1)]
    if not values:
        values = [low]
    top = max(abs(value) for value in values)
    size = math.floor(math.log10(step) + 1e-9)
    if top and (top >= 1e15 or top < 1e-3):
        digits = max(0, math.floor(math.log10(top)) - size)
        return tuple((value, _scientific(value, digits)) for value in values)
    for divisor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        decimals = max(0, round(math.log10(divisor)) - size)
        if top >= max(divisor, 1e4) and decimals <= 2:
            return tuple((value, f"{value / divisor:.{decimals}f}{letter}" if value else "0") for value in values)
    return tuple((value, f"{value:,.{max(0, -size)}f}") for value in values)


def _log_ticks(low: float, high: float, wanted: int) -> tuple[tuple[float, str], ...]:
    if high - low < 1:
        bottom, top = 10.0**low, 10.0**high
        return _linear_ticks(bottom, top, _nice_step((top - bottom) / wanted, whole=False))
    decades = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    stride = -(-len(decades) // wanted)
    values = [float(f"1e{exponent}") for exponent in decades if exponent % stride == 0]
    if len(values) * 3 <= wanted + 2:
        values = [
            value
            for exponent in range(decades[0] - 1, decades[-1] + 1)
            for digit in (1, 2, 5)
            if low - 1e-9 <= math.log10(value := float(f"{digit}e{exponent}")) <= high + 1e-9
        ]
    return tuple((value, _power(value)) for value in values or [float(f"1e{decades[0]}")])


def _power(value: float) -> str:
    if not 1e-4 < value < 1e15:
        return _scientific(value, 0)
    for divisor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= max(divisor, 1e4):
            return f"{value / divisor:g}{letter}"
    return f"{value:,g}"


def _scientific(value: float, digits: int) -> str:
    if not value:
        return "0"
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _between(start: float, end: float, place: float | None) -> float:
    return start + (end - start) * (place or 0.0)


def _moved(point: _Point, across: tuple[float, float], up: tuple[float, float]) -> _Point:
    x, y, low, high = point
    return _between(*across, x), _between(*up, y), _between(*up, low), _between(*up, high)


def _inside(middle: float, breadth: float, width: float) -> float:
    return min(max(middle, breadth / 2), width - breadth / 2)


# ---- what there is to draw ----------------------------------------------------------------------------------------

_Point = tuple[float, float, float, float]  # x, y, and the lower and upper end of the spread


@dataclass(frozen=True, slots=True)
class _Plot:
    """What of a line chart can be drawn."""

    given: Sequence[Series]
    x_values: tuple[float, ...]
    y_values: tuple[float, ...]
    x_log: bool
    y_log: bool
    left_out: int

    @classmethod
    def of(cls, series: Sequence[Series], marks: Sequence[Mark], x_log: bool, y_log: bool) -> _Plot | None:
        """None if not a single point can be drawn."""
        x_values: list[float] = []
        y_values: list[float] = []
        left_out = 0
        for one in series:
            for x, y, half in _triples(one):
                if x is None or y is None or _drawable(x, x_log) is None or _drawable(y, y_log) is None:
                    left_out += 1
                    continue
                x_values.append(x)
                y_values += [v for v in (y, *_ends(y, half)) if _drawable(v, y_log) is not None]
        if not x_values:
            return None
        x_values += [float(mark.x) for mark in marks if _drawable(mark.x, x_log) is not None]
        return cls(series, tuple(x_values), tuple(y_values), x_log, y_log, left_out)

    def axis(self, name: Literal["x", "y"], wanted: int, room: tuple[float, float, float] | None = None) -> _Axis:
        values, log = (self.x_values, self.x_log) if name == "x" else (self.y_values, self.y_log)
        if room is None:
            return _scaled(values, log, wanted, nice=name == "y")
        return _fitted(values, log, wanted, room)

    def runs(self, one: Series, x_axis: _Axis, y_axis: _Axis) -> list[list[_Point]]:
        """Points as places between 0 and 1, in pieces without a gap."""
        runs: list[list[_Point]] = [[]]
        for x, y, half in _triples(one):
            across, up = x_axis.place(x), y_axis.place(y)
            if y is None or across is None or up is None:
                runs.append([])
                continue
            lower, upper = (0.0 if (at := y_axis.place(end)) is None else at for end in _ends(y, half))
            runs[-1].append((across, up, lower, max(upper, up)))
        return [run for run in runs if run]

    def notes(self) -> list[str]:
        if not self.left_out:
            return []
        why = "not finite, or not positive on a logarithmic axis" if self.x_log or self.y_log else "not finite"
        return [f"{self.left_out} {'point is' if self.left_out == 1 else 'points are'} left out: {why}."]

    def words(self) -> list[str]:
        """A sentence for each series."""
        said = []
        for one in self.given:
            ys = [
                (x, y)
                for x, y, _ in _triples(one)
                if x is not None
                and y is not None
                and _drawable(x, self.x_log) is not None
                and _drawable(y, self.y_log) is not None
            ]
            if not ys:
                said.append(f"{one.name}: nothing to draw.")
                continue
            low, high = min(ys, key=lambda p: p[1]), max(ys, key=lambda p: p[1])
            said.append(
                f"{one.name}: {len(ys)} {'point' if len(ys) == 1 else 'points'}, last {number(ys[-1][1])} at "
                f"{number(ys[-1][0])}, lowest {number(low[1])} at {number(low[0])}, highest {number(high[1])} at {number(high[0])}."
            )
        return said


def _triples(one: Series) -> list[tuple[float | None, float | None, float]]:
    return [
        (_finite(x), _finite(y), _half(spread) or 0.0)
        for x, y, spread in zip(one.xs, one.ys, _spreads(one), strict=True)
    ]


def _spreads(one: Series) -> Sequence[float | None]:
    return [None] * len(one.xs) if one.spread is None else one.spread


def _ends(value: float, half: float) -> tuple[float, float]:
    return max(value - half, -_HUGE), min(value + half, _HUGE)


def _bar_values(rows: Sequence[Bar], reference: Mark | None) -> list[float]:
    values = [0.0]
    for _, value, spread in rows:
        if (plain := _finite(value)) is not None:
            half = _half(spread) or 0.0
            values += [plain, *_ends(plain, half)]
    if reference is not None and (plain := _finite(reference.x)) is not None:
        values.append(plain)
    return values if max(map(abs, values)) > _TINY else [0.0, 1.0]


def _said(rows: Sequence[Bar], unit: str) -> list[str]:
    """Each value with its spread and unit."""
    count = len(rows)
    plain = [_finite(value) for _, value, _ in rows] + [_half(spread) for _, _, spread in rows]
    shown = aligned(plain)
    said = []
    for index, (_, value, _) in enumerate(rows):
        if plain[index] is None:
            said.append("no value" if value is None else f"no value ({number(float(value))})")
        else:
            spread = "" if plain[count + index] is None else f" ± {shown[count + index]}"
            said.append(shown[index] + spread + _behind(unit))
    return said


def _behind(unit: str) -> str:
    return unit if not unit or unit[0] in "%°×" else f" {unit}"


def _no_points(title: str, series: Sequence[Series]) -> str:
    count = sum(len(one.xs) for one in series)
    return f"{title}: nothing to draw, " + (
        f"none of {count} points can be placed (not finite, or not positive on a logarithmic axis)."
        if count
        else "there are no points yet."
    )


def _no_bars(title: str) -> str:
    return f"{title}: nothing to draw, there are no values yet."


def _nothing(title: str, series: Sequence[Series]) -> str:
    return f'<p class="empty">{escape(_no_points(title, series))}</p>'


def _thinned(rows: list[list[Cell]], most: int) -> list[list[Cell]]:
    if len(rows) <= most:
        return rows
    picks = sorted({round(i * (len(rows) - 1) / max(most - 1, 1)) for i in range(most)})
    return [rows[i] for i in picks]


def _details(content: str) -> str:
    return f"<details>\n<summary>Numbers as a table</summary>\n{content}\n</details>"


def _figure(wide: str, narrow: str, numbers: str) -> str:
    return f'<figure>\n<div class="wide">{wide}</div>\n<div class="narrow">{narrow}</div>\n{numbers}\n</figure>'


# ---- SVG ----------------------------------------------------------------------------------------------------------

_ROW = 18  # of text
_NARROW = 330  # width of the drawing for narrow windows
_LETTER = 7.5  # a usual letter of 12 px text
_MARK_ROOM = 130.0
_MARK_LANES = 3
_DASHES = ("", "7 4", "2 3", "10 3 2 3", "14 4", "5 2 1 2 1 2", "1 4", "9 2 4 2")
_PAPER = f"var(--paper,{LIGHT_PAPER})"  # around what is drawn on bars, so that it shows there too
_CROWD = 200  # markers of a series; more are drawn smaller
_SHAPES = ("circle", "square", "triangle", "cross", "diamond", "plus", "down", "ring")


class _Drawing:
    """An SVG that grows downwards."""

    def __init__(self, title: str, width: int) -> None:
        self._title = title
        self._width = width
        self._parts: list[str] = []
        self.y = 6.0
        for line in _wrapped(title, (width - 8) / 1.4):
            self.text(0, self.down(20), line, size=14, whole=title)
        self.y += 4

    def down(self, height: float) -> float:
        """The base line of the next row of text."""
        self.y += height
        return self.y - 5

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "start", room: float = math.inf, quiet: bool = False,
        size: int = 12, whole: str | None = None,
    ) -> None:  # fmt: skip
        """Text on one line, cut to `room` with the whole of it as a tooltip."""
        short = _cut(text, room)
        tip = "" if short == (whole or text) else f"<title>{escape(whole or text)}</title>"
        looks = (f' text-anchor="{anchor}"' if anchor != "start" else "") + (' opacity="0.8"' if quiet else "")
        looks += f' font-size="{size}" font-weight="600"' if size != 12 else ""
        self._parts.append(f'<text x="{_at(x)}" y="{_at(y)}"{looks}>{tip}{escape(short)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, opacity: str) -> None:
        self._parts.append(
            f'<path d="M{_at(x1)} {_at(y1)}L{_at(x2)} {_at(y2)}" stroke="currentColor" stroke-opacity="{opacity}"/>'
        )

    def mark(self, x: float, top: float, bottom: float, text: str, halo: bool = False) -> None:
        path = f"M{_at(x)} {_at(top)}V{_at(bottom)}"
        if halo:
            self._parts.append(f'<path d="{path}" style="stroke:{_PAPER};stroke-width:3"/>')
        self._parts.append(
            f'<path d="{path}" stroke="currentColor" stroke-opacity="0.7" '
            f'stroke-dasharray="4 3"><title>{escape(text)}</title></path>'
        )

    def bar(self, zero: float, end: float, top: float, height: float) -> None:
        left, breadth = min(zero, end), max(abs(end - zero), 0.5)
        self._parts.append(
            f'<rect x="{_at(left)}" y="{_at(top)}" width="{_at(breadth)}" height="{_at(height)}" style="fill:{_ink(0)}"/>'
        )

    def whisker(self, low: float, high: float, y: float) -> None:
        path = f"M{_at(low)} {_at(y)}H{_at(high)}M{_at(low)} {_at(y - 4)}v8M{_at(high)} {_at(y - 4)}v8"
        self._parts.append(f'<path d="{path}" style="stroke:{_PAPER};stroke-width:4"/>')
        self._parts.append(f'<path d="{path}" stroke="currentColor" stroke-width="1.5"/>')

    def legend(self, entries: Sequence[tuple[int, Series]]) -> None:
        """Samples with names, in rows above the plot."""
        if not entries:
            return
        x, row = 0.0, self.down(_ROW)
        for index, one in entries:
            room = min(_breadth(one.name), self._width - 36.0)
            if x > 0 and x + 34 + room > self._width:
                x, row = 0.0, self.down(_ROW)
            middle = row - 4
            line = f"M{_at(x)} {_at(middle)}h28" if one.style != "points" else ""
            self._parts.append(
                f"<g {_group(index)}>"
                + (f'<path d="{line}" fill="none"{_dash(index)}/>' if line else "")
                + _markers(index, [(x + 14, middle)])
                + "</g>"
            )
            self.text(x + 34, row, one.name, room=room)
            x += 34 + room + 16

    def series(
        self, index: int, style: str, runs: Sequence[Sequence[_Point]], spread: bool, of: int, width: float
    ) -> None:
        """Band or error bars, line, and markers of one series."""
        parts: list[str] = []
        spots: list[tuple[float, float]] = []
        count = sum(map(len, runs))
        for run in runs:
            middle = [(x, y) for x, y, _, _ in run]
            if style == "points":
                spots += middle
                continue
            path = _stairs(middle) if style == "step" else middle
            if spread and len(run) > 1:
                upper, lower = [(x, up) for x, _, _, up in run], [(x, low) for x, _, low, _ in run]
                if style == "step":
                    upper, lower = _stairs(upper), _stairs(lower)
                outline = [*_decimated(upper), *reversed(_decimated(lower))]
                parts.append(f'<path d="{_path(outline)}Z" fill-opacity="{0.18 if of < 4 else 0.08}" stroke="none"/>')
            if len(run) > 1:
                parts.append(f'<path d="{_path(_decimated(path))}" fill="none" stroke-linejoin="round"{_dash(index)}/>')
            if len(run) == 1 or count <= min(30, width / 12):
                spots += middle
            elif of > 1:
                spots += _sparse(middle, width / 7, (index + 1) / (of + 1))
        if spread:
            bars = [point for run in runs for point in run if style == "points" or len(run) == 1]
            bars = list({(_at(x), _at(low), _at(up)): (x, y, low, up) for x, y, low, up in bars}.values())
            path_of_bars = "".join(
                f"M{_at(x)} {_at(low)}V{_at(up)}M{_at(x - 3)} {_at(low)}h6M{_at(x - 3)} {_at(up)}h6"
                for x, _, low, up in bars
                if _at(low) != _at(up)
            )
            if path_of_bars:
                parts.append(f'<path d="{path_of_bars}" fill="none" stroke-width="1.5"/>')
        parts.append(_markers(index, spots))
        self._parts.append(f"<g {_group(index)}>{''.join(parts)}</g>")

    def finish(self, height: float, description: str) -> str:
        """The whole element; its ids come from its content."""
        body = "\n".join(part for part in self._parts if part)
        about = f"{escape(self._title)}\n{escape(description)}"
        key = "chart-" + hashlib.sha256(f"{self._width}\n{about}\n{body}".encode()).hexdigest()[:12]
        tall = math.ceil(height)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self._width}" height="{tall}" '
            f'viewBox="0 0 {self._width} {tall}" role="img" aria-labelledby="{key}-t {key}-d" '
            'font-family="system-ui,sans-serif" font-size="12" fill="currentColor">\n'
            f'<title id="{key}-t">{escape(self._title)}</title>\n<desc id="{key}-d">{escape(description)}</desc>\n'
            f"{body}\n</svg>"
        )


def _ink(index: int) -> str:
    place = index % len(LIGHT)
    return f"var(--series-{place + 1},{LIGHT[place]})"


def _group(index: int) -> str:
    ink = _ink(index)
    return f'style="fill:{ink};stroke:{ink};stroke-width:2"'


def _dash(index: int) -> str:
    dash = _DASHES[(index + index // len(LIGHT)) % len(_DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _markers(index: int, spots: Sequence[tuple[float, float]]) -> str:
    """All markers of a series as one path; spots that fall together once."""
    kept = list({(_at(x), _at(y)): (x, y) for x, y in spots}.values())
    if not kept:
        return ""
    shape = _SHAPES[(index + 2 * (index // len(LIGHT))) % len(_SHAPES)]
    size, looks = (1.0, "") if len(kept) <= _CROWD else (0.65, ' opacity="0.6"')
    if size < 1 and shape == "circle":  # as dots of a pen: a tenth of the text
        dots = "".join(f"M{_at(x)} {_at(y)}h0" for x, y in kept)
        return f'<path d="{dots}"{looks} fill="none" style="stroke-linecap:round;stroke-width:4.6"/>'
    outline = _outline(shape, size)
    data = "".join(f"M{_at(x)} {_at(y)}{outline}" for x, y in kept)
    if shape == "ring":
        looks += f' style="fill:{_PAPER}"'
    elif shape not in ("cross", "plus"):
        looks += ' stroke="none"'
    return f'<path d="{data}"{looks}/>'


def _outline(shape: str, size: float) -> str:
    """A marker as a path, relative to its middle."""
    r = 3.5 * size
    steps: Sequence[str | float]
    match shape:
        case "circle" | "ring":
            steps = ("m", -r, 0, "a", r, r, "0 1 0", 2 * r, 0, "a", r, r, "0 1 0", -2 * r, 0, "z")
        case "square":
            steps = ("m", -r, -r, "h", 2 * r, "v", 2 * r, "h", -2 * r, "z")
        case "triangle":
            steps = ("m", 0, -1.3 * r, "l", 1.2 * r, 2.1 * r, "h", -2.4 * r, "z")
        case "down":
            steps = ("m", 0, 1.3 * r, "l", 1.2 * r, -2.1 * r, "h", -2.4 * r, "z")
        case "diamond":
            steps = ("m", 0, -1.4 * r, "l", 1.2 * r, 1.4 * r, -1.2 * r, 1.4 * r, -1.2 * r, -1.4 * r, "z")
        case "cross":
            steps = ("m", -r, -r, "l", 2 * r, 2 * r, "m", -2 * r, 0, "l", 2 * r, -2 * r)
        case _:
            steps = ("m", -1.2 * r, 0, "h", 2.4 * r, "m", -1.2 * r, -1.2 * r, "v", 2.4 * r)
    return " ".join(step if isinstance(step, str) else _at(step) for step in steps)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_at(x)} {_at(y)}" for x, y in points)


def _stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    found = list(points[:1])
    for (_, before), (x, y) in pairwise(points):
        found += [(x, before), (x, y)]
    return found


def _decimated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """First, lowest, highest and last point of each pixel column: the same picture from fewer points."""
    columns: list[list[tuple[float, float]]] = []
    for point in points:
        if columns and math.floor(columns[-1][0][0]) == math.floor(point[0]):
            columns[-1].append(point)
        else:
            columns.append([point])
    found: list[tuple[float, float]] = []
    for column in columns:
        if len(column) <= 4:
            found += column
            continue
        levels = [y for _, y in column]
        picks = {0, levels.index(min(levels)), levels.index(max(levels)), len(column) - 1}
        found += [column[i] for i in sorted(picks)]
    return found


def _sparse(points: Sequence[tuple[float, float]], every: float, offset: float) -> list[tuple[float, float]]:
    """Points about `every` pixels apart; series of different offset do not meet."""
    found = []
    following = points[0][0] + every * offset
    for x, y in points:
        if x >= following:
            found.append((x, y))
            following = x + every
    return found


def _lanes(marks: Sequence[tuple[float, str]], right: float) -> list[tuple[float, str, int | None]]:
    """Marks with the row their text stands in above the plot; None where there is no room for it."""
    found: list[tuple[float, str, int | None]] = []
    placed: list[tuple[float, float, float, int]] = []  # a line's position, its text's start and end, and the row
    for at, text in sorted(marks):
        breadth = _breadth(_cut(text, _MARK_ROOM)) + 3
        start = at if at + breadth <= right else at - breadth
        free = [
            lane
            for lane in range(_MARK_LANES)
            if all(
                (begin > start + breadth or end + 8 < start if row == lane else True)  # texts stand apart
                and not (begin <= at <= end + 2 and row >= lane)  # this line crosses no text
                and not (start <= line <= start + breadth and row <= lane)  # nor any line this text
                for line, begin, end, row in placed
            )
        ]
        found.append((at, text, free[0] if free and text else None))
        if free and text:
            placed.append((at, start, start + breadth, free[0]))
    return found


def _at(value: float) -> str:
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _breadth(text: str) -> float:
    """About how wide 12 px text is, rather too wide than too narrow."""
    return sum(_letter(character) for character in text)


def _letter(character: str) -> float:
    if character in "iljtfrI.,:;'|!()[] ":
        return 4.2
    if character in "mwMW@%…" or character.isupper():
        return 12.0 if character in "mwMW@%…" else 8.8
    if unicodedata.combining(character):
        return 0.0
    return 12.5 if unicodedata.east_asian_width(character) in "WF" else _LETTER


def _cut(text: str, room: float) -> str:
    if _breadth(text) <= room:
        return text
    left = room - _letter("…")
    for place, character in enumerate(text):
        left -= _letter(character)
        if left < 0:
            return text[:place].rstrip() + "…"
    return text


def _wrapped(text: str, room: float) -> list[str]:
    """One or two lines, the second cut."""
    words = text.split()
    first = ""
    while words and _breadth(f"{first} {words[0]}".strip()) <= room:
        first = f"{first} {words.pop(0)}".strip()
    lines = [first] if first else []
    return [*lines, _cut(" ".join(words), room)] if words else lines


# ---- terminal -----------------------------------------------------------------------------------------------------

_COLUMNS = 80
_GLYPHS = "●○▲×■+◆△□◇▼▽"
_EIGHTHS = " ▏▎▍▌▋▊▉"


def _cells(one: Series, runs: Sequence[Sequence[_Point]], rows: int, columns: int) -> list[tuple[int, int]]:
    """The (row, column) cells that a series covers, each once."""
    found: dict[tuple[int, int], None] = {}
    for run in runs:
        spots = [(rows - 1 - _cell(y, rows), _cell(x, columns)) for x, y, _, _ in run]
        found.setdefault(spots[0])
        for (row, column), (next_row, next_column) in pairwise(spots):
            if one.style == "points":
                found.setdefault((next_row, next_column))
                continue
            corner = (row, next_column) if one.style == "step" else (row, column)
            for start, end in (((row, column), corner), (corner, (next_row, next_column))):
                steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
                for i in range(1, steps + 1):
                    found.setdefault(
                        (
                            round(start[0] + (end[0] - start[0]) * i / steps),
                            round(start[1] + (end[1] - start[1]) * i / steps),
                        )
                    )
    return list(found)


def _cell(place: float | None, count: int) -> int:
    return round((place or 0.0) * (count - 1))


def _blocks(place: float, zero: int, columns: int) -> tuple[int, list[str]]:
    """The first cell of a bar, and its cells in eighths; to the left of zero in halves."""
    if place * columns >= zero:
        eighths = min(round((place * columns - zero) * 8), (columns - zero) * 8)
        return zero, ["█"] * (eighths // 8) + ([_EIGHTHS[eighths % 8]] if eighths % 8 else [])
    halves = min(max(round((zero - place * columns) * 2), 1), zero * 2)
    return zero - (halves + 1) // 2, (["▐"] if halves % 2 else []) + ["█"] * (halves // 2)


def _fit(text: str, room: int) -> str:
    """Text on one line without control characters, cut to a number of columns."""
    plain = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text).strip()
    if cell_len(plain) <= room:
        return plain
    kept = ""
    for character in plain:
        if cell_len(kept + character) > room - 1:
            break
        kept += character
    return kept.rstrip() + "…"


def _padded(text: str, room: int) -> str:
    return text + " " * (room - cell_len(text))


def _flowed(entries: Sequence[str]) -> list[str]:
    """Entries side by side, as many to a line as fit."""
    lines: list[str] = []
    for entry in entries:
        if lines and cell_len(lines[-1]) + 3 + cell_len(entry) <= _COLUMNS:
            lines[-1] += f"   {entry}"
        else:
            lines.append(entry)
    return lines
