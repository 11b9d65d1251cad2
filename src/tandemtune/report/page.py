"""A report as one HTML file: no script, nothing from outside, light and dark, narrow and printed.

Pages are made of blocks, which are data; the templates beside this module turn them into HTML and escape all text. A plain
string is a paragraph; charts are blocks, too (see `charts`).
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tandemtune.report.numbers import Content, aligned, clean, number

# The first four stay far apart (CIE76 distance 30 or more) for red-, green- and blue-blind eyes; all have a contrast
# of 3.5 or more on their background. Charts vary dashes and markers as well.
LIGHT = ("#0072b2", "#d55e00", "#8a2be2", "#2f4416", "#d6569b", "#0b7a64", "#66003f", "#94713a")
DARK = ("#56b4e9", "#e8793a", "#a266ff", "#f0e442", "#e0447f", "#b5e3b5", "#3f7fd6", "#f4c6d8")
LIGHT_PAPER, DARK_PAPER = "#ffffff", "#14171a"

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_RESERVED = "main"


class Drawn(Protocol):
    """What pages need of a chart."""

    kind: ClassVar[str]

    def context(self) -> dict[str, Any]:
        """What the template of charts shows."""
        ...


SENTENCE = 60
"""A cell with more characters is read, not looked up."""


@dataclass(frozen=True)
class Grid:
    """A table in a box that scrolls by itself where the window is narrow.

    Args:
        headers: column names.
        rows: cells; numbers of a column get the same decimals, text is taken as it is.
        caption: what the table shows; also the name of the box.
        numeric: columns that are aligned right; None: those without text (dashes apart).
        best: (row, column) of cells that win; they get a star, bold type and the word "best" for screen readers.
    """

    kind: ClassVar[str] = "table"
    headers: Sequence[str]
    rows: Sequence[Sequence[Content]]
    caption: str
    numeric: AbstractSet[int] | None = None
    best: AbstractSet[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"a row has {len(row)} cells, the table has {len(self.headers)} columns")

    @property
    def right(self) -> AbstractSet[int]:
        """Columns that are aligned right."""
        if self.numeric is not None:
            return self.numeric
        return {
            column
            for column in range(len(self.headers))
            if self.rows and all(not isinstance(row[column], str) or row[column] in ("", "-", "–") for row in self.rows)
        }

    @property
    def reading(self) -> AbstractSet[int]:
        """Columns of sentences, which keep some width in a narrow window."""
        return {
            column
            for column in range(len(self.headers))
            if any(isinstance(cell, str) and len(cell) > SENTENCE for cell in (row[column] for row in self.rows))
        }

    @property
    def texts(self) -> list[list[str]]:
        """The cells as text."""
        columns = [aligned([row[column] for row in self.rows]) for column in range(len(self.headers))]
        return [list(row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Matrix:
    """Counts of gold against predicted labels, shaded by their share of a row.

    Args:
        labels: in the order of rows (gold) and columns (predicted).
        counts: rows of counts.
        caption: what the table shows.
    """

    kind: ClassVar[str] = "matrix"
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    caption: str

    @property
    def shares(self) -> list[list[int]]:
        """Each count in percent of its row."""
        return [[round(100 * count / max(sum(row), 1)) for count in row] for row in self.counts]


@dataclass(frozen=True)
class Picture:
    """A small picture with what is said of it.

    Args:
        source: a data URI.
        says: lines below it, the first also for screen readers.
    """

    source: str
    says: Sequence[str]


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side.

    Args:
        caption: what they show.
        pictures: each with its lines.
    """

    kind: ClassVar[str] = "pictures"
    caption: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Pairs:
    """Names with their values, side by side where there is room."""

    kind: ClassVar[str] = "facts"
    pairs: Sequence[tuple[str, Content]]

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Names and values as text."""
        return [(name, number(value)) for name, value in self.pairs]


@dataclass(frozen=True)
class Code:
    """Commands or code as they are; `label` names the box for screen readers."""

    kind: ClassVar[str] = "code"
    text: str
    label: str = "Code"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Quote:
    """What somebody said, word for word, and who."""

    kind: ClassVar[str] = "quote"
    label: str
    text: str


@dataclass(frozen=True)
class Details:
    """Blocks that open on demand."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]


Block = str | Grid | Matrix | Pictures | Pairs | Code | Heading | Quote | Details | Drawn


@dataclass(frozen=True)
class Section:
    """A section of a page: its id (letters, digits, "-" and "_" after a letter), its heading, its blocks."""

    name: str
    heading: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def page(title: str, sections: Sequence[Section]) -> str:
    """One HTML page that needs nothing but itself.

    Args:
        title: heading of the page.
        sections: its sections; their ids differ.

    Returns:
        The whole file. Charts that occur twice get ids of their own.
    """
    names = [section.name for section in sections]
    for name, count in Counter(names).items():
        if not _IDENTIFIER.fullmatch(name) or name == _RESERVED or count > 1:
            raise ValueError(
                f"section id {name!r}: expected letters, digits, '-' and '_' after a letter, used once, not {_RESERVED!r}"
            )
    return render("page.html", title=title, sections=sections)


def render(template: str, **context: Any) -> str:
    """A template of this package, filled in.

    Args:
        template: its file's name.
        context: what it shows; text is escaped.
    """
    seen: Counter[str] = Counter()

    def drawing(svg: Markup, key: str) -> Markup:
        """An SVG element whose ids nobody else on the page has."""
        seen[key] += 1
        return svg if seen[key] == 1 else Markup(svg.replace(key, f"{key}-{seen[key]}"))

    return (
        _environment()
        .get_template(template)
        .render(drawing=drawing, light=LIGHT, dark=DARK, light_paper=LIGHT_PAPER, dark_paper=DARK_PAPER, **context)
    )


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("tandemtune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )


def _shown(value: Any) -> Any:
    """A value on its way into a page; what is Markup was made by templates."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
