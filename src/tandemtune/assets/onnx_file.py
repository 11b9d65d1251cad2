"""Just enough of the ONNX file format to take weights out of it: named tensors, and which node uses them.

ONNX files are protocol-buffer messages. The few fields that are read here are numbered in `onnx.proto`; everything
else is skipped by its length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandemtune.errors import AssetError

Tensor = NDArray[Any]
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_NAME, _NODE_OPERATOR = 1, 3, 4
_DIMS, _DATA_TYPE, _FLOAT_DATA, _INT32_DATA, _NAME, _RAW_DATA, _DATA_LOCATION = 1, 2, 4, 5, 8, 9, 14
_NUMBERS = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}
_SMALL_INTEGERS = (2, 3, 6)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of the graph.

    Args:
        name: as the exporter gave it, often the path of the module it came from.
        operator: for example "MatMulInteger".
        inputs: names of tensors or of other nodes' outputs.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """What a file holds.

    Args:
        tensors: the stored tensors by name, not to be written to.
        nodes: the operations in the order of the file.
    """

    tensors: dict[str, Tensor]
    nodes: tuple[Node, ...]


def read(path: Path) -> Graph:
    """Read the weights and nodes of an ONNX file; no code of the graph is run.

    Args:
        path: the file; weights kept beside it in another file are not supported.

    Returns:
        Its stored tensors and its nodes.

    Raises:
        AssetError: it is no ONNX file, is damaged, or keeps numbers in a way that is not known here.
    """
    tensors: dict[str, Tensor] = {}
    nodes: list[Node] = []
    try:
        for number, value in _fields(memoryview(path.read_bytes())):
            if number != _MODEL_GRAPH:
                continue
            for inner, content in _fields(_message(value)):
                if inner == _GRAPH_NODE:
                    nodes.append(_node(_message(content)))
                elif inner == _GRAPH_INITIALIZER:
                    name, tensor = _tensor(_message(content))
                    tensors[name] = tensor
    except ValueError as error:
        raise AssetError(f"{path.name}: expected an ONNX file with its weights inside, but {error}") from error
    if not tensors:
        raise AssetError(f"{path.name}: expected an ONNX file with its weights inside, found no weights")
    return Graph(tensors, tuple(nodes))


def _node(data: memoryview) -> Node:
    name, operator, inputs = "", "", []
    for number, value in _fields(data):
        if number == _NODE_INPUT:
            inputs.append(_text(value))
        elif number == _NODE_NAME:
            name = _text(value)
        elif number == _NODE_OPERATOR:
            operator = _text(value)
    return Node(name, operator, tuple(inputs))


def _tensor(data: memoryview) -> tuple[str, Tensor]:
    name, kind, dims, raw = "", 0, [], None
    floats: list[Tensor] = []
    integers: list[int] = []
    for number, value in _fields(data):
        if number == _NAME:
            name = _text(value)
        elif number == _DATA_TYPE:
            kind = _integer(value)
        elif number == _DIMS:
            dims.extend(_integers(value))
        elif number == _RAW_DATA:
            raw = _message(value)
        elif number == _FLOAT_DATA:
            floats.append(np.frombuffer(_message(value), "<f4"))
        elif number == _INT32_DATA:
            integers.extend(_integers(value))
        elif number == _DATA_LOCATION and value != 0:
            raise ValueError(f"the numbers of {name!r} lie in another file")
    if kind not in _NUMBERS:
        raise ValueError(f"the numbers of {name!r} have the unknown type {kind}")
    if raw is not None:
        values = np.frombuffer(raw, _NUMBERS[kind])
    elif kind == 1 and floats:
        values = np.concatenate(floats)
    elif kind in _SMALL_INTEGERS and integers:
        values = _fitting(np.array(integers, np.int64), _NUMBERS[kind], name)
    else:
        values = np.zeros(0, _NUMBERS[kind])
    if values.size != math.prod(dims):
        raise ValueError(f"{name!r} has {values.size} numbers instead of {' x '.join(map(str, dims)) or 1}")
    return name, values.reshape(dims)


def _fitting(values: Tensor, kind: str, name: str) -> Tensor:
    small = values.astype(kind)
    if not np.array_equal(small, values):
        raise ValueError(f"the numbers of {name!r} are too large for their type")
    return small


# --- the wire format of protocol buffers ---


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in {1, 5}:
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"byte {at} is not of the format")
        if at + size > len(data):
            raise ValueError("it is cut short")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and not value >> 64:
            return value, at
    raise ValueError(f"byte {at} is not of the format")


def _integers(value: int | memoryview) -> list[int]:
    if isinstance(value, int):
        return [_signed(value)]
    found, at = [], 0
    while at < len(value):
        one, at = _varint(value, at)
        found.append(_signed(one))
    return found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("text was found in place of a number")
    return value


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number was found in place of text")
    return value


def _text(value: int | memoryview) -> str:
    return str(_message(value), "utf-8")
