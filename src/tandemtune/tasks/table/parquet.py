"""Rows of a Parquet file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tandemtune.errors import DataError
from tandemtune.tasks.table.base import Format, Table, unique_names, with_header
from tandemtune.tasks.wording import first_line, nfc, show


def read_parquet(data: bytes, name: str, only: Sequence[str] | None) -> Table:
    """The table in a Parquet file's bytes; of its columns those in `only`, None for all."""
    arrow, parquet = pyarrow_of(name)
    try:
        file = parquet.ParquetFile(arrow.BufferReader(data))
        schema = file.schema_arrow
        named = [str(column) for column in schema.names]
        nested = {str(column.name) for column in schema if arrow.types.is_struct(column.type)}
    except Exception as error:
        raise DataError(
            f"{name}: not a readable Parquet file ({first_line(error)}): write it again, or use .jsonl"
        ) from None
    columns, repeated = unique_names(named)
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
    found = with_header(list(arrays), list(zip(*values, strict=True)), None, name, Format(".parquet"), "", repeated)
    return replace(
        found,
        columns=tuple(columns),
        header=None if nested else "",  # a column may also be a key of an object
        classes=_parquet_classes(schema.metadata),
    )


def pyarrow_of(name: str) -> tuple[Any, Any]:
    """The modules that know Parquet; `name` is the file that needs them."""
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
