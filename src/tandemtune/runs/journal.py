"""The append-only journal: one JSON line for every step, flushed to the disk before the run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tandemtune.errors import RunError
from tandemtune.runs.records import JournalRecord, from_line, to_line


class Journal:
    """Records of one run, one line each.

    A last line that a kill tore in half is cut off when the journal is opened; `torn` tells. Lines hold nothing that
    differs between two runs of the same recipe on the same machine: clock times are kept elsewhere.

    Args:
        path: the file; made if it is not there.

    Raises:
        RunError: a line before the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines, good, self.torn = _read(path)
        self.records = _records(lines, path)
        if self.torn:
            _truncate(path, good)

    def append(self, record: JournalRecord) -> None:
        """Add one record and wait until the disk has it."""
        data = (to_line(record) + "\n").encode("utf-8")
        with self.path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)


def read_journal(path: Path) -> list[JournalRecord]:
    """Records of a journal, for reports; a torn last line is left out and the file is not touched."""
    return _records(_read(path)[0], path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects of a file with one on each line; a torn last line is left out and the file is not touched."""
    return _read(path)[0]


def cut_torn(path: Path) -> list[dict[str, Any]]:
    """As `read_lines`; a torn last line is cut off, so that the file can be appended to."""
    lines, good, torn = _read(path)
    if torn:
        _truncate(path, good)
    return lines


def _records(lines: list[dict[str, Any]], path: Path) -> list[JournalRecord]:
    return [from_line(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def _read(path: Path) -> tuple[list[dict[str, Any]], int, bool]:
    """Good lines, their total length in bytes, and whether a torn line follows."""
    data = path.read_bytes() if path.exists() else b""
    lines: list[dict[str, Any]] = []
    good = 0
    for raw in data.splitlines(keepends=True):
        try:
            line = json.loads(raw) if raw.endswith(b"\n") else None
        except ValueError:
            line = None
        if not isinstance(line, dict):
            if good + len(raw) < len(data):
                raise RunError(f"{path}, line {len(lines) + 1}: damaged, expected a JSON object; restore the file")
            return lines, good, True
        lines.append(line)
        good += len(raw)
    return lines, good, False
