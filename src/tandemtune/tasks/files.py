"""Labelled rows from JSON lines, CSV, TSV, Parquet or a data hub; every bad row becomes one clear error."""

from __future__ import annotations

import csv
import difflib
import importlib
import io
import json
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandemtune.errors import DataError
from tandemtune.types import Example

SUFFIXES = (".jsonl", ".ndjson", ".jsonlines", ".json", ".csv", ".tsv", ".parquet")
HUB = "hub:"
_HUB_SOURCE = re.compile(r"hub:(?P<name>[^@:\s]+)(?:@(?P<config>[^:\s]+))?(?::(?P<split>\S+))?")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0+")
_CELL_LIMIT = 2**31 - 1
_SHOWN = 60

# One row as a reader hands it over: where it stands ("line 3", "row 3") and its columns.
_Row = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _Rows:
    """What a reader found: the rows, and the class names behind integer labels (hub and Parquet only)."""

    rows: Iterable[_Row]
    class_names: tuple[str, ...] = ()
    typed: bool = True


def read_examples(
    source: str | Path,
    *,
    fields: Sequence[str],
    label: str | None,
    labels: Sequence[str] | None,
    max_chars: int = 1_000_000,
) -> list[Example]:
    """Read the rows of a file or hub data set, or say exactly what is wrong with it.

    A field that is no column may also be a key of exactly one JSON object (or Parquet struct) of the row:
    ``span1_text`` is found in ``{"target": {"span1_text": ...}}``. Numbers are accepted as text. A label
    may be a string, an integer, a whole float or a boolean (``true`` becomes "true"). Integer labels of a
    hub or Parquet file that carries class names become those names, and its rows marked -1 ("no label")
    are left out. In a TSV file a tab or line break always ends a cell; quotes around a cell are removed.

    Args:
        source: a path ending in one of `SUFFIXES`, or ``hub:NAME[@CONFIG][:SPLIT]`` (split "train" unless
            told).
        fields: columns that become the text of an example.
        label: column of the label; None for unlabelled rows.
        labels: allowed label names; None allows any.
        max_chars: longest accepted text of one field.

    Returns:
        One example per row, in the order of the file.

    Raises:
        DataError: the source or one of its rows cannot be used; names the file, line and field.
    """
    name = _shown_name(source)
    wanted = [*fields] if label is None else [*fields, label]
    path = _located(source)
    found = _read_hub(str(source), name, label) if path is None else _read_file(path, name, wanted, label)
    examples: list[Example] = []
    unlabelled = 0
    for where, row in found.rows:
        if label is not None and found.class_names and _is_no_label(row, label):
            unlabelled += 1
            continue
        texts = {field: _text(name, where, row, field, max_chars) for field in fields}
        if texts and not any(text.strip() for text in texts.values()):
            which = ", ".join(_show(field) for field in fields)
            raise DataError(
                f"{name}, {where}: every text is empty ({which}), expected words in at least one of them: "
                "fill it in or delete the row"
            )
        if label is None:
            examples.append(Example(texts))
            continue
        value = _lookup(name, where, row, label)
        examples.append(Example(texts, _label(f"{name}, {where}, field {_show(label)}", value, labels, found)))
    if not examples:
        why = f"all {unlabelled} rows are marked as unlabelled (-1)" if unlabelled else "there are no rows"
        raise DataError(f"{name}: {why}, expected at least one: choose another file or split")
    return examples


def check_source(source: str | Path) -> None:
    """Find out, without reading a row, whether a source can be opened.

    Args:
        source: a path or a ``hub:`` address, as for `read_examples`.

    Raises:
        DataError: the file is missing, is a folder, has an unknown ending, or the address is malformed.
    """
    _located(source)


# --- where the rows come from -------------------------------------------------------------------------


def _located(source: str | Path) -> Path | None:
    """The path of a file that exists and has a known ending; None for a well-formed hub address."""
    name = _shown_name(source)
    if isinstance(source, str) and source.startswith(HUB):
        if _HUB_SOURCE.fullmatch(source) is None:
            raise DataError(
                f"{name}: expected hub:NAME, hub:NAME@CONFIG or hub:NAME@CONFIG:SPLIT, "
                "for example hub:nyu-mll/glue@sst2:validation"
            )
        return None
    path = Path(source)
    try:
        exists, is_folder, is_file = path.exists(), path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: not a usable path ({_line(error)}): check its spelling") from None
    if not exists:
        raise DataError(f"{name}: no such file{_near_file(path)}: check the path")
    if is_folder:
        raise DataError(f"{name}: is a folder, expected a file ending in {', '.join(SUFFIXES)}")
    if not is_file:
        raise DataError(f"{name}: is no regular file, expected a file ending in {', '.join(SUFFIXES)}")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{name}: ending {_show(path.suffix)} is not known, expected one of {', '.join(SUFFIXES)}: "
            "convert or rename the file"
        )
    return path


