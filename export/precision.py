"""A float32 graph in half precision, FP16 or BF16, with float32 where half a precision would hurt.

The precision is in the graph, as strongly typed engines want it. Three parts stay in float32: the
normalisation of the frame, the upsampling of the logits with its argmax, and every operator that
ONNX does not define for the lower type.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.errors import FloorError
from .graph import QUANTISING, float_values, head, opset, raised, tail

Half = Literal["fp16", "bf16"]
_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_DTYPES = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
_NAMES = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
_LARGEST = {"fp16": 65504.0, "bf16": float(np.finfo(np.float32).max)}
BF16_OPSET = 22  # the first whose Conv and pooling take bfloat16
_Formal = onnx.defs.OpSchema.FormalParameter


def to_half(model: onnx.ModelProto, precision: Half) -> onnx.ModelProto:
    """A copy of ``model`` whose network computes in ``precision``; its inputs and outputs stay.

    Every value keeps its name, and every weight too, so that what refers to them by name (a refit)
    is served by both graphs. A graph with Q/DQ pairs is taken as well: what is not quantised is
    lowered, scales included, of which none becomes 0.

    Args:
        model: float32, with the types of its values inferred or inferable.
        precision: "fp16" or "bf16"; bf16 raises the graph to opset 22.

    Raises:
        FloorError: a weight is beyond the range of ``precision``; it names the weight.
    """
    wanted = BF16_OPSET if precision == "bf16" else 0
    lowered = raised(model, wanted)
    _Lowering(lowered, precision).run()
    del lowered.graph.value_info[:]
    lowered.CopyFrom(onnx.shape_inference.infer_shapes(lowered, strict_mode=True))
    onnx.checker.check_model(lowered, full_check=True)
    return lowered


@dataclass(frozen=True)
class _Ports:
    """Inputs and outputs of a node that are of the type that is lowered, by position."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _Lowering:
    def __init__(self, model: onnx.ModelProto, precision: Half) -> None:
        self.model, self.graph, self.precision = model, model.graph, precision
        self.type, self.type_name = _TYPES[precision], _NAMES[precision]
        self.opset = opset(model)
        self.floats = float_values(model)
        self.weights = {weight.name: weight for weight in self.graph.initializer}
        self.scales = {n.input[1] for n in self.graph.node if n.op_type in QUANTISING}

    def run(self) -> None:
        islands = head(self.model) | tail(self.model)
        ports = {
            node.name: found
            for node in self.graph.node
            if node.name not in islands and (found := self._ports(node)) is not None
        }
        low = {
            node.output[i]
            for node in self.graph.node
            if node.name in ports
            for i in ports[node.name].outputs
        }
        self._convert_weights(ports)
        self._rewire(ports, low)

    def _ports(self, node: onnx.NodeProto) -> _Ports | None:
        """Ports of ``node`` that can be lowered; None where there are none, or no such operator."""
        if node.op_type in ("Cast", "Constant", "ConstantOfShape"):
            return None
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}

        def lowered(names: list[str], formals: list[_Formal]) -> list[int] | None:
            found = []
            for i, name in enumerate(names):
                if name not in self.floats:
                    continue
                kind = formals[min(i, len(formals) - 1)].type_str
                if kind not in allowed:
                    continue  # float32 by definition, as Resize's scales are
                if self.type_name not in allowed[kind]:
                    return None
                found.append(i)
            return found

        inputs = lowered(list(node.input), list(schema.inputs))
        outputs = lowered(list(node.output), list(schema.outputs))
        if inputs is None or outputs is None or not (inputs or outputs):
            return None
        return _Ports(tuple(inputs), tuple(outputs))

    def _convert_weights(self, ports: dict[str, _Ports]) -> None:
        """Weights in the lower type; one that float32 nodes use too gets a second, lowered one."""
        uses = Counter(
            name for node in self.graph.node for name in node.input if name in self.weights
        )
        low_uses: Counter[str] = Counter()
        for node in self.graph.node:
            for i in ports[node.name].inputs if node.name in ports else ():
                if node.input[i] in self.weights:
                    low_uses[node.input[i]] += 1
        self.renamed: dict[str, str] = {}
        for name, count in low_uses.items():
            weight = self._rounded(self.weights[name])
            if count == uses[name]:
                self.weights[name].CopyFrom(weight)
            else:
                weight.name = self.renamed[name] = f"{name}.{self.precision}"
                self.graph.initializer.append(weight)

    def _rounded(self, weight: TensorProto) -> TensorProto:
        values = numpy_helper.to_array(weight)
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= _LARGEST[self.precision]:
            raise FloorError(
                f"{self.precision} cannot hold weight {weight.name!r}, which reaches {largest:.3g} "
                f"where {_LARGEST[self.precision]:.6g} is the end; use bf16 or fp32.",
                metric="largest_weight",
                measured=largest,
                limit=_LARGEST[self.precision],
            )
        rounded = values.astype(_DTYPES[self.precision])
        if weight.name in self.scales:  # values are divided by it
            zero, one = np.asarray([0, 1], rounded.dtype)
            rounded = np.maximum(rounded, np.nextafter(zero, one))
        return numpy_helper.from_array(rounded, weight.name)

    def _rewire(self, ports: dict[str, _Ports], low: set[str]) -> None:
        """Casts wherever a value goes from one precision to the other, one for all its users."""
        casts: dict[str, str] = {}
        outputs = {output.name for output in self.graph.output}
        nodes: list[onnx.NodeProto] = []
        for node in list(self.graph.node):
            mine = set(ports[node.name].inputs) if node.name in ports else set()
            for i, name in enumerate(node.input):
                if name not in self.floats:
                    continue
                if i in mine:
                    if name in self.weights:
                        node.input[i] = self.renamed.get(name, name)
                    elif name not in low:
                        node.input[i] = self._cast(name, self.type, casts, nodes)
                elif name in low:
                    node.input[i] = self._cast(name, TensorProto.FLOAT, casts, nodes)
            nodes.append(node)
            for i, name in enumerate(node.output):  # an output of the graph stays float32
                if name in outputs and name in low:
                    inner = f"{name}.{self.precision}"
                    node.output[i] = inner
                    nodes.append(_cast_node(inner, name, TensorProto.FLOAT))
                    low.discard(name)
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _cast(self, name: str, to: int, casts: dict[str, str], nodes: list[onnx.NodeProto]) -> str:
        if name not in casts:
            casts[name] = f"{name}.{'fp32' if to == TensorProto.FLOAT else self.precision}"
            nodes.append(_cast_node(name, casts[name], to))
        return casts[name]


def _cast_node(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=to)
