"""Images inside tables as files: paths that are found from anywhere, and images that are written to a folder by their hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tandemtune.errors import DataError
from tandemtune.runs.writing import write_atomically
from tandemtune.tasks.pictures import SUFFIXES, as_png
from tandemtune.tasks.table import Table
from tandemtune.tasks.wording import counted

ENDINGS = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"WEBP": ".webp",
    b"ftypavif": ".avif",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"BM": ".bmp",
}
"""What a file of images is called by what it begins with."""
TOLD = 5
"""Endings of files that a note names."""


def with_files(table: Table, column: str, root: Path, kept: Path | None) -> Table:
    """A table whose images are files that are found from anywhere; the table itself where it has no such column.

    Args:
        table: rows with paths, with pictures of Pillow's, or with images as data sets of a hub and their Parquet files have them: bytes, or
            an object of `bytes` and `path`.
        column: of the images.
        root: the folder that paths begin at.
        kept: folder that images are written to which are no files, by their hash.

    Raises:
        DataError: there are such images, and no folder for them.
    """
    named = table.column(column)
    if named is None:
        return table
    return table.replaced(named, [_as_file(row.get(named), root, kept, table.name) for row in table.rows])


def image_column(table: Table, root: Path) -> str | None:
    """The first column of a table whose first value is an image, or the path of a file that is called as one; None if there is none.

    Args:
        table: the rows.
        root: the folder that paths begin at.
    """
    first = table.rows[0] if table.rows else {}
    return next((name for name in table.columns if _is_image(first.get(name), root)), None)


def _is_image(value: object, root: Path) -> bool:
    if isinstance(value, str):
        return value.lower().endswith(SUFFIXES) and (root / Path(value).expanduser()).is_file()
    return _content(value) is not None or (isinstance(value, Mapping) and isinstance(value.get("path"), str))


def _as_file(value: Any, root: Path, kept: Path | None, table: str) -> Any:
    """An image of a table as a path; what is no image as it is."""
    content = _content(value)
    if content is not None:
        if kept is None:
            raise DataError(f"{table}: holds images themselves, expected paths of files")
        return str(_written(content, kept))
    path = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(path, str) or not path.strip():
        return value
    return str((root / Path(path).expanduser()).absolute())


def _content(value: Any) -> bytes | None:
    """The bytes of an image that lies inside a table."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if hasattr(value, "convert") and hasattr(value, "save"):  # a picture of Pillow's
        return as_png(value)
    return value if isinstance(value, bytes) else None


def _written(content: bytes, folder: Path) -> Path:
    """The file of some bytes, by their hash."""
    digest = hashlib.sha256(content).hexdigest()
    ending = next((suffix for mark, suffix in ENDINGS.items() if mark in content[:16]), "")
    place = folder / digest[:2] / f"{digest}{ending}"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, lambda file: file.write(content))
    return place


def check_file(path: str, table: str) -> None:
    """Refuse a path of an image where no file lies.

    Args:
        path: the file.
        table: what messages call the table.

    Raises:
        DataError: no file lies there.
    """
    if not Path(path).is_file():
        raise DataError(
            f"{table}: no file {path}; expected paths of images, from the table's folder on or from the root"
        )


def left_out(root: Path, folders: Sequence[Path]) -> tuple[str, ...]:
    """A sentence about files that are not read as images, by their endings; nothing where there are none.

    Args:
        root: the folder that messages name.
        folders: of the classes.
    """
    endings = Counter(
        path.suffix.lower() or "no ending"
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() not in SUFFIXES and path.is_file() and not _hidden(path.relative_to(root))
    )
    if not endings:
        return ()
    named = ", ".join(f"{ending}: {count:,}" for ending, count in endings.most_common(TOLD))
    files = counted(endings.total(), "file")
    return (f"{root.name}: {files} in the folders of classes left out, which are not called as images are ({named})",)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
