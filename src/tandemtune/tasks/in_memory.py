"""Rows that are handed over in Python, as files that a run reads like any others."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tandemtune.runs.writing import write_lines
from tandemtune.tasks.image_files import image_column, with_files
from tandemtune.tasks.table import read_table


@contextmanager
def rows_on_disk(place: Path, sources: Mapping[str, Any], kept: Path) -> Iterator[tuple[dict[str, str], Path | None]]:
    """Rows that are in memory as files beside the run's place; gone afterwards if nobody moved them.

    Args:
        place: of the run.
        sources: rows by what they are for: a file, a ``hub:`` address, a list of dicts or a DataFrame; None for none.
        kept: folder that images are written to which are no files.

    Yields:
        The paths of all, and the folder of those that were written; None without any.
    """
    paths: dict[str, str] = {}
    memory: dict[str, list[dict[str, Any]]] = {}
    for name, source in sources.items():
        if source is None:
            continue
        if isinstance(source, (str, Path)):
            paths[name] = str(source)
        else:
            memory[name] = _as_rows(source, kept)
    if not memory:
        yield paths, None
        return
    folder = place.absolute().with_name(f".{place.name}.data.{os.getpid()}.tmp")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, rows in memory.items():
            write_lines(folder / f"{name}.jsonl", rows)
            paths[name] = str(folder / f"{name}.jsonl")
        yield paths, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_rows(source: Any, kept: Path) -> list[dict[str, Any]]:
    """Rows as plain dicts that JSON has a form for."""
    table = read_table(source)
    column = image_column(table, Path())
    table = table if column is None else with_files(table, column, Path(), kept)
    return [_writable(row) for row in table.rows]


def _writable(value: Any) -> Any:
    """A value as JSON has it: a number that is none is missing, and dates and the like are their text."""
    if isinstance(value, Mapping):
        return {str(key): _writable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return _writable(value.tolist()) if hasattr(value, "tolist") else str(value)
