"""Charts: what they say in words, tables and drawings, for any numbers; and the same bytes each time."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandemtune.errors import UsageError
from tandemtune.report.charts import (
    MOST_ROWS,
    NARROW,
    WIDE,
    BarChart,
    Chart,
    DotChart,
    Dots,
    LineChart,
    Mark,
    ScatterChart,
    Series,
)
from tandemtune.report.page import LIGHT


def lines(*series: Series, **changes) -> LineChart:
    return LineChart(**{"title": "t", "x_label": "step", "y_label": "loss", "series": series, **changes})


CHARTS: dict[str, Chart] = {
    "lines": lines(
        Series("train loss", [0, 1, 2], [3.0, 2.0, 1.0], [2.5, 1.5, 0.5], [3.5, 2.5, 1.5]),
        Series("dev loss", [0, 2], [3.0, 2.5]),
        Series("words", [1], [2.0], style="points"),
        Series("band", [0, 1], [None, None], [1.0, 1.0], [2.0, 2.0], style="band"),
        marks=[Mark(1, "best"), Mark(2, "restart 1")],
    ),
    "bars": BarChart(title="t", x_label="gain", bars=[("layer 0", 0.5), ("layer 1", -0.25), ("layer 2", None)]),
    "dots": DotChart(
        title="t",
        x_label="accuracy",
        rows=[Dots("tuned", (), 0.8, 0.7, 0.9), Dots("seeds", (0.5, 0.7), 0.6, note="two"), Dots("chance", (), 0.5)],
    ),
    "scatter": ScatterChart(
        title="t",
        y_label="score",
        x_labels=["tokens", "minutes"],
        points=[("a", 0.6, (10, 9)), ("b", 0.8, (1000, 3)), ("c", 0.7, (2000, 3)), ("d", 0.6, (20, 1))],
    ),
}


def texts_of(chart: Chart, width: int = WIDE) -> list[str]:
    root = ElementTree.fromstring(chart.svg(width)[0])
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_drawing_is_named_described_and_in_the_page_s_colours(name, width):
    svg, key = CHARTS[name].svg(width)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-labelledby") == f"{key}-t {key}-d"
    title, description = list(root)[:2]
    assert title.text == "t" and description.text == CHARTS[name].words()
    assert root.get("width") == str(width) and root.get("viewBox").startswith(f"0 0 {width} ")
    colours = set(re.findall(r"#[0-9a-fA-F]{6}\b", svg)) - set(re.findall(r"var\(--[a-z0-9-]+,(#[0-9a-f]{6})\)", svg))
    assert colours <= {"#ffffff"}, "every colour is one that a page can replace"
    assert "currentColor" in svg and f"var(--series-1,{LIGHT[0]})" in svg
    assert "<style" not in svg and "DejaVu" not in svg and "metadata" not in svg


@pytest.mark.parametrize("name", CHARTS)
def test_nothing_leaves_the_drawing(name):
    """As matplotlib measures it, in a font that is wider than those of most readers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for width in (WIDE, NARROW):
        figure = CHARTS[name].figure(width)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        box, size = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
        assert box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= size[0] + 0.01 and box.y1 <= size[1] + 0.01, width


def test_texts_are_texts():
    assert {"train loss", "dev loss", "words", "band", "best", "restart 1", "step", "loss"} <= set(
        texts_of(CHARTS["lines"])
    )
    assert {"layer 0", "0.500", "-0.250", "–", "gain"} <= set(texts_of(CHARTS["bars"]))
    assert {"tuned", "0.800", "0.600", "accuracy", "0", "1"} <= set(texts_of(CHARTS["dots"]))
    assert {"a", "b", "c", "d", "tokens", "minutes", "score"} <= set(texts_of(CHARTS["scatter"], NARROW))


def test_texts_that_look_like_the_drawing_s_own_stay_as_they_are():
    for name in ("url(#x", ' id="x"', LIGHT[0], "font: 'a'", 'd="0.12345"', "$\\frac{", "#010203", "_a", "&amp;<b>"):
        chart = BarChart(title=name, x_label=name, bars=[(name, 0.5)])
        assert [text.strip() for text in texts_of(chart)].count(name.strip()) == 2, name


def test_what_a_chart_says_in_words():
    said = CHARTS["lines"].words()
    assert "Line chart of loss against step." in said and "train loss: 3 at 0, 1 at 2, lowest 1 at 2." in said
    assert "restart 1 at 2." in said and "band" not in said
    assert (
        "layer 1: -0.250." in CHARTS["bars"].words()
        and "tuned: 0.800 (interval 0.700 to 0.900)." in CHARTS["dots"].words()
    )
    assert "On the Pareto front of tokens: a, b." in CHARTS["scatter"].words()


def test_tables_hold_the_numbers():
    assert CHARTS["lines"].table().rows == [
        [0, "3 (2.500 to 3.500)", "3.0", None, "1.000 to 2.000", ""],
        [1, "2 (1.500 to 2.500)", None, "2", "1.000 to 2.000", "best"],
        [2, "1 (0.5000 to 1.500)", "2.5", None, None, "restart 1"],
    ]
    assert CHARTS["bars"].table().rows == [["layer 0", 0.5], ["layer 1", -0.25], ["layer 2", None]]
    rows = CHARTS["dots"].table().rows
    assert rows[0] == ["tuned", "0.800", "0.700", "0.900", "", ""]
    assert rows[1] == ["seeds", "0.600", "–", "–", "0.500, 0.700", "two"]
    assert CHARTS["scatter"].table().rows[1] == ["b", "0.800", "1,000", "3.00"]


