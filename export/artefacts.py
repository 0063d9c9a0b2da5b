"""`roadshift export`: which artefacts, in which precisions, judged on which frames."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import onnx

from ..adapt.run.budget import Deadline
from ..adapt.run.core_sharing import sharing_cores
from ..runtime.atomic import output_errors
from ..runtime.bundle import Bundle, check_output
from ..runtime.bundle.latency_bound import check_latency_bound, with_latency_bound
from ..runtime.engines import Engine
from ..runtime.engines.tensorrt_build import PlanTarget, Report
from ..runtime.errors import (
    ConfigError,
    EngineError,
    FloorError,
    MissingDependencyError,
    RoadshiftError,
    arg,
)
from ..runtime.labels.spaces import LabelMap
from ..runtime.words import shortened
from .argmax import PLACES, Where, settle_argmax
from .choices import FORMS, HALVES, Form, formats_of, precisions_of
from .data_splits import Calibration, EvaluationData, gather_calibration, gather_evaluation
from .graph import opset as opset_of
from .judge import Floors, Judge
from .onnx import MODEL, Traced, onnx_name, trace
from .opsets import check_opset
from .outcome import Draft, Refusal, finished, publish_each
from .plan_maker import PlanOptions, plan_name
from .precision import to_half
from .rounding import RoundedEngine
from .self_test import with_self_test
from .staged import open_staged
from .tensorrt import export_plans, prepare_plans
from .tuning import Tuner


@sharing_cores()
def export_bundle(
    bundle: Bundle,
    formats: Sequence[str],
    *,
    precisions: Sequence[str] = ("fp32",),
    frames: Sequence[str] = (),
    labels: Path | None = None,
    label_map: LabelMap | None = None,
    calibration: Sequence[str] = (),
    with_logits: bool = False,
    self_test: bool = False,
    p99_ms: float | None = None,
    argmax: str = "auto",
    opset: int | None = None,
    floors: Floors | None = None,
    plans: PlanOptions | None = None,
    deadline: Deadline | None = None,
    note: Callable[[str], None] = lambda _: None,
    report: Report = lambda *_: None,
) -> dict[str, Any]:
    """Export ``bundle`` to every format in every precision, in place.

    "onnx" makes ONNX models; "tensorrt" builds plans of them, and makes those that are not there.
    Each artefact stands alone: those that pass are written, whatever becomes of the others.

    Args, beside those of `export.api.export_bundle`:
        formats: of `choices.FORMATS`.
        precisions: of `choices.PRECISIONS`.
        frames: sources; the first 16 of their frames are compared on.
        self_test: add frames with their labels, for who installs the bundle; see `with_self_test`.
        p99_ms: a bound to record, see `with_latency_bound`.
        labels: then ``frames`` is one folder of images, and mIoU is measured on all of them.
        label_map: None: labels are in the bundle's label space.
        calibration: without the frames that are compared on; built-in scenes unless given.
        floors: what each artefact must reach.
        plans: how "tensorrt" makes its plans.
        deadline: bounds what quantised precisions search for; the rest takes what it takes.
        note: called with a sentence for each frame that is skipped.
        report: progress of calibration, sweep and builds: done, of how many, and at what.

    Returns:
        ``{"bundle", "hash", "artefacts": [row], "refused": []}`` with one row an artefact.

    Raises:
        ConfigError, NetworkError, EngineError: see there.
        ParityError: the network's own logits are not finite; the bundle stays as it was.
        PartialExportError: some artefacts were refused, or all. Its ``record`` is as above, with
            `Refusal.row` of each of these under "refused".
    """
    formats, wanted = formats_of(formats), precisions_of(precisions)
    check_latency_bound(p99_ms)
    floors = floors or Floors()
    if floors.max_miou_drop is not None and labels is None:
        raise ConfigError(
            f"{arg('max_miou_drop')} needs {arg('frames')} and {arg('labels')} to measure "
            "mIoU with."
        )
    if argmax not in PLACES:
        raise ConfigError(f"{arg('argmax')} {shortened(argmax)!r}: use {', '.join(PLACES)}.")
    if with_logits and argmax == "runtime":
        raise ConfigError(
            f"{arg('logits', True)} adds raw scores to the labels, and "
            f"{arg('argmax', 'runtime')} gives no labels but raw "
            "scores; use one of the two."
        )
    if calibration and not set(wanted) & set(FORMS):
        raise ConfigError(
            f"{arg('calibration')} is for {', '.join(FORMS)}, and none was asked for."
        )
    if opset is not None:
        check_opset(opset, wanted)
    refused: list[Refusal] = []
    machine = _machine(wanted, formats, plans, refused, note)
    evaluation = gather_evaluation(bundle, frames, labels, note, label_map)
    graphs = {onnx_name(precision): precision for precision in wanted}
    if plans is not None and plans.refit is not None:
        traced = []  # refitting writes the new weights into the old graphs
    elif "onnx" in formats:
        traced = wanted
    else:
        there = {artefact.path for artefact in bundle.manifest.artefacts}
        graphs = {name: graphs[name] for name in graphs.keys() - there}
        traced = list(graphs.values())
    check_used(traced, calibration, with_logits, argmax, opset)
    exported, made = bundle, set(graphs)
    if traced:
        exported = export_onnx(
            bundle,
            evaluation,
            precisions=traced,
            calibration=(
                gather_calibration(bundle, calibration, evaluation, note)
                if set(traced) & set(FORMS)
                else None
            ),
            with_logits=with_logits,
            argmax="graph" if with_logits else cast(Where, argmax),
            opset_version=opset,
            floors=floors,
            deadline=deadline,
            note=note,
            report=report,
            refused=refused,
        )
    if machine is not None:
        made |= {plan_name(precision) for precision in wanted}
        exported = export_plans(
            exported,
            _with_graphs(wanted, refused),
            evaluation,
            machine,
            partial(Judge, exported, evaluation, floors=floors),
            options=plans,
            note=note,
            report=report,
            refused=refused,
        )
    made -= {refusal.path for refusal in refused}
    if self_test and made:
        exported = with_self_test(exported, evaluation.frames, sorted(made))
    if p99_ms is not None and made:
        exported = with_latency_bound(exported, p99_ms)
    return finished(exported, [a for a in exported.manifest.artefacts if a.path in made], refused)


def _machine(
    precisions: Sequence[str],
    formats: Sequence[str],
    plans: PlanOptions | None,
    refused: list[Refusal],
    note: Callable[[str], None],
) -> PlanTarget | None:
    """The builder of plans, as `prepare_plans`; without it other formats are made all the same."""
    try:
        return prepare_plans(precisions, formats, plans)
    except (EngineError, MissingDependencyError) as error:
        if formats == ["tensorrt"]:
            raise
        note("no plan will be written, as the end of the export explains")
        refused += [Refusal(plan_name(p), "tensorrt", p, error) for p in precisions]
    return None


def _with_graphs(precisions: Sequence[str], refused: list[Refusal]) -> list[str]:
    """The precisions whose ONNX models passed; no plan is built of an older one in its place."""
    lost = {refusal.precision: refusal for refusal in refused}
    for precision in precisions:
        if precision in lost:
            error = lost[precision].error
            told = f"its ONNX model, {lost[precision].path}, was refused"
            why: RoadshiftError = EngineError(told)
            if isinstance(error, FloorError):
                numbers = {"measured": error.measured, "limit": error.limit}
                why = FloorError(told, metric=error.metric, **numbers)
            refused.append(Refusal(plan_name(precision), "tensorrt", precision, why))
    return [precision for precision in precisions if precision not in lost]


def export_onnx(
    bundle: Bundle,
    evaluation: EvaluationData,
    *,
    precisions: Sequence[str] = ("fp32",),
    calibration: Calibration | None = None,
    with_logits: bool = False,
    argmax: Where = "graph",
    opset_version: int | None = None,
    floors: Floors | None = None,
    deadline: Deadline | None = None,
    note: Callable[[str], None] = lambda _: None,
    report: Report = lambda *_: None,
    refused: list[Refusal] | None = None,
) -> Bundle:
    """Add an ONNX model in each precision to ``bundle``, in place.

    All are made and judged first, then those that passed are published at once, whatever ended the
    others. One that was there is replaced. See `trace` for what goes in and comes out, and
    `settle_argmax` for where the labels are made.

    Args:
        calibration: needed for the quantised precisions.
        opset_version: of ONNX's operators; None: the exporter's own.
        deadline: see `export_bundle`.
        refused: takes what was not written, and why; None: that is raised.

    Raises:
        NetworkError: the bundle has no weights, or its network cannot be exported.
        ParityError: the graph is not the model; or, unless ``refused`` takes it, an artefact falls
            below a floor.
    """
    floors = floors or Floors()
    check_output(bundle.path, overwrite=True)
    with tempfile.TemporaryDirectory(prefix="roadshift-export-") as scratch:
        folder = Path(scratch)
        with output_errors(bundle.path):
            report(0, len(precisions), "tracing the graph, and comparing it with torch")
            try:
                traced = trace(
                    bundle,
                    folder / MODEL,
                    evaluation,
                    with_logits=with_logits,
                    min_agreement=floors.agreement("fp32"),
                    opset_version=opset_version,
                )
            except FloorError as error:
                maker: _Maker | FloorError = error  # the others are made of that graph
            else:
                make_tuner = partial(
                    Tuner,
                    note=note,
                    deadline=deadline,
                    forms=[form for form in FORMS if form in precisions],
                )
                maker = _Maker(
                    bundle, folder, evaluation, calibration, traced, floors, report, make_tuner
                )

        def make(precision: str) -> list[Draft]:
            if isinstance(maker, FloorError):
                raise maker
            return [maker.settle(maker.make(precision), argmax, note)]

        names = {precision: onnx_name(precision) for precision in precisions}
        return publish_each(bundle, folder, names, "onnx", make, note, refused)


def check_used(
    traced: Sequence[str],
    calibration: Sequence[str],
    with_logits: bool,
    argmax: str,
    opset: int | None = None,
) -> None:
    """Raise ConfigError for what is said about ONNX models where those in the bundle are used."""
    idle = {
        arg("calibration"): bool(calibration) and not set(traced) & set(FORMS),
        arg("logits"): with_logits and not traced,
        arg("argmax"): argmax != "auto" and not traced,
        arg("opset"): opset is not None and not traced,
    }
    if said := [option for option, unused in idle.items() if unused]:
        raise ConfigError(
            f"{', '.join(said)} would change nothing: the ONNX models are there and are used as "
            f"they are; make them anew with {arg('formats', ('onnx', 'tensorrt'))}."
        )


class _Maker:
    """Maker and judge of one artefact after the other, from a traced float32 graph."""

    def __init__(
        self,
        bundle: Bundle,
        folder: Path,
        evaluation: EvaluationData,
        calibration: Calibration | None,
        traced: Traced,
        floors: Floors,
        report: Report,
        make_tuner: Callable[..., Tuner],
    ) -> None:
        self._bundle, self._folder, self._traced, self._floors = bundle, folder, traced, floors
        self._frames = evaluation.frames
        self._judge = Judge(bundle, evaluation, traced.labels, floors, report)
        self._tuner: Tuner | None = None
        with self._open(MODEL, "fp32") as engine:
            self._fp32 = {"parity": asdict(traced.parity), **self._judge.measure_fp32(engine)}
            if calibration is not None:
                held_out = replace(
                    evaluation, frames=calibration.choice, compared_on=calibration.source
                )
                expected = [engine.segment(frame) for frame in calibration.choice]
                choice = Judge(bundle, held_out, expected, floors, report)
                self._tuner = make_tuner(traced.model, calibration, choice, self._try, report)

    def make(self, form: str) -> Draft:
        """The artefact in that precision, written to the folder; ParityError below a floor."""
        name, precision = onnx_name(form), form.removesuffix("-cpu")
        details: dict[str, Any] = {}
        if form == "fp32":
            model, details = self._traced.model, self._fp32
        elif form in HALVES:
            model = to_half(self._traced.model, "fp16" if form == "fp16" else "bf16")
            onnx.save(model, str(self._folder / name))
            with RoundedEngine(self._bundle, model, precision) as engine:
                details = self._judge.measure(engine, engine.reason)
        else:
            if self._tuner is None:
                raise ValueError(f"{form}: needs frames to calibrate on")
            kind = next(known for known in FORMS if known == form)
            model, tuned = self._tuner.tune(kind, self._floors.target(precision))
            onnx.save(model, str(self._folder / name))
            with self._open(name, precision) as engine:
                details = {**self._judge.measure(engine, engine.reason), **tuned}
        if form != "fp32":
            self._judge.check(name, precision, details)
        described = {
            "opset": opset_of(model),
            "outputs": [output.name for output in model.graph.output],
        }
        target = "onnxruntime-cpu" if form.endswith("-cpu") else "onnx"
        return Draft(name, "onnx", precision, target, {**described, **details})

    def settle(self, draft: Draft, where: Where, note: Callable[[str], None]) -> Draft:
        """The draft with its labels made where `settle_argmax` puts them, judged as it is then.

        Half precision keeps what was measured: a CPU's engine does not round as a GPU does, and
        upsampling and argmax are in float32 either way.
        """
        path = self._folder / draft.name
        end = settle_argmax(self._bundle, path, draft.precision, self._frames, where, note)
        details = {**draft.details, **end}
        if end.get("argmax") == "runtime" and draft.precision not in HALVES:
            with self._open(draft.name, draft.precision, end) as engine:
                found = self._judge.measure(engine, engine.reason)
            found["parity"] = {**draft.details["parity"], **found["parity"]}
            details |= found
            self._judge.check(draft.name, draft.precision, details)
        return replace(draft, details=details)

    def _try(self, model: onnx.ModelProto, form: Form) -> Engine:
        onnx.save(model, str(self._folder / _CANDIDATE))
        return self._open(_CANDIDATE, form.removesuffix("-cpu"))

    def _open(self, name: str, precision: str, details: dict[str, Any] | None = None) -> Engine:
        return open_staged(self._bundle, self._folder / name, precision, details, device="cpu")


_CANDIDATE = "candidate.onnx"
