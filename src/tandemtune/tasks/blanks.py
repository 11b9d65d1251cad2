"""Rows without a text, or without a label or an answer: counted, and left out of what is learned from and scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tandemtune.errors import DataError
from tandemtune.tasks.table import HUB, Table, column_of, is_absent, value_of
from tandemtune.tasks.wording import counted, nfc, show

MOST_BLANK = 0.2
"""Where a larger share of the rows is blank, a column has probably been mistaken for another one."""
_MOST_NAMED = 5


def without_empty_rows(table: Table) -> Table:
    """A table without those rows of a CSV or TSV file that have nothing in any cell, as spreadsheets leave them.

    Args:
        table: the rows.
    """
    if table.format.suffix not in (".csv", ".tsv"):
        return table
    return _of_rows(table, [i for i, row in enumerate(table.rows) if any(map(str.strip, row.values()))])


def without_blank_rows(
    table: Table,
    texts: Sequence[str],
    needed: Sequence[tuple[str, str]] = (),
    labels: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> Table:
    """A table without its blank rows, with a remark that says how many there were and where.

    Args:
        table: the rows.
        texts: columns of the texts; a row is blank if nothing stands in any of them.
        needed: what else each row has to have, "label" or "answer", and in which column.
        labels: names of the labels, where they are known; where none is called so, "nan" is no label.
        optional: elements of lists among these columns that a row may lack, see `is_absent`.

    Raises:
        DataError: more than a fifth of the rows is blank.
    """
    table = without_empty_rows(table)
    kept: list[int] = []
    lacking: dict[tuple[str, str], list[str]] = {}
    nothing = () if "nan" in labels else ("nan",)
    for index, place in enumerate(table.places):
        empty = texts and all(_blank(_value(table, index, name)) for name in texts)
        missing = [("a text", " and ".join(map(show, texts)))] * bool(empty)
        for what, name in needed:
            if name in optional and is_absent(table, index, name):
                continue
            if _blank(_value(table, index, name), nothing if what == "label" else ()):
                missing.append((f"{'an' if what == 'answer' else 'a'} {what}", show(name)))
        if not missing:
            kept.append(index)
        else:
            lacking.setdefault(missing[0], []).append(place)
    blank = len(table.rows) - len(kept)
    if not blank:
        return table
    found = [f"{len(at):,} without {what} in {name} ({_named(at)})" for (what, name), at in lacking.items()]
    told = f"{blank:,} of {counted(len(table.rows), 'row')} {'is' if blank == 1 else 'are'}"
    if blank > MOST_BLANK * len(table.rows):
        raise DataError(
            f"{table.name}: {told} blank, {', '.join(found)}: more than a fifth is not left out. Is it the right column? Name another one, or delete "
            "these rows"
        )
    name = table.name if table.name.startswith(HUB) else Path(table.name).name  # a run's notes are shown to others
    remark = f"{name}: {told} left out: {', '.join(found)}"
    return replace(_of_rows(table, kept), remarks=(*table.remarks, remark))


def says(table: Table, index: int, field: str) -> bool:
    """Whether a row has such a column, and anything stands there."""
    with suppress(DataError):
        return not _blank(value_of(table, index, field))
    return False


def _of_rows(table: Table, kept: Sequence[int]) -> Table:
    if len(kept) == len(table.rows):
        return table
    return replace(table, rows=tuple(table.rows[i] for i in kept), places=tuple(table.places[i] for i in kept))


def _value(table: Table, index: int, field: str) -> Any:
    """A row's value in a column; None where the row does not have the column that others have."""
    column, row = column_of(table, field), table.rows[index]
    if column is not None and column not in row and all(nfc(column) != nfc(name) for name in row):
        return None
    return value_of(table, index, field)


def _blank(value: Any, nothing: Sequence[str] = ()) -> bool:
    """Whether nothing is said; a list says nothing if no element does."""
    if isinstance(value, str):
        return not value.strip() or value.strip().lower() in nothing
    if isinstance(value, list | tuple):
        return all(map(_blank, value))
    return value is None or (isinstance(value, float) and math.isnan(value))


def _named(places: Sequence[str]) -> str:
    more = f" and {len(places) - _MOST_NAMED:,} more" if len(places) > _MOST_NAMED else ""
    return ", ".join(places[:_MOST_NAMED]) + more
