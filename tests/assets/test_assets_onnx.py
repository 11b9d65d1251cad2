"""Weights out of ONNX files, whole and damaged."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx_writer as onnx
import pytest

from tandemtune.assets.onnx_file import Graph, Node, read
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
    packed = {"packed", "negative", "one", "zero"}
    content = onnx.model(
        [onnx.tensor(name, values, packed=name in packed) for name, values in stored.items()],
        [("/m/q/MatMul_quant", "MatMulInteger", ("x", "raw")), ("", "Shape", ())],
    )
    graph = read(written(tmp_path, content))
    assert graph.tensors.keys() == stored.keys()
    for name, values in stored.items():
        assert graph.tensors[name].dtype == values.dtype
        assert graph.tensors[name].shape == values.shape
        assert np.array_equal(graph.tensors[name], values)
    assert graph.nodes == (Node("/m/q/MatMul_quant", "MatMulInteger", ("x", "raw")), Node("", "Shape", ()))


NUMBER = onnx.tensor("w", np.ones(2, np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found no weights"),
        (b"no graph at all", "ONNX file"),
        (b"\x80" * 20, "not of the format"),
        (onnx.model([]), "found no weights"),
        (onnx.model([NUMBER])[:-20], "cut short"),
        (onnx.field(7, 3), "a number was found in place of text"),
        (onnx.model([onnx.field(2, 1) + onnx.field(8, "w") + onnx.field(1, 3)]), "'w' has 0 numbers instead of 3"),
        (onnx.model([NUMBER + onnx.field(1, 2)]), "'w' has 2 numbers instead of 2 x 2"),
        (onnx.model([NUMBER + onnx.field(2, 8)]), "unknown type 8"),
        (onnx.model([NUMBER + onnx.field(2, b"x")]), "text was found in place of a number"),
        (onnx.model([NUMBER + onnx.field(14, 1)]), "'w' lie in another file"),
        (onnx.model([NUMBER + onnx.field(9, b"123")]), "ONNX file"),
        (onnx.model([onnx.field(8, b"\xff\xfe")]), "ONNX file"),
        (onnx.model([onnx.field(2, 3) + onnx.field(1, 1) + onnx.field(5, onnx.varint(300))]), "too large"),
    ],
)
def test_another_or_damaged_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(AssetError, match=message) as caught:
        read(written(tmp_path, content))
    assert str(caught.value).startswith("tiny.onnx: expected")


def test_no_damage_ends_in_anything_but_an_asset_error(tmp_path: Path) -> None:
    whole = onnx.model(
        [NUMBER, onnx.tensor("z", np.array([-1, 2], np.int8), packed=True)], [("n", "MatMulInteger", ("a", "w"))]
    )
    draw = np.random.default_rng(0)
    damaged = [whole[:at] for at in range(len(whole))]
    for _ in range(500):
        changed = bytearray(whole)
        changed[draw.integers(len(whole))] = draw.integers(256)
        damaged.append(bytes(changed))
    for content in damaged:
        with suppress(AssetError):
            assert isinstance(read(written(tmp_path, content)), Graph)
