"""New weights in an engine that was built before: seconds, where building takes minutes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ..runtime.bundle import Bundle
from ..runtime.engines.onnx.graph import read_model
from ..runtime.engines.tensorrt_library import TensorRT
from ..runtime.errors import EngineError, arg
from .weight_origins import Array, Fold, State, cast_weight, few, folds_from_json, read_folds

REFITTABLE = ("fp32", "fp16", "bf16")


def refit_plan(
    library: TensorRT,
    plan: bytes,
    what: str,
    model: onnx.ModelProto,
    folds: Mapping[str, Fold],
    state: State,
    gamma: float,
) -> bytes:
    """The plan with a network's weights in it; refittable again.

    Args:
        plan: built refittable on this machine.
        what: its name, for messages.
        model: the graph that it was built from; gives types, and what is not learned.
        folds: of all weights of that graph.
        state: the new weights.
        gamma: the new input's.

    Raises:
        EngineError: the plan is not refittable, or TensorRT wants weights that are not known.
        ParityError: a weight does not fit the plan.
    """
    trt = library.module
    logger, said = library.listen()
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        why = f" ({said[-1]})" if said else ""
        raise EngineError(f"{library} cannot deserialise {what}{why}; rebuild it.")
    refitter = trt.Refitter(engine, logger)
    check_refittable(engine, refitter, folds, what)
    graph = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    given = {
        name: np.ascontiguousarray(cast_weight(name, fold, graph[name], state, gamma))
        for name, fold in folds.items()
    }
    _give(trt, refitter, given, what)
    constants = {n: graph[n] for n in refitter.get_missing_weights() if n in graph.keys() - given}
    _give(trt, refitter, constants, what)
    if missing := refitter.get_missing_weights():
        raise EngineError(f"{what} wants {few(missing)} as well, which are unknown; rebuild it.")
    if not refitter.refit_cuda_engine():
        why = f" ({said[-1]})" if said else ""
        raise EngineError(f"{library} could not refit {what}{why}; rebuild it.")
    config = engine.create_serialization_config()
    config.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    if hasattr(trt.SerializationFlag, "INCLUDE_REFIT"):  # newer than 10.0
        config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
    return bytes(memoryview(engine.serialize_with_config(config)))


def kept_from_refit(model: onnx.ModelProto, folds: Mapping[str, Fold]) -> list[str]:
    """Weights of batch normalisations that no convolution before them takes in.

    Such a one stays a node, for which TensorRT computes weights of its own when it reads the graph.
    """
    norms = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    return sorted(folds.keys() & {name for node in norms for name in node.input[1:]})


def check_refittable(engine: Any, refitter: Any, folds: Mapping[str, Fold], what: str) -> None:
    """EngineError unless the engine offers every learned weight for a refit."""
    if not engine.refittable:
        raise EngineError(
            f"{what} was not built with {arg('refittable', True)}; rebuild it with that."
        )
    lost = sorted(folds.keys() - set(refitter.get_all_weights()))
    if lost:
        raise EngineError(f"TensorRT took {few(lost)} of {what} for constants; rebuild it.")


def base_to_refit(
    base: Bundle, bundle: Bundle, precision: str
) -> tuple[onnx.ModelProto, dict[str, Fold]]:
    """The graph behind a bundle's plan and the folds of its weights, for ``bundle``'s weights.

    Raises:
        EngineError: what stands in the way of a refit, and that it takes a rebuild.
    """
    name = f"model-{precision}.plan"
    command = f"`roadshift export {bundle.path} --to onnx,tensorrt --precision {precision}`"
    build = f"{command} with {arg('refittable', True)}"
    plan = base.artefact(kind="tensorrt", name=name)
    if precision not in REFITTABLE:
        raise EngineError(
            f"{precision} engines are rebuilt, their scales follow the weights; {command} does, "
            "and the kept timings make it quick."
        )
    if plan is None:
        raise EngineError(f"{base.path} has no {name} to refit; {build} builds one.")
    if not plan.details.get("refittable"):
        raise EngineError(
            f"{base.file(plan)} was not built with {arg('refittable', True)}; {build} builds anew."
        )
    if different := _differences(base, bundle):
        raise EngineError(
            f"{base.path} and {bundle.path} differ in {', '.join(different)}, and a refit swaps "
            f"weights alone; {build} builds anew."
        )
    made_from = plan.details.get("onnx")
    described = made_from if isinstance(made_from, dict) else {}
    source = base.artefact(kind="onnx", name=str(described.get("path")))
    if source is None or source.sha256 != described.get("sha256"):
        raise EngineError(
            f"{base.file(plan)} was built from another {described.get('path', 'ONNX model')} than "
            f"{base.path} has now; {build} builds anew."
        )
    model = onnx.ModelProto.FromString(read_model(base, source).content)
    listed = plan.details.get("folds")
    folds = folds_from_json(listed) if isinstance(listed, dict) else {}
    learned = read_folds(model) or {}
    if lost := sorted(learned.keys() ^ folds.keys()):
        raise EngineError(
            f"{base.file(plan)}: the manifest's map of weights lacks {few(lost)}; {build} "
            "builds anew."
        )
    return model, folds


def _differences(base: Bundle, bundle: Bundle) -> list[str]:
    ours, theirs = bundle.manifest, base.manifest
    gamma = {"gamma": 1.0}
    found = {
        "network": ours.network != theirs.network,
        "label space": ours.label_space != theirs.label_space,
        "input": ours.input.model_copy(update=gamma) != theirs.input.model_copy(update=gamma),
        # A gamma of 1 leaves no trace in the graph; any other is a weight of it.
        "whether pixels are raised to a gamma": (ours.input.gamma == 1)
        != (theirs.input.gamma == 1),
    }
    return [name for name, different in found.items() if different]


def _give(trt: Any, refitter: Any, weights: Mapping[str, Array], what: str) -> None:
    """Hand weights over; they must stay in memory until the refit."""
    for name, array in weights.items():
        given = trt.Weights(getattr(trt, array.dtype.name), array.ctypes.data, array.size)
        if not refitter.set_named_weights(name, given):
            raise EngineError(f"TensorRT refuses the new weight {name!r} of {what}; rebuild it.")
