"""Pages: whole in themselves, in order, reachable by keyboard, and deaf to hostile text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemtune.report.page import (
    DARK,
    DARK_PAPER,
    LIGHT,
    LIGHT_PAPER,
    aligned,
    code,
    facts,
    number,
    page,
    paragraph,
    table,
)
from tandemtune.report.plot import Series, bar_figure, line_chart, line_figure

HOSTILE = "</code></pre><script>alert(1)</script><img src=x onerror=alert(1)>\" onfocus='x' & \x00\x07\ud800"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Tree(HTMLParser):
    """Every element with its attributes, and whether all were closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def named(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


def sample():
    chart = line_figure("Loss", "step", "loss", [Series("a", [1, 2, 3], [3, 2, 1]), Series("b", [1, 2], [1, 1])])
    bars = bar_figure("Accuracy", "accuracy", [("a", 0.5, 0.1)])
    rows = [["SST-2", 0.807, "0.823 ± 0.001"], ["TREC", 0.53, None]]
    return page(
        "A report",
        [
            ("summary", "Summary", paragraph("Text.") + facts([("model", "m"), ("candidates", 2000), ("loss", 0.25)])),
            ("scores", "Scores", table(["task", "zero-shot", "tuned"], rows, "Test accuracy", best=[(0, 2), (1, 1)])),
            ("charts", "Charts", chart + chart + bars),
            ("repeat", "Repeat", code("tandemtune run x\n") + chart),
        ],
    )


def test_ids_differ_and_references_find_them():
    tree = Tree(sample())
    ids = [attributes["id"] for _, attributes in tree.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tree.elements:
        for name in attributes.get("aria-labelledby", "").split():
            assert name in ids
        if "href" in attributes:
            assert attributes["href"].startswith("#")
            assert attributes["href"][1:] in ids
    assert len(tree.named("svg")) == 8  # three line figures and a bar figure, each wide and narrow
    assert len({attributes["aria-labelledby"] for attributes in tree.named("svg")}) == 8


def test_nothing_from_outside_and_no_script():
    made = sample()
    tree = Tree(made)
    assert not tree.named("script", "link", "img", "iframe", "object", "embed", "form", "base", "foreignobject", "use")
    assert not re.search("url\\(|@import|javascript:", made)
    assert not re.findall("https?://(?!www\\.w3\\.org/2000/svg)", made)
    assert not [
        name for _, attributes in tree.elements for name in attributes if name.startswith("on") or name == "src"
    ]
    policy = next(a["content"] for a in tree.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_order_language_and_ways_in():
    made = sample()
    tree = Tree(made)
    assert made.startswith('<!DOCTYPE html>\n<html lang="en">')
    levels = [int(tag[1]) for tag, _ in tree.elements if re.fullmatch("h[1-6]", tag)]
    assert levels == [1, 2, 2, 2, 2]
    links = tree.named("a")
    assert links[0] == {"class": "skip", "href": "#main"}
    assert len(tree.named("main")) == 1
    assert [link["href"] for link in links[1:]] == ["#summary", "#scores", "#charts", "#repeat"]
    for attributes in tree.named("div"):
        if attributes.get("class") == "scroll":
            assert (attributes["tabindex"], attributes["role"]) == ("0", "region")
            assert attributes["aria-label"]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in tree.named("pre"))
    for rule in ("prefers-color-scheme:dark", "@media print", ":focus-visible", "max-width:40rem"):
        assert rule in made


def test_a_table_says_best_in_words_and_in_a_sign():
    made = table(
        ["task", "a", "b"], [["x", 0.5, "0.6 ± 0.1"], ["y", 0.25, None]], "Scores", numeric=(1, 2), best=[(0, 2)]
    )
    tree = Tree(made)
    assert made.count("★") == 2  # the cell and the key
    assert "<strong>0.6 ± 0.1</strong>" in made
    assert " (best)" in tree.texts["span"]
    assert [a.get("class") for a in tree.named("td")] == ["number"] * 4
    assert [a.get("scope") for a in tree.named("th")] == ["col"] * 3 + ["row"] * 2
    assert tree.texts["td"][:2] == ["0.50", "0.25"]
    assert "★" not in table(["a"], [[1]], "t")


def test_columns_without_text_are_numbers():
    tree = Tree(table(["name", "n", "empty", "mixed"], [["a", 1, None, 1], ["b", 2.5, "-", "x"]], "t"))
    assert [a.get("class") for a in tree.named("td")] == ["number", "number", None] * 2
    assert Tree(table(["a"], [], "Nothing yet")).named("td") == []


def test_rows_must_fit():
    with pytest.raises(ValueError, match="1 cells, the table has 2 columns"):
        table(["a", "b"], [[1]], "t")


@pytest.mark.parametrize("names", [["a", "a"], ["main"], ["1a"], ["a b"], [""], ['a"><script>']])
def test_section_ids_are_checked(names):
    with pytest.raises(ValueError, match="section id"):
        page("t", [(name, "h", "") for name in names])


def test_hostile_text_stays_text():
    chart = line_figure(HOSTILE, HOSTILE, HOSTILE, [Series(HOSTILE, [1, 2], [1, 2])])
    content = (
        paragraph(HOSTILE)
        + facts([(HOSTILE, HOSTILE)])
        + code(HOSTILE, label=HOSTILE)
        + table([HOSTILE], [[HOSTILE]], HOSTILE, best=[(0, 0)])
        + chart
        + chart
    )
    made = page(HOSTILE, [("a", HOSTILE, content)])
    tree = Tree(made)
    assert not tree.named("script", "img")
    assert not [name for _, attributes in tree.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in "".join(tree.texts["code"])
    assert "\x00" not in made
    made.encode()


@given(st.text(), st.text())
def test_any_text_makes_a_whole_page(title, text):
    made = page(
        title, [("a", text, paragraph(text) + code(text) + facts([(text, text)]) + table([text], [[text]], text))]
    )
    Tree(made)
    made.encode()


def test_the_same_chart_thrice_in_one_section():
    chart = line_chart("t", "x", "y", [Series("a", [1], [1])])
    ids = [a["id"] for _, a in Tree(page("t", [("a", "h", chart * 3)])).elements if "id" in a]
    assert len(ids) == len(set(ids)) == 2 + 1 + 3 * 2


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("inks, paper", [(LIGHT, LIGHT_PAPER), (DARK, DARK_PAPER)])
def test_every_ink_can_be_seen_on_its_paper(inks, paper):
    for ink in inks:
        dark, light = sorted((luminance(ink), luminance(paper)))
        assert (light + 0.05) / (dark + 0.05) >= 3.0  # WCAG 2.2, 1.4.11
    assert len(set(inks)) == 8


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "–"), (1234567, "1,234,567"), (0.07131234, "0.0713123"), (2.5e-7, "2.5e-7"), (1e20, "1e20"), (3.0, "3"),
        (float("nan"), "NaN"), (float("-inf"), "-∞"), ("as it is", "as it is"), (True, "yes"), (-0.5, "-0.5"),
    ],
)  # fmt: skip
def test_numbers_for_people(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    "values, texts",
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
