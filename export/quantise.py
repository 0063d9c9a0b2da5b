"""Q/DQ pairs around convolutions and linear layers of a float32 graph: INT8, FP8, UINT8 for a CPU.

Three forms of one idea, value -> QuantizeLinear -> DequantizeLinear -> layer:

- ``int8``: symmetric, weights a scale for each output channel, on the inputs of layers only.
  This is what TensorRT takes: a zero point of 0, and room to fuse convolution, ReLU and Q.
- ``fp8``: the same with E4M3, which the GPU needs to have.
- ``int8-cpu``: activations UINT8 with a zero point, INT8 weights, on every value between operators
  that ONNX Runtime's CPU provider runs on integers. A ReLU disappears into the zero point, and a
  convolution stays in integers from end to end; in the symmetric form the CPU computes in float32.
  A convolution of the frame's three channels stays in float32: integers are packed four by four.

In a transformer the linear layers are quantised too, which hold most of its arithmetic, but not in
``int8-cpu``: there ONNX Runtime's CPU provider takes longer with them (see docs/quantisation.md).
Between layers nothing is: products of two activations (attention), softmax, layer normalisation,
GELU, and the sums that carry the residual stream, whose few large channels would take all levels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .calibration import Range
from .choices import Form
from .graph import float_values, tail

_INTEGER = {"Conv", "Relu", "Add", "Concat", "Resize", "AveragePool", "MaxPool"}
_LINEAR = {"MatMul", "Gemm"}
_OF_TRANSFORMERS = _LINEAR | {"LayerNormalization", "Softmax", "Gelu", "Erf"}
_PACKED_CHANNELS = 4  # of a dot product of integers on a CPU
_SMALLEST = 1e-12  # a scale is above zero, also for a value that is always zero


@dataclass(frozen=True)
class Layer:
    """A convolution or a linear layer that can be quantised.

    Attributes:
        name: of its module, such as "downsample.0.0"; "head:2" where a module runs a second time.
        node: its node's name.
        input: the value that it reads.
        weight: the name of its weights.
        axis: of the output channels in its weights.
    """

    name: str
    node: str
    input: str
    weight: str
    axis: int = 0


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """Convolutions and linear layers with constant weights, in the order in which they run."""
    dims = {weight.name: len(weight.dims) for weight in model.graph.initializer}
    biases = _biases(model)
    runs: Counter[str] = Counter()
    layers = []
    for node in model.graph.node:
        axis = _output_axis(node, dims)
        if axis is not None:
            name = _module_name(node, biases)
            runs[name] += 1
            if runs[name] > 1:
                name = f"{name}:{runs[name]}"
            layers.append(Layer(name, node.name, node.input[0], node.input[1], axis))
    return layers


def _output_axis(node: onnx.NodeProto, dims: Mapping[str, int]) -> int | None:
    """The axis of the output channels in a layer's constant weights; None: it is no such layer.

    Args:
        dims: number of axes of each constant.
    """
    axes = dims.get(node.input[1]) if len(node.input) > 1 else None
    if axes is None:
        return None
    if node.op_type == "Conv":
        return 0
    if axes != 2 or node.input[0] in dims:
        return None
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Gemm" and not settings.get("transA", 0):
        return 0 if settings.get("transB", 0) else 1
    return 1 if node.op_type == "MatMul" else None


def _biases(model: onnx.ModelProto) -> dict[str, str]:
    """The constant that is added to a value, by the value's name: the bias of a linear layer."""
    weights = {weight.name for weight in model.graph.initializer}
    return {
        value: bias
        for node in model.graph.node
        if node.op_type == "Add"
        for value, bias in (node.input, node.input[::-1])
        if bias in weights
    }


def layers_for(model: onnx.ModelProto, form: Form) -> list[Layer]:
    """Layers of `layers_of` that ``form`` quantises."""
    layers = layers_of(model)
    if form != "int8-cpu":
        return layers
    kernels = {weight.name: weight.dims for weight in model.graph.initializer}
    grouped = {node.name: _groups(node) for node in model.graph.node if node.op_type == "Conv"}
    return [
        layer
        for layer in layers
        if layer.node in grouped
        and (grouped[layer.node] > 1 or kernels[layer.weight][1] >= _PACKED_CHANNELS)
    ]


