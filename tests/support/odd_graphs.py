"""ONNX graphs from ``image`` (1, H, W, 3) uint8 that fail, never end, or answer nonsense."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

UINT8, FLOAT, INT64 = TensorProto.UINT8, TensorProto.FLOAT, TensorProto.INT64


def graph(
    nodes: list[Any],
    kind: int = UINT8,
    shape: list[Any] | None = None,
    output: str = "labels",
    size: tuple[int, int] = (16, 32),
    weights: dict[str, Any] | None = None,
) -> bytes:
    """A model of these nodes, which says that it gives ``output`` of that type and shape."""
    height, width = size
    made = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info("image", UINT8, [1, height, width, 3])],
        [helper.make_tensor_value_info(output, kind, shape or [1, "h", "w"])],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in (weights or {}).items()
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def filled(shape: list[int], value: int = 0) -> bytes:
    """``ConstantOfShape``, by a shape that depends on the frame, so that nothing is folded."""
    return graph(
        [
            helper.make_node("Cast", ["image"], ["wide"], to=INT64),
            helper.make_node("ReduceMin", ["wide"], ["least"], keepdims=0),
            helper.make_node("Mul", ["least", "none"], ["zero"]),
            helper.make_node("Add", ["zero", "shape"], ["size"]),
            helper.make_node(
                "ConstantOfShape", ["size"], ["labels"],
                value=helper.make_tensor("v", UINT8, [1], [value]),
            ),
        ],
        weights={"none": np.int64(0), "shape": np.array(shape, np.int64)},
    )  # fmt: skip


def least_as_label() -> bytes:
    """A white frame is of class 255 everywhere, any other of class 0."""
    return graph(
        [
            helper.make_node("Cast", ["image"], ["wide"], to=INT64),
            helper.make_node("ReduceMin", ["wide"], ["least"], keepdims=0),
            helper.make_node("Equal", ["least", "white"], ["is_white"]),
            helper.make_node("Where", ["is_white", "least", "none"], ["class"]),
            helper.make_node("Cast", ["class"], ["small"], to=UINT8),
            helper.make_node("Expand", ["small", "shape"], ["labels"]),
        ],
        weights={
            **{"white": np.int64(255), "none": np.int64(0)},
            "shape": np.array([1, 16, 32], np.int64),
        },
    )


def scores(weight: np.ndarray, *, divide_by: float | None = None) -> bytes:
    """Argmax of a 1x1 convolution by ``weight`` (K, 3), its scores divided where that is given."""
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=FLOAT),
        helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["s"]),
        helper.make_node("Mul", ["s", "by"], ["t"]),
        helper.make_node("Div", ["t", "by"], ["u"]),
        helper.make_node("ArgMax", ["u"], ["c"], axis=1, keepdims=0),
        helper.make_node("Cast", ["c"], ["labels"], to=UINT8),
    ]
    by = np.float32(1 if divide_by is None else divide_by)
    return graph(nodes, weights={"w": weight[:, :, None, None].astype(np.float32), "by": by})


def endless() -> bytes:
    """A loop whose condition stays true."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["go_on"]),
            helper.make_node("Mul", ["carried", "carried"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", FLOAT, [1, 16, 32, 3]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [1, 16, 32, 3]),
        ],
    )
    return graph(
        [
            helper.make_node("Cast", ["image"], ["start"], to=FLOAT),
            helper.make_node("Loop", ["", "yes", "start"], ["end"], body=body),
            helper.make_node("ReduceMax", ["end", "axis"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["labels"], to=UINT8),
        ],
        weights={"yes": np.bool_(True), "axis": np.array([3], np.int64)},
    )
