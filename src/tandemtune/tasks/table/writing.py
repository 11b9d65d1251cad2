"""Writing tables, by the ending of their file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tandemtune.tasks.delimited as delimited
from tandemtune.errors import DataError
from tandemtune.runs.writing import write_atomically
from tandemtune.tasks.table.base import Table, unique_names, with_header
from tandemtune.tasks.table.parquet import pyarrow_of
from tandemtune.tasks.table.sources import SUFFIXES
from tandemtune.tasks.wording import first_line, show, shown_name


def write_table(path: str | Path, table: Table) -> None:
    """Write a table in the format that the path's ending names, so that `read_table` finds the same.

    In CSV and TSV files a missing value is an empty cell, a column of objects becomes one column for each of their keys
    (``probabilities.positive``), and other lists and objects stand as JSON. A table that was read with another separator,
    or marked as UTF-8 or in another encoding (as spreadsheets do), is written as CSV with that separator, and marked.

    Args:
        path: ending in one of `SUFFIXES`.
        table: the rows.

    Raises:
        DataError: the ending is not known, a value cannot be written, or pyarrow is missing for Parquet.
        OSError: the file cannot be written.
    """
    check_output(path)
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        _write_parquet(path, table)
        return
    if suffix in (".csv", ".tsv"):
        flat = _flat(table)
        rows = ([_cell(row.get(column)) for column in flat.columns] for row in flat.rows)
        same = suffix == table.format.suffix
        text = delimited.write(
            flat.columns, rows, table.format.separator if same else "\t" if suffix == ".tsv" else ","
        )
        marked = table.format.suffix in (".csv", ".tsv") and table.format.encoding != "utf-8"
        data = text.encode("utf-8-sig" if marked else "utf-8")
    elif suffix == ".json":
        data = ("[\n" + ",\n".join(map(_json, table.rows)) + "\n]\n").encode()
    else:
        data = "".join(f"{_json(row)}\n" for row in table.rows).encode()
    write_atomically(path, lambda file: file.write(data))


def check_output(path: str | Path) -> None:
    """Find out, before there is anything to write, whether a table can be written to a file.

    Raises:
        DataError: the ending is not known, pyarrow is missing for Parquet, or the folder is missing or may not be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{shown_name(path)}: ending {show(path.suffix)} is not known, expected one of {', '.join(SUFFIXES)}"
        )
    if path.suffix.lower() == ".parquet":
        pyarrow_of(shown_name(path))
    folder = path.absolute().parent
    if not folder.is_dir():
        raise DataError(f"folder {shown_name(folder)} does not exist: make it first")
    if not os.access(folder, os.W_OK):
        raise DataError(f"folder {shown_name(folder)} may not be written: choose another one")


def _flat(table: Table) -> Table:
    """The table with one column for each key of the objects in a column that holds nothing else."""
    keys: dict[str, list[str]] = {}
    for column in table.columns:
        values = [row[column] for row in table.rows if row.get(column) is not None]
        if values and all(isinstance(value, Mapping) and value for value in values):
            keys[column] = list(dict.fromkeys(str(key) for value in values for key in value))
    if not keys:
        return table
    columns, _ = unique_names(
        [name for column in table.columns for name in [f"{column}.{key}" for key in keys.get(column, ())] or [column]]
    )
    rows = [
        [
            value
            for column in table.columns
            for value in (
                [(row.get(column) or {}).get(key) for key in keys[column]] if column in keys else [row.get(column)]
            )
        ]
        for row in table.rows
    ]
    return with_header(columns, rows, table.places, table.name, table.format)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return _json(value) if isinstance(value, Mapping | list | tuple) else str(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _write_parquet(path: Path, table: Table) -> None:
    arrow, parquet = pyarrow_of(shown_name(path))
    arrays = {}
    for column in table.columns:
        values = [row.get(column) for row in table.rows]
        try:
            arrays[column] = arrow.array(values)
        except Exception:  # values of several types: Parquet has one for a column
            arrays[column] = arrow.array([None if value is None else _cell(value) for value in values], arrow.string())
    try:
        made = arrow.table(arrays)
    except Exception as error:
        raise DataError(f"{shown_name(path)}: cannot be written as Parquet ({first_line(error)}): use .jsonl") from None
    write_atomically(path, lambda file: parquet.write_table(made, file))
