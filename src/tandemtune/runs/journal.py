"""Append-only files with one JSON object on each line, flushed to the disk before the run goes on; the journal is one of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandemtune.errors import RunError
from tandemtune.runs.records import JournalRecord, from_line, to_line


class Lines:
    """An append-only file of JSON objects.

    A last line that a kill tore in half is cut off when the file is opened; `torn` tells.

    Args:
        path: the file; made if it is not there.

    Raises:
        RunError: a line before the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines, good, self.torn = _read(path)
        if self.torn:
            with path.open("r+b") as file:
                file.truncate(good)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line and wait until the disk has it."""
        _append(self.path, json.dumps(line, ensure_ascii=False, allow_nan=False))
        self.lines.append(dict(line))


class Journal:
    """Records of one run, see `Lines`. They hold nothing that differs between two runs of the same recipe on the same machine:
    clock times are kept elsewhere.

    Args:
        path: the file; made if it is not there.

    Raises:
        RunError: a line before the last is damaged, or is no record.
    """

    def __init__(self, path: Path) -> None:
        there = Lines(path)
        self.path, self.torn = path, there.torn
        self.records = _records(there.lines, path)

    def append(self, record: JournalRecord) -> None:
        """Add one record and wait until the disk has it."""
        _append(self.path, to_line(record))
        self.records.append(record)


def read_journal(path: Path) -> list[JournalRecord]:
    """Records of a journal, for reports; a torn last line is left out and the file is not touched."""
    return _records(read_lines(path), path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects of a file with one on each line; a torn last line is left out and the file is not touched."""
    return _read(path)[0]


def _append(path: Path, text: str) -> None:
    with path.open("ab") as file:
        file.write((text + "\n").encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def _records(lines: list[dict[str, Any]], path: Path) -> list[JournalRecord]:
    return [from_line(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


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
