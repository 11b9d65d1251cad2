"""Charts: well-formed, honest about what they leave out, the same to the byte, and hard to break."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from tandemtune.report.plot import (
    Mark,
    Series,
    _fitted,
    _scaled,
    bar_chart,
    bar_figure,
    bar_table,
    bar_text,
    data_table,
    line_chart,
    line_figure,
    line_text,
)

SVG = "{http://www.w3.org/2000/svg}"
NAN, INF = math.nan, math.inf
HOSTILE = "<script>alert('1')</script> \" onload=\"x & ]]> --> \x00\x1b[31m\ud800\u202e"
NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")


def drawing(svg):
    return ET.fromstring(svg)


def curves(count, points=13):
    return [Series(f"s{i}", list(range(points)), [i + math.sin(x + i) for x in range(points)]) for i in range(count)]


def lines_of(root):
    """The points of every drawn series line."""
    found = []
    for group in root.iter(f"{SVG}g"):
        for path in group.iter(f"{SVG}path"):
            if path.get("stroke-linejoin"):
                values = [float(v) for v in NUMBERS.findall(path.get("d"))]
                found.append(list(zip(values[::2], values[1::2], strict=True)))
    return found


def texts(root):
    return ["".join(t for t in text.itertext()) for text in root.iter(f"{SVG}text")]


# ---- structure ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "svg",
    [
        line_chart("Loss", "step", "loss", curves(3), marks=[Mark(4, "restart")]),
        bar_chart("Accuracy", "accuracy", [("a", 0.5, 0.1), ("b", -0.2, None)], reference=Mark(0.1, "chance")),
    ],
)
def test_a_drawing_says_what_it_is(svg):
    root = drawing(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    names = root.get("aria-labelledby").split()
    by_id = {element.get("id"): element for element in root.iter() if element.get("id")}
    assert [by_id[name].tag for name in names] == [f"{SVG}title", f"{SVG}desc"]
    assert by_id[names[0]].text in ("Loss", "Accuracy")
    assert len(by_id[names[1]].text) > 40
    assert root.get("fill") == "currentColor"


def test_colours_come_from_custom_properties():
    for svg in (line_chart("t", "x", "y", curves(10)), bar_chart("t", "x", [("a", 1, 0.1)], reference=Mark(1, "r"))):
        assert "#" not in re.sub(r"var\(--[a-z0-9-]+,#[0-9a-f]{6}\)", "", svg)


@pytest.mark.parametrize("count", [2, 8, 40])
def test_series_differ_by_more_than_colour(count):
    root = drawing(line_chart("t", "x", "y", curves(count)))
    looks = []
    for group in list(root.iter(f"{SVG}g"))[count:]:  # behind the legend's
        line, markers = group.findall(f"{SVG}path")
        shape = re.sub(r"M\S+ \S+?(?=m)", "", markers.get("d"), count=1).split("M")[0]
        looks.append((line.get("stroke-dasharray"), (shape, markers.get("style"))))  # filled, or hollow
    assert len(looks) == count
    assert len(set(looks)) == count
    if count <= 8:
        assert len({dash for dash, _ in looks}) == len({shape for _, shape in looks}) == count


@pytest.mark.parametrize("count", [2, 8, 30])
@pytest.mark.parametrize("width", [330, 720])
def test_the_legend_stands_above_the_data_and_inside_the_drawing(count, width):
    series = [
        Series(f"a rather long name of a series, number {i}", [0, 1, 2], [i, -i, 3], [1, 1, 1]) for i in range(count)
    ]
    root = drawing(line_chart("t", "x", "y", series, width=width))
    legend = [t for t in root.iter(f"{SVG}text") if "number" in "".join(t.itertext())]
    assert len(legend) == count
    top = min(y for line in lines_of(root) for _, y in line)
    assert max(float(t.get("y")) for t in legend) < top
    bottom = max(y for line in lines_of(root) for _, y in line)
    assert bottom < float(root.get("height"))
    assert bottom - top > 100


def test_long_names_are_cut_and_whole_in_a_tooltip():
    name = "an unreasonably long name " * 20
    root = drawing(
        line_chart(name, name, name, [Series(name, [1, 2], [1, 2]), Series("b", [1], [1])], marks=[Mark(1, name)])
    )
    cut = [t for t in root.iter(f"{SVG}text") if (t.find(f"{SVG}title")) is not None]
    assert len(cut) >= 4
    for text in cut:
        assert text.find(f"{SVG}title").text == name
    assert sum(text.find(f"{SVG}title").tail.endswith("…") for text in cut) == len(cut) - 1  # the title has two lines
    root = drawing(bar_chart("t", "x", [(name, 1, None)]))
    assert any(t.find(f"{SVG}title") is not None for t in root.iter(f"{SVG}text"))


def test_mark_texts_meet_neither_each_other_nor_another_line():
    marks = [Mark(x, f"restart {i}") for i, x in enumerate([0, 10, 30, 40, 300, 960, 980, 995, 1000])]
    root = drawing(line_chart("t", "x", "y", [Series("s", [0, 1000], [0, 1])], marks=marks))
    boxes = []
    for text in root.iter(f"{SVG}text"):
        said = "".join(text.itertext())
        if said.startswith("restart"):
            x, width = float(text.get("x")), 6.0 * len(said)
            x -= width if text.get("text-anchor") == "end" else 0
            boxes.append((x, x + width, float(text.get("y")) - 10, float(text.get("y"))))
    assert len(boxes) >= 5
    for a, b in itertools.combinations(boxes, 2):
        assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2]
    for path in root.iter(f"{SVG}path"):
        if (tip := path.find(f"{SVG}title")) is not None:
            assert tip.text.startswith("restart")
            x, top, _ = (float(v) for v in NUMBERS.findall(path.get("d")))
            assert not any(box[0] + 1 < x < box[1] and top < box[3] - 2 for box in boxes)


# ---- what is drawn ------------------------------------------------------------------------------------------------


def test_what_is_not_finite_leaves_a_gap_and_is_said():
    series = Series("s", list(range(7)), [1.0, 2.0, NAN, 3.0, 2.0, None, 5.0])
    svg = line_chart("t", "x", "y", [series])
    assert [len(line) for line in lines_of(drawing(svg))] == [2, 2]  # and the last one as a marker alone
    assert "2 points are left out: not finite." in texts(drawing(svg))
    assert "left out" not in line_chart("t", "x", "y", [Series("s", [1], [1])])
    logged = line_chart("t", "x", "y", [Series("s", [1, 2, 3], [0.0, 1.0, 2.0])], y_log=True)
    assert "1 point is left out: not finite, or not positive on a logarithmic axis." in texts(drawing(logged))


def test_positions_follow_the_numbers():
    (line,) = lines_of(drawing(line_chart("t", "x", "y", [Series("s", [0, 5, 10], [0, 10, 5])])))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 < y2 < y0
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    (line,) = lines_of(
        drawing(line_chart("t", "x", "y", [Series("s", [1, 10, 100], [1, 10, 100])], x_log=True, y_log=True))
    )
    assert line[1] == pytest.approx([(a + b) / 2 for a, b in zip(line[0], line[2], strict=True)], abs=0.1)


def test_steps_hold_until_the_next_point():
    (line,) = lines_of(drawing(line_chart("t", "x", "y", [Series("s", [0, 1, 2], [3, 2, 1], style="step")])))
    assert len(line) == 5
    for (xa, ya), (xb, yb) in itertools.pairwise(line):
        assert xa == xb or ya == yb


def test_spreads_become_bands_and_error_bars():
    band = line_chart("t", "x", "y", [Series("s", [0, 1], [1, 2], [0.5, None])])
    assert "fill-opacity" in band
    bars = line_chart("t", "x", "y", [Series("s", [0, 1], [1, 2], [0.5, NAN], "points")])
    assert "fill-opacity" not in bars
    path = next(p for p in drawing(bars).iter(f"{SVG}path") if p.get("stroke-width") == "1.5")
    assert path.get("d").count("V") == 1  # the second has no spread


def test_many_points_keep_their_extremes_and_stay_small():
    count = 100_000
    ys = [math.sin(i) for i in range(count)]
    ys[55_555], ys[77_777] = 9.0, -9.0
    svg = line_chart("t", "x", "y", [Series("s", range(count), ys)])
    assert len(svg) < 60_000
    (line,) = lines_of(drawing(svg))
    few = [
        [y for _, y in line] for line in lines_of(drawing(line_chart("t", "x", "y", [Series("s", [0, 1], [9, -9])])))
    ]
    assert [min(y for _, y in line), max(y for _, y in line)] == few[0]
    cloud = line_chart("t", "x", "y", [Series("s", range(count), ys, style="points")])
    assert len(cloud) < 1_500_000


def test_bars_begin_at_zero():
    rows = [("half", 0.5, None), ("whole", 1.0, 0.1), ("minus", -0.5, None), ("none", None, None), ("nan", NAN, None)]
    root = drawing(bar_chart("t", "x", rows, unit="%"))
    half, whole, minus = (
        (float(r.get("x")), float(r.get("x")) + float(r.get("width"))) for r in root.iter(f"{SVG}rect")
    )
    assert half[0] == whole[0] == pytest.approx(minus[1], abs=0.1)
    assert whole[1] - whole[0] == pytest.approx(2 * (half[1] - half[0]), abs=0.2)
    assert half[1] - half[0] == pytest.approx(minus[1] - minus[0], abs=0.2)
    assert {"0.5%", "1.0 ± 0.1%", "-0.5%", "no value", "no value (NaN)"} <= set(texts(root))


@pytest.mark.parametrize("width", [330, 720])
def test_bar_texts_stay_inside(width):
    rows = [(f"method {i}", 10.0**i, 10.0 ** (i - 1)) for i in range(5)]
    root = drawing(
        bar_chart("t", "x", rows, unit="candidates", reference=Mark(1e4, "a reference at the edge"), width=width)
    )
    for text in root.iter(f"{SVG}text"):
        x, size = float(text.get("x")), 6 * len("".join(text.itertext()))
        left = {"end": x - size, "middle": x - size / 2}.get(text.get("text-anchor"), x)
        assert left >= -1
        assert left + size <= width + 1


# ---- scales -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, labels",
    [
        ([0, 10], ["0", "2", "4", "6", "8", "10"]),
        ([0.2, 1.3], ["0.2", "0.4", "0.6", "0.8", "1.0", "1.2", "1.4"]),
        ([-1, 1], ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
        ([0, 2000], ["0", "500", "1,000", "1,500", "2,000"]),
        ([0, 229_381], ["0", "50k", "100k", "150k", "200k", "250k"]),
        ([0, 1.2e6], ["0", "0.2M", "0.4M", "0.6M", "0.8M", "1.0M", "1.2M"]),
        ([1e-5, 5e-5], ["1e-5", "2e-5", "3e-5", "4e-5", "5e-5"]),
        ([1_000_000.0, 1_000_002.0], ["1,000,000.0", "1,000,000.5", "1,000,001.0", "1,000,001.5", "1,000,002.0"]),
    ],
)
def test_ticks_are_round(values, labels):
    assert [label for _, label in _scaled(values, False, 6, nice=True).ticks] == labels


@pytest.mark.parametrize(
    "values, labels",
    [
        ([1, 1000], ["1", "10", "100", "1,000"]),
        ([0.05, 20], ["0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10", "20"]),
        ([0.1, 3], ["0.1", "0.2", "0.5", "1", "2"]),
        ([1e-12, 1e12], ["1e-12", "1e-8", "1e-4", "1", "10k", "100M", "1T"]),
        ([2.0, 4.0], ["2.0", "2.5", "3.0", "3.5", "4.0"]),
    ],
)
def test_logarithmic_ticks_are_decades_or_round(values, labels):
    assert [label for _, label in _scaled(values, True, 7).ticks] == labels


def test_whole_positions_get_whole_ticks():
    assert [label for _, label in _scaled([1, 2, 3], False, 9).ticks] == ["1", "2", "3"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5).filter(
        lambda v: all(abs(x) <= 1e300 for x in v)
    ),
    st.booleans(),
)
def test_axes_hold_their_values_and_label_them_differently(values, nice):
    axis = _fitted(values, False, 8, (60.0, 700.0, 720.0), nice=nice)
    assert axis.low < axis.high
    slack = 1e-6 * (axis.high / 2 - axis.low / 2)
    assert axis.low - slack <= min(values) <= max(values) <= axis.high + slack
    labels = [label for _, label in axis.ticks]
    assert len(labels) == len(set(labels)) >= 1
    assert len(labels) <= 18
    assert all(0 <= axis.place(value) <= 1 for value in values)


# ---- little to draw -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "series", [[], [Series("s", [], [])], [Series("s", [1, NAN], [NAN, 1])], [Series("s", [1], [None])]]
)
def test_nothing_to_draw_is_a_sentence(series):
    for made in (line_chart("Loss", "x", "y", series), line_figure("Loss", "x", "y", series)):
        assert made.startswith('<p class="empty">Loss: nothing to draw')
        assert "<svg" not in made
    said = line_text("Loss", "x", "y", series)
    assert "Loss: nothing to draw" in said
    assert "\n" not in said


@pytest.mark.parametrize("rows", [[], [("a", None, None), ("b", NAN, 1.0), ("c", INF, None)]])
def test_no_bars_is_a_sentence(rows):
    for made in (bar_chart("Speed", "x", rows), bar_figure("Speed", "x", rows)):
        assert made == '<p class="empty">Speed: nothing to draw, there are no values yet.</p>'
    assert bar_text("Speed", "x", rows) == "Speed: nothing to draw, there are no values yet."


@pytest.mark.parametrize("style", ["line", "points", "step"])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("xs, ys", [([3], [5]), ([3], [1e-200]), ([1, 2, 3], [7, 7, 7]), ([2, 2, 2], [1, 2, 3])])
def test_single_points_and_constants(style, log, xs, ys):
    root = drawing(line_chart("t", "x", "y", [Series("s", xs, ys, style=style)], x_log=log, y_log=log))
    marker = list(root.iter(f"{SVG}g"))[-1].findall(f"{SVG}path")[-1]
    assert marker.get("d")
    assert "●" in line_text("t", "x", "y", [Series("s", xs, ys, style=style)], x_log=log, y_log=log)


@pytest.mark.parametrize("ys", [[1.2e297, 4e-176], [1, 1 + 1e-12], [1e300, -1e300], [5e-324, 0], [1e-290, 1e300]])
@pytest.mark.parametrize("log", [False, True])
def test_scales_at_the_ends_of_what_floats_hold(ys, log):
    series = [Series("s", [1, 2], ys, ys)]
    check_drawing(line_chart("t", "x", "y", series, y_log=log), 720)
    check_text(line_text("t", "x", "y", series, y_log=log))


def test_bars_of_zero():
    assert len(list(drawing(bar_chart("t", "x", [("a", 0, 0), ("b", 0.0, None)])).iter(f"{SVG}rect"))) == 2
    assert "a" in bar_text("t", "x", [("a", 0, 0), ("b", 0.0, None)])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="'s': 2 xs, 1 ys"):
        Series("s", [1, 2], [1])
    with pytest.raises(ValueError, match="3 spreads"):
        Series("s", [1, 2], [1, 2], [1, 2, 3])


# ---- anything -----------------------------------------------------------------------------------------------------

ANY = st.one_of(
    st.floats(), st.none(), st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1.7e308, -1.7e308, 1e300, -1e300, 1e-300, 1.0])
)
TEXT = st.text(max_size=30) | st.sampled_from([HOSTILE, "", "名前" * 30, "e\u0301" * 50])


@st.composite
def any_series(draw):
    count = draw(st.integers(0, 6))
    values = st.lists(ANY, min_size=count, max_size=count)
    return Series(
        draw(TEXT),
        draw(values),
        draw(values),
        draw(st.none() | values),
        draw(st.sampled_from(["line", "points", "step"])),
    )


def check_drawing(made, width):
    if made.startswith("<p"):
        ET.fromstring(made)
        return
    root = drawing(made)
    tall = float(root.get("height"))
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in ("svg", "title", "desc", "text", "path", "g", "rect")
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name not in ("id", "aria-labelledby", "role", "font-family", "style", "text-anchor", "fill"):
                assert not re.search("nan|inf", value, re.IGNORECASE), (name, value)
    for text in root.iter(f"{SVG}text"):
        assert -1 <= float(text.get("x")) <= width + 1
        assert 0 <= float(text.get("y")) <= tall
    for x, y in itertools.chain.from_iterable(lines_of(root)):
        assert 0 <= x <= width
        assert 0 <= y <= tall
    for rect in root.iter(f"{SVG}rect"):
        assert float(rect.get("x")) >= 0
        assert float(rect.get("x")) + float(rect.get("width")) <= width + 1


def check_text(made):
    for line in made.split("\n"):
        assert cell_len(line) <= 80
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in line)
    made.encode()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(any_series(), max_size=4),
    st.lists(st.builds(Mark, st.floats(), TEXT), max_size=4),
    st.booleans(),
    st.booleans(),
    st.sampled_from([330, 720]),
    TEXT,
)
def test_any_numbers_and_names_make_a_line_chart(series, marks, x_log, y_log, width, title):
    logs = {"x_log": x_log, "y_log": y_log}
    check_drawing(line_chart(title, title, title, series, marks=marks, width=width, **logs), width)
    check_text(line_text(title, title, title, series, marks=marks, **logs))
    ET.fromstring(data_table(title, title, series, marks=marks))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(TEXT, ANY, ANY), max_size=5),
    st.none() | st.builds(Mark, st.floats(), TEXT),
    TEXT,
    st.sampled_from([330, 720]),
)
def test_any_numbers_and_names_make_a_bar_chart(rows, reference, title, width):
    check_drawing(bar_chart(title, title, rows, unit=title, reference=reference, width=width), width)
    check_text(bar_text(title, title, rows, unit=title, reference=reference))
    ET.fromstring(bar_table(title, title, rows, unit=title, reference=reference))


def test_hostile_names_stay_text():
    series = [Series(HOSTILE, [1, 2], [1, 2]), Series("b", [1], [1])]
    for made in (
        line_figure(HOSTILE, HOSTILE, HOSTILE, series, marks=[Mark(1, HOSTILE)], description=HOSTILE),
        bar_figure(HOSTILE, HOSTILE, [(HOSTILE, 1, None)], unit=HOSTILE, reference=Mark(1, HOSTILE)),
    ):
        root = ET.fromstring(made)
        assert not [e for e in root.iter() if "script" in e.tag]
        assert not [name for e in root.iter() for name in e.attrib if name.startswith("on")]
        assert "<script>alert('1')</script>" in "".join(root.itertext())
        assert "<script" not in made
        made.encode()


SAMPLE = """
from tandemtune.report.plot import *
series = [Series("a", [1, 2, 3], [3.0, float("nan"), 1 / 3], [0.1, 0.2, 0.3]), Series("b", [1, 2], [2, 2], style="step")]
rows = [("a", 0.5, 0.1), ("b", -1 / 3, None)]
print(line_figure("t", "x", "y", series, marks=[Mark(2, "m")]), bar_figure("t", "x", rows, reference=Mark(0.2, "r")))
print(ascii(line_text("t", "x", "y", series)), ascii(bar_text("t", "x", rows)))
"""


def test_the_same_bytes_in_every_process():
    made = {
        subprocess.run(
            [sys.executable, "-c", SAMPLE],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8", "COLUMNS": columns},
            capture_output=True,
            check=True,
        ).stdout
        for seed, columns in (("1", "40"), ("2", "200"))
    }
    assert len(made) == 1
    assert len(made.pop()) > 2000


def test_no_torch_and_no_array_library_is_imported():
    code = "import sys, tandemtune.report.plot; print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


# ---- tables and terminal ------------------------------------------------------------------------------------------


def cells_of(made):
    root = ET.fromstring(made)
    return [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]


def test_the_table_has_every_number_once():
    series = [Series("a", [0, 2], [0.5, NAN], [0.25, None]), Series("b", [1, 2, 2], [1, 2, 3])]
    assert cells_of(data_table("t", "x", series, marks=[Mark(1, "restart"), Mark(1, "again")])) == [
        ["x", "a", "b", "mark"],
        ["0", "0.5 ± 0.25", "–", ""],
        ["1", "–", "1", "restart; again"],
        ["2", "NaN", "2", ""],
        ["2", "–", "3", ""],
    ]
    assert cells_of(bar_table("t", "x", [("a", 0.5, 0.1), ("b", INF, None)], unit="s", reference=Mark(1, "base"))) == [
        ["", "x (s)", "±"],
        ["a", "0.5", "0.1"],
        ["b", "∞", "–"],
        ["base", "1.0", "–"],
    ]


def test_a_long_table_is_thinned_and_says_so():
    made = data_table("t", "x", [Series("a", range(5000), range(5000))], most=100)
    rows = cells_of(made)
    assert len(rows) == 101
    assert rows[1][0] == "0"
    assert rows[-1][0] == "4,999"
    assert "(100 of 5000 rows)" in made


def test_a_figure_holds_two_drawings_and_the_numbers():
    root = ET.fromstring(line_figure("t", "x", "y", curves(2)))
    assert [child.tag for child in root] == ["div", "div", "details"]
    assert len(list(root.iter(f"{SVG}svg"))) == 2
    assert root.find("details/summary").text == "Numbers as a table"


def test_a_line_chart_for_the_terminal():
    made = line_text(
        "Loss", "step", "loss", [Series("up", [0, 10], [0, 10]), Series("down", [0, 10], [10, 0])], marks=[Mark(2, "restart")],
        height=9,
    )  # fmt: skip
    lines = made.split("\n")
    assert lines[0] == "Loss"
    assert "● up   ○ down   * several" in lines
    assert "┊ restart (2)" in lines
    plot = lines[2:11]
    assert plot[0].startswith("10 ┤○")
    assert plot[0].endswith("●")
    assert plot[-1].startswith(" 0 ┤●")
    assert plot[-1].endswith("○")
    assert "*" in plot[4]
    assert len(lines[11]) == 80


def test_a_bar_chart_for_the_terminal():
    made = bar_text(
        "Speed", "candidates per second", [("engine", 8, None), ("loop", 2, None), ("odd", NAN, None)], unit="/s"
    )
    title, label, engine, loop, odd = made.split("\n")
    assert (title, label) == ("Speed", "candidates per second")
    assert engine.count("█") >= 4 * loop.count("█") > 0
    assert cell_len(engine) == cell_len(loop) == cell_len(odd) == 80
    assert "█" not in odd
    assert odd.endswith("no value (NaN)")
    both = bar_text("t", "x", [("a", -4, None), ("b", 4, None)], reference=Mark(2, "target")).split("\n")
    assert both[2].index("█") < both[3].index("█")
    assert "┊" in both[3]
    assert both[-1] == "┊ target (2)"
