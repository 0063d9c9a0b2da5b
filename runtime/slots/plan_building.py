"""Building TensorRT plans beside the slots, on the machine that runs them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

from ..atomic import output_errors
from ..bundle import Artefact, Bundle
from ..engines import open_engine
from ..engines.onnx.graph import read_model
from ..engines.tensorrt_build import (
    CARRIED,
    PRECISIONS,
    PlanTarget,
    Report,
    build_plan,
    check_precision,
    inspect_plan,
)
from ..engines.tensorrt_library import load_tensorrt, machine_problem, plan_problem
from ..errors import ConfigError, EngineError, arg
from ..probes.driver import gpu
from ..regular_files import read_regular_file
from ..signing import Trust
from ..words import shortened
from .changes import trusted_model
from .plans import ownership_problem, with_plan
from .self_test import check_self_test
from .state import SLOTS, Slot, SlotState, plan_file_name
from .store import PLANS, TIMINGS, SlotStore


class PlanBuilder:
    """Builder of the plans that models in slots lack here.

    Args:
        precision: of the plan. "auto": of the one that was built before, or else of the bundle's
            own, where that does not fit this machine; none for a bundle that brings no plan.
        note: called with a sentence about what is built, and why nothing is.
        report: progress of a build, in thousandths.

    Raises:
        ConfigError: there is no such precision.
    """

    def __init__(
        self,
        precision: str = "auto",
        *,
        note: Callable[[str], None] = lambda _: None,
        report: Report = lambda *_: None,
    ) -> None:
        if precision != "auto" and precision not in PRECISIONS:
            raise ConfigError(
                f"{arg('plan')} {shortened(precision)!r}: use auto, none, {', '.join(PRECISIONS)}."
            )
        self._precision, self._note, self._report = precision, note, report

    def build(
        self, store: SlotStore, bundle: Bundle, before: Artefact | None = None
    ) -> Artefact | None:
        """The plan that a model lacks, tried; None where it needs none, or none can be built.

        Its file is `SlotStore.incoming_plan`, which the caller admits while it holds the lock; or,
        where one of the slots has this very plan, that one's.

        Args:
            bundle: trusted; nothing in it is changed.
            before: the plan that the model has beside it.

        Raises:
            EngineError: a precision was asked for, and the model has no graph in it.
            OutputError: the disk is full, or cannot be written.
        """
        source = self._source(bundle, before)
        if source is None:
            return None
        problem = machine_problem()
        problem = f"{problem}." if problem else ownership_problem(store.path)
        if problem:
            self._note(f"no TensorRT plan is built of model {bundle.hash[:12]}: {problem}")
            return None
        incoming = store.incoming_plan
        with output_errors(incoming):
            incoming.parent.mkdir(mode=0o755, exist_ok=True)
            incoming.unlink(missing_ok=True)  # left by a kill
        target = PlanTarget(load_tensorrt(), gpu())
        known = self._known(store, source, target)
        if known is not None:
            return known
        try:
            plan = self._built(store, bundle, source, target)
            self._try(with_plan(bundle, plan, incoming), plan)
        except EngineError as error:
            incoming.unlink(missing_ok=True)
            self._note(f"{error} Its ONNX model runs instead.")
            return None
        return plan

    def _source(self, bundle: Bundle, before: Artefact | None) -> Artefact | None:
        """The ONNX artefact to build a plan of; None where no plan is wanted."""
        own = [one for one in bundle.manifest.artefacts if one.kind == "tensorrt"]
        asked = None if self._precision == "auto" else self._precision
        kept = before or min(own, key=lambda one: one.precision != "fp32", default=None)
        wanted = asked or (kept.precision if kept is not None else None)
        if wanted is None:
            return None
        learned = bundle.artefact(kind="weights")
        weights = learned.sha256 if learned is not None else None
        for one in own:
            if one.precision == wanted and not plan_problem(one, weights):
                return None  # it fits
        for one in bundle.manifest.artefacts:
            if one.kind == "onnx" and one.precision == wanted and one.target != "onnxruntime-cpu":
                return one
        lacks = f"has no ONNX model in {wanted} to build a TensorRT plan of"
        if asked:
            raise EngineError(
                f"{bundle.path}: {lacks}; export it in that precision, or give {arg('plan')} "
                "another."
            )
        self._note(f"model {bundle.hash[:12]} {lacks}.")
        return None

    def _known(self, store: SlotStore, source: Artefact, target: PlanTarget) -> Artefact | None:
        """The plan of one of the slots, if it is this one and whole."""
        name = plan_file_name(_described(source, target))
        for model in store.state().slots.values():
            plan = model.plan
            if plan is not None and plan_file_name(plan) == name and is_whole(store, plan):
                return plan
        return None

    def _built(
        self,
        store: SlotStore,
        bundle: Bundle,
        source: Artefact,
        target: PlanTarget,
    ) -> Artefact:
        """A new plan, on its way in."""
        library, precision = target.library, source.precision or "fp32"
        name = f"model-{precision}.plan"
        self._note(
            f"building {name} of model {bundle.hash[:12]} with {library} for {target.gpu.name}: "
            "this can take minutes"
        )
        graph = read_model(bundle, source).content
        started = perf_counter()
        content = build_plan(
            library,
            graph,
            str(bundle.file(source)),
            precision,
            timing_cache=store.path / PLANS / TIMINGS,
            report=self._report,
        )
        layers = inspect_plan(library, content, name)
        check_precision(layers, precision, name)
        details = {"build_s": perf_counter() - started, "layers": dict(layers)}
        with output_errors(store.path), store.incoming_plan.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        digest = hashlib.sha256(content).hexdigest()
        return _described(source, target, sha256=digest, bytes=len(content), more=details)

    def _try(self, bundle: Bundle, plan: Artefact) -> None:
        """Raise EngineError unless the plan runs and gives the labels that the export recorded."""
        with open_engine(bundle, backend="tensorrt", artefact=plan.path) as engine:
            check_self_test(bundle, engine)


def build_plans(store: SlotStore, trust: Trust, builder: PlanBuilder) -> list[Slot]:
    """Build the plans that the models in the slots lack here; what runs is not disturbed.

    A run takes a new plan when it opens its model the next time.

    Returns:
        The slots that have a new plan.

    Raises:
        SlotError: another program is installing or building.
        SignatureError, BundleError: a model is damaged or no longer trusted.
        EngineError, OutputError: as `PlanBuilder.build`.
    """
    return [slot for slot in SLOTS if build_plan_of(store, trust, slot, builder)]


def build_plan_of(store: SlotStore, trust: Trust, slot: Slot, builder: PlanBuilder) -> bool:
    """Build the plan that the model in one slot lacks here; True where it has a new one.

    Raises:
        SlotError, SignatureError, BundleError, EngineError, OutputError: as `build_plans`.
    """
    with store.building():
        state = store.state()
        model = state.model(slot)
        if model is None or model.condition == "failed":
            return False
        bundle = trusted_model(store, state, slot, trust, with_plan=False)
        plan = builder.build(store, bundle, model.plan)
        if plan is None or plan == model.plan:
            return False
        with store.changing() as state:
            return _admitted(store, state, slot, model.hash, plan)


def _admitted(store: SlotStore, state: SlotState, slot: Slot, hash: str, plan: Artefact) -> bool:
    """Put a plan beside the slot, unless that holds another model meanwhile."""
    model = state.model(slot)
    if model is None or model.hash != hash:
        return False
    store.admit_plan(plan)
    details = {"slot": slot, "hash": hash, **plan_record(plan)}
    store.change(state, "plan built", details, slots=state.with_plan(slot, model, plan))
    return True


def plan_record(plan: Artefact | None) -> dict[str, Any]:
    """The part of an audit record that names a plan."""
    if plan is None:
        return {}
    return {"plan": plan.sha256, "precision": plan.precision, "gpu": plan.details["gpu"]}


def is_whole(store: SlotStore, plan: Artefact) -> bool:
    """Tell whether a plan's file is the one that the state names."""
    try:
        content = read_regular_file(store.plan_file(plan), plan.bytes)
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == plan.sha256


def _described(
    source: Artefact,
    target: PlanTarget,
    *,
    sha256: str = "0" * 64,
    bytes: int = 0,
    more: dict[str, Any] | None = None,
) -> Artefact:
    """A plan as a manifest would list it."""
    carried = {key: source.details[key] for key in CARRIED if key in source.details}
    return Artefact(
        path=f"model-{source.precision}.plan",
        kind="tensorrt",
        sha256=sha256,
        bytes=bytes,
        precision=source.precision,
        target="tensorrt",
        details={
            **target.details(),
            "onnx": {"path": source.path, "sha256": source.sha256},
            **carried,
            **(more or {}),
        },
    )
