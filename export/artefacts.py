"""`roadshift export`: which artefacts, in which precisions, judged on which frames."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import onnx

from ..runtime.atomic import output_errors
from ..runtime.bundle import Artefact, Bundle, check_output, extend_bundle
from ..runtime.engine import Engine
from ..runtime.errors import ConfigError
from .argmax import PLACES, Where, settle_argmax
from .evidence import Calibration, Evidence, gather_calibration, gather_evidence
from .graph import opset
from .judge import Floors, Judge
from .onnx import MODEL, Traced, onnx_name, trace
from .plan_maker import PlanOptions, plan_name
from .precision import to_half
from .quantise import Form
from .rounding import RoundedEngine
from .staged import open_staged
from .tensorrt import export_plans, prepare_plans
from .tensorrt_build import Report
from .tuning import FORMS, Tuner

FORMATS = ("onnx", "tensorrt")
HALVES = ("fp16", "bf16")
PRECISIONS = ("fp32", *HALVES, *FORMS)


def export_bundle(
    bundle: Bundle,
    to: str,
    *,
    precisions: str = "fp32",
    frames: Sequence[str] = (),
    labels: Path | None = None,
    calibration: Sequence[str] = (),
    with_logits: bool = False,
    argmax: str = "auto",
    floors: Floors | None = None,
    plans: PlanOptions | None = None,
    note: Callable[[str], None] = lambda _: None,
    report: Report = lambda *_: None,
) -> dict[str, Any]:
    """Export ``bundle`` to every format of ``to`` in every precision, in place.

    "onnx" makes ONNX models; "tensorrt" builds plans of them, and makes those that are not there.

    Args:
        precisions: those of `PRECISIONS`, separated by commas.
        frames: sources of frames to compare on, the first 16 of them; built-in scenes otherwise.
        labels: label maps of ``frames``, which is then one folder of images: mIoU is measured as
            well, on all of them.
        calibration: sources of frames that quantised precisions are made from, without those that
            are compared on; built-in scenes otherwise.
        with_logits: give the network's logits as a second output.
        argmax: "graph", "runtime" or "auto", see `settle_argmax`.
        floors: what each artefact must reach.
        plans: how "tensorrt" makes its plans.
        note: called with a sentence for each frame that is skipped.
        report: progress of calibration, sweep and builds: done, of how many, and at what.

    Returns:
        ``{"bundle", "hash", "artefacts": [row]}`` with one row an artefact.

    Raises:
        ConfigError: an unknown format or precision, or options that do not go together.
        EngineError: plans cannot be built or refitted here.
        ParityError: an artefact is not the model that it came from, or falls below a floor. Then
            nothing of its format is written: the bundle stays as it was, but for the ONNX models
            that a refused plan was to be built from.
    """
    formats = _listed("--to", to, FORMATS)
    wanted = _listed("--precision", precisions, PRECISIONS)
    machine = prepare_plans(wanted, formats, plans)
    floors = floors or Floors()
    if floors.max_miou_drop is not None and labels is None:
        raise ConfigError("--max-miou-drop needs --frames and --labels to measure mIoU with.")
    if argmax not in PLACES:
        raise ConfigError(f"--argmax {argmax!r}: use {', '.join(PLACES)}.")
    if with_logits and argmax == "runtime":
        raise ConfigError(
            "--logits adds raw scores to the labels, and --argmax runtime gives no labels but raw "
            "scores; use one of the two."
        )
    if calibration and not set(wanted) & set(FORMS):
        raise ConfigError(f"--calibration is for {', '.join(FORMS)}, and none was asked for.")
    evidence = gather_evidence(bundle, frames, labels, note)
    graphs = {onnx_name(precision): precision for precision in wanted}
    if plans is not None and plans.refit is not None:
        traced = []  # refitting writes the new weights into the old graphs
    elif "onnx" in formats:
        traced = wanted
    else:
        there = {artefact.path for artefact in bundle.manifest.artefacts}
        graphs = {name: graphs[name] for name in graphs.keys() - there}
        traced = list(graphs.values())
    check_used(traced, calibration, with_logits, argmax)
    exported, made = bundle, set(graphs)
    if traced:
        exported = export_onnx(
            bundle,
            evidence,
            precisions=traced,
            calibration=(
                gather_calibration(bundle, calibration, evidence, note)
                if set(traced) & set(FORMS)
                else None
            ),
            with_logits=with_logits,
            argmax="graph" if with_logits else cast(Where, argmax),
            floors=floors,
            note=note,
            report=report,
        )
    if machine is not None:
        made |= {plan_name(precision) for precision in wanted}
        judge = partial(Judge, exported, evidence, floors=floors)
        exported = export_plans(
            exported, wanted, evidence, machine, judge, options=plans, note=note, report=report
        )
    rows = [export_row(a) for a in exported.manifest.artefacts if a.path in made]
    return {"bundle": str(exported.path), "hash": exported.hash, "artefacts": rows}


def export_onnx(
    bundle: Bundle,
    evidence: Evidence,
    *,
    precisions: Sequence[str] = ("fp32",),
    calibration: Calibration | None = None,
    with_logits: bool = False,
    argmax: Where = "graph",
    floors: Floors | None = None,
    note: Callable[[str], None] = lambda _: None,
    report: Report = lambda *_: None,
) -> Bundle:
    """Add an ONNX model in each precision to ``bundle``, in place.

    All are made and judged first, then published at once: a refusal leaves the bundle as it was.
    One that was there is replaced. See `trace` for what goes in and comes out, and `settle_argmax`
    for where the labels are made.

    Args:
        calibration: needed for the quantised precisions.

    Raises:
        NetworkError: the bundle has no weights, or its network cannot be exported.
        ParityError: an artefact falls below a floor.
    """
    floors = floors or Floors()
    check_output(bundle.path, overwrite=True)
    with tempfile.TemporaryDirectory(prefix="roadshift-export-") as scratch:
        folder = Path(scratch)
        with output_errors(bundle.path):
            report(0, len(precisions), "tracing the graph, and comparing it with torch")
            traced = trace(
                bundle,
                folder / MODEL,
                evidence,
                with_logits=with_logits,
                min_agreement=floors.agreement("fp32"),
            )
            maker = _Maker(bundle, folder, evidence, calibration, traced, floors, report)
            drafts = [maker.make(precision) for precision in precisions]
            drafts = [maker.settle(draft, argmax, note) for draft in drafts]
        with extend_bundle(bundle) as writer:
            for draft in drafts:
                writer.add_file(
                    draft.name,
                    folder / draft.name,
                    kind="onnx",
                    precision=draft.precision,
                    target=draft.target,
                    details={**draft.details, "exported_from": bundle.hash},
                )
            return writer.commit()


def check_used(
    traced: Sequence[str], calibration: Sequence[str], with_logits: bool, argmax: str
) -> None:
    """ConfigError for what is said about ONNX models where those in the bundle are used."""
    idle = {
        "--calibration": bool(calibration) and not set(traced) & set(FORMS),
        "--logits": with_logits and not traced,
        "--argmax": argmax != "auto" and not traced,
    }
    if said := [option for option, unused in idle.items() if unused]:
        raise ConfigError(
            f"{', '.join(said)} would change nothing: the ONNX models are there and are used as "
            "they are; make them anew with --to onnx,tensorrt."
        )


def export_row(artefact: Artefact) -> dict[str, Any]:
    """What ``export --json`` says about an artefact."""
    details = {key: value for key, value in artefact.details.items() if key != "folds"}
    parity = details.pop("parity", None)
    return {
        "path": artefact.path,
        "format": artefact.kind,
        "precision": artefact.precision,
        "bytes": artefact.bytes,
        **details,
        **(parity if isinstance(parity, dict) else {}),
    }


@dataclass(frozen=True)
class _Draft:
    """An artefact that was judged and not yet published."""

    name: str
    precision: str
    target: str
    details: dict[str, Any]


class _Maker:
    """Makes and judges one artefact after the other from a traced float32 graph."""

    def __init__(
        self,
        bundle: Bundle,
        folder: Path,
        evidence: Evidence,
        calibration: Calibration | None,
        traced: Traced,
        floors: Floors,
        report: Report,
    ) -> None:
        self._bundle, self._folder, self._traced, self._floors = bundle, folder, traced, floors
        self._frames = evidence.frames
        self._judge = Judge(bundle, evidence, traced.labels, floors, report)
        self._tuner: Tuner | None = None
        with self._open(MODEL, "fp32") as engine:
            self._fp32 = {"parity": asdict(traced.parity), **self._judge.measure_fp32(engine)}
            if calibration is not None:
                held_out = Evidence(calibration.choice, calibration.source, evidence.pairs)
                expected = [engine.segment(frame) for frame in calibration.choice]
                choice = Judge(bundle, held_out, expected, floors, report)
                self._tuner = Tuner(traced.model, calibration, choice, self._try, report)

    def make(self, form: str) -> _Draft:
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
            "opset": opset(model),
            "outputs": [output.name for output in model.graph.output],
        }
        target = "onnxruntime-cpu" if form.endswith("-cpu") else "onnx"
        return _Draft(name, precision, target, {**described, **details})

    def settle(self, draft: _Draft, where: Where, note: Callable[[str], None]) -> _Draft:
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


def _listed(option: str, text: str, known: Sequence[str]) -> list[str]:
    """The words of a list with commas, each once; ConfigError for one that is not known."""
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words or not set(words) <= set(known):
        raise ConfigError(f"{option} {text!r}: this version exports to {', '.join(known)}.")
    return words
