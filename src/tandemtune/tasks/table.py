"""Tables: all rows of a file with all their columns, in its order, read and written by its ending."""

from __future__ import annotations

import difflib
import importlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tandemtune.errors import DataError
from tandemtune.runs.writing import write_atomically
from tandemtune.tasks import delimited
from tandemtune.tasks.encodings import decoded
from tandemtune.tasks.wording import counted, did_you_mean, first_line, kind, listed, nfc, show, shown_name

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
SUFFIXES = (*JSON_LINES, ".json", ".csv", ".tsv", ".parquet")
HUB = "hub:"
SAVED = ("dataset_info.json", "dataset_dict.json")
"""Files of a folder that the `datasets` library's `save_to_disk` has written."""
_HUB_SOURCE = re.compile(r"hub:(?P<name>[^@:\s]+)(?:@(?P<config>[^:\s]+))?(?::(?P<split>\S+))?")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """How a file was written.

    Args:
        suffix: its ending in small letters; "" for rows that come from no file.
        encoding: of a text file, by Python's name.
        separator: between the cells of a CSV or TSV file.
    """

    suffix: str = ""
    encoding: str = "utf-8"
    separator: str = ","


@dataclass(frozen=True, eq=False)
class Table:
    """Rows with all their columns.

    Args:
        columns: names of all columns, each once, in the order of the file. The second of two with one name is called
            ``name (2)``.
        rows: one mapping for each row; a row of a JSON file may lack columns.
        places: where each row stands, for messages: "line 3", "row 3".
        name: of the file or data set, for messages.
        format: how the file was written.
        header: where the columns are named; None where each row names its own (JSON, hub).
        repeated: how often a name stands in the header, for those that stand there more than once.
        classes: names behind whole numbers in a column, where the file or hub tells them.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    places: tuple[str, ...]
    name: str = "rows"
    format: Format = field(default_factory=Format)
    header: str | None = None
    repeated: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Any, name: str = "rows") -> Table:
        """Make a table of rows in memory.

        Args:
            rows: a table, a pandas DataFrame (its index is no column; missing values become None), or dicts.
            name: what messages call it.

        Raises:
            DataError: it is something else, or a row is no dict with names.
        """
        if isinstance(rows, Table):
            return rows
        pandas = sys.modules.get("pandas")  # who hands over a DataFrame has imported it
        if pandas is not None and isinstance(rows, pandas.DataFrame):
            columns, repeated = _unique([str(column).strip() for column in rows.columns])
            frame = rows.astype(object).where(rows.notna(), None).set_axis(columns, axis=1)
            return _fixed(columns, frame.to_numpy().tolist(), name=name, repeated=repeated)
        if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
            raise DataError(f"{name}: got {kind(rows)} {show(rows)}, expected a file, a DataFrame or a list of dicts")
        found: list[Row] = []
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping) or not all(isinstance(key, str) for key in row):
                raise DataError(
                    f"{name}, row {number}: got {kind(row)} {show(row)}, expected a dict of columns by name"
                )
            found.append({key: _plain(value) for key, value in row.items()})
        return _free(found, [f"row {number}" for number in range(1, len(found) + 1)], name)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the file was read."""
        if self.format.encoding.startswith("utf"):
            return ()
        return (
            f"{self.name}: read as {self.format.encoding}, since it is not UTF-8; "
            "save it as UTF-8 if letters with accents look wrong",
        )

    def column(self, wanted: str) -> str | None:
        """The table's spelling of a column's name, which may differ in how accents are encoded; None without such a column."""
        if wanted in self.columns:
            return wanted
        return next((column for column in self.columns if nfc(column) == nfc(wanted)), None)

    def renamed(self, old: str, new: str) -> Table:
        """The table with another name for a column, or with ``new (2)`` where there is a column `new` already.

        Args:
            old: the column; a table without it is returned as it is.
            new: its new name.
        """
        if old == new or old not in self.columns:
            return self
        number = 1
        free = new
        while free in self.columns:
            number += 1
            free = f"{new} ({number})"
        names = {old: free}
        return replace(
            self,
            columns=tuple(names.get(column, column) for column in self.columns),
            rows=tuple({names.get(key, key): value for key, value in row.items()} for row in self.rows),
            classes={names.get(key, key): value for key, value in self.classes.items()},
        )

    def replaced(self, name: str, values: Sequence[Any]) -> Table:
        """The table with other values in a column, which stays where it is.

        Args:
            name: of the column.
            values: one for each row.
        """
        rows = tuple({**row, name: value} for row, value in zip(self.rows, values, strict=True))
        return replace(self, rows=rows)

    def with_column(self, name: str, values: Sequence[Any]) -> Table:
        """The table with a further column at its end, in place of one of that name.

        Args:
            name: of the column.
            values: one for each row.

        Raises:
            DataError: more or fewer values than rows.
        """
        if len(values) != len(self.rows):
            raise DataError(f"{self.name}: {len(values)} values of {show(name)} for {counted(len(self.rows), 'row')}")
        return replace(
            self,
            columns=(*(column for column in self.columns if column != name), name),
            rows=tuple(
                {**{key: cell for key, cell in row.items() if key != name}, name: value}
                for row, value in zip(self.rows, values, strict=True)
            ),
        )


