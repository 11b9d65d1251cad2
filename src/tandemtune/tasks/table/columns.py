"""Looking up columns, keys and elements by the names that templates have for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tandemtune.errors import DataError
from tandemtune.tasks.table.base import Table
from tandemtune.tasks.wording import did_you_mean, kind, listed, nfc, show


def check_columns(table: Table, wanted: Sequence[str]) -> None:
    """Find out whether a table that names its columns in one place has some of them, each once.

    Raises:
        DataError: a column is missing or stands there twice.
    """
    where = f"{table.name}, {table.header}" if table.header else table.name
    for name in wanted:
        column = table.column(name) or table.column(element_of(name)[0])
        if column is None and table.header is not None:
            raise DataError(_missing(where, name, table.columns))
        if column in table.repeated:
            raise DataError(
                f"{where}, field {show(name)}: {table.repeated[str(column)]} columns have this name, "
                "expected one: rename the others"
            )


def element_of(field: str) -> tuple[str, int | None]:
    """A column and the place in its lists that a name such as ``endings.0`` means; the name itself and None for any other."""
    column, dot, place = field.rpartition(".")
    return (column, int(place)) if dot and column and place.isdecimal() else (field, None)


def value_of(table: Table, index: int, field: str) -> Any:
    """A row's value in a column, or under a key of the one object in the row that has it; of a list in there the element that a
    number behind a dot counts, from 0 (``endings.0``).

    Raises:
        DataError: no such column or element, or several objects have such a key.
    """
    column, place = element_of(field)
    if place is None or table.column(field) is not None:
        return _cell_of(table, index, field)
    whole = _cell_of(table, index, column)
    if isinstance(whole, list | tuple) and place < len(whole):
        return whole[place]
    raise DataError(
        f"{table.name}, {table.places[index]}, field {show(field)}: got {kind(whole)} {show(whole)}, expected a list of at least "
        f"{place + 1}: correct the row"
    )


def _cell_of(table: Table, index: int, field: str) -> Any:
    row = table.rows[index]
    if field in row:
        return row[field]
    same = next((column for column in row if nfc(column) == nfc(field)), None)
    if same is not None:
        return row[same]
    inside = [column for column, value in row.items() if isinstance(value, Mapping) and field in value]
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
