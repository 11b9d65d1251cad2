"""The append-only journal: one JSON line for every step, flushed to the disk before the run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tandemtune.errors import RunError

Line = dict[str, Any]


class Journal:
    """Lines of one run.

    A last line that a kill tore in half is cut off when the journal is opened; `torn` tells. Lines hold nothing that
    differs between two runs of the same recipe on the same machine: clock times are kept elsewhere.

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

    def append(self, line: Line) -> None:
        """Add one line and wait until the disk has it."""
        data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
        with self.path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)


def read_journal(path: Path) -> list[Line]:
    """Lines of a journal, for reports; a torn last line is left out and the file is not touched."""
    return _read(path)[0]


def _read(path: Path) -> tuple[list[Line], int, bool]:
    """Good lines, their total length in bytes, and whether a torn line follows."""
    data = path.read_bytes() if path.exists() else b""
    lines: list[Line] = []
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
