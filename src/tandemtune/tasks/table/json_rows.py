"""Rows of JSON: a list of objects, or an object on each line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from tandemtune.errors import DataError
from tandemtune.tasks.table.base import Row
from tandemtune.tasks.wording import first_line, kind, show


def read_json(text: str, name: str, suffix: str) -> tuple[list[str], list[Row]]:
    """Rows of a list of objects, or of one object on each line."""
    if text.lstrip().startswith("["):
        found = _json_list(text, name)
        if found is not None:
            return [f"row {number}" for number in range(1, len(found) + 1)], found
    _refuse_one_object(text, name, suffix)
    places, rows = [], []
    for place, row in _json_lines(text, name):
        places.append(place)
        rows.append(row)
    return places, rows


def _refuse_one_object(text: str, name: str, suffix: str) -> None:
    """Say so where the file is one object with all rows inside it, as a list or column by column."""
    first, _, rest = text.strip().partition("\n")
    if _is_json(first) if rest else suffix != ".json":
        return  # a row on each line
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(whole, dict) or not whole:
        return
    inner = next(
        (key for key, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict)), None
    )
    lists = all(isinstance(value, list) for value in whole.values())
    columns = all(isinstance(value, dict) and value and all(map(str.isdigit, value)) for value in whole.values())
    if inner is not None:
        what = f"with the rows in {show(inner)}: save that list alone"
    elif lists or columns:
        what = 'with the rows column by column: write them one by one (pandas: orient="records")'
    elif rest:
        what = "over several lines: write one object on each line, or a list of objects"
    else:
        return
    raise DataError(f"{name}: the file is one JSON object {what}")


def _json_list(text: str, name: str) -> list[Row] | None:
    """The objects of a list that is the whole file; None where its lines are rather to be read one by one."""
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        first = text.lstrip().split("\n", 1)[0]
        if error.msg == "Extra data" or _is_json(first):
            return None
        raise DataError(
            f"{name}, line {error.lineno}: not valid JSON ({error.msg}, column {error.colno}) in a list of rows: "
            "close every bracket and quote, and put a comma between two objects"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}, line 1: JSON that cannot be read ({first_line(error)})") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(
                f"{name}, row {number} of the list: expected a JSON object such as "
                f'{{"text": "...", "label": "..."}}, got {kind(row)} {show(row)}'
            )
    return list(rows)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(text: str, name: str) -> Iterator[tuple[str, Row]]:
    # Not splitlines(): a JSON string may hold U+2028 and other characters that it would cut at.
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{name}, {where}: not valid JSON ({error.msg}, column {error.colno}), "
                f"got {show(line.strip())}: write one whole JSON object on each line, or a list of objects"
            ) from None
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{name}, {where}: JSON that cannot be read ({first_line(error)}): write one flat JSON object on each line"
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{name}, {where}: expected a JSON object such as "
                f'{{"text": "...", "label": "..."}}, got {kind(row)} {show(row)}: '
                "write one JSON object on each line"
            )
        yield where, row
