"""Pages: whole in themselves, in order, reachable by keyboard, and deaf to hostile text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import Page, check_alone

from tandemtune.report.charts import BarChart, LineChart, Series
from tandemtune.report.numbers import aligned, number, rough, shortened
from tandemtune.report.page import (
    DARK,
    DARK_PAPER,
    LIGHT,
    LIGHT_PAPER,
    Code,
    Details,
    Grid,
    Heading,
    Matrix,
    Pairs,
    Quote,
    Section,
    page,
)

HOSTILE = "</code></pre><script>alert(1)</script><img src=x onerror=alert(1)>\" onfocus='x' & {{ title }} $x_$ url(#x) id=\"x\" #0072b2 font: 'a' \x00\x07\ud800"


def one(*blocks) -> str:
    return page("t", [Section("a", "h", blocks)])


def chart(title: str = "Loss") -> LineChart:
    return LineChart(title=title, x_label="step", y_label="loss", series=[Series("a", [1, 2, 3], [3, 2, 1])])


def sample() -> str:
    bars = BarChart(title="Accuracy", x_label="accuracy", bars=[("a", 0.5)])
    rows = [["SST-2", 0.807, "0.823 ± 0.001"], ["TREC", 0.53, None]]
    scores = Grid(["task", "zero-shot", "tuned"], rows, "Test accuracy", best={(0, 2), (1, 1)})
    return page(
        "A report",
        [
            Section("summary", "Summary", ["Text.", Pairs([("model", "m"), ("candidates", 2000), ("loss", 0.25)])]),
            Section("scores", "Scores", [scores, Matrix(["a", "b"], [[3, 1], [0, 0]], "Confusion")]),
            Section("charts", "Charts", [chart(), chart(), bars]),
            Section("repeat", "Repeat", [Code("tandemtune run x\n"), Details("more", [chart(), Heading("h")])]),
        ],
    )


def test_ids_differ_and_references_find_them():
    tree = Page(sample())
    check_alone(tree)
    drawings = [given for tag, given in tree.elements if tag == "svg"]
    assert len(drawings) == 8, "three line charts and a bar chart, each wide and narrow"
    assert len({given["aria-labelledby"] for given in drawings}) == 8
    assert all(given["role"] == "img" for given in drawings)


def test_nothing_from_outside_and_no_script():
    made = sample()
    assert not re.findall("https?://(?!www\\.w3\\.org/2000/svg)", made) and "javascript:" not in made
    policy = next(
        given["content"] for _, given in Page(made).elements if given.get("http-equiv") == "Content-Security-Policy"
    )
    assert dict(rule.split(" ", 1) for rule in policy.split("; ")) == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_order_language_and_ways_in():
    made = sample()
    elements = Page(made).elements
    named = {tag: [given for other, given in elements if other == tag] for tag in ("a", "main", "div", "pre")}
    assert made.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)] == [1, 2, 2, 2, 2, 3]
    assert named["a"][0] == {"class": "skip", "href": "#main"} and len(named["main"]) == 1
    assert [link["href"] for link in named["a"][1:]] == ["#summary", "#scores", "#charts", "#repeat"]
    boxes = [given for given in named["div"] if given.get("class") == "scroll"]
    assert len(boxes) == 6 and all((box["tabindex"], box["role"]) == ("0", "region") for box in boxes)
    assert all(given["tabindex"] == "0" and given["aria-label"] for given in named["pre"] + boxes)
    for rule in ("prefers-color-scheme:dark", "@media print", ":focus-visible", "max-width:40rem"):
        assert rule in made


def test_a_table_says_best_in_words_and_in_a_sign():
    rows = [["x", 0.5, "0.6 ± 0.1"], ["y", 0.25, None]]
    made = one(Grid(["task", "a", "b"], rows, "Scores", numeric={1, 2}, best={(0, 2)}))
    tree = Page(made)
    assert made.count("★") == 2, "the cell and the key"
    assert "<strong>0.6 ±\u00a00.1</strong>" in made, "it breaks before the sign"
    assert " (best)" in tree.text
    assert [given.get("class") for tag, given in tree.elements if tag == "td"] == ["number"] * 4
    assert [given.get("scope") for tag, given in tree.elements if tag == "th"] == ["col"] * 3 + ["row"] * 2
    assert tree.table("Scores") == [{"task": "x", "a": "0.50", "b": "0.6 ± 0.1"}, {"task": "y", "a": "0.25", "b": "–"}]
    assert "★" not in one(Grid(["a"], [[1]], "t"))


def test_columns_without_text_are_numbers():
    tree = Page(one(Grid(["name", "n", "empty", "mixed"], [["a", 1, None, 1], ["b", 2.5, "-", "x"]], "t")))
    classes = [given.get("class") for tag, given in tree.elements if tag == "td"]
    assert classes == ["number", "number", None] * 2
    assert Page(one(Grid(["a"], [], "Nothing yet"))).table("Nothing yet") == []


def test_a_matrix_shades_shares_of_its_rows():
    tree = Page(one(Matrix(["no", "yes"], [[30, 10], [0, 0]], "Confusion")))
    cells = [(given["class"], given["style"]) for tag, given in tree.elements if tag == "td"]
    assert cells == [
        ("number right", "--share:75%"),
        ("number", "--share:25%"),
        ("number", "--share:0%"),
        ("number right", "--share:0%"),
    ]
    assert tree.table("Confusion")[0] == {"gold ↓ predicted →": "no", "no": "30", "yes": "10"}


def test_rows_must_fit():
    with pytest.raises(ValueError, match="1 cells, the table has 2 columns"):
        Grid(["a", "b"], [[1]], "t")


@pytest.mark.parametrize("names", [["a", "a"], ["main"], ["1a"], ["a b"], [""], ['a"><script>']])
def test_section_ids_are_checked(names):
    with pytest.raises(ValueError, match="section id"):
        page("t", [Section(name, "h") for name in names])


def test_hostile_text_stays_text():
    drawing = LineChart(title=HOSTILE, x_label=HOSTILE, y_label=HOSTILE, series=[Series(HOSTILE, [1, 2], [1, 2])] * 2)
    blocks = [
        HOSTILE,
        Pairs([(HOSTILE, HOSTILE)]),
        Code(HOSTILE, label=HOSTILE),
        Heading(HOSTILE),
        Quote(HOSTILE, HOSTILE),
        Grid([HOSTILE], [[HOSTILE]], HOSTILE, best={(0, 0)}),
        Matrix([HOSTILE], [[1]], HOSTILE),
        BarChart(title=HOSTILE, x_label=HOSTILE, bars=[(HOSTILE, 1.0)], unit=HOSTILE),
        Details(HOSTILE, [drawing]),
    ]
    made = page(HOSTILE, [Section("a", HOSTILE, blocks)])
    tree = Page(made)
    check_alone(tree)
    assert not {"script", "img"} & {tag for tag, _ in tree.elements}
    assert tree.text.count("<script>alert(1)</script>") > 10 and "{{ title }}" in tree.text
    assert "\x00" not in made
    made.encode()


@settings(deadline=None)
@given(st.text(), st.text())
def test_any_text_makes_a_whole_page(title, text):
    blocks = [text, Code(text), Pairs([(text, text)]), Grid([text], [[text]], text), Quote(text, text)]
    made = page(title, [Section("a", text, blocks)])
    check_alone(Page(made))
    made.encode()


def test_the_same_chart_thrice_in_one_section():
    check_alone(Page(one(chart(), chart(), chart())))


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("inks", "paper"), [(LIGHT, LIGHT_PAPER), (DARK, DARK_PAPER)])
def test_every_ink_can_be_seen_on_its_paper(inks, paper):
    for ink in inks:
        dark, light = sorted((luminance(ink), luminance(paper)))
        assert (light + 0.05) / (dark + 0.05) >= 3.0  # WCAG 2.2, 1.4.11
    assert len(set(inks)) == 8


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (1234567, "1,234,567"), (0.07131234, "0.0713123"), (2.5e-7, "2.5e-7"), (1e20, "1e20"), (3.0, "3"),
        (float("nan"), "NaN"), (float("-inf"), "-∞"), ("as it is", "as it is"), (True, "yes"), (-0.5, "-0.5"),
    ],
)  # fmt: skip
def test_numbers_for_people(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1,230"),
        (12.345, "12.3"),
        (1.0, "1.00"),
        (0.012345, "0.0123"),
        (None, "–"),
        (0.0, "0"),
        (-99.96, "-100.0"),
    ],
)
def test_rough_numbers_have_three_digits(value, text):
    assert rough(value) == text


def test_texts_are_cut_on_one_line():
    assert shortened("a\n b\tc", 5) == "a b c" and shortened("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.53, 0.404, None], ["0.530", "0.404", "–"]),
        ([0.5, 0.25, 1.0], ["0.50", "0.25", "1.00"]),
        ([1.0, 2.0, 3], ["1", "2", "3"]),
        ([123.456, 0.001234], ["123.4560", "0.0012"]),
        ([1e-9, 1.5], ["1e-9", "1.5"]),
        ([2 / 3, float("nan"), "x"], ["0.6667", "NaN", "x"]),
        ([0.0, 0.5], ["0.0", "0.5"]),
    ],
)
def test_numbers_that_stand_together(values, texts):
    assert aligned(values) == texts
