"""Columns of numbers in CSV and TSV files, which hold everything as text: a reward gets numbers, of the same kind from each of a task's
files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tandemtune.tasks.table import Table
from tandemtune.tasks.wording import show

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
