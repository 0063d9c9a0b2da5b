"""ONNX files whose bytes are all that they are: read once, checked, and handed over as bytes.

ONNX lets a tensor lie in another file, which no hash of the model covers, and ONNX Runtime opens
it, in a subgraph even where the model is given as bytes. Such models are refused here, without the
``onnx`` package, which a vehicle lacks: the protobuf is walked down to every tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ...bundle import Artefact, Bundle
from ...errors import EngineError
from ...gentle import in_a_gap
from .protobuf import fields

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
    in_a_gap()
    content, file = bundle.content(artefact), bundle.file(artefact)
    in_a_gap()
    if problem := model_problem(content):
        raise EngineError(_refusal(file, problem))
    return OnnxModel(content, file)


def refused_models(bundle: Bundle) -> list[str]:
    """A sentence for each ONNX artefact of a bundle that `read_model` refuses.

    Raises:
        BundleError: a file was changed after the bundle was opened.
    """
    models = [a for a in bundle.manifest.artefacts if a.kind == "onnx"]
    return [
        _refusal(bundle.file(model), problem)
        for model in models
        if (problem := model_problem(bundle.content(model)))
    ]


def _refusal(file: Path, problem: str) -> str:
    return f"{file} cannot be loaded by ONNX Runtime ({problem}); export it again."


def model_problem(content: bytes) -> str | None:
    """The reason to refuse a model before ONNX Runtime sees it, a phrase; None if there is none.

    It is no protobuf; or a tensor of it lies in another file; or a node of it is a compiled engine
    (EPContext), which is native code.
    """
    view = memoryview(content)
    waiting = [("Model", view)]
    try:
        while waiting:
            message, part = waiting.pop()
            inner = _MESSAGES[message]
            for number, value in fields(part):
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
