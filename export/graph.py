"""Looking at an ONNX graph: which values are float32, and which nodes lie at its two ends."""

from __future__ import annotations

from copy import deepcopy

import onnx
from onnx import TensorProto, version_converter

LEARNED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
QUANTISING = {"QuantizeLinear", "DequantizeLinear"}
_CARRIES = {"ArgMax", "Resize", "Identity", "Cast", "Slice", "Pad", "Transpose", "Reshape"}


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return {entry.domain: int(entry.version) for entry in model.opset_import}[""]


def float_values(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 values, weights included."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {
        value.name
        for value in (*graph.input, *graph.output, *graph.value_info)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    return found | {w.name for w in graph.initializer if w.data_type == TensorProto.FLOAT}


def head(model: onnx.ModelProto) -> set[str]:
    """The nodes that no learned or quantising operator comes before: pixels on their way in."""
    reached: set[str] = set()
    found = set()
    for node in model.graph.node:  # in topological order
        if node.op_type in LEARNED | QUANTISING or reached.intersection(node.input):
            reached.update(node.output)
        else:
            found.add(node.name)
    return found


def tail(model: onnx.ModelProto) -> set[str]:
    """The nodes between the network's own logits and the labels."""
    producer = {out: node for node in model.graph.node for out in node.output}
    found = set()
    value = "labels"
    while (node := producer.get(value)) is not None and node.op_type in _CARRIES:
        found.add(node.name)
        value = node.input[0]
    return found


def raised(model: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
    """A copy of ``model`` in opset ``wanted`` of ONNX's operators, or the newer one that it has.

    Names of values and weights, and its metadata, stay.
    """
    if opset(model) >= wanted:
        return deepcopy(model)
    converted = version_converter.convert_version(model, wanted)
    kept = {entry.key for entry in converted.metadata_props}
    converted.metadata_props.extend(e for e in model.metadata_props if e.key not in kept)
    return converted