def _groups(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _module_name(node: onnx.NodeProto, biases: Mapping[str, str]) -> str:
    """The module of a layer: by its weights, or its bias where those were transposed on export."""
    names = (*node.input[1:], biases.get(node.output[0], ""))
    kept = [name for name in names if name.endswith((".weight", ".bias"))]
    name: str = (kept or [node.input[1]])[0].removesuffix(".weight").removesuffix(".bias")
    return name.removeprefix("segmenter.").removeprefix("network.") or node.name


def quantised_values(model: onnx.ModelProto, form: Form) -> list[str]:
    """The values of ``model`` that need a range for ``form``."""
    return sorted(_Quantiser(model, form, {}, ()).values())


def quantise(
    model: onnx.ModelProto, form: Form, ranges: Mapping[str, Range], spared: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of ``model`` with Q/DQ pairs.

    Args:
        model: float32, opset 19 or newer.
        ranges: of each of `quantised_values`.
        spared: names of layers that stay in float32.
    """
    return _Quantiser(model, form, ranges, spared).run()


class _Quantiser:
    def __init__(
        self,
        model: onnx.ModelProto,
        form: Form,
        ranges: Mapping[str, Range],
        spared: Collection[str],
    ) -> None:
        self.model = deepcopy(model)
        self.graph, self.form, self.ranges = self.model.graph, form, ranges
        if form == "int8-cpu":
            normalise_in_one(self.model)
        self.layers = {
            layer.node: layer for layer in layers_for(model, form) if layer.name not in set(spared)
        }
        self.weights = {weight.name: weight for weight in self.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []

    def values(self) -> set[str]:
        """The activations that get a Q/DQ pair."""
        if self.form != "int8-cpu":
            return {layer.input for layer in self.layers.values()}
        exact = _residual_stream(self.graph)
        users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                users.setdefault(name, []).append(node)
        floats = float_values(self.model) - set(self.weights)
        after = tail(self.model)
        found = set()
        for node in self.graph.node:
            integer = node.name in self.layers if node.op_type == "Conv" else True
            integer &= node.op_type != "Add" or not exact.intersection(node.input)
            if node.op_type not in _INTEGER or node.name in after or not integer:
                continue
            for name in (*node.input, *node.output):
                only = users.get(name, [])
                becomes_relu = len(only) == 1 and only[0].op_type == "Relu"
                ends = any(user.name in after for user in only)
                if name in floats and not becomes_relu and not ends:
                    found.add(name)
        return found

    def run(self) -> onnx.ModelProto:
        values = self.values()
        pairs: dict[str, str] = {}
        weights: dict[str, str] = {}  # a spared layer may share one, and reads it as it is
        everyone = self.form == "int8-cpu"  # else a float32 reader keeps the exact value
        for value in self.graph.input:
            if value.name in values:
                pairs[value.name] = self._activation(value.name)
        for node in list(self.graph.node):
            if everyone or node.name in self.layers:
                for i, name in enumerate(node.input):
                    node.input[i] = pairs.get(name, name)
            if (layer := self.layers.get(node.name)) is not None:
                weight = layer.weight
                if weight not in weights:
                    weights[weight] = self._weight(layer)
                node.input[1] = weights[weight]
            self.nodes.append(node)
            for name in node.output:
                if name in values:
                    pairs[name] = self._activation(name)
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        return self.model

    def _activation(self, name: str) -> str:
        found = self.ranges[name]
        if self.form == "int8-cpu":
            low, high = min(found.low, 0.0), max(found.high, 0.0)
            step = max((high - low) / 255, _SMALLEST)
            zero = np.asarray(np.clip(round(-low / step), 0, 255), np.uint8)
        else:
            step = max(found.largest / self._levels, _SMALLEST)
            zero = np.zeros((), self._type)
        return self._pair(name, np.asarray(step, np.float32), zero)

    def _weight(self, layer: Layer) -> str:
        """One scale for each output channel."""
        values = numpy_helper.to_array(self.weights[layer.weight])
        rows = np.moveaxis(values, layer.axis, 0)
        largest = np.abs(rows).reshape(len(rows), -1).max(axis=1)
        scale = np.maximum(largest / self._levels, _SMALLEST).astype(np.float32)
        zero = np.zeros(len(scale), self._type)
        return self._pair(layer.weight, scale, zero, axis=layer.axis)

    @property
    def _levels(self) -> float:
        return 448.0 if self.form == "fp8" else 127.0

    @property
    def _type(self) -> np.dtype[np.generic]:
        return np.dtype(ml_dtypes.float8_e4m3fn if self.form == "fp8" else np.int8)

    def _pair(
        self,
        name: str,
        scale: NDArray[np.float32],
        zero: NDArray[np.generic],
        axis: int | None = None,
    ) -> str:
        """QuantizeLinear and DequantizeLinear after ``name``; the name of what comes out."""
        scale_name, zero_name = f"{name}.scale", f"{name}.zero_point"
        self.graph.initializer.append(numpy_helper.from_array(scale, scale_name))
        self.graph.initializer.append(_zero_point(zero, zero_name))
        quantised, back = f"{name}.quantised", f"{name}.dequantised"
        for kind, source, target in (
            ("QuantizeLinear", name, quantised),
            ("DequantizeLinear", quantised, back),
        ):
            inputs = [source, scale_name, zero_name]
            node = helper.make_node(kind, inputs, [target], name=f"{name}.{kind}")
            if axis is not None:
                node.attribute.append(helper.make_attribute("axis", axis))
            self.nodes.append(node)
        return back


def _residual_stream(graph: onnx.GraphProto) -> set[str]:
    """Values behind an operator of transformers, up to the next convolution."""
    found: set[str] = set()
    for node in graph.node:  # in topological order
        if node.op_type in _OF_TRANSFORMERS or (
            node.op_type != "Conv" and found.intersection(node.input)
        ):
            found.update(node.output)
    return found


def normalise_in_one(model: onnx.ModelProto) -> None:
    """``(x - mean) / std`` of planes as one BatchNormalization, in place, where it is two nodes.

    ONNX Runtime's CPU provider computes integers in NHWC and moves the frame's transpose behind
    what is computed value by value; there, on pixels of three values, these two nodes take as long
    as half the network. It does not move one behind a BatchNormalization.
    """
    weights = {w.name: w for w in model.graph.initializer}
    users = Counter(name for node in model.graph.node for name in node.input)
    for i, (sub, div) in enumerate(zip(model.graph.node, model.graph.node[1:], strict=False)):
        if (sub.op_type, div.op_type) != ("Sub", "Div") or div.input[0] != sub.output[0]:
            continue
        if users[sub.output[0]] != 1 or not {sub.input[1], div.input[1]} <= set(weights):
            continue
        mean, std = (numpy_helper.to_array(weights[name]) for name in (sub.input[1], div.input[1]))
        if mean.shape != std.shape or mean.shape != (len(mean), 1, 1):
            continue
        used = [name for name in (sub.input[1], div.input[1]) if users[name] == 1]
        names = [f"{div.output[0]}.{part}" for part in ("inverse_std", "zeros", "mean", "ones")]
        ones = np.ones(len(mean), np.float32)
        planes: list[NDArray[Any]] = [1 / std.ravel(), 0 * ones, mean.ravel(), ones]
        for name, values in zip(names, planes, strict=True):
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        node = helper.make_node(
            "BatchNormalization", [sub.input[0], *names], [div.output[0]], div.name, epsilon=0.0
        )
        model.graph.node[i].CopyFrom(node)
        del model.graph.node[i + 1]
        for name in used:
            model.graph.initializer.remove(weights[name])
        return


def _zero_point(zero: NDArray[np.generic], name: str) -> TensorProto:
    if zero.dtype == np.dtype(ml_dtypes.float8_e4m3fn):
        return helper.make_tensor(
            name, TensorProto.FLOAT8E4M3FN, zero.shape, zero.tobytes(), raw=True
        )
    return numpy_helper.from_array(zero, name)