def _near_file(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    except (OSError, ValueError):
        return f" (there is no folder {_shown_name(path.parent)} either)"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {_show(near[0])}?)" if near else ""


def _read_file(path: Path, name: str, wanted: Sequence[str], label: str | None) -> _Rows:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{name}: cannot be read ({reason}): check its permissions") from None
    if not data.strip():
        raise DataError(f"{name}: the file is empty, expected at least one row")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(data, name, wanted, label)
    text = _decoded(data, name)
    if suffix == ".csv":
        return _Rows(_table_rows(_csv_cells(text, name), name, wanted), typed=False)
    if suffix == ".tsv":
        return _Rows(_table_rows(_tsv_cells(text), name, wanted), typed=False)
    return _Rows(_json_rows(text, name))


def _decoded(data: bytes, name: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name}, line 1: the file is UTF-16, expected UTF-8: save it as UTF-8")
    at = data.find(b"\0")
    if at >= 0:
        raise DataError(
            f"{name}, {_position(data, at)}: a NUL byte, expected text: "
            "the file is damaged or no text file; save it as UTF-8 text"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind a byte order mark, which `error.object` no longer holds.
        at = error.start + len(data) - len(error.object)
        raise DataError(
            f"{name}, {_position(data, at)}: byte 0x{data[at]:02x} is not valid UTF-8: save the file as UTF-8"
        ) from None
    if not text.strip():
        raise DataError(f"{name}: the file is empty, expected at least one row")
    return text


def _position(data: bytes, at: int) -> str:
    line, start = data.count(b"\n", 0, at) + 1, data.rfind(b"\n", 0, at) + 1
    return f"line {line}, byte {at - start + 1}"


def _json_rows(text: str, name: str) -> Iterator[_Row]:
    # Not splitlines(): a JSON string may hold U+2028 and other characters that it would cut at.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{name}, {where}: not valid JSON ({error.msg}, column {error.colno}), "
                f"got {_show(line.strip())}: write one whole JSON object on each line"
            ) from None
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{name}, {where}: JSON that cannot be read ({_line(error)}): write one flat JSON object on each line"
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{name}, {where}: expected a JSON object such as "
                f'{{"text": "...", "label": "..."}}, got {_kind(row)} {_show(row)}: '
                "write one JSON object on each line"
            )
        yield where, row


