"""A bundle with a tiny ONNX model, made on the spot: class = argmax of a 1x1 convolution of RGB."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from roadshift.runtime.bundle import Bundle, BundleWriter, InputSpec, NetworkSpec, Provenance
from spaces import FOUR


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


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Make ``tmp_path/name`` with the given ONNX files (default: one model.onnx of `tiny_onnx`)."""

    def make(
        name: str = "bundle",
        *,
        width: int = 32,
        height: int = 16,
        models: dict[str, bytes] | None = None,
        precisions: dict[str, str] | None = None,
        weights: bytes | None = None,
        artefact_details: dict[str, Any] | None = None,
        **details: Any,
    ) -> Bundle:
        if models is None:
            models = {"model.onnx": tiny_onnx(width, height, tiny_weight(), **details)}
        with BundleWriter(tmp_path / name) as writer:
            for file, data in models.items():
                precision = (precisions or {}).get(file, "fp32")
                writer.add_bytes(
                    file, data, kind="onnx", precision=precision, details=artefact_details or {}
                )
            if weights is not None:
                writer.add_bytes("model.safetensors", weights, kind="weights")
            return writer.commit(
                network=NetworkSpec(name="tiny"),
                label_space=FOUR,
                input=InputSpec(width=width, height=height, mean=(0, 0, 0), std=(1, 1, 1)),
                provenance=Provenance(),
            )

    return make


@pytest.fixture
def tiny() -> Any:
    """``tiny.onnx(...)``, ``tiny.weight(seed)`` and ``tiny.labels(weight, images)``."""

    class Tiny:
        onnx = staticmethod(tiny_onnx)
        logits_onnx = staticmethod(tiny_logits_onnx)
        weight = staticmethod(tiny_weight)

        @staticmethod
        def labels(weight: np.ndarray, images: np.ndarray) -> np.ndarray:
            """What the model must give for (..., H, W, 3) images: the definition in float64."""
            scores = images.astype(np.float64) @ weight.astype(np.float64).T
            return scores.argmax(axis=-1).astype(np.uint8)

    return Tiny
