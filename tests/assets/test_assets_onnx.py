"""Weights out of ONNX files, whole and damaged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx_tiny as tiny
import pytest

from tandemtune.assets.onnx_file import Graph, read
from tandemtune.errors import AssetError


def written(folder: Path, content: bytes) -> Path:
    path = folder / "tiny.onnx"
    path.write_bytes(content)
    return path


def test_numbers_are_read_however_they_are_stored(tmp_path: Path) -> None:
    stored = {
        "raw": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.array([0.5, -2], np.float16),
        "bytes": np.array([[-128, 127]], np.int8),
        "packed": np.array([1.5, -3.25], np.float32),
        "negative": np.array([-7], np.int8),
        "one": np.float32(0.125),
        "zero": np.uint8(131),
    }
    typed = {"packed", "negative", "one", "zero"}
    content = tiny.model(
        [tiny.tensor(name, values, raw=name not in typed) for name, values in stored.items()],
        [("/m/q/MatMul_quant", "MatMulInteger", ("x", "raw")), ("", "Shape", ())],
    )
    graph = read(written(tmp_path, content))
    assert graph.tensors.keys() == stored.keys()
    for name, values in stored.items():
        assert graph.tensors[name].dtype == values.dtype
        assert graph.tensors[name].shape == values.shape
        assert np.array_equal(graph.tensors[name], values)
    found = [(node.name, node.op_type, tuple(node.input)) for node in graph.nodes]
    assert found == [("/m/q/MatMul_quant", "MatMulInteger", ("x", "raw")), ("", "Shape", ())]


def changed(change: Callable[[Any], None]) -> bytes:
    """A file whose one tensor, two float32 numbers, was changed."""
    stored = tiny.tensor("w", np.ones(2, np.float32))
    change(stored)
    return tiny.model([stored])


def move_outside(stored: Any) -> None:
    stored.ClearField("raw_data")
    stored.data_location = 1
    stored.external_data.add(key="location", value="elsewhere.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found no weights"),
        (b"no graph at all", "cannot be read"),
        (tiny.model([]), "found no weights"),
        (changed(lambda stored: None)[:-20], "cannot be read"),
        (changed(lambda stored: stored.dims.append(2)), "cannot be read"),
        (changed(lambda stored: setattr(stored, "data_type", 0)), "cannot be read"),
        (changed(lambda stored: setattr(stored, "data_type", 99)), "cannot be read"),
        (changed(lambda stored: setattr(stored, "raw_data", b"123")), "cannot be read"),
        (changed(move_outside), "'w' lies in another file"),
    ],
)
def test_another_or_damaged_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(AssetError, match=message) as caught:
        read(written(tmp_path, content))
    assert str(caught.value).startswith("tiny.onnx: expected an ONNX file with its weights inside")


def test_no_damage_ends_in_anything_but_an_asset_error(tmp_path: Path) -> None:
    whole = tiny.model(
        [tiny.tensor("w", np.ones(2, np.float32)), tiny.tensor("z", np.array([-1, 2], np.int8), raw=False)],
        [("n", "MatMulInteger", ("a", "w"))],
    )
    draw = np.random.default_rng(0)
    damaged = [whole[:at] for at in range(len(whole))]
    for _ in range(500):
        broken = bytearray(whole)
        broken[draw.integers(len(whole))] = draw.integers(256)
        damaged.append(bytes(broken))
    for content in damaged:
        with suppress(AssetError):
            assert isinstance(read(written(tmp_path, content)), Graph)
