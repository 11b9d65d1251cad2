"""Tensors that tunables keep in files, read with care."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from tandemtune.errors import RunError


def read(path: Path, what: str) -> dict[str, Tensor]:
    """All tensors of a file.

    Args:
        path: a safetensors file.
        what: what the file holds, for the message.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        return load_file(path)  # type: ignore[no-any-return]
    except Exception as error:  # safetensors raises its own, undocumented types
        raise RunError(f"{what} {path} cannot be read: {error}") from error


def check(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path, what: str) -> None:
    """Refuse tensors that are not exactly the expected ones.

    Args:
        tensors: what was read.
        expected: name -> shape.
        path: where it was read.
        what: what the file holds, for the message.

    Raises:
        RunError: a tensor is missing, has another shape, or is not expected.
    """
    for name, shape in expected.items():
        if name not in tensors:
            raise RunError(f"{what} {path} has no {name}: it was made for another model or for other layers")
        found = tuple(tensors[name].shape)
        if found != shape:
            raise RunError(
                f"{what} {path}: {name} has the shape {found}, expected {shape}: it was made for another model or size"
            )
    for name in sorted(tensors.keys() - expected.keys()):
        raise RunError(f"{what} {path} also changes {name}, which this model or choice of layers does not have")


BLOCKS = "blocks.safetensors"


def write_blocks(folder: Path, point: Mapping[int, Tensor], base_model: str) -> None:
    """Write the flat vectors of a tunable that has no format of its own, with a note of where they belong.

    Args:
        folder: where the files go.
        point: block -> vector [dim].
        base_model: name of the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"block.{block}": vector.contiguous() for block, vector in point.items()}
    save_file(tensors, folder / BLOCKS, metadata={"format": "pt"})
    note = {"base_model": base_model, "blocks": list(point)}
    (folder / "blocks.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def read_blocks(folder: Path, dims: Mapping[int, int]) -> dict[int, Tensor]:
    """Read what `write_blocks` wrote.

    Args:
        folder: where the files lie.
        dims: block -> length that is expected.

    Raises:
        RunError: the file is missing, damaged or made for another model.
    """
    path = folder / BLOCKS
    tensors = read(path, "parameters")
    check(tensors, {f"block.{block}": (dim,) for block, dim in dims.items()}, path, "parameters")
    return {block: tensors[f"block.{block}"].float() for block in dims}
