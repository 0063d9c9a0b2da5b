"""Tiny ONNX models, made on the spot: class = argmax of a 1x1 convolution of RGB."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper


def tiny_onnx(
    width: int,
    height: int,
    weight: np.ndarray,
    *,
    batch: int | str = 1,
    output: str = "labels",
    output_type: int = TensorProto.UINT8,
) -> bytes:
    """``image`` uint8 (B, H, W, 3) -> argmax over K of ``weight`` (K, 3) times RGB."""
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["class"], axis=1, keepdims=0),
        helper.make_node("Cast", ["class"], [output], to=output_type),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, height, width, 3])],
        [helper.make_tensor_value_info(output, output_type, [batch, height, width])],
        [helper.make_tensor("w", TensorProto.FLOAT, [len(weight), 3, 1, 1], weight.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def tiny_logits_onnx(
    width: int, height: int, weight: np.ndarray, *, stride: int = 4, batch: int | str = 1
) -> bytes:
    """``image`` uint8 (B, H, W, 3) -> ``logits`` (B, K, H / stride, W / stride), a convolution."""
    kernel = np.zeros((len(weight), 3, stride, stride), np.float32)
    kernel[:, :, 0, 0] = weight
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["logits"], strides=[stride, stride]),
    ]
    shape = [batch, len(weight), height // stride, width // stride]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, height, width, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [helper.make_tensor("w", TensorProto.FLOAT, kernel.shape, kernel.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def tiny_weight(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)
