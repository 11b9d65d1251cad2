"""Small ONNX files for tests, written field by field so that no package for them is needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FLOAT, UINT8, INT8, FLOAT16 = 1, 2, 3, 10
TYPES = {"float32": FLOAT, "uint8": UINT8, "int8": INT8, "float16": FLOAT16}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, values: Any, *, packed: bool = False) -> bytes:
    """A TensorProto: numbers as raw bytes, or `packed` in the typed field as quantizers write single numbers."""
    values = np.asarray(values)
    kind = TYPES[values.dtype.name]
    out = b"".join(field(1, size) for size in values.shape) + field(2, kind) + field(8, name)
    if not packed:
        return out + field(9, values.tobytes())
    if kind == FLOAT:
        return out + field(4, struct.pack(f"<{values.size}f", *values.ravel()))
    return out + field(5, b"".join(varint(int(value)) for value in values.ravel()))


def model(tensors: Sequence[bytes], nodes: Sequence[tuple[str, str, Sequence[str]]] = ()) -> bytes:
    """A ModelProto; a node is (name, operator, inputs)."""
    graph = b"".join(
        field(1, b"".join(field(1, each) for each in inputs) + field(2, "out") + field(3, name) + field(4, operator))
        for name, operator, inputs in nodes
    )
    graph += field(2, "a graph") + b"".join(field(5, each) for each in tensors)
    return field(1, 8) + field(2, "a test") + field(7, graph) + varint(20 << 3 | 5) + b"skip"


def quantized(named: Mapping[str, Any]) -> list[bytes]:
    """What a quantizer stores for each weight: 8-bit numbers, a scale and a zero point."""
    out = []
    for name, (numbers, scale, zero) in named.items():
        out += [
            tensor(f"{name}_quantized", numbers),
            tensor(f"{name}_scale", np.float32(scale), packed=True),
            tensor(f"{name}_zero_point", np.asarray(zero, numbers.dtype), packed=True),
        ]
    return out
