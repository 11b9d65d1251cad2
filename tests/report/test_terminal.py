"""Charts in letters: within 80 columns, without control characters, true to the numbers."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tandemtune.report.charts import Series
from tandemtune.report.numbers import fitted
from tandemtune.report.terminal import COLUMNS, bar_text, line_text, sparkline


def test_a_sparkline_goes_from_the_lowest_to_the_highest_bar():
    assert sparkline([0.0, 7.0], 10) == "▁█" and sparkline([7.0, 3.5, 0.0], 10) == "█▅▁"
    assert sparkline([1.0] * 5, 10) == "▁▁▁▁▁"
    assert sparkline(list(range(1000)), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([None, math.nan, math.inf], 10) == "" == sparkline([1.0], 0)


def test_a_line_falls_from_the_upper_left_to_the_lower_right():
    lines = line_text("loss", "step", [Series("train", [0, 100], [1.0, 0.5])], height=5).splitlines()
    assert lines[0] == "loss"
    assert lines[1].startswith("   1 ┤●") and lines[3].startswith("0.75 ┤") and lines[5].startswith(" 0.5 ┤")
    assert lines[5].endswith("●") and len(lines[5]) == COLUMNS
    assert lines[7].split() == ["0", "step", "100"] and lines[8] == "● train"


def test_lines_that_meet_and_a_logarithmic_axis():
    series = [Series("a", [1, 10, 100], [0, 1, 2]), Series("b", [1, 10, 100], [2, 1, 0])]
    text = line_text("", "d", series, x_log=True, height=5)
    rows = text.splitlines()
    met = [place for place, glyph in enumerate(rows[2]) if glyph == "*"]
    assert met and abs((met[0] + met[-1]) / 2 - 40) <= 2, "they meet in the middle of the axis"
    assert rows[6].split() == ["1", "d", "100"] and "● a   ○ b" in text


def test_bars_are_as_long_as_their_values():
    lines = bar_text("gain", [("a", 1.0), ("b", 0.5), ("c", -0.5), ("d", None)]).splitlines()
    full, half, left = lines[1].count("█"), lines[2].count("█"), lines[3].count("█")
    assert abs(full - 2 * half) <= 1 and abs(half - left) <= 1
    assert lines[3].index("█") < lines[1].index("█") and lines[4].split() == ["d", "–"]


@pytest.mark.parametrize("series", [[], [Series("a", [], [])], [Series("a", [1], [None])], [Series("a", [0], [1])]])
def test_nothing_to_draw_is_said(series):
    assert line_text("loss", "x", series, x_log=True) == "loss: there is nothing to draw yet."
    assert bar_text("t", [("a", None)]) == "t: there is nothing to draw yet."


NUMBERS = st.none() | st.floats(-1e300, 1e300) | st.floats()


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12), st.text(max_size=90), st.booleans())
def test_any_numbers_and_names_fit(pairs, name, log):
    series = [Series(name, [x for x, _ in pairs], [y for _, y in pairs])]
    texts = [line_text(name, name, series, x_log=log), bar_text(name, [(name, y) for _, y in pairs] or [("a", 1.0)])]
    for line in "\n".join(texts).split("\n"):
        assert cell_len(line) <= COLUMNS
        assert not any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in line)


@given(st.text(), st.integers(1, 20))
def test_texts_are_cut_to_columns(text, room):
    assert cell_len(fitted(text, room)) <= room
