"""Reading tables, by the ending of their file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tandemtune.tasks.delimited as delimited
from tandemtune.errors import DataError
from tandemtune.tasks.encodings import decoded
from tandemtune.tasks.table.base import Format, Table, unique_names, with_header, without_header
from tandemtune.tasks.table.hub import read_hub
from tandemtune.tasks.table.json_rows import read_json
from tandemtune.tasks.table.parquet import read_parquet
from tandemtune.tasks.table.sources import located
from tandemtune.tasks.wording import shown_name


def read_table(source: Any, *, only: Sequence[str] | None = None) -> Table:
    """Read all rows, blank ones included, with all their columns.

    Args:
        source: a path ending in one of `SUFFIXES`, ``hub:NAME[@CONFIG][:SPLIT]`` (split "train" unless told), or what
            `Table.of` takes.
        only: the columns that matter; others may be missing from the table (they are for Parquet files). None for all.

    Raises:
        DataError: the source cannot be read; names the file and the line.
    """
    if not isinstance(source, str | Path):
        return Table.of(source)
    name = shown_name(source)
    path = located(source)
    return read_hub(str(source), name) if path is None else _read_file(path, name, only)


def _read_file(path: Path, name: str, only: Sequence[str] | None) -> Table:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{name}: cannot be read ({reason}): check its permissions") from None
    if not data.strip():
        raise DataError(f"{name}: the file is empty, expected at least one row")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet(data, name, only)
    text, encoding = decoded(data, name)
    if not text.strip():
        raise DataError(f"{name}: the file is empty, expected at least one row")
    if suffix in (".csv", ".tsv"):
        cells = delimited.read(text, "\t" if suffix == ".tsv" else ",", name)
        columns, repeated = unique_names(cells.header)
        places = [f"line {number}" for number, _ in cells.rows]
        rows = [row for _, row in cells.rows]
        header = f"line {cells.line} (the header)"
        return with_header(columns, rows, places, name, Format(suffix, encoding, cells.separator), header, repeated)
    places, found = read_json(text, name, suffix)
    return without_header(found, places, name, Format(suffix, encoding))
