"""Weights out of ONNX files, read by the `onnx` library; nothing of the graph is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tandemtune.errors import AssetError


@dataclass(frozen=True, slots=True)
class Graph:
    """What a file holds.

    Args:
        tensors: the stored tensors by name.
        nodes: the operations (`onnx.NodeProto`) in the order of the file.
    """

    tensors: dict[str, NDArray[Any]]
    nodes: tuple[Any, ...]


def read(path: Path) -> Graph:
    """Read the weights and nodes of an ONNX file.

    Args:
        path: the file; weights kept beside it in another file are not supported.

    Returns:
        Its stored tensors and its nodes.

    Raises:
        AssetError: it is no ONNX file, is damaged, or keeps its weights in another file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    expected = f"{path.name}: expected an ONNX file with its weights inside"
    try:
        graph = onnx.load_model(path, load_external_data=False).graph
        outside = [t.name for t in graph.initializer if onnx.external_data_helper.uses_external_data(t)]
        if outside:
            raise AssetError(f"{expected}, but {outside[0]!r} lies in another file")
        tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise AssetError(f"{expected}, but it cannot be read ({error})") from error
    if not tensors:
        raise AssetError(f"{expected}, found no weights")
    return Graph(tensors, tuple(graph.node))
