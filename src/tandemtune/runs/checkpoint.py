"""Nested plain data with arrays in one file: an uncompressed ``.npz`` whose structure is JSON; nothing is pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandemtune.errors import RunError
from tandemtune.runs.writing import write_atomically

_ARRAY = "__array__"
_TREE = "tree"


def save(path: Path, content: Any) -> None:
    """Write dicts, lists, arrays, numbers, strings and None, atomically.

    Args:
        path: the file.
        content: the data; numpy scalars come back as 0-d arrays' items of the same type.
    """
    arrays: dict[str, NDArray[Any]] = {}
    tree = _flatten(content, arrays)
    arrays[_TREE] = np.frombuffer(json.dumps(tree).encode("utf-8"), dtype=np.uint8)
    write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def load(path: Path) -> Any:
    """Read what `save` wrote.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _build(json.loads(arrays[_TREE].tobytes().decode("utf-8")), arrays)
    except Exception as error:  # zip, zlib and numpy raise errors of many types for damaged bytes
        raise RunError(
            f"checkpoint {path} cannot be read: {error}; delete it, and the run goes on from its journal"
        ) from error


def _flatten(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, dict):
        return {str(key): _flatten(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_flatten(item, arrays) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise TypeError(f"a checkpoint holds arrays and plain data only, got an array of {array.dtype}")
        name = f"a{len(arrays)}"
        arrays[name] = array
        return {_ARRAY: name, "scalar": isinstance(value, np.generic)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint holds arrays and plain data only, got {type(value).__name__}")


def _build(tree: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(tree, dict) and _ARRAY in tree:
        array = arrays[tree[_ARRAY]]
        return array[()] if tree["scalar"] else array
    if isinstance(tree, dict):
        return {key: _build(item, arrays) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_build(item, arrays) for item in tree]
    return tree
