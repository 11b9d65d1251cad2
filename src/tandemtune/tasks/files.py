"""Labelled rows from JSON lines, CSV, TSV, Parquet, a data hub or memory; every bad row becomes one clear error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tandemtune.errors import DataError
from tandemtune.tasks.table import (
    HUB,
    SUFFIXES,
    Table,
    check_columns,
    check_source,
    columns_in,
    is_absent,
    read_table,
    value_of,
)
from tandemtune.tasks.wording import ONE_LABEL, did_you_mean, kind, listed, nfc, show
from tandemtune.types import Example

__all__ = ["HUB", "SUFFIXES", "check_source", "examples_of", "labels_of", "read_examples", "texts_of"]

MAX_CHARS = 1_000_000
_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0+")


def read_examples(
    source: Any,
    *,
    fields: Sequence[str],
    label: str | None,
    labels: Sequence[str] | None,
    max_chars: int = MAX_CHARS,
) -> list[Example]:
    """Read the rows of a file or hub data set, or say exactly what is wrong with it.

    Args:
        source: a path ending in one of `SUFFIXES`, ``hub:NAME[@CONFIG][:SPLIT]``, a pandas DataFrame or a list of dicts.
        fields: as for `examples_of`, like all others.
        label: column of the label; None for unlabelled rows.
        labels: allowed label names; None allows any.
        max_chars: longest accepted text of one field.

    Raises:
        DataError: the source or one of its rows cannot be used; names the file, line and field.
    """
    named = [*fields] if label is None else [*fields, label]
    table = read_table(source, only=[column for name in named for column in columns_in(name)])
    return examples_of(table, fields=fields, label=label, labels=labels, max_chars=max_chars)


def examples_of(
    table: Table,
    *,
    fields: Sequence[str],
    label: str | None,
    labels: Sequence[str] | None,
    max_chars: int = MAX_CHARS,
    optional: Sequence[str] = (),
) -> list[Example]:
    """Turn the rows of a table into examples.

    Names of columns and labels are compared after composing accents (NFC). A field that is no column may also be a key of
    exactly one object of the row: ``span1_text`` is found in ``{"target": {"span1_text": ...}}``. Numbers are accepted as
    text, and null beside a text as an empty one. Labels are compared as text: without blanks around them, whole numbers without ``.0``, and true and false in small
    letters, however the file writes them (``true``, ``True``, ``TRUE``); a label that is written exactly so comes first.
    Whole numbers in a column with class names become those names, and rows marked -1 there ("no label") are left out, as
    are rows of a labelled CSV or TSV file that have nothing in any cell.

    Args:
        table: the rows.
        fields: columns that become the text of an example.
        label: column of the label; None for unlabelled rows.
        labels: allowed label names; None allows any.
        max_chars: longest accepted text of one field.
        optional: fields that a row may lack, see `is_absent`; its example lacks them, too.

    Returns:
        One example for each row, in the order of the table.

    Raises:
        DataError: a row cannot be used; names the file, line and field.
    """
    check_columns(table, fields if label is None else [*fields, label])
    known = None if labels is None else _Labels(labels)
    column = None if label is None else table.column(label)
    classes = () if column is None else table.classes.get(column, ())
    examples: list[Example] = []
    unlabelled = 0
    for index, row in enumerate(table.rows):
        if column is not None and classes and _is_no_label(row, column):
            unlabelled += 1
            continue
        at = f"{table.name}, {table.places[index]}"
        texts = _texts(at, _values(table, index, fields, optional), max_chars)
        if texts and not any(text.strip() for text in texts.values()):
            if label is not None and table.format.suffix in (".csv", ".tsv") and not any(map(str.strip, row.values())):
                continue
            which = ", ".join(show(field) for field in fields)
            raise DataError(
                f"{at}: every text is empty ({which}), expected words in at least one of them: "
                "fill it in or delete the row"
            )
        if label is None:
            examples.append(Example(texts, at=at))
            continue
        examples.append(Example(texts, _label(at, label, value_of(table, index, label), known, classes), at=at))
    if not examples:
        why = f"all {unlabelled} rows are marked as unlabelled (-1)" if unlabelled else "there are no rows"
        raise DataError(f"{table.name}: {why}, expected at least one: choose another file or split")
    return examples


def labels_of(table: Table, column: str, labels: Sequence[str]) -> list[str | None]:
    """Which label each row of a table has, however the file writes it (see `examples_of`); None where it has none, or another one.

    Args:
        table: the rows.
        column: of the label.
        labels: allowed label names.
    """
    known, classes = _Labels(labels), table.classes.get(column, ())
    found: list[str | None] = []
    for row in table.rows:
        try:
            found.append(_label("", column, row.get(column), known, classes))
        except DataError:
            found.append(None)
    return found


def texts_of(
    table: Table, fields: Sequence[str], max_chars: int = MAX_CHARS, optional: Sequence[str] = ()
) -> list[Example | None]:
    """The texts of every row of a table, None for a row whose texts are all blank or missing.

    Args:
        table: the rows.
        fields: columns that become the text of an example.
        max_chars: longest accepted text of one field.
        optional: as for `examples_of`.

    Returns:
        As many as the table has rows, without labels.

    Raises:
        DataError: a column is missing or a value is no text; names the file, line and field.
    """
    check_columns(table, fields)
    found: list[Example | None] = []
    for index in range(len(table.rows)):
        at = f"{table.name}, {table.places[index]}"
        values = _values(table, index, fields, optional)
        if all(value is None or (isinstance(value, str) and not value.strip()) for value in values.values()):
            found.append(None)
        else:
            found.append(Example(_texts(at, values, max_chars), at=at))
    return found


def _values(table: Table, index: int, fields: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
    """What stands in the fields of a row, without those that it may lack and lacks."""
    return {
        field: value_of(table, index, field)
        for field in fields
        if not (field in optional and is_absent(table, index, field))
    }


def _texts(at: str, values: Mapping[str, Any], max_chars: int) -> dict[str, str]:
    """The texts of a row; null beside a text is an empty one, as an empty cell of a CSV is."""
    beside = any(isinstance(value, str) and value.strip() for value in values.values())
    return {
        field: "" if value is None and beside else _text(at, field, value, max_chars) for field, value in values.items()
    }


def _text(where: str, field: str, value: Any, max_chars: int) -> str:
    if isinstance(value, str) and len(value) <= max_chars and value.isascii() and "\0" not in value:
        return value
    at = f"{where}, field {show(field)}"
    if not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{at}: expected text, got {kind(value)} {show(value)}: write a string, or delete the row")
    if len(value) > max_chars:
        raise DataError(
            f"{at}: {len(value):,} characters, expected at most {max_chars:,}, got {show(value)}: shorten the text"
        )
    _check_characters(at, value)
    return value


def _check_characters(at: str, value: str) -> None:
    if "\0" in value:
        raise DataError(f"{at}: a NUL character, expected text, got {show(value)}: remove it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ord(value[error.start])
        raise DataError(
            f"{at}: half of a surrogate pair (\\u{half:04x}) at character {error.start + 1}, expected whole "
            "Unicode characters: write the file again as UTF-8"
        ) from None


class _Labels:
    """Allowed labels, found by how a file writes them."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.names = tuple(labels)
        self._exact = set(labels)
        self._alike: dict[str, list[str]] = {}
        for label in dict.fromkeys(labels):
            self._alike.setdefault(_canonical(label), []).append(label)

    def find(self, value: str) -> str | None:
        """The label that a value means; None if there is none, or several that are written otherwise."""
        for exact in (value, nfc(value.strip())):
            if exact in self._exact:
                return exact
        alike = self._alike.get(_canonical(value), [])
        return alike[0] if len(alike) == 1 else None


