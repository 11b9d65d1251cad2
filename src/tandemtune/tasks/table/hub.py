"""Rows of a hub's data set, or of one that the `datasets` library has saved."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tandemtune.errors import DataError
from tandemtune.tasks.table.base import Row, Table, without_header
from tandemtune.tasks.table.sources import HUB_SOURCE, SAVED
from tandemtune.tasks.wording import first_line, listed


def read_hub(source: str, name: str) -> Table:
    """All rows of a data set, by its address."""
    match = HUB_SOURCE.fullmatch(source)
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
    found = without_header(rows, [f"row {number}" for number in range(1, len(rows) + 1)], name)
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
