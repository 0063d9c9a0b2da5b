"""One network in every format: a class score of each pixel alone, a 1x1 convolution, logits out.

Of an image x in [0, 1]:  z_k = sum over c of W[k, c] x_c + b_k.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Scale = tuple[float, int] | None
K = 4
W = np.array([[6, -3, -2], [-4, 7, -3], [-2, -3, 8], [1, 1, 1]], np.float32)
B = np.array([-1, 0.5, -0.5, -1.5], np.float32)
MEAN, STD = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)  # in 0-255 units: x in [0, 1]


def logits_of(image: NDArray[np.uint8], weights: NDArray[np.float32] = W) -> NDArray[np.float32]:
    """The network's logits, (K, H, W), of uint8 RGB (H, W, 3)."""
    x = image.astype(np.float32) / 255
    return np.einsum("kc,hwc->khw", weights, x) + B[: len(weights), None, None]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    e = np.exp(logits - logits.max(axis=0))
    return np.asarray(e / e.sum(axis=0), np.float32)


def onnx_network(
    *,
    shape: tuple[int | str, ...] = (1, 3, 16, 24),
    head: str = "logits",
    outputs: int = 1,
    channels_last_out: bool = False,
    stride: int = 1,
    weights: NDArray[np.float32] = W,
    input_type: int = TensorProto.FLOAT,
    output_type: int | None = None,
) -> bytes:
    """An ONNX file; ``shape`` of the input may hold names, and end or begin with the channels.

    Args:
        head: "logits", "softmax", "sigmoid", "argmax" (B, h, w), "nan".
        outputs: so many of the same kind, each with the classes in another order.
        input_type: integers are divided by 255 within.
        output_type: what the answers are cast to.
    """
    nodes, at = [], "image"
    if input_type != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [at], ["float"], to=TensorProto.FLOAT))
        at = "float"
        if input_type == TensorProto.UINT8:
            nodes.append(helper.make_node("Div", [at, "c255"], ["unit"]))
            at = "unit"
    channels_last = len(shape) == 4 and shape[3] == 3
    if len(shape) == 3:
        nodes.append(helper.make_node("Unsqueeze", [at, "c0"], ["batched"]))
        at = "batched"
    if channels_last:
        nodes.append(helper.make_node("Transpose", [at], ["first"], perm=[0, 3, 1, 2]))
        at = "first"
    named: list[Any] = []
    constants: dict[str, Any] = {"c255": np.float32(255), "c0": np.array([0], np.int64)}
    for i in range(outputs):
        out = "out" if outputs == 1 else f"out{i}"
        constants |= {f"w{i}": np.roll(weights, i, 0)[..., None, None]}
        constants |= {f"b{i}": np.roll(B[: len(weights)], i)}
        nodes.append(
            helper.make_node("Conv", [at, f"w{i}", f"b{i}"], [f"z{i}"], strides=[stride, stride])
        )
        last, kind = f"z{i}", TensorProto.FLOAT
        if head in ("softmax", "sigmoid"):
            options = {"axis": 1} if head == "softmax" else {}
            nodes.append(helper.make_node(head.title(), [last], [f"p{i}"], **options))
            last = f"p{i}"
        elif head == "argmax":
            nodes.append(helper.make_node("ArgMax", [last], [f"a{i}"], axis=1, keepdims=0))
            last, kind = f"a{i}", TensorProto.INT64
        elif head == "nan":
            constants["nan"] = np.float32(np.nan)
            nodes.append(helper.make_node("Mul", [last, "nan"], [f"n{i}"]))
            last = f"n{i}"
        if channels_last_out:
            nodes.append(helper.make_node("Transpose", [last], [f"t{i}"], perm=[0, 2, 3, 1]))
            last = f"t{i}"
        if output_type is not None:
            nodes.append(helper.make_node("Cast", [last], [f"o{i}"], to=output_type))
            last, kind = f"o{i}", output_type
        nodes.append(helper.make_node("Identity", [last], [out]))
        axes = [None] * (3 if head == "argmax" else 4)
        if head != "argmax":
            axes[3 if channels_last_out else 1] = len(weights)
        named.append(helper.make_tensor_value_info(out, kind, axes))
    graph = helper.make_graph(
        nodes,
        "pixels",
        [helper.make_tensor_value_info("image", input_type, list(shape))],
        named,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


def write_openvino(path: Path, **options: Any) -> None:
    """The .xml, and its .bin, of `onnx_network`; skips the test without OpenVINO."""
    import pytest

    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    onnx_file = path.with_suffix(".source.onnx")
    onnx_file.write_bytes(onnx_network(**options))
    openvino.save_model(openvino.convert_model(onnx_file), path, compress_to_fp16=False)
    onnx_file.unlink()


def tflite_network(
    *, height: int = 16, width: int = 24, quantised: str | None = None, free: bool = False
) -> bytes:
    """A .tflite file, NHWC, written by LiteRT's own schema; skips the test without LiteRT.

    Args:
        quantised: "int8" or "uint8": the input, the weights, and the output, which is logits.
        free: height and width are of any length.
    """
    import pytest

    schema = pytest.importorskip(
        "ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed"
    )
    import flatbuffers

    kinds = {None: "FLOAT32", "int8": "INT8", "uint8": "UINT8"}
    kind = getattr(schema.TensorType, kinds[quantised])
    buffers = [schema.BufferT()]

    def held(values: NDArray[Any]) -> int:
        made = schema.BufferT()
        made.data = np.frombuffer(values.tobytes(), np.uint8)
        buffers.append(made)
        return len(buffers) - 1

    def tensor(
        name: str,
        shape: list[int],
        kind: int,
        buffer: int = 0,
        scale: tuple[float, int] | None = None,
    ) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale[0]], [scale[1]]
        return made

    weights, bias = W[:, None, None], B
    in_scale: Scale = None
    out_scale: Scale = None
    weight_scale: Scale = None
    bias_scale: Scale = None
    bias_kind = schema.TensorType.FLOAT32
    if quantised is not None:
        zero = 0 if quantised == "uint8" else -128
        middle = 128 if quantised == "uint8" else 0
        in_scale, out_scale = (1 / 255, zero), (0.1, middle)
        weight_scale = (8 / 127, middle)
        bias_scale = (in_scale[0] * weight_scale[0], 0)
        limits = np.iinfo(quantised)
        whole = np.round(weights / weight_scale[0]) + middle
        weights = whole.clip(limits.min, limits.max).astype(quantised)
        bias = np.round(B / bias_scale[0]).astype(np.int32)
        bias_kind = schema.TensorType.INT32
    tensors = [
        tensor("image", [1, height, width, 3], kind, scale=in_scale),
        tensor("weights", [K, 1, 1, 3], kind, held(weights), weight_scale),
        tensor(
            "bias",
            [K],
            bias_kind,
            held(bias),
            None
            if in_scale is None or weight_scale is None
            else (in_scale[0] * weight_scale[0], 0),
        ),
        tensor("scores", [1, height, width, K], kind, scale=out_scale),
    ]
    if free:
        tensors[0].shapeSignature, tensors[3].shapeSignature = [1, -1, -1, 3], [1, -1, -1, K]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs, operator.opcodeIndex = [0, 1, 2], [3], 0
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    operator.builtinOptions = schema.Conv2DOptionsT()
    operator.builtinOptions.strideH = operator.builtinOptions.strideW = 1
    operator.builtinOptions.dilationHFactor = operator.builtinOptions.dilationWFactor = 1
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = tensors, [operator]
    graph.inputs, graph.outputs = [0], [3]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 3 if quantised == "int8" else 1
    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers = 3, [graph], buffers
    model.operatorCodes = [code]
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
