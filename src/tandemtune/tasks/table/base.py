"""Tables: rows with all their columns, in order."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tandemtune.errors import DataError
from tandemtune.tasks.wording import counted, kind, nfc, show

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """How a file was written.

    Args:
        suffix: its ending in small letters; "" for rows that come from no file.
        encoding: of a text file, by Python's name.
        separator: between the cells of a CSV or TSV file.
    """

    suffix: str = ""
    encoding: str = "utf-8"
    separator: str = ","


@dataclass(frozen=True, eq=False)
class Table:
    """Rows with all their columns.

    Args:
        columns: names of all columns, each once, in the order of the file. The second of two with one name is called
            ``name (2)``.
        rows: one mapping for each row; a row of a JSON file may lack columns.
        places: where each row stands, for messages: "line 3", "row 3".
        name: of the file or data set, for messages.
        format: how the file was written.
        header: where the columns are named; None where each row names its own (JSON, hub).
        repeated: how often a name stands in the header, for those that stand there more than once.
        classes: names behind whole numbers in a column, where the file or hub tells them.
        remarks: what was left out of the file, one sentence each.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    places: tuple[str, ...]
    name: str = "rows"
    format: Format = field(default_factory=Format)
    header: str | None = None
    repeated: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Any, name: str = "rows") -> Table:
        """Make a table of rows in memory.

        Args:
            rows: a table, a pandas DataFrame (its index is no column; missing values become None), or dicts.
            name: what messages call it.

        Raises:
            DataError: it is something else, or a row is no dict with names.
        """
        if isinstance(rows, Table):
            return rows
        pandas = sys.modules.get("pandas")  # who hands over a DataFrame has imported it
        if pandas is not None and isinstance(rows, pandas.DataFrame):
            columns, repeated = unique_names([str(column).strip() for column in rows.columns])
            frame = rows.astype(object).where(rows.notna(), None).set_axis(columns, axis=1)
            return with_header(columns, frame.to_numpy().tolist(), name=name, repeated=repeated)
        if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
            raise DataError(f"{name}: got {kind(rows)} {show(rows)}, expected a file, a DataFrame or a list of dicts")
        found: list[Row] = []
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping) or not all(isinstance(key, str) for key in row):
                raise DataError(
                    f"{name}, row {number}: got {kind(row)} {show(row)}, expected a dict of columns by name"
                )
            found.append({key: _plain(value) for key, value in row.items()})
        return without_header(found, [f"row {number}" for number in range(1, len(found) + 1)], name)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the file was read."""
        if self.format.encoding.startswith("utf"):
            return self.remarks
        return (
            *self.remarks,
            f"{self.name}: read as {self.format.encoding}, since it is not UTF-8; "
            "save it as UTF-8 if letters with accents look wrong",
        )

    def column(self, wanted: str) -> str | None:
        """The table's spelling of a column's name, which may differ in how accents are encoded; None without such a column."""
        if wanted in self.columns:
            return wanted
        return next((column for column in self.columns if nfc(column) == nfc(wanted)), None)

    def renamed(self, old: str, new: str) -> Table:
        """The table with another name for a column, or with ``new (2)`` where there is a column `new` already.

        Args:
            old: the column; a table without it is returned as it is.
            new: its new name.
        """
        if old == new or old not in self.columns:
            return self
        number = 1
        free = new
        while free in self.columns:
            number += 1
            free = f"{new} ({number})"
        names = {old: free}
        return replace(
            self,
            columns=tuple(names.get(column, column) for column in self.columns),
            rows=tuple({names.get(key, key): value for key, value in row.items()} for row in self.rows),
            classes={names.get(key, key): value for key, value in self.classes.items()},
        )

    def replaced(self, name: str, values: Sequence[Any]) -> Table:
        """The table with other values in a column, which stays where it is.

        Args:
            name: of the column.
            values: one for each row.
        """
        rows = tuple({**row, name: value} for row, value in zip(self.rows, values, strict=True))
        return replace(self, rows=rows)

    def with_column(self, name: str, values: Sequence[Any]) -> Table:
        """The table with a further column at its end, in place of one of that name.

        Args:
            name: of the column.
            values: one for each row.

        Raises:
            DataError: more or fewer values than rows.
        """
        if len(values) != len(self.rows):
            raise DataError(f"{self.name}: {len(values)} values of {show(name)} for {counted(len(self.rows), 'row')}")
        return replace(
            self,
            columns=(*(column for column in self.columns if column != name), name),
            rows=tuple(
                {**{key: cell for key, cell in row.items() if key != name}, name: value}
                for row, value in zip(self.rows, values, strict=True)
            ),
        )


Source = str | Path | Table
"""Where rows come from: a path, ``hub:NAME[@CONFIG][:SPLIT]``, or rows in memory."""


def with_header(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    places: Sequence[str] | None = None,
    name: str = "rows",
    format: Format | None = None,
    header: str = "",
    repeated: Mapping[str, int] | None = None,
) -> Table:
    """A table whose rows all have the columns of its header."""
    return Table(
        tuple(columns),
        tuple(dict(zip(columns, row, strict=True)) for row in rows),
        tuple(places or (f"row {number}" for number in range(1, len(rows) + 1))),
        name,
        format or Format(),
        header,
        repeated or {},
    )


def without_header(rows: Sequence[Row], places: Sequence[str], name: str, format: Format | None = None) -> Table:
    """A table whose rows name their own columns."""
    columns = tuple(dict.fromkeys(column for row in rows for column in row))
    return Table(columns, tuple(rows), tuple(places), name, format or Format())


def unique_names(names: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Names of columns, each once, and how often those stood there that did not."""
    found: list[str] = []
    for name in names:
        number, free = 1, name
        while free in found:
            number += 1
            free = f"{name} ({number})"
        found.append(free)
    return found, {name: names.count(name) for name in names if names.count(name) > 1}


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's."""
    return value.item() if isinstance(value, np.generic) else value