Source = str | Path | Table
"""Where rows come from: a path, ``hub:NAME[@CONFIG][:SPLIT]``, or rows in memory."""


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
    return _read_hub(str(source), name) if path is None else _read_file(path, name, only)


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
        _pyarrow(shown_name(path))
    folder = path.absolute().parent
    if not folder.is_dir():
        raise DataError(f"folder {shown_name(folder)} does not exist: make it first")
    if not os.access(folder, os.W_OK):
        raise DataError(f"folder {shown_name(folder)} may not be written: choose another one")


def check_source(source: Any) -> None:
    """Find out, without reading a row, whether a source can be opened.

    Args:
        source: as for `read_table`.

    Raises:
        DataError: the file is missing, is a folder, has an unknown ending, or the address is malformed.
    """
    if isinstance(source, str | Path):
        located(source)


# --- where the rows come from -----------------------------------------------------------------------------------------


def located(source: str | Path) -> Path | None:
    """The path of a file that exists and has a known ending; None for a well-formed hub address.

    Raises:
        DataError: neither of them.
    """
    name = shown_name(source)
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
    match = _HUB_SOURCE.fullmatch(source)
    if match is None or not Path(match["name"]).is_dir():
        return source
    return source.replace(match["name"], str(Path(match["name"]).absolute()), 1)


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
        return _read_parquet(data, name, only)
    text, encoding = decoded(data, name)
    if not text.strip():
        raise DataError(f"{name}: the file is empty, expected at least one row")
    if suffix in (".csv", ".tsv"):
        cells = delimited.read(text, "\t" if suffix == ".tsv" else ",", name)
        columns, repeated = _unique(cells.header)
        places = [f"line {number}" for number, _ in cells.rows]
        rows = [row for _, row in cells.rows]
        header = f"line {cells.line} (the header)"
        return _fixed(columns, rows, places, name, Format(suffix, encoding, cells.separator), header, repeated)
    places, found = _read_json(text, name, suffix)
    return _free(found, places, name, Format(suffix, encoding))


def _fixed(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    places: Sequence[str] | None = None,
    name: str = "rows",
    format: Format | None = None,
    header: str = "",
    repeated: Mapping[str, int] | None = None,
) -> Table:
    """A table whose rows all have the columns of its header."""
    return Table(
        tuple(columns),
        tuple(dict(zip(columns, row, strict=True)) for row in rows),
        tuple(places or (f"row {number}" for number in range(1, len(rows) + 1))),
        name,
        format or Format(),
        header,
        repeated or {},
    )


def _free(rows: Sequence[Row], places: Sequence[str], name: str, format: Format | None = None) -> Table:
    """A table whose rows name their own columns."""
    columns = tuple(dict.fromkeys(column for row in rows for column in row))
    return Table(columns, tuple(rows), tuple(places), name, format or Format())


