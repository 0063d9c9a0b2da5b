"""Versions of ONNX's operators that a graph may be written in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import onnx
import onnxruntime
from onnx import TensorProto, helper

from ..runtime.errors import ConfigError, arg
from .precision import BF16_OPSET

LOWEST = 17  # below it, torch's exporter writes another version than it is asked for
QUANTISED_OPSET = 19  # the first whose QuantizeLinear takes the types that are needed


def check_opset(opset: int, precisions: Sequence[str]) -> None:
    """Refuse a version that torch's exporter, ONNX Runtime here or a precision does not take.

    Raises:
        ConfigError: which of them, and what to choose.
    """
    highest = highest_opset()
    if not LOWEST <= opset <= highest:
        raise ConfigError(
            f"{arg('opset')} {opset}: choose {LOWEST} to {highest}, which the exporter writes and "
            f"onnxruntime {onnxruntime.__version__} runs."
        )
    for precision in precisions:
        needed = BF16_OPSET if precision == "bf16" else QUANTISED_OPSET
        if precision not in ("fp32", "fp16") and opset < needed:
            raise ConfigError(
                f"{arg('opset')} {opset}: {precision} needs operators of opset {needed} or "
                "newer; choose "
                f"{arg('opset')} {needed}, or export {precision} by itself without {arg('opset')}."
            )


@cache
def highest_opset() -> int:
    """The newest version that both onnx and onnxruntime, as they are installed, know."""
    newest: int = onnx.defs.onnx_opset_version()
    return next((n for n in range(newest, LOWEST, -1) if _runs(n)), LOWEST)


def _runs(opset: int) -> bool:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["b"])], "probe", value[:1], value[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # onnxruntime's have no common base; that it refuses is the answer
        return False
    return True
