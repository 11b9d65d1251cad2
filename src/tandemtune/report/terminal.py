"""Charts in letters, for terminals: lines, bars and sparklines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.cells import cell_len

from tandemtune.report.charts import Series
from tandemtune.report.numbers import drawable, fitted, number

COLUMNS = 80
_GLYPHS = "●○▲×■+◆△□◇▼▽"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SPARKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The course of some values as one line of bars, the lowest value the lowest bar.

    Args:
        values: in order; what is not a number is left out.
        width: columns at most; of more values each column shows the mean of its own.
    """
    known = [plain for value in values if (plain := drawable(value)) is not None]
    if not known or width < 1:
        return ""
    count = min(width, len(known))
    edges = [round(i * len(known) / count) for i in range(count + 1)]
    means = [sum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    span = high - low or 1.0
    return "".join(_SPARKS[min(int((value - low) / span * len(_SPARKS)), len(_SPARKS) - 1)] for value in means)


def line_text(title: str, x_label: str, series: Sequence[Series], *, x_log: bool = False, height: int = 12) -> str:
    """A line chart.

    Args:
        title: first line; empty for none.
        x_label: name of the horizontal axis.
        series: what to draw, each with a glyph of its own; where several meet stands "*".
        x_log: logarithmic horizontal axis.
        height: rows of the plot.

    Returns:
        Lines of at most 80 columns without control characters, or a sentence if there is no point to draw.
    """
    curves = [_points(one, x_log) for one in series]
    if not any(curves):
        return fitted(f"{title}: there is nothing to draw yet." if title else "There is nothing to draw yet.", COLUMNS)
    xs, ys = ([point[side] for curve in curves for point in curve] for side in (0, 1))
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    labels = {0: number(high, 4), height - 1: number(low, 4), (height - 1) // 2: number((low + high) / 2, 4)}
    margin = max(map(len, labels.values()))
    columns = COLUMNS - margin - 2
    grid = [[" "] * columns for _ in range(height)]
    for index, curve in enumerate(curves):
        cells = [
            (round(_place(y, high, low) * (height - 1)), round(_place(x, left, right) * (columns - 1)))
            for x, y in curve
        ]
        glyph = _GLYPHS[index % len(_GLYPHS)]
        for row, column in _joined(cells):
            grid[row][column] = glyph if grid[row][column] in (" ", glyph) else "*"
    ends = [number(10**end if x_log else end, 4) for end in (left, right)]
    name = fitted(x_label, columns - len(ends[0]) - len(ends[1]) - 2)
    gap = columns - len(ends[0]) - len(ends[1]) - cell_len(name)
    lines = [fitted(title, COLUMNS)] if title else []
    lines += [
        f"{labels.get(i, ''):>{margin}} {'┤' if i in labels else '│'}{''.join(row)}" for i, row in enumerate(grid)
    ]
    lines.append(f"{'':>{margin}} └{'─' * columns}")
    lines.append(f"{'':>{margin}}  {ends[0]}{' ' * (gap // 2)}{name}{' ' * (gap - gap // 2)}{ends[1]}")
    lines += _flowed([f"{_GLYPHS[i % len(_GLYPHS)]} {fitted(one.name, 36)}" for i, one in enumerate(series)])
    return "\n".join(line.rstrip() for line in lines)


def bar_text(title: str, rows: Sequence[tuple[str, float | None]]) -> str:
    """A bar chart; bars begin at zero, negative ones to its left.

    Args:
        title: first line.
        rows: names with values.

    Returns:
        Lines of at most 80 columns without control characters, or a sentence if there is no value to draw.
    """
    values = [drawable(value) for _, value in rows]
    known = [value for value in values if value is not None]
    if not known:
        return fitted(f"{title}: there is nothing to draw yet.", COLUMNS)
    names, said = [fitted(name, 22) for name, _ in rows], [number(value, 4) for value in values]
    name_room, value_room = max(map(cell_len, names)), max(map(len, said))
    columns = COLUMNS - name_room - value_room - 2
    low, high = min(0.0, *known), max(0.0, *known)
    zero = round(_place(0.0, low, high) * columns) if high > low else 0
    lines = [fitted(title, COLUMNS)]
    for name, text, value in zip(names, said, values, strict=True):
        end = _place(value, low, high) * columns if value is not None and high > low else zero
        if end >= zero:
            eighths = round((end - zero) * 8)
            bar = " " * zero + "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        else:
            cells = max(round(zero - end), 1)
            bar = " " * (zero - cells) + "█" * cells
        lines.append(f"{name}{' ' * (name_room - cell_len(name))} {bar:<{columns}} {text:>{value_room}}")
    return "\n".join(lines)


def _points(one: Series, x_log: bool) -> list[tuple[float, float]]:
    pairs = [(drawable(x), drawable(y)) for x, y in zip(one.xs, one.ys, strict=True)]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [(math.log10(x), y) for x, y in known if x > 0] if x_log else known


def _place(value: float, start: float, end: float) -> float:
    """Where a value lies between two others, from 0 to 1; in the middle if these are the same."""
    return (value - start) / (end - start) if end != start else 0.5


def _joined(cells: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Cells with those on straight lines between them, each once."""
    found = dict.fromkeys(cells[:1])
    for (row, column), (next_row, next_column) in pairwise(cells):
        steps = max(abs(next_row - row), abs(next_column - column))
        for i in range(1, steps + 1):
            found[round(row + (next_row - row) * i / steps), round(column + (next_column - column) * i / steps)] = None
    return list(found)


def _flowed(entries: Sequence[str]) -> list[str]:
    """Entries side by side, as many to a line as fit."""
    lines: list[str] = []
    for entry in entries:
        if lines and cell_len(lines[-1]) + 3 + cell_len(entry) <= COLUMNS:
            lines[-1] += f"   {entry}"
        else:
            lines.append(entry)
    return lines
