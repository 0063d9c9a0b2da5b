"""ONNX graphs read without the ``onnx`` package, which a vehicle does not have.

Only what engines ask of a graph: weights that are NaN, and the scores that an ArgMax inside it
reads. Both walk the protobuf wire format, of which a message is a row of numbered fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

_GRAPH = 7  # of a ModelProto
_NODE, _INITIALIZER, _OUTPUT = 1, 5, 12  # of a GraphProto
_INPUT, _MADE, _NAME, _OPERATOR = 1, 2, 3, 4  # of a NodeProto
_TYPE, _FLOATS, _TENSOR_NAME, _RAW = 2, 4, 8, 9  # of a TensorProto
_FLOAT, _FLOAT16, _DOUBLE, _BFLOAT16 = 1, 10, 11, 16  # of TensorProto.DataType
_SCORES = "roadshift_scores"
_BLOCK = 1 << 20  # values looked at in one go

_Field = tuple[int, Any]


def nan_weights(file: Path) -> list[str]:
    """Names of the weights in an ONNX file that hold NaN, in the graph's order.

    A file that is no protobuf has none: whoever loads it says what is wrong with it.
    """
    try:
        model = np.memmap(file, np.uint8, "r").data
        return [
            name
            for graph in _each(model, _GRAPH)
            for tensor in _each(graph, _INITIALIZER)
            if (name := _nan_name(tensor)) is not None
        ]
    except (OSError, ValueError, IndexError):
        return []


def scores_are_finite(file: Path, image: NDArray[np.uint8], threads: int) -> bool | None:
    """Whether what the last ArgMax of a graph reads is finite for ``image``, (B, H, W, 3) uint8.

    Runs the graph on the CPU with those scores as a further output; None where that cannot be done.
    """
    data = file.read_bytes()
    try:
        scores = _argmax_input(memoryview(data))
    except (ValueError, IndexError):
        return None
    if scores is None:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            data + _one_output_more(scores), options, providers=["CPUExecutionProvider"]
        )
        (found,) = session.run([_SCORES], {"image": image})
    except Exception:  # onnxruntime's have no common base; that it cannot look is no verdict
        return None
    return bool(np.isfinite(np.asarray(found, np.float32)).all())


def _one_output_more(name: str) -> bytes:
    """What, appended to a model, gives the value ``name`` as an output: messages are merged."""
    node = _text(_INPUT, name) + _text(_MADE, _SCORES) + _text(_OPERATOR, "Identity")
    graph = _message(_NODE, node) + _message(_OUTPUT, _text(1, _SCORES))
    return _message(_GRAPH, graph)


def _argmax_input(model: memoryview) -> str | None:
    found = None
    for graph in _each(model, _GRAPH):
        for node in _each(graph, _NODE):
            fields = list(_fields(node))
            if any(number == _OPERATOR and bytes(v) == b"ArgMax" for number, v in fields):
                inputs = [v for number, v in fields if number == _INPUT]
                found = bytes(inputs[0]).decode() if inputs else found
    return found


def _nan_name(tensor: memoryview) -> str | None:
    """The tensor's name if it holds NaN."""
    kind, name, values = 0, "", memoryview(b"")
    for number, value in _fields(tensor):
        if number == _TYPE:
            kind = value
        elif number == _TENSOR_NAME:
            name = bytes(value).decode("utf-8", "replace")
        elif number in (_RAW, _FLOATS) and isinstance(value, memoryview):
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
    return (value for n, value in _fields(message) if n == number and isinstance(value, memoryview))


def _fields(message: memoryview) -> Iterator[_Field]:
    """Number and value of each field: an int, or the bytes of a string, message or packed array.

    Raises:
        ValueError, IndexError: the bytes are no message.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("no protobuf message")
        if at + size > end:
            raise ValueError("no protobuf message")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("no protobuf message")


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode())


def _message(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content
