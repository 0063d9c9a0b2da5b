"""Choice of where an ONNX model's labels are made: in its graph, or by the runtime from its logits.

In the graph, upsampling and argmax are two more nodes, over logits at full size. The runtime makes
the same labels from the network's own logits (see `upsample_argmax`) without those. Which is faster
depends on the machine, so both are timed, and the artefact remembers the choice and its machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ..runtime.atomic import give_name
from ..runtime.bundle import Bundle
from ..runtime.engines import Engine
from ..runtime.engines.onnx.session import cuda_problem
from ..runtime.errors import ConfigError, FloorError, arg
from ..runtime.labels.metrics import label_agreement
from ..runtime.probes.machine_state import device_name
from .staged import open_staged

Where = Literal["auto", "graph", "runtime"]
PLACES = ("auto", "graph", "runtime")
MIN_SAME = 99.9  # percent of pixels that both forms must give the same class
MARGIN = 0.95  # of the graph's time: the runtime is taken where it needs no more than that
_TURNS, _FEWEST, _SECONDS = 24, 3, 5.0  # timed: so many, fewer where they take longer than that
# What ONNX Runtime's CPU provider computes as the graph says; the others are made for GPUs.
_ON_A_CPU = ("fp32", "int8")


@dataclass(frozen=True)
class Cut:
    """A model that ends in logits.

    Attributes:
        model: gives ``logits``, float32 (1, K, h, w), and nothing else.
        align_corners: of the upsampling that was cut off.
    """

    model: onnx.ModelProto
    align_corners: bool


def logits_only(model: onnx.ModelProto) -> Cut | None:
    """``model`` without its upsampling and argmax; None where it has no bilinear upsampling."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    argmax = next((node for node in model.graph.node[::-1] if node.op_type == "ArgMax"), None)
    node = made_by.get(argmax.input[0]) if argmax is not None else None
    while node is not None and node.op_type == "Cast":
        node = made_by.get(node.input[0])
    if node is None or node.op_type != "Resize":
        return None
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    how = settings.get("coordinate_transformation_mode", b"half_pixel")
    if settings.get("mode") != b"linear" or how not in (
        *(b"align_corners", b"half_pixel", b"pytorch_half_pixel"),
    ):
        return None
    cut = deepcopy(model)
    _end_in(cut, node.input[0])
    onnx.checker.check_model(cut)
    return Cut(cut, how == b"align_corners")


def _end_in(model: onnx.ModelProto, value: str) -> None:
    """Make ``value`` the only output, as float32 ``logits``, and drop what it does not need."""
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    kind = next(info.type.tensor_type for info in inferred if info.name == value)
    shape = [dim.dim_value for dim in kind.shape.dim]
    needed, kept = {value}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    nodes = kept[::-1]
    nodes.append(helper.make_node("Cast", [value], ["logits"], name="logits", to=TensorProto.FLOAT))
    weights = [weight for weight in graph.initializer if weight.name in needed]
    infos = [info for info in graph.value_info if info.name in needed]
    for field, items in (
        (graph.node, nodes),
        (graph.initializer, weights),
        (graph.value_info, infos),
        (graph.output, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)]),
    ):
        copies = deepcopy(list(items))
        del field[:]
        field.extend(copies)


def settle_argmax(
    bundle: Bundle,
    path: Path,
    precision: str,
    frames: Sequence[NDArray[np.uint8]],
    where: Where,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Leave at ``path`` the form of the model that ``where`` asks for; details for its artefact.

    Args:
        bundle: that it will belong to.
        path: an ONNX model with its argmax in the graph; replaced where the runtime is to do it.
        precision: of the model.
        frames: at the input size, to compare and to time the two forms on.
        where: "graph"; "runtime"; or "auto", by time on this machine: the runtime where it saves
            5 % or more, else the graph, as also where a time here says nothing (half precision on
            a CPU).
        note: called with a sentence on what was chosen and why.

    Raises:
        ConfigError: "runtime" for a network whose logits have full size already.
        FloorError: the two forms give different labels.
    """
    if where == "graph":
        return {}
    cut = logits_only(onnx.load(str(path)))
    if cut is None and where == "runtime":
        raise ConfigError(
            f"{bundle.path}: {arg('argmax', 'runtime')} is for networks whose logits are "
            "upsampled, and "
            f"{path.name} has no bilinear upsampling before its argmax; use "
            f"{arg('argmax', 'graph')}."
        )
    if cut is None:
        return {}
    shorter = path.with_name(f"{path.stem}-logits.onnx")
    onnx.save(cut.model, str(shorter))
    ends = {"argmax": "runtime", "align_corners": cut.align_corners}
    found: dict[str, Any] = {}
    if precision in _ON_A_CPU or cuda_problem() is None:  # a CPU cannot even open some, as bf16
        with (
            open_staged(bundle, path, precision) as in_graph,
            open_staged(bundle, shorter, precision, ends) as in_runtime,
        ):
            if in_graph.device != "cpu" or precision in _ON_A_CPU:
                times, same = _compare(in_graph, in_runtime, frames)
                if not same >= MIN_SAME:
                    raise FloorError(
                        f"{bundle.path}: {path.name} gives other labels on {100 - same:.3f} % of "
                        f"the pixels where the runtime makes them; use {arg('argmax', 'graph')}.",
                        metric="label_agreement",
                        measured=same,
                        limit=MIN_SAME,
                    )
                if where == "auto":
                    found = {"argmax_ms": times, "measured_on": device_name(in_graph.device)}
    chosen: Where = where
    why = "as asked"
    if where == "auto" and found:
        chosen = "runtime" if times["runtime"] <= MARGIN * times["graph"] else "graph"
        why = ", ".join(f"{time:.1f} ms in the {form}" for form, time in times.items())
    elif where == "auto":
        chosen, why = "graph", f"{precision} is not timed on a CPU"
    note(f"{path.name}: argmax in the {chosen} ({why}).")
    if chosen == "runtime":
        give_name(shorter, path)
        return {**ends, **found, "outputs": ["logits"]}
    shorter.unlink()
    return {"argmax": "graph", **found}


def _compare(
    graph: Engine, runtime: Engine, frames: Sequence[NDArray[np.uint8]]
) -> tuple[dict[str, float], float]:
    """Median milliseconds of a frame in each form, and the least percent of equal labels.

    In turns, so that what disturbs one disturbs both; the first turn warms up.
    """
    engines = {"graph": graph, "runtime": runtime}
    taken: dict[str, list[float]] = {form: [] for form in engines}
    same, started = 100.0, perf_counter()
    for turn in range(1 + _TURNS):
        if turn > _FEWEST and perf_counter() - started > _SECONDS:
            break
        frame = frames[turn % len(frames)][None]
        found = {}
        for form, engine in engines.items():
            begun = perf_counter()
            found[form] = engine.infer(frame)
            taken[form].append(1e3 * (perf_counter() - begun))
        same = min(same, label_agreement(found["runtime"], found["graph"]))
    return {form: median(times[1:]) for form, times in taken.items()}, same
