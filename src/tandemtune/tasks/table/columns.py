"""Looking up columns, keys and elements by the names that templates have for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tandemtune.errors import DataError
from tandemtune.tasks.table.base import Row, Table
from tandemtune.tasks.wording import did_you_mean, kind, listed, nfc, show


def check_columns(table: Table, wanted: Sequence[str]) -> None:
    """Find out whether a table that names its columns in one place has some of them, each once.

    Raises:
        DataError: a column is missing or stands there twice.
    """
    where = f"{table.name}, {table.header}" if table.header else table.name
    for name in wanted:
        column = column_of(table, name)
        if column is None and table.header is not None:
            raise DataError(_missing(where, name, table.columns))
        if column in table.repeated:
            raise DataError(
                f"{where}, field {show(name)}: {table.repeated[str(column)]} columns have this name, "
                "expected one: rename the others"
            )


def columns_in(field: str) -> list[str]:
    """The columns that a name such as ``choices.text.0`` may begin with, the longest first."""
    parts = field.split(".")
    return [column for count in range(len(parts), 0, -1) if (column := ".".join(parts[:count]))]


def column_of(table: Table, field: str) -> str | None:
    """The table's column that a name begins with, in the table's spelling; None where it has none."""
    found = (table.column(column) for column in columns_in(field))
    return next((column for column in found if column is not None), None)


def value_of(table: Table, index: int, field: str) -> Any:
    """A row's value in a column, or under a key of the one object in the row that has it. What stands behind a dot leads further:
    a number counts the elements of a list from 0, and a word is a key of an object (``endings.0``, ``choices.text.0``).

    Raises:
        DataError: no such column, key or element, or several objects have such a key.
    """
    row = table.rows[index]
    column = next((one for one in columns_in(field) if table.column(one) or _objects_with(row, one)), field)
    value = _cell_of(table, index, column)
    for part in field[len(column) + 1 :].split(".") if column != field else ():
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif not part.isdecimal():
            raise DataError(_missing(f"{table.name}, {table.places[index]}", field, list(row)))
        elif isinstance(value, list | tuple) and int(part) < len(value):
            value = value[int(part)]
        else:
            raise DataError(
                f"{table.name}, {table.places[index]}, field {show(field)}: got {kind(value)} {show(value)}, expected a list of at "
                f"least {int(part) + 1}: correct the row"
            )
    return value


def is_absent(table: Table, index: int, field: str) -> bool:
    """Whether a row has a shorter list than a name with a number at its end counts to (``endings.3``)."""
    before, _, place = field.rpartition(".")
    if not before or not place.isdecimal() or table.column(field) is not None:
        return False
    try:
        whole = value_of(table, index, before)
    except DataError:
        return False
    return isinstance(whole, list | tuple) and int(place) >= len(whole)


def _objects_with(row: Row, key: str) -> list[str]:
    """The columns of a row that hold an object with some key."""
    return [column for column, value in row.items() if isinstance(value, Mapping) and key in value]


def _cell_of(table: Table, index: int, field: str) -> Any:
    row = table.rows[index]
    if field in row:
        return row[field]
    same = next((column for column in row if nfc(column) == nfc(field)), None)
    if same is not None:
        return row[same]
    inside = _objects_with(row, field)
    where = f"{table.name}, {table.places[index]}"
    if len(inside) == 1:
        return row[inside[0]][field]
    if inside:
        raise DataError(
            f"{where}, field {show(field)}: found in several objects ({listed(inside)}), "
            "expected one: give it a column of its own"
        )
    raise DataError(_missing(where, field, list(row)))


def _missing(where: str, field: str, columns: Sequence[str]) -> str:
    found = f"found {listed(columns)}" if columns else "found no columns"
    if '"' in field or ":" in field:  # an object in JSON, not a column
        return (
            f'{where}: no column {show(field)}: braces of a template\'s own text are doubled, as in {{{{"name": ...}}}}'
        )
    return (
        f"{where}: no column {show(field)}{did_you_mean(field, columns)}, {found}: "
        "rename the column, or name the right one in the template, as label_column or as answer"
    )
