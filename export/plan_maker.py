"""One plan after the other: built or refitted, its precision looked up, its labels judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import onnx

from ..runtime.bundle import Artefact, Bundle
from ..runtime.engines import Engine
from ..runtime.engines.onnx.engine import OnnxEngine
from ..runtime.engines.onnx.graph import read_model
from ..runtime.engines.tensorrt_build import (
    CARRIED,
    PlanTarget,
    Report,
    build_plan,
    cache_file,
    check_precision,
    inspect_plan,
)
from ..runtime.engines.tensorrt_engine import TensorRTEngine
from ..runtime.engines.tensorrt_library import load_tensorrt, plan_problem
from ..runtime.errors import EngineError, ParityError, arg
from .judge import Judge
from .onnx import onnx_name, stamp
from .outcome import Draft
from .precision import to_half
from .refit import base_to_refit, check_refittable, kept_from_refit, refit_plan
from .rounding import RoundedEngine
from .staged import staged_artefact
from .weight_origins import (
    NOT_REFITTABLE,
    Fold,
    few,
    folds_to_json,
    read_folds,
    write_weights,
)

QUANTISED = ("int8", "fp8")


@dataclass(frozen=True)
class PlanOptions:
    """Options of the making of plans.

    Attributes:
        refittable: keep weights apart, so that the next ones can be swapped in.
        refit: a bundle whose plans get this one's weights, in place of a build.
        workspace_bytes: of device memory that a layer may use besides its tensors; None, any.
    """

    refittable: bool = False
    refit: Bundle | None = None
    workspace_bytes: int | None = None


def plan_name(precision: str) -> str:
    """The file name of a plan in a bundle."""
    return f"model-{precision}.plan"


class PlanMaker:
    """Maker and judge of one plan after the other."""

    def __init__(
        self,
        bundle: Bundle,
        folder: Path,
        machine: PlanTarget,
        judge: Judge,
        options: PlanOptions,
        note: Callable[[str], None],
        report: Report,
    ) -> None:
        self._bundle, self._folder, self._machine = bundle, folder, machine
        self._judge, self._options, self._note, self._report = judge, options, note, report

    def build(self, precision: str) -> list[Draft]:
        """A plan of the bundle's ONNX model in that precision.

        Of a quantised one, what is not quantised goes in as FP16, see `_with_half`.
        """
        source = self._bundle.artefact(kind="onnx", name=onnx_name(precision))
        if source is None:
            raise EngineError(
                f"{self._bundle.path} has no {onnx_name(precision)} to build from; use "
                f"{arg('formats', ('onnx', 'tensorrt'))}."
            )
        library = self._machine.library
        file = self._bundle.file(source)
        graph = read_model(self._bundle, source).content
        folds = _folds(graph, str(file)) if self._options.refittable else None
        rest: dict[str, Any] = {}
        if precision in QUANTISED:
            graph, rest["unquantised"] = self._with_half(graph, source, precision)
        self._note(f"building {plan_name(precision)} with {library}: this can take minutes")
        started = perf_counter()
        plan = build_plan(
            library,
            graph,
            str(file),
            precision,
            refittable=folds is not None,
            workspace_bytes=self._options.workspace_bytes,
            timing_cache=cache_file(library, self._machine.gpu),
            report=lambda done, of, text: self._report(done, of, f"{precision}: {text}"),
        )
        seconds = perf_counter() - started
        details = {**self._made(source, folds), **rest, "build_s": seconds}
        return [self._judged(plan, precision, details, folds)]

    def _with_half(self, graph: bytes, source: Artefact, precision: str) -> tuple[bytes, str]:
        """A quantised graph with the rest of it in FP16, and "fp16"; as it is, and "fp32", where
        FP16 cannot hold a weight or costs more labels than the floor allows.

        Which it is shows on the CPU, in seconds; the plan is judged on the GPU all the same.
        """
        name = source.path
        try:
            lowered = to_half(onnx.ModelProto.FromString(graph), "fp16")
        except ParityError as error:
            self._note(f"{plan_name(precision)}: what is not quantised stays in fp32: {error}")
            return graph, "fp32"
        onnx.save(lowered, str(self._folder / name))
        staged = staged_artefact(self._folder / name, "onnx", precision, source.details)
        with self._on_cpu(lowered, staged, precision) as engine:
            holds = self._judge.holds(engine)
        (self._folder / name).unlink()
        if holds:
            return lowered.SerializeToString(), "fp16"
        self._note(
            f"{plan_name(precision)}: what is not quantised stays in fp32; in fp16 the model falls "
            "below its floor of label agreement."
        )
        return graph, "fp32"

    def refit(self, precision: str, state: Mapping[str, Any]) -> list[Draft]:
        """The base's ONNX model and plan with this bundle's weights."""
        base = self._options.refit
        assert base is not None
        model, folds = base_to_refit(base, self._bundle, precision)
        old = base.artefact(kind="tensorrt", name=plan_name(precision))
        assert old is not None  # base_to_refit found it
        if problem := plan_problem(old, None):
            raise EngineError(f"{base.file(old)} cannot be refitted here: {problem}.")
        plan = base.content(old)
        gamma = self._bundle.manifest.input.gamma
        self._machine = replace(
            self._machine, library=load_tensorrt(str(old.details.get("flavour", "tensorrt")))
        )
        started = perf_counter()
        plan = refit_plan(
            self._machine.library, plan, str(base.file(old)), model, folds, state, gamma
        )
        seconds = perf_counter() - started
        write_weights(model, folds, state, gamma)
        graph = self._judged_graph(model, precision, base)
        details = {**self._made(graph, folds), "refit_s": seconds, "refitted_from": base.hash}
        written = Draft(graph.path, "onnx", precision, "onnx", dict(graph.details))
        return [written, self._judged(plan, precision, details, folds)]

    def _made(self, source: Artefact, folds: Mapping[str, Fold] | None) -> dict[str, Any]:
        """Details of a plan for the manifest, before it is judged."""
        weights = self._bundle.artefact(kind="weights")
        carried = {key: source.details[key] for key in CARRIED if key in source.details}
        return {
            **self._machine.details(),
            "onnx": {"path": source.path, "sha256": source.sha256},
            "weights_sha256": weights.sha256 if weights else None,
            "refittable": folds is not None,
            **carried,
            **({"folds": folds_to_json(folds)} if folds is not None else {}),
        }

    def _judged(
        self, plan: bytes, precision: str, details: dict[str, Any], folds: Mapping[str, Fold] | None
    ) -> Draft:
        """The plan in the folder, once its precision and its labels are what they should be."""
        name = plan_name(precision)
        library = self._machine.library

        def check(engine: Any, logger: Any) -> None:
            if folds is not None:
                check_refittable(engine, library.module.Refitter(engine, logger), folds, name)

        layers = inspect_plan(library, plan, name, check)
        check_precision(layers, precision, name)
        (self._folder / name).write_bytes(plan)
        details = {**details, "layers": dict(layers)}
        artefact = staged_artefact(self._folder / name, "tensorrt", precision, details)
        with TensorRTEngine(self._here(), artefact) as engine:
            details |= self._judge.measure(engine, engine.reason)
        self._judge.check(name, precision, details)
        return Draft(name, "tensorrt", precision, "tensorrt", details)

    def _judged_graph(self, model: onnx.ModelProto, precision: str, base: Bundle) -> Artefact:
        """The graph with new weights in the folder, judged as an export judges it."""
        name = onnx_name(precision)
        source = base.artefact(kind="onnx", name=name)
        assert source is not None  # base_to_refit found it
        stamp(model, self._bundle)
        onnx.save(model, str(self._folder / name))
        artefact = staged_artefact(self._folder / name, "onnx", precision, source.details)
        with self._on_cpu(model, artefact, precision) as engine:
            measured = self._judge.measure(engine, engine.reason)
        self._judge.check(name, precision, measured)
        kept = {key: value for key, value in source.details.items() if not key.startswith("miou")}
        return artefact.model_copy(update={"details": {**kept, **measured}})

    def _on_cpu(self, model: onnx.ModelProto, artefact: Artefact, precision: str) -> Engine:
        """``model``, which lies in the folder as ``artefact``, rounded as a GPU would round it."""
        if precision == "fp32" or artefact.details.get("argmax") == "runtime":
            return OnnxEngine(self._here(), artefact, device="cpu")
        return RoundedEngine(self._bundle, model, precision)

    def _here(self) -> Bundle:
        """The bundle with its files looked for where they are made."""
        return replace(self._bundle, path=self._folder)


def _folds(graph: bytes, what: str) -> dict[str, Fold]:
    """Folds of the weights of a graph; EngineError where they are not known, or not all open."""
    model = onnx.ModelProto.FromString(graph)
    folds = read_folds(model)
    kept = kept_from_refit(model, folds or {})
    if folds is not None and not kept:
        return folds
    told = {entry.key: entry.value for entry in model.metadata_props}
    why = told.get(NOT_REFITTABLE)
    if kept:
        why = (
            f"TensorRT keeps {few(kept)} for itself, of batch normalisation that follows no "
            "convolution"
        )
    elif why is None:
        anew = arg("formats", ("onnx", "tensorrt"))
        why = f"it lacks the map of its weights; export it again with {anew}"
    raise EngineError(f"{what} cannot be built {arg('refittable', True)}: {why}.")
