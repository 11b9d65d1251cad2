"""Reads pages back: tables by caption, facts by name, texts, and what a page would load."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "input", "hr"}
LOADING = {
    "script",
    "link",
    "img",
    "iframe",
    "object",
    "embed",
    "audio",
    "video",
    "source",
    "base",
    "form",
    "image",
}


class Page(HTMLParser):
    """A page as a test wants it.

    Attributes:
        tables: (caption, rows of cell texts, headers first) of each table outside charts' own data.
        facts: value by name; of names that occur twice the last.
        codes: text by label.
        text: all that is written outside of style and charts.
        elements: every tag with its attributes.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.facts: dict[str, str] = {}
        self.codes: dict[str, str] = {}
        self.texts: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._cell: list[str] | None = None
        self._label = ""
        self.feed(text)
        self.close()
        assert not self._open, self._open
        self.text = "".join(self.texts)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.elements.append((tag, given))
        if tag not in VOID:
            self._open.append((tag, given))
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th", "caption", "dt", "dd", "pre"):
            self._cell = []

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        opened, given = self._open.pop()
        assert opened == tag, (opened, tag)
        if tag not in ("td", "th", "caption", "dt", "dd", "pre"):
            return
        said = "".join(self._cell or []).replace("\u00a0", " ")
        self._cell = None
        if tag in ("td", "th"):
            self.tables[-1][1][-1].append(said.replace("★ ", "").replace(" (best)", ""))
        elif tag == "caption":
            self.tables[-1] = (said.replace(" · ★ best", ""), self.tables[-1][1])
        elif tag == "dt":
            self._label = said
        elif tag == "dd":
            self.facts[self._label] = said
        else:
            self.codes[given["aria-label"] or ""] = said

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data)
        if not any(tag in ("style", "svg") for tag, _ in self._open):
            self.texts.append(data)

    def table(self, caption):
        """Rows of the one table with a caption, as dicts by column."""
        found = [rows for name, rows in self.tables if name == caption]
        assert len(found) == 1, (caption, [name for name, _ in self.tables])
        return [dict(zip(found[0][0], row, strict=True)) for row in found[0][1:]]

    def captions(self):
        return [name for name, _ in self.tables]


def check_alone(page: Page) -> None:
    """Nothing is loaded, nothing is run, and every reference inside the page is found."""
    assert not LOADING & {tag for tag, _ in page.elements}
    ids = {given["id"] for _, given in page.elements if given.get("id")}
    count = sum("id" in given for _, given in page.elements)
    assert len(ids) == count
    for tag, given in page.elements:
        assert not any(name.startswith("on") for name in given), (tag, given)
        assert not {"src", "srcset", "action", "data", "background", "xlink:href", "poster"} & set(given)
        if "href" in given:
            assert given["href"].removeprefix("#") in ids
        assert "url(" not in (given.get("style") or "")
        for value in (value for name, value in given.items() if name != "aria-label"):
            assert set(re.findall(r"url\(([^)]*)\)", value or "")) <= {f"#{name}" for name in ids}
        for name in ("aria-labelledby",):
            assert set((given.get(name) or "").split()) <= ids
    styles = "".join(re.findall(r"<style>(.*?)</style>", page.source, re.DOTALL))
    assert styles and "@import" not in styles and "url(" not in styles
    assert "default-src 'none'" in page.source


def same(shown: str, value: float | int | None) -> bool:
    """Whether a text shows a number, to as many digits as it has."""
    if value is None:
        return shown == "–"
    plain = shown.replace(",", "")
    mantissa, _, exponent = plain.partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return abs(float(plain) - value) <= 0.5000001 * 10.0**-decimals
