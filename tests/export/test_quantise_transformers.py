"""Q/DQ pairs in a transformer: its linear layers, and nothing of what is between them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from roadshift.export.calibration import Range
from roadshift.export.precision import to_half
from roadshift.export.quantise import layers_of, quantise, quantised_values
from roadshift.runtime.engines.tensorrt_build import build_plan
from roadshift.runtime.engines.tensorrt_library import load_tensorrt

HEIGHT, WIDTH, CHANNELS, CLASSES = 16, 32, 8, 4
TOKENS = HEIGHT * WIDTH // 16
LAYERS = ["embed", "q", "k", "v", "o", "ffn.0", "ffn.1", "head"]


def block() -> onnx.ModelProto:
    """Patches of 4x4, one block of attention and one of MLP, a 1x1 convolution, labels."""
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {
        "embed.weight": rng.normal(size=(CHANNELS, 3, 4, 4)) / 200,
        "to_tokens": np.array([1, CHANNELS, TOKENS]),
        "to_map": np.array([1, CHANNELS, HEIGHT // 4, WIDTH // 4]),
        "rows": np.array([TOKENS, 2 * CHANNELS]),
        "batch": np.array([1, TOKENS, CHANNELS]),
        "norm.weight": np.ones(CHANNELS),
        "norm.bias": np.zeros(CHANNELS),
        **{f"w_{name}": rng.normal(size=(CHANNELS, CHANNELS)) / 3 for name in "qkvo"},
        **{f"{name}.bias": rng.normal(size=CHANNELS) for name in "qkvo"},
        "w_up": rng.normal(size=(CHANNELS, 2 * CHANNELS)) / 3,
        "ffn.0.bias": rng.normal(size=2 * CHANNELS),
        "ffn.1.weight": rng.normal(size=(CHANNELS, 2 * CHANNELS)) / 4,
        "ffn.1.bias": rng.normal(size=CHANNELS),
        "head.weight": rng.normal(size=(CLASSES, CHANNELS, 1, 1)),
        "sizes": np.array([1, CLASSES, HEIGHT, WIDTH]),
    }

    def linear(name: str, source: str, weight: str, target: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("MatMul", [source, weight], [f"{target}_"], f"{target}_matmul"),
            helper.make_node("Add", [f"{target}_", f"{name}.bias"], [target], f"{target}_bias"),
        ]

    norm = ["norm.weight", "norm.bias"]
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["x"], "nchw", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "embed.weight"], ["e"], "embed", strides=[4, 4]),
        helper.make_node("Reshape", ["e", "to_tokens"], ["e1"], "e1"),
        helper.make_node("Transpose", ["e1"], ["t"], "t", perm=[0, 2, 1]),
        helper.make_node("LayerNormalization", ["t", *norm], ["n"], "n"),
        *linear("q", "n", "w_q", "q"),
        *linear("k", "n", "w_k", "k"),
        *linear("v", "n", "w_v", "v"),
        helper.make_node("Transpose", ["k"], ["kt"], "kt", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], "scores"),
        helper.make_node("Softmax", ["scores"], ["a"], "a", axis=-1),
        helper.make_node("MatMul", ["a", "v"], ["attended"], "attended"),
        *linear("o", "attended", "w_o", "o"),
        helper.make_node("Add", ["t", "o"], ["r"], "residual_1"),
        helper.make_node("LayerNormalization", ["r", *norm], ["n2"], "n2"),
        *linear("ffn.0", "n2", "w_up", "u"),
        helper.make_node("Gelu", ["u"], ["g"], "g"),
        helper.make_node("Reshape", ["g", "rows"], ["g2"], "g2"),
        helper.make_node("Gemm", ["g2", "ffn.1.weight", "ffn.1.bias"], ["d2"], "down", transB=1),
        helper.make_node("Reshape", ["d2", "batch"], ["d"], "d"),
        helper.make_node("Add", ["r", "d"], ["r2"], "residual_2"),
        helper.make_node("Transpose", ["r2"], ["m1"], "m1", perm=[0, 2, 1]),
        helper.make_node("Reshape", ["m1", "to_map"], ["m"], "m"),
        helper.make_node("Conv", ["m", "head.weight"], ["logits"], "head"),
        helper.make_node("Resize", ["logits", "", "", "sizes"], ["big"], "big", mode="linear"),
        helper.make_node("ArgMax", ["big"], ["class"], "class", axis=1, keepdims=0),
        helper.make_node("Cast", ["class"], ["labels"], "labels", to=TensorProto.UINT8),
    ]
    constants = [
        numpy_helper.from_array(v if v.dtype == np.int64 else v.astype(np.float32), name)
        for name, v in weights.items()
    ]
    frame = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, HEIGHT, WIDTH])
    graph = helper.make_graph(nodes, "block", [frame], [labels], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def quantised(form: str, spared: tuple[str, ...] = ()) -> onnx.ModelProto:
    model = block()
    ranges = {value: Range(-2.0, 3.0) for value in quantised_values(model, form)}  # type: ignore[arg-type]
    made = quantise(model, form, ranges, spared)  # type: ignore[arg-type]
    onnx.checker.check_model(made)
    return made


def pairs_of(model: onnx.ModelProto) -> set[str]:
    return {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}


def test_layers_are_convolutions_and_linear_layers_by_their_modules() -> None:
    layers = layers_of(block())
    assert [layer.name for layer in layers] == LAYERS
    axes = {layer.name: layer.axis for layer in layers}
    assert axes == {**dict.fromkeys(LAYERS, 1), "embed": 0, "head": 0, "ffn.1": 0}


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_symmetric_forms_leave_attention_norms_and_the_residual_stream_exact(form: str) -> None:
    model = quantised(form)
    read = {"x", "n", "attended", "n2", "g2", "m"}
    weights = {layer.weight for layer in layers_of(block())}
    assert pairs_of(model) == read | weights
    layers = {layer.node for layer in layers_of(block())}
    for node in model.graph.node:
        if node.name not in layers and "Linear" not in node.op_type:
            assert not any(name.endswith(".dequantised") for name in node.input), node.name


def test_each_output_channel_has_its_scale_along_the_axis_of_the_layer() -> None:
    model = quantised("int8")
    constants = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    axes = {
        node.input[0]: next((a.i for a in node.attribute if a.name == "axis"), None)
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    for layer in layers_of(block()):
        values = constants[layer.weight]
        others = tuple(i for i in range(values.ndim) if i != layer.axis)
        expected = np.abs(values).max(axis=others) / 127
        np.testing.assert_allclose(constants[f"{layer.weight}.scale"], expected, rtol=1e-6)
        assert axes[layer.weight] == layer.axis


def test_a_spared_linear_layer_reads_exact_values_where_its_neighbours_do_not() -> None:
    nodes = {node.name: node for node in quantised("int8", ("q", "ffn.1")).graph.node}
    assert list(nodes["q_matmul"].input) == ["n", "w_q"]
    assert list(nodes["k_matmul"].input) == ["n.dequantised", "w_k.dequantised"]
    assert list(nodes["down"].input) == ["g2", "ffn.1.weight", "ffn.1.bias"]


def test_on_a_cpu_convolutions_alone_are_quantised_and_the_residual_stream_is_exact() -> None:
    model = quantised("int8-cpu")
    nodes = {node.name: node for node in model.graph.node}
    assert list(nodes["residual_2"].input) == ["r", "d"]
    assert list(nodes["q_matmul"].input) == ["n", "w_q"]
    assert list(nodes["q_bias"].input) == ["q_", "q.bias"]
    assert list(nodes["head"].input) == ["m.dequantised", "head.weight.dequantised"]
    assert pairs_of(model) == {"m", "head.weight"}  # not the frame's three channels


def test_constants_that_are_multiplied_and_transposed_inputs_are_no_layers() -> None:
    model = block()
    by_name = {node.name: node for node in model.graph.node}
    by_name["down"].attribute.append(helper.make_attribute("transA", 1))
    by_name["o_matmul"].input[0] = "w_v"
    assert [layer.name for layer in layers_of(model)] == [
        name for name in LAYERS if name not in ("o", "ffn.1")
    ]


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_tensorrt_takes_quantised_linear_layers_with_the_rest_in_half_precision(form: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    graph = to_half(quantised(form), "fp16").SerializeToString()
    assert build_plan(load_tensorrt("tensorrt_rtx"), graph, "block", form)
