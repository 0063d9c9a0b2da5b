"""The exporter's own simplification of a graph, less the one step of it that changes results.

onnxscript removes additions of 0, and takes every number up to 1e-8 for 0. A network that divides
by ``sum + 1e-12`` (linear attention, normalised maps) would divide by 0 where the sum is, which may
be on the road alone and not on the frames that an export compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

_LITTLE = 1e-6  # well above what onnxscript takes for 0
_HIDDEN = "roadshift.kept"  # a domain of operators of which nothing is known, so none is removed
_SAME_VALUE = ("Cast", "CastLike", "Identity")


def simplify(program: torch.onnx.ONNXProgram) -> None:
    """Fold constants and remove what does nothing, in place, but keep what is added to divisors."""
    model: Any = program.model
    for node in _nodes(model):
        if node.domain == "" and node.op_type in ("Add", "Sub") and any(map(_little, node.inputs)):
            node.domain = _HIDDEN
            model.opset_imports[_HIDDEN] = 1
    program.optimize()
    model = program.model
    for node in _nodes(model):
        if node.domain == _HIDDEN:
            node.domain = ""
    model.opset_imports.pop(_HIDDEN, None)


def _nodes(model: Any) -> Iterator[Any]:
    for graph in (model.graph, *model.functions.values()):
        yield from graph


def _little(value: Any) -> bool:
    """True of a constant number that is nearly 0, and is not 0."""
    number = _number(value)
    return number is not None and 0 < abs(number) < _LITTLE


def _number(value: Any) -> float | None:
    """The one number that ``value`` always is; ``None`` where it is not one."""
    maker = None if value is None else value.producer()
    while maker is not None and maker.op_type in _SAME_VALUE:
        value = maker.inputs[0]
        maker = value.producer()
    tensor = getattr(value, "const_value", None)
    if tensor is None and maker is not None and maker.op_type == "Constant":
        attribute = next(iter(maker.attributes.values()))
        if attribute.name == "value_float":
            return float(attribute.value)
        tensor = attribute.value if attribute.name == "value" else None
    if tensor is None or tensor.size != 1:
        return None
    return float(tensor.numpy().reshape(-1)[0])