def _canonical(label: str) -> str:
    """The text by which labels are compared."""
    text = nfc(label.strip())
    whole = _WHOLE_FLOAT.fullmatch(text)
    return whole[1] if whole else text.lower() if text.lower() in ("true", "false") else text


def _is_no_label(row: Mapping[str, Any], label: str) -> bool:
    value = row.get(label)
    return isinstance(value, int) and value == -1


def _label(where: str, column: str, value: Any, labels: _Labels | None, classes: Sequence[str]) -> str:
    """The label's name; `where` is the row, for messages."""
    if labels and isinstance(value, str) and value in labels.names:
        return value
    at = f"{where}, field {show(column)}"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{at}: no label (got {show(value)}), expected {_allowed(labels)}: fill it in")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and classes:
        if not 0 <= value < len(classes):
            raise DataError(
                f"{at}: class number {show(value)}, expected 0 to {len(classes) - 1} ({listed(classes)}): correct the row"
            )
        value = classes[value]
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, int):
        value = str(value)
    if isinstance(value, (list, tuple)):
        raise DataError(f"{at}: {show(value)}: {ONE_LABEL}")
    if not isinstance(value, str):
        raise DataError(
            f"{at}: expected a label as a string, an integer or true/false, "
            f"got {kind(value)} {show(value)}: write {_allowed(labels)}"
        )
    found = labels.find(value) if labels else None
    if found is not None:
        return found
    _check_characters(at, value)
    text = _canonical(value)
    if not text or (labels is None and text.lower() == "nan"):
        raise DataError(f"{at}: no label (got {show(text)}), expected {_allowed(labels)}: fill it in")
    if labels is None:
        return text
    parts = several(text)
    if labels and len(parts) > 1 and all(labels.find(part) for part in parts):
        raise DataError(f"{at}: {show(text)} stands for {listed(parts)}: {ONE_LABEL}")
    raise DataError(
        f"{at}: unknown label {show(text)}{did_you_mean(text, labels.names)}, expected {_allowed(labels)}: "
        "correct the row, or add the label to the task"
    )


def several(label: str) -> list[str]:
    """The parts of a text that may stand for several labels at once."""
    return [part.strip() for part in re.split(r"[;,|]", label) if part.strip()]


def _allowed(labels: _Labels | None) -> str:
    return "a label name" if labels is None else f"one of {listed(labels.names, most=40)}"
