"""ONNX files whose bytes are all that they are: read once, checked, and handed over as bytes.

ONNX lets a tensor lie in another file, which no hash of the model covers, and ONNX Runtime opens
it, in a subgraph even where the model is given as bytes. Such models are refused here, without the
``onnx`` package, which a vehicle lacks: the protobuf is walked down to every tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from .bundle import Artefact, Bundle
from .errors import EngineError

# Fields of onnx.proto that lead to a tensor: message -> {field number: message}.
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor"}
    | {23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_OP_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 4, 13, 14  # of Node; of Tensor, twice
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


class OnnxModel(NamedTuple):
    """The bytes of a model that `model_problem` has nothing against, and their file's name."""

    content: bytes
    file: Path


def read_model(bundle: Bundle, artefact: Artefact) -> OnnxModel:
    """An ONNX artefact's bytes, which are those that the manifest lists.

    Raises:
        BundleError: the file was changed after the bundle was opened.
        EngineError: it is no ONNX model, or needs more than its own bytes.
    """
    content, file = bundle.content(artefact), bundle.file(artefact)
    if problem := model_problem(content):
        raise EngineError(f"{file} cannot be loaded by ONNX Runtime ({problem}); export it again.")
    return OnnxModel(content, file)


def model_problem(content: bytes) -> str | None:
    """Why a model is refused before ONNX Runtime sees it, a phrase; None where it is not.

    It is no protobuf; or a tensor of it lies in another file; or a node of it is a compiled engine
    (EPContext), which is native code.
    """
    view = memoryview(content)
    waiting = [("Model", view)]
    try:
        while waiting:
            message, part = waiting.pop()
            inner = _MESSAGES[message]
            for number, value in _fields(part):
                if number in inner and isinstance(value, memoryview):
                    waiting.append((inner[number], value))
                elif message == "Tensor" and _is_external(number, value):
                    return "its weights lie in another file, which no hash covers"
                elif message == "Node" and number == _OP_TYPE and _text(value) == b"EPContext":
                    return "it holds a compiled engine, which is native code, in an EPContext node"
    except (IndexError, ValueError):
        return "it is damaged, or no ONNX model"
    return None


def _is_external(number: int, value: int | memoryview) -> bool:
    if number == _DATA_LOCATION:
        return value != 0
    return number == _EXTERNAL_DATA


def _text(value: int | memoryview) -> bytes | None:
    return bytes(value) if isinstance(value, memoryview) else None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers of a protobuf message with their values: integers, or bytes.

    Raises:
        ValueError, IndexError: the bytes are no such message.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = (key & 0xFFFFFFFF) >> 3, key & 7  # protobuf drops what is beyond 32 bits
        value: int | memoryview
        if wire == _VARINT:
            value, at = _varint(message, at)
        elif wire == _BYTES:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
            value, at = message[at : at + size], at + size
        else:
            raise ValueError("a group, which ONNX does not use")
        if at > end or number == 0:
            raise ValueError("cut off, or no field")
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, seven bits each, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
