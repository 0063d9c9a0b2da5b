"""A half-precision graph on a CPU, with every value rounded as a GPU would round it.

ONNX Runtime's CPU provider has no BF16 convolution, and computes FP16 graphs in float32 from one
operator to the next; neither would show a value that overflows. Here each operator computes in
float32, as tensor cores sum, and each result is rounded to the graph's own type and back.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..runtime.bundle import Bundle
from ..runtime.engines import Engine
from ..runtime.engines.onnx.session import session_options
from ..runtime.probes.cores import available_cores

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


class RoundedEngine(Engine):
    """``model``, a graph of `to_half`, in ONNX Runtime on the CPU, rounded as above."""

    def __init__(self, bundle: Bundle, model: onnx.ModelProto, precision: str) -> None:
        super().__init__(
            bundle.label_space,
            bundle.manifest.input,
            backend="onnxruntime",
            precision=precision,
            device="cpu",
            reason=f"onnxruntime on the CPU, each value rounded to {precision}.",
        )
        options = session_options(available_cores())
        # An optimiser may take a cast there and back for nothing, and it is what we are after.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            with_rounding(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        parts = [self._session.run(["labels"], {"image": frame[None]})[0] for frame in batch]
        return np.concatenate(parts)


def with_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in float32 throughout, each half-precision value cast there and back."""
    copy = deepcopy(model)
    graph = copy.graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in graph.value_info
        if value.type.tensor_type.elem_type in HALVES
    }
    for weight in graph.initializer:
        if weight.data_type in HALVES:
            values = numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    nodes: list[onnx.NodeProto] = []
    for node in list(graph.node):
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in types:
                exact, half = f"{name}.exact", f"{name}.half"
                node.output[i] = exact
                nodes.append(helper.make_node("Cast", [exact], [half], to=types[name]))
                nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
        if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") in HALVES:
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return copy
