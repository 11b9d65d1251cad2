"""Columns of numbers in CSV and TSV files, which hold everything as text: a reward gets numbers, of the same kind from each of a task's
files, and from those that a finished run is evaluated on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tandemtune.errors import DataError
from tandemtune.tasks.table import Table
from tandemtune.tasks.wording import show

Kind = Literal["int", "float", "text"]
"""What the cells of a column are."""
DELIMITED = (".csv", ".tsv")
_WHOLE = re.compile(r"[+-]?(?:0|[1-9]\d{0,4299})", re.ASCII)  # Python reads no longer ones
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Args:
        number: what reads its numbers, `int` or `float`; None for texts.
        odd: where its first cell stands that is no number, and what it holds; empty for numbers.
    """

    number: Callable[[str], float] | None
    odd: str = ""

    def __and__(self, other: Column) -> Column:
        """The same for the cells of both: texts where one holds some, fractions where one does."""
        if self.number is None or other.number is None:
            return self if self.number is None else other
        return self if self.number is float else other


def columns_of(table: Table) -> dict[str, Column]:
    """What the columns of a file hold; numbers with zeros in front (codes) are texts.

    Args:
        table: the rows; those of other files than CSV and TSV say themselves what is a number, so nothing is said of them.
    """
    if table.format.suffix not in DELIMITED or not table.rows:
        return {}
    return {name: _column(table, name) for name in table.columns}


def together(several: Sequence[Mapping[str, Column]]) -> dict[str, Column]:
    """What the columns of several files hold together."""
    found: dict[str, Column] = {}
    for columns in several:
        for name, column in columns.items():
            found[name] = found[name] & column if name in found else column
    return found


def kinds_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Kind]:
    """What the cells of each column are, as rewards get them; columns that hold several things or something else are left out.

    Args:
        rows: cells by column; one that is None or not there says nothing.
    """
    types: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                types.setdefault(name, set()).add(type(value))
    told: dict[frozenset[type], Kind] = {frozenset([int]): "int", frozenset([str]): "text"}
    told |= dict.fromkeys((frozenset([float]), frozenset([int, float])), "float")
    return {name: told[kinds] for name, found in types.items() if (kinds := frozenset(found)) in told}


def as_before(columns: Mapping[str, Column], kinds: Mapping[str, Kind]) -> dict[str, Column]:
    """What the columns of a file hold, of the kinds that they had in other files.

    Args:
        columns: what this file's hold by themselves.
        kinds: of the other files' columns; one of numbers that are all whole may hold fractions here.

    Raises:
        DataError: a cell is no number in a column of numbers; names the file and line.
    """
    found = dict(columns)
    for name, column in columns.items():
        kind = kinds.get(name)
        if kind == "text":
            found[name] = Column(None)
        elif kind is not None and column.number is None:
            raise DataError(
                f"{column.odd} in the column {show(name)}, which held numbers only where the run learned: write a number without zeros in front, or "
                "leave the column out if the metric does not read it"
            )
        elif kind == "float":
            found[name] = Column(float)
    return found


def like_before(table: Table, kinds: Mapping[str, Kind]) -> dict[str, Column]:
    """What to read of the columns of a file that says itself what is a number, where the run learned from other kinds of cells.

    Args:
        table: the rows.
        kinds: of the columns that the run learned from.

    Returns:
        The columns whose texts are to be read as numbers.

    Raises:
        DataError: a cell is no number in a column of numbers, or a number in one of texts, which may have lost zeros in front; names the
            file and line.
    """
    found: dict[str, Column] = {}
    for name, kind in kinds.items():
        cells = [(place, row.get(name)) for place, row in zip(table.places, table.rows, strict=True)]
        numbers = [
            (place, cell) for place, cell in cells if isinstance(cell, int | float) and not isinstance(cell, bool)
        ]
        if kind == "text" and numbers:
            place, cell = numbers[0]
            raise DataError(
                f"{table.name}, {place} holds the number {show(cell)} in the column {show(name)}, which held texts where the run learned: write it "
                "as a text, with any zeros in front, or leave the column out if the metric does not read it"
            )
        if (
            kind != "text"
            and any(isinstance(cell, str) for _, cell in cells)
            and all(cell is not None for _, cell in cells)
        ):
            found[name] = as_before({name: _column(table, name)}, kinds)[name]
    return found


def numbers_in(table: Table, columns: Mapping[str, Column]) -> dict[str, list[float]]:
    """The numbers of a file's rows, by column.

    Args:
        table: the rows.
        columns: what they hold.
    """
    readers = {name: column.number for name, column in columns.items() if name in table.columns}
    return {name: [*map(read, _cells(table, name))] for name, read in readers.items() if read is not None}


def _cells(table: Table, name: str) -> list[str]:
    return [str(row.get(name, "")).strip() for row in table.rows]


def _column(table: Table, name: str) -> Column:
    whole = True
    for place, cell in zip(table.places, _cells(table, name), strict=True):
        whole = whole and _WHOLE.fullmatch(cell) is not None
        if not whole and not (_NUMBER.fullmatch(cell) and math.isfinite(float(cell))):
            return Column(None, f"{table.name}, {place} holds {show(cell)}")
    return Column(int if whole else float)