def test_long_tables_are_thinned_and_say_so():
    table = lines(Series("a", range(1000), [float(i) for i in range(1000)])).table()
    assert len(table.rows) == MOST_ROWS and table.rows[0][0] == 0 and table.rows[-1][0] == 999
    assert f"({MOST_ROWS} of 1000 rows)" in table.caption


def test_the_pareto_front():
    chart = CHARTS["scatter"]
    assert isinstance(chart, ScatterChart)
    names = [[chart.points[i][0] for i in chart.front(panel)] for panel in (0, 1)]
    assert names == [["a", "b"], ["d", "b"]], "b beats c at the same minutes"
    assert chart.table().best == {(0, 2), (1, 2), (3, 3), (1, 3)}


@pytest.mark.slow
def test_the_same_bytes_in_every_process():
    script = (
        "import sys; sys.path.insert(0, 'tests/report'); from test_charts import CHARTS; "
        "sys.stdout.buffer.write(b''.join(c.svg(760)[0].encode() + c.file('svg') + c.file('png') for c in CHARTS.values()))"
    )
    here = b"".join(c.svg(760)[0].encode() + c.file("svg") + c.file("png") for c in CHARTS.values())
    called = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert called.stdout == here


def test_a_user_s_own_style_changes_nothing():
    import matplotlib

    before = CHARTS["dots"].svg(WIDE)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert CHARTS["dots"].svg(WIDE) == before
        assert matplotlib.rcParams["font.size"] == 30


def test_files_are_dark_on_white(tmp_path):
    CHARTS["dots"].save(tmp_path / "a.svg")
    CHARTS["dots"].save(tmp_path / "a.png")
    root = ElementTree.fromstring((tmp_path / "a.svg").read_text(encoding="utf-8"))
    assert "var(" not in ElementTree.tostring(root, encoding="unicode") and root.tag.endswith("svg")
    CHARTS["dots"].save(tmp_path / "B.PNG")
    for name in ("a.png", "B.PNG"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(UsageError, match=r"cannot be written as a\.pdf: name a file that ends in \.svg or \.png"):
        CHARTS["dots"].save(tmp_path / "a.pdf")
    assert not (tmp_path / "a.pdf").exists()


@pytest.mark.parametrize("values", [(0.2, 0.4), (3.1, 3.4), (-0.4, 0.2)])
def test_every_dot_lies_on_the_axis(values):
    chart = DotChart(
        title="t", x_label="x", rows=[Dots("a", values, sum(values) / 2, values[0] - 0.1, values[1] + 0.1)]
    )
    low, high = chart.figure(WIDE).axes[0].get_xlim()
    assert low <= min(*values, values[0] - 0.1) and max(*values, values[1] + 0.1) <= high
    assert (low == 0.0) == (min(values) - 0.1 >= 0 and max(values) + 0.1 <= 1), "the scale of shares where all are"


@pytest.mark.parametrize(
    "chart",
    [
        lines(),
        lines(Series("a", [], [])),
        lines(Series("a", [1, 2], [None, math.nan])),
        lines(Series("a", [0, -1], [1.0, 1.0]), x_log=True),
        lines(Series("a", [1], [None], [0.0], [1.0], style="band")),
        BarChart(title="t", x_label="x", bars=[("a", None), ("b", math.inf)]),
        DotChart(title="t", x_label="x", rows=[Dots("a", (), None)]),
        ScatterChart(title="t", y_label="y", x_labels=["x"], points=[]),
    ],
)
def test_nothing_to_draw_is_said(chart):
    assert chart.empty() and chart.context() == {"empty": "t: there is nothing to draw yet."}
    assert chart._repr_svg_() is None


def test_series_must_fit():
    with pytest.raises(ValueError, match="as many ys"):
        Series("a", [1], [1, 2])
    with pytest.raises(ValueError, match="edges"):
        Series("a", [1], [1], low=[0])


VALUES = st.none() | st.floats() | st.integers(-(10**6), 10**6)
PAIRS = st.lists(st.tuples(VALUES, VALUES), max_size=8)


@settings(deadline=None, max_examples=25)
@given(PAIRS, PAIRS, st.booleans(), st.booleans(), st.text(max_size=8))
def test_any_numbers_and_names_are_drawn(one, other, x_log, y_log, name):
    series = [
        Series(name, [x for x, _ in one], [y for _, y in one]),
        Series("_b", [x for x, _ in other], [y for _, y in other], style="points"),
    ]
    marks = [Mark(x, name) for x, _ in one if x is not None]
    chart = lines(*series, x_log=x_log, y_log=y_log, marks=marks, title=name, y_label=name)
    if not chart.empty():
        ElementTree.fromstring(chart.svg(NARROW)[0])
    assert len(chart.table().rows) <= len(one) + len(other)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.text(max_size=60), VALUES), min_size=1, max_size=6))
def test_any_bars_are_drawn(bars):
    chart = BarChart(title="t", x_label="x", bars=bars)
    if not chart.empty():
        ElementTree.fromstring(chart.svg(NARROW)[0])


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        CHARTS["bars"].svg(WIDE)
