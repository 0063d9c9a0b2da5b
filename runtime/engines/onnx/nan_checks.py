"""Numbers of ONNX graphs, read without the ``onnx`` package, which a vehicle does not have.

Only what engines ask of a graph: weights that are NaN, and the scores that an ArgMax inside it
reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .protobuf import fields

_GRAPH = 7  # of a ModelProto
_NODE, _INITIALIZER, _OUTPUT = 1, 5, 12  # of a GraphProto
_INPUT, _MADE, _NAME, _OPERATOR = 1, 2, 3, 4  # of a NodeProto
_TYPE, _FLOATS, _TENSOR_NAME, _RAW = 2, 4, 8, 9  # of a TensorProto
_FLOAT, _FLOAT16, _DOUBLE, _BFLOAT16 = 1, 10, 11, 16  # of TensorProto.DataType
_SCORES = "roadshift_scores"
_BLOCK = 1 << 20  # values looked at in one go


def nan_weights(content: bytes) -> list[str]:
    """Names of the weights in an ONNX model's bytes that hold NaN, in the graph's order.

    What is no protobuf has none: whoever loads it says what is wrong with it.
    """
    model = memoryview(content)
    try:
        return [
            name
            for graph in _each(model, _GRAPH)
            for tensor in _each(graph, _INITIALIZER)
            if (name := _nan_name(tensor)) is not None
        ]
    except (ValueError, IndexError):
        return []


def scores_are_finite(content: bytes, image: NDArray[np.uint8], threads: int) -> bool | None:
    """Tell whether a graph's last ArgMax reads finite values for ``image``, uint8 (B, H, W, 3).

    Runs the graph on the CPU with those scores as a further output; None where that cannot be done.
    """
    try:
        scores = _argmax_input(memoryview(content))
    except (ValueError, IndexError):
        return None
    if scores is None:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            content + _one_output_more(scores), options, providers=["CPUExecutionProvider"]
        )
        (found,) = session.run([_SCORES], {"image": image})
    except Exception:  # onnxruntime's have no common base; that it cannot look is no verdict
        return None
    return bool(np.isfinite(np.asarray(found, np.float32)).all())


def _one_output_more(name: str) -> bytes:
    """Bytes that, appended to a model, make the value ``name`` an output: messages are merged."""
    node = _text(_INPUT, name) + _text(_MADE, _SCORES) + _text(_OPERATOR, "Identity")
    graph = _message(_NODE, node) + _message(_OUTPUT, _text(1, _SCORES))
    return _message(_GRAPH, graph)


def _argmax_input(model: memoryview) -> str | None:
    found = None
    for graph in _each(model, _GRAPH):
        for node in _each(graph, _NODE):
            parts = list(fields(node))
            if any(number == _OPERATOR and bytes(v) == b"ArgMax" for number, v in parts):
                inputs = [v for number, v in parts if number == _INPUT]
                found = bytes(inputs[0]).decode() if inputs else found
    return found


def _nan_name(tensor: memoryview) -> str | None:
    """The tensor's name if it holds NaN."""
    kind, name, values = 0, "", memoryview(b"")
    for number, value in fields(tensor):
        if isinstance(value, int):
            kind = value if number == _TYPE else kind
        elif number == _TENSOR_NAME:
            name = bytes(value).decode("utf-8", "replace")
        elif number in (_RAW, _FLOATS):
            values = value
    return name if _holds_nan(values, kind) else None


def _holds_nan(values: memoryview, kind: int) -> bool:
    types: dict[int, Any] = {_FLOAT: "<f4", _DOUBLE: "<f8", _FLOAT16: "<f2", _BFLOAT16: "<u2"}
    if kind not in types or len(values) % np.dtype(types[kind]).itemsize:
        return False
    array = np.frombuffer(values, types[kind])
    for start in range(0, len(array), _BLOCK):
        block = array[start : start + _BLOCK]
        if kind == _BFLOAT16:
            block = (block.astype("<u4") << 16).view("<f4")
        if np.isnan(block).any():
            return True
    return False


def _each(message: memoryview, number: int) -> Iterator[memoryview]:
    return (value for n, value in fields(message) if n == number and isinstance(value, memoryview))


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode())


def _message(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content
