"""What all charts have: a drawing for wide and for narrow windows, a table, words, and files."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from markupsafe import Markup

from tandemtune.errors import UsageError
from tandemtune.report.charts.drawing import style
from tandemtune.report.charts.inline import inline
from tandemtune.report.numbers import clean
from tandemtune.report.page import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, NARROW = 760, 360
"""Widths of the two drawings of a chart in a page, in CSS pixels."""


@dataclass(frozen=True, kw_only=True)
class Chart(ABC):
    """What all charts have.

    Args:
        title: what the chart shows; it stands above the drawing in a page.
        description: first sentence for screen readers, instead of one made from the labels.
    """

    kind: ClassVar[str] = "chart"
    title: str
    description: str = ""

    @abstractmethod
    def empty(self) -> bool:
        """Whether there is nothing to draw."""

    @abstractmethod
    def table(self) -> Grid:
        """The chart's numbers."""

    @abstractmethod
    def words(self) -> str:
        """The chart in a few sentences."""

    @abstractmethod
    def size(self, width: int) -> int:
        """Height of a drawing of this width."""

    @abstractmethod
    def draw(self, figure: Figure, width: int) -> None:
        """Put the chart on a figure."""

    def context(self) -> dict[str, Any]:
        """What the template shows."""
        if self.empty():
            return {"empty": f"{self.title}: there is nothing to draw yet."}
        wide, narrow = self.svg(WIDE), self.svg(NARROW)
        return {
            "empty": "",
            "title": self.title,
            "wide": wide[0],
            "wide_key": wide[1],
            "narrow": narrow[0],
            "narrow_key": narrow[1],
            "table": self.table(),
        }

    def svg(self, width: int) -> tuple[Markup, str]:
        """The chart as an `<svg>` element for pages, and the key that its ids begin with.

        Args:
            width: in CSS pixels.
        """
        return inline(self.file("svg", width), clean(self.title), clean(self.words()))

    def file(self, kind: Literal["svg", "png"], width: int = WIDE) -> bytes:
        """The chart as a file of its own, dark on white.

        Args:
            kind: of the file.
            width: in CSS pixels; a PNG has three times as many of its own.
        """
        figure = self.figure(width)
        with style():
            place = io.BytesIO()
            if kind == "svg":
                figure.savefig(place, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
            else:
                figure.savefig(place, format="png", dpi=216, facecolor="white", metadata={"Software": None})
            return place.getvalue()

    def figure(self, width: int = WIDE) -> Figure:
        """The chart as a figure of matplotlib, to be changed and saved by its own means.

        Args:
            width: in CSS pixels.
        """
        with style():
            from matplotlib.figure import Figure

            figure = Figure(figsize=(width / 72, self.size(width) / 72), dpi=72, layout="constrained")
            self.draw(figure, width)
            return figure

    def _repr_svg_(self) -> str | None:
        """The chart in a notebook."""
        return None if self.empty() else str(self.svg(WIDE)[0])

    def save(self, place: Path) -> None:
        """Write the chart as the file's suffix says: ``.svg`` or ``.png``.

        Raises:
            UsageError: another suffix.
        """
        kind = place.suffix.lower().removeprefix(".")
        if kind not in ("svg", "png"):
            raise UsageError(f"a chart cannot be written as {place.name}: name a file that ends in .svg or .png")
        place.write_bytes(self.file("png" if kind == "png" else "svg"))


def save_all(charts: Mapping[str, Chart], folder: Path, kind: Literal["svg", "png"]) -> None:
    """Write charts into a folder, each as a file of its name.

    Args:
        charts: by name.
        folder: it is made if it is not there.
        kind: of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in charts.items():
        chart.save(folder / f"{name}.{kind}")
