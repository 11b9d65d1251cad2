"""Where rows come from: a file of a known ending, or a data set of a hub."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from tandemtune.errors import DataError
from tandemtune.tasks.wording import first_line, show, shown_name

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
SUFFIXES = (*JSON_LINES, ".json", ".csv", ".tsv", ".parquet")
HUB = "hub:"
SAVED = ("dataset_info.json", "dataset_dict.json")
"""Files of a folder that the `datasets` library's `save_to_disk` has written."""
HUB_SOURCE = re.compile(r"hub:(?P<name>[^@:\s]+)(?:@(?P<config>[^:\s]+))?(?::(?P<split>\S+))?")


def check_source(source: Any) -> None:
    """Find out, without reading a row, whether a source can be opened.

    Args:
        source: as for `read_table`.

    Raises:
        DataError: the file is missing, is a folder, has an unknown ending, or the address is malformed.
    """
    if isinstance(source, str | Path):
        located(source)


def located(source: str | Path) -> Path | None:
    """The path of a file that exists and has a known ending; None for a well-formed hub address.

    Raises:
        DataError: neither of them.
    """
    name = shown_name(source)
    if isinstance(source, str) and source.startswith(HUB):
        if HUB_SOURCE.fullmatch(source) is None:
            raise DataError(
                f"{name}: expected hub:NAME, hub:NAME@CONFIG or hub:NAME@CONFIG:SPLIT, "
                "for example hub:nyu-mll/glue@sst2:validation"
            )
        return None
    path = Path(source)
    try:
        exists, is_folder, is_file = path.exists(), path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: not a usable path ({first_line(error)}): check its spelling") from None
    if not exists:
        raise DataError(f"{name}: no such file{_near_file(path)}: check the path")
    if is_folder:
        raise DataError(f"{name}: is a folder, expected a file ending in {', '.join(SUFFIXES)}")
    if not is_file:
        raise DataError(f"{name}: is no regular file, expected a file ending in {', '.join(SUFFIXES)}")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{name}: ending {show(path.suffix)} is not known, expected one of {', '.join(SUFFIXES)}: "
            "convert or rename the file"
        )
    return path


def _near_file(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    except (OSError, ValueError):
        return f" (there is no folder {shown_name(path.parent)} either)"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {show(near[0])}?)" if near else ""


def absolute_address(source: str) -> str:
    """A hub address whose name is a folder here, with the folder named from the root; another one as it is."""
    match = HUB_SOURCE.fullmatch(source)
    if match is None or not Path(match["name"]).is_dir():
        return source
    return source.replace(match["name"], str(Path(match["name"]).absolute()), 1)
