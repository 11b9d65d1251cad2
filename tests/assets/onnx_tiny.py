"""Small ONNX files for tests, as an exporter and a quantizer leave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")


def tensor(name: str, values: Any, *, raw: bool = True) -> Any:
    """A stored tensor: numbers as raw bytes, or in the typed field as quantizers write single numbers."""
    values = np.asarray(values)
    if raw:
        return onnx.numpy_helper.from_array(values, name)
    kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    return onnx.helper.make_tensor(name, kind, values.shape, values.ravel().tolist())


def model(tensors: Sequence[Any], nodes: Sequence[tuple[str, str, Sequence[str]]] = ()) -> bytes:
    """A whole file; a node is (name, operator, inputs)."""
    made = [onnx.helper.make_node(operator, inputs, ["out"], name=name) for name, operator, inputs in nodes]
    graph = onnx.helper.make_graph(made, "a graph", [], [], initializer=list(tensors))
    content: bytes = onnx.helper.make_model(graph).SerializeToString()
    return content


def quantized(named: Mapping[str, Any]) -> list[Any]:
    """What a quantizer stores for each weight: 8-bit numbers, a scale and a zero point."""
    out = []
    for name, (numbers, scale, zero) in named.items():
        out += [
            tensor(f"{name}_quantized", numbers),
            tensor(f"{name}_scale", np.float32(scale), raw=False),
            tensor(f"{name}_zero_point", np.asarray(zero, numbers.dtype), raw=False),
        ]
    return out