def _csv_cells(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of cells with the line each row starts at."""
    before = csv.field_size_limit()
    rows: list[tuple[int, list[str]]] = []
    line = 1
    csv.field_size_limit(_CELL_LIMIT)  # a setting of the whole process: put back below
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        for cells in reader:
            rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{name}, line {line}: broken CSV ({_line(error)}): put a cell that holds a comma, a quote or a "
            'line break in "double quotes", and double every quote inside it'
        ) from None
    finally:
        csv.field_size_limit(before)
    return iter(rows)


def _tsv_cells(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        cells = line.removesuffix("\r").split("\t")
        yield number, [c[1:-1].replace('""', '"') if _QUOTED.fullmatch(c) else c for c in cells]


def _table_rows(cells: Iterator[tuple[int, list[str]]], name: str, wanted: Sequence[str]) -> Iterator[_Row]:
    columns: list[str] | None = None
    for number, row in cells:
        if len(row) <= 1 and not "".join(row).strip():
            continue
        if columns is None:
            columns = [cell.strip() for cell in row]
            _check_columns(f"{name}, line {number} (the header)", columns, wanted)
            continue
        if len(row) != len(columns):
            raise DataError(
                f"{name}, line {number}: {_count(len(row), 'cell')}, expected {len(columns)} as in the "
                f"header ({_listed(columns)}), got {_show(row)}: "
                "add the missing cells; a cell with the separator in it must be quoted (CSV) or lose it (TSV)"
            )
        yield f"line {number}", dict(zip(columns, row, strict=True))


def _check_columns(where: str, columns: Sequence[str], wanted: Sequence[str]) -> None:
    for column in wanted:
        if column not in columns:
            raise DataError(_missing(where, column, columns))
        if columns.count(column) > 1:
            raise DataError(
                f"{where}, field {_show(column)}: {columns.count(column)} columns have this name, "
                "expected one: rename the others"
            )


def _read_parquet(data: bytes, name: str, wanted: Sequence[str], label: str | None) -> _Rows:
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(
            f"{name}: a Parquet file needs the pyarrow package: pip install 'tandemtune[parquet]'"
        ) from None
    try:
        file = parquet.ParquetFile(arrow.BufferReader(data))
        schema = file.schema_arrow
        columns = [str(column) for column in schema.names]
        nested = [field.name for field in schema if arrow.types.is_struct(field.type)]
    except Exception as error:
        raise DataError(
            f"{name}: not a readable Parquet file ({_line(error)}): write it again, or use .jsonl"
        ) from None
    missing = [column for column in wanted if column not in columns]
    if not nested:
        _check_columns(name, columns, wanted)
    _check_columns(name, columns, [column for column in wanted if column in columns])
    chosen = [column for column in columns if column in wanted or (missing and column in nested)]
    try:
        table = file.read(columns=chosen)
        values = {column: table.column(column) for column in chosen}
    except Exception as error:
        raise DataError(f"{name}: damaged Parquet file ({_line(error)}): write it again") from None
    plain = {column: _arrow_values(name, column, chunked) for column, chunked in values.items()}
    rows = (
        (f"row {index + 1}", {column: cells[index] for column, cells in plain.items()})
        for index in range(table.num_rows)
    )
    return _Rows(rows, _parquet_class_names(schema.metadata, label))


def _arrow_values(name: str, column: str, values: Any) -> list[Any]:
    try:
        plain: list[Any] = values.to_pylist()
    except Exception as error:
        for index, value in enumerate(values):
            try:
                value.as_py()
            except Exception as bad:
                raise DataError(
                    f"{name}, row {index + 1}, field {_show(column)}: unreadable value ({_line(bad)}): "
                    "write the file again with plain strings"
                ) from None
        raise DataError(f"{name}, field {_show(column)}: unreadable values ({_line(error)})") from None
    return plain


def _parquet_class_names(metadata: Mapping[bytes, bytes] | None, label: str | None) -> tuple[str, ...]:
    """Class names that the `datasets` library keeps in a Parquet file's metadata."""
    try:
        info = json.loads((metadata or {})[b"huggingface"])
        feature = info["info"]["features"][label]
        names = feature["names"] if feature["_type"] == "ClassLabel" else ()
        return tuple(str(name) for name in names)
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def _read_hub(source: str, name: str, label: str | None) -> _Rows:
    match = _HUB_SOURCE.fullmatch(source)
    assert match is not None  # `_located` refused every other address
    try:
        load: Callable[..., Any] = importlib.import_module("datasets").load_dataset
    except (ImportError, AttributeError):
        raise DataError(f"{name}: a hub data set needs the datasets package: pip install 'tandemtune[hub]'") from None
    split = match["split"] or "train"
    try:
        dataset = load(match["name"], match["config"], split=split)
        feature = (dataset.features or {}).get(label)
    except Exception as error:
        raise DataError(
            f"{name}: could not be loaded ({_line(error)}): check the name, the config, the split and the "
            "network, or download the rows once into a .jsonl file"
        ) from None
    return _Rows(_hub_rows(dataset, name), tuple(getattr(feature, "names", None) or ()))


def _hub_rows(dataset: Iterable[Mapping[str, Any]], name: str) -> Iterator[_Row]:
    rows = iter(dataset)
    number = 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(f"{name}, row {number}: could not be read ({_line(error)})") from None
        yield f"row {number}", row


# --- one value ------------------------------------------------------------------------------------------


def _lookup(name: str, where: str, row: Mapping[str, Any], field: str) -> Any:
    if field in row:
        return row[field]
    inside = [column for column, value in row.items() if isinstance(value, Mapping) and field in value]
    if len(inside) == 1:
        return row[inside[0]][field]
    if inside:
        raise DataError(
            f"{name}, {where}, field {_show(field)}: found in several objects ({_listed(inside)}), "
            "expected one: give it a column of its own"
        )
    raise DataError(_missing(f"{name}, {where}", field, list(row)))


def _text(name: str, where: str, row: Mapping[str, Any], field: str, max_chars: int) -> str:
    value = _lookup(name, where, row, field)
    at = f"{name}, {where}, field {_show(field)}"
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{at}: expected text, got {_kind(value)} {_show(value)}: write a string, or delete the row")
    if len(value) > max_chars:
        raise DataError(
            f"{at}: {len(value):,} characters, expected at most {max_chars:,}, got {_show(value)}: "
            "shorten the text or raise max_chars"
        )
    _check_characters(at, value)
    return value


def _check_characters(at: str, value: str) -> None:
    if "\0" in value:
        raise DataError(f"{at}: a NUL character, expected text, got {_show(value)}: remove it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ord(value[error.start])
        raise DataError(
            f"{at}: half of a surrogate pair (\\u{half:04x}) at character {error.start + 1}, expected whole "
            "Unicode characters: write the file again as UTF-8"
        ) from None


def _is_no_label(row: Mapping[str, Any], label: str) -> bool:
    value = row.get(label)
    return isinstance(value, int) and value == -1


def _label(at: str, value: Any, labels: Sequence[str] | None, found: _Rows) -> str:
    """The label's name; `at` is the place for messages."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{at}: no label (got {_show(value)}), expected {_allowed(labels)}: fill it in")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        return _known(at, "true" if value else "false", labels)
    if isinstance(value, int):
        if found.class_names:
            if not 0 <= value < len(found.class_names):
                raise DataError(
                    f"{at}: class number {_show(value)}, expected 0 to {len(found.class_names) - 1} "
                    f"({_listed(found.class_names)}): correct the row"
                )
            return _known(at, found.class_names[value], labels)
        return _known(at, str(value), labels)
    if not isinstance(value, str):
        raise DataError(
            f"{at}: expected a label as a string, an integer or true/false, "
            f"got {_kind(value)} {_show(value)}: write {_allowed(labels)}"
        )
    text: str = value
    if labels is not None and text in labels:
        return text
    _check_characters(at, text)
    text = text.strip()
    if not text or (not found.typed and labels is None and text.lower() == "nan"):
        raise DataError(f"{at}: no label (got {_show(text)}), expected {_allowed(labels)}: fill it in")
    if labels is not None and text in labels:
        return text
    if not found.typed:  # a table's cell is always a string: "True" and "3.0" are what others write for true and 3
        whole = _WHOLE_FLOAT.fullmatch(text)
        text = str(whole[1]) if whole else text.lower() if text in ("True", "False") else text
    return _known(at, text, labels)


def _known(at: str, value: str, labels: Sequence[str] | None) -> str:
    if labels is None or value in labels:
        return value
    raise DataError(
        f"{at}: unknown label {_show(value)}{_did_you_mean(value, labels)}, expected {_allowed(labels)}: "
        "correct the row, or add the label to the task"
    )


# --- words for messages -----------------------------------------------------------------------------------


def _missing(where: str, field: str, columns: Sequence[str]) -> str:
    found = f"found {_listed(columns)}" if columns else "found no columns"
    return (
        f"{where}: no column {_show(field)}{_did_you_mean(field, columns)}, {found}: "
        "rename the column, or name the right one in the template or as the label column"
    )


def _did_you_mean(value: str, known: Sequence[str]) -> str:
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(value[:200].casefold(), list(folded), n=1)
    return f" (did you mean {_show(folded[near[0]])}?)" if near else ""


def _allowed(labels: Sequence[str] | None) -> str:
    return "a label name" if labels is None else f"one of {_listed(labels, most=40)}"


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(_show(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    kinds: dict[type, str] = {str: "string", list: "list", dict: "object"}
    return kinds.get(type(value), type(value).__name__)


def _show(value: object) -> str:
    """A value for a message: its repr, on one line, shortened."""
    shown = repr(value[: 2 * _SHOWN]) if isinstance(value, str) else reprlib.repr(value)
    shown = " ".join(shown.split("\n"))
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def _shown_name(source: str | Path) -> str:
    name = str(source)
    return name if name.isprintable() and name else repr(name)


def _line(error: BaseException) -> str:
    """The first line of an error's message, shortened."""
    lines = str(error).strip().splitlines()
    text = "".join(c if c.isprintable() else "?" for c in lines[0]) if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