def _unique(names: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Names of columns, each once, and how often those stood there that did not."""
    found: list[str] = []
    for name in names:
        number, free = 1, name
        while free in found:
            number += 1
            free = f"{name} ({number})"
        found.append(free)
    return found, {name: names.count(name) for name in names if names.count(name) > 1}


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _read_json(text: str, name: str, suffix: str) -> tuple[list[str], list[Row]]:
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


def _read_parquet(data: bytes, name: str, only: Sequence[str] | None) -> Table:
    arrow, parquet = _pyarrow(name)
    try:
        file = parquet.ParquetFile(arrow.BufferReader(data))
        schema = file.schema_arrow
        named = [str(column) for column in schema.names]
        nested = {str(column.name) for column in schema if arrow.types.is_struct(column.type)}
    except Exception as error:
        raise DataError(
            f"{name}: not a readable Parquet file ({first_line(error)}): write it again, or use .jsonl"
        ) from None
    columns, repeated = _unique(named)
    if only is not None:
        wanted = {nfc(column) for column in only}
        inside = nested if wanted - {nfc(column) for column in named} else set()
        chosen = [index for index, column in enumerate(named) if nfc(column) in wanted or column in inside]
    else:
        chosen = list(range(len(named)))
    try:
        table = file.read(columns=list(dict.fromkeys(named[index] for index in chosen)))
        arrays = {columns[index]: table.column(position) for position, index in enumerate(chosen)}
    except Exception as error:
        raise DataError(f"{name}: damaged Parquet file ({first_line(error)}): write it again") from None
    values = [_arrow_values(name, column, array) for column, array in arrays.items()]
    found = _fixed(list(arrays), list(zip(*values, strict=True)), None, name, Format(".parquet"), "", repeated)
    return replace(
        found,
        columns=tuple(columns),
        header=None if nested else "",  # a column may also be a key of an object
        classes=_parquet_classes(schema.metadata),
    )


def _pyarrow(name: str) -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(
            f"{name}: a Parquet file needs the pyarrow package: pip install 'tandemtune[parquet]'"
        ) from None


def _arrow_values(name: str, column: str, values: Any) -> list[Any]:
    try:
        plain: list[Any] = values.to_pylist()
    except Exception as error:
        for index, value in enumerate(values):
            try:
                value.as_py()
            except Exception as bad:
                raise DataError(
                    f"{name}, row {index + 1}, field {show(column)}: unreadable value ({first_line(bad)}): "
                    "write the file again with plain strings"
                ) from None
        raise DataError(f"{name}, field {show(column)}: unreadable values ({first_line(error)})") from None
    return plain


def _parquet_classes(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Class names by column that the `datasets` library keeps in a Parquet file's metadata."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            str(column): tuple(str(name) for name in feature["names"])
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _read_hub(source: str, name: str) -> Table:
    match = _HUB_SOURCE.fullmatch(source)
    assert match is not None  # `located` refused every other address
    try:
        library = importlib.import_module("datasets")
        load: Callable[..., Any] = library.load_dataset
    except (ImportError, AttributeError):
        raise DataError(f"{name}: a hub data set needs the datasets package: pip install 'tandemtune[hub]'") from None
    split = match["split"] or "train"
    try:
        if any((Path(match["name"]) / file).is_file() for file in SAVED):
            dataset = _saved(library.load_from_disk(match["name"]), split)
        else:
            dataset = load(match["name"], match["config"], split=split)
        features = dict(dataset.features or {})
        for column, feature in features.items():
            if type(feature).__name__ == "Image":  # as files and bytes, not as pictures
                dataset = dataset.cast_column(column, type(feature)(decode=False))
    except Exception as error:
        raise DataError(
            f"{name}: could not be loaded ({first_line(error)}): check the name, the config, the split and the "
            "network, or download the rows once into a .jsonl file"
        ) from None
    classes = {str(column): tuple(getattr(feature, "names", None) or ()) for column, feature in features.items()}
    rows = list(_hub_rows(dataset, name))
    found = _free(rows, [f"row {number}" for number in range(1, len(rows) + 1)], name)
    return replace(found, classes={column: names for column, names in classes.items() if names})


def _saved(found: Any, split: str) -> Any:
    """The part of a data set that was written by `save_to_disk`; one without parts is taken whole."""
    if not isinstance(found, Mapping):
        return found
    if split not in found:
        raise DataError(f"no part {split!r}, there are {listed(list(found))}")
    return found[split]


def _hub_rows(dataset: Iterable[Row], name: str) -> Iterator[Row]:
    rows = iter(dataset)
    number = 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(f"{name}, row {number}: could not be read ({first_line(error)})") from None
        yield row


# --- looking up --------------------------------------------------------------------------------------------------------


def check_columns(table: Table, wanted: Sequence[str]) -> None:
    """Find out whether a table that names its columns in one place has some of them, each once.

    Raises:
        DataError: a column is missing or stands there twice.
    """
    where = f"{table.name}, {table.header}" if table.header else table.name
    for name in wanted:
        column = table.column(name) or table.column(element_of(name)[0])
        if column is None and table.header is not None:
            raise DataError(_missing(where, name, table.columns))
        if column in table.repeated:
            raise DataError(
                f"{where}, field {show(name)}: {table.repeated[str(column)]} columns have this name, "
                "expected one: rename the others"
            )


def element_of(field: str) -> tuple[str, int | None]:
    """A column and the place in its lists that a name such as ``endings.0`` means; the name itself and None for any other."""
    column, dot, place = field.rpartition(".")
    return (column, int(place)) if dot and column and place.isdecimal() else (field, None)


def value_of(table: Table, index: int, field: str) -> Any:
    """A row's value in a column, or under a key of the one object in the row that has it; of a list in there the element that a
    number behind a dot counts, from 0 (``endings.0``).

    Raises:
        DataError: no such column or element, or several objects have such a key.
    """
    column, place = element_of(field)
    if place is None or table.column(field) is not None:
        return _cell_of(table, index, field)
    whole = _cell_of(table, index, column)
    if isinstance(whole, list | tuple) and place < len(whole):
        return whole[place]
    raise DataError(
        f"{table.name}, {table.places[index]}, field {show(field)}: got {kind(whole)} {show(whole)}, expected a list of at least "
        f"{place + 1}: correct the row"
    )


def _cell_of(table: Table, index: int, field: str) -> Any:
    row = table.rows[index]
    if field in row:
        return row[field]
    same = next((column for column in row if nfc(column) == nfc(field)), None)
    if same is not None:
        return row[same]
    inside = [column for column, value in row.items() if isinstance(value, Mapping) and field in value]
    where = f"{table.name}, {table.places[index]}"
    if len(inside) == 1:
        return row[inside[0]][field]
    if inside:
        raise DataError(
            f"{where}, field {show(field)}: found in several objects ({listed(inside)}), "
            "expected one: give it a column of its own"
        )
    raise DataError(_missing(where, field, list(row)))


def _missing(where: str, field: str, columns: Sequence[str]) -> str:
    found = f"found {listed(columns)}" if columns else "found no columns"
    return (
        f"{where}: no column {show(field)}{did_you_mean(field, columns)}, {found}: "
        "rename the column, or name the right one in the template or as label_column"
    )


# --- writing -----------------------------------------------------------------------------------------------------------


def _flat(table: Table) -> Table:
    """The table with one column for each key of the objects in a column that holds nothing else."""
    keys: dict[str, list[str]] = {}
    for column in table.columns:
        values = [row[column] for row in table.rows if row.get(column) is not None]
        if values and all(isinstance(value, Mapping) and value for value in values):
            keys[column] = list(dict.fromkeys(str(key) for value in values for key in value))
    if not keys:
        return table
    columns, _ = _unique(
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
    return _fixed(columns, rows, table.places, table.name, table.format)


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
    arrow, parquet = _pyarrow(shown_name(path))
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
