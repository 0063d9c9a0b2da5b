"""Exporting a bundle from Python: `roadshift.export_bundle`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..adapt.run.budget import Deadline
from ..runtime.arguments import (
    LabelMapSource,
    ProgressUpdate,
    Source,
    Sources,
    sources,
)
from ..runtime.bench.evaluation import labels_through
from ..runtime.bundle import Bundle, open_bundle, opened
from ..runtime.errors import FrameError, LabelError, naming
from ..runtime.given import above_zero, path_of, switches
from ..runtime.labels import LabelSpace
from ..runtime.notes import log_note
from . import artefacts
from .judge import Floors
from .plan_maker import PlanOptions
from .stretches import stretches


@naming(frames=FrameError, labels=LabelError)
def export_bundle(
    bundle: Bundle | Source,
    *,
    formats: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    frames: Sources = (),
    labels: Source | None = None,
    label_space: LabelSpace | Source | None = None,
    label_map: LabelMapSource = None,
    calibration: Sources = (),
    logits: bool = False,
    self_test: bool = False,
    p99_ms: float | None = None,
    argmax: str = "auto",
    opset: int | None = None,
    min_agreement: float | None = None,
    max_miou_drop: float | None = None,
    refittable: bool = False,
    refit: Bundle | Source | None = None,
    workspace_mib: float | None = None,
    time_budget_s: float | None = None,
    on_note: Callable[[str], None] = log_note,
    on_progress: Callable[[ProgressUpdate], None] = lambda _: None,
) -> Bundle:
    """Export a bundle's model, in place, and verify each artefact against it.

    Args:
        bundle: a bundle or its folder.
        formats: of "onnx" and "tensorrt".
        precisions: of "fp32", "fp16", "bf16", "int8", "fp8" and "int8-cpu".
        frames: to compare on; built-in scenes otherwise.
        labels: the folder of their label maps, to measure mIoU with.
        label_space, label_map: of the label maps, see `roadshift.evaluate`.
        calibration: frames of the road to quantise for, which are not compared on.
        logits: give raw scores as a second output.
        self_test: leave four of the frames with their labels in the bundle, which a vehicle that
            installs it compares with what its own engine gives.
        p99_ms: longest time of a frame in the engine, 99th percentile, recorded in the bundle: a
            trial in a vehicle's slots holds the model to it.
        argmax: where labels are made: "graph", "runtime", or "auto", the faster here.
        opset: version of ONNX's operators; the exporter's own unless given.
        min_agreement: percent of the pixels that must keep their class; by precision unless given.
        max_miou_drop: points of mIoU that a precision may lose against fp32.
        refittable: TensorRT: weights can be swapped later.
        refit: TensorRT: swap the weights into the plans of this bundle.
        workspace_mib: TensorRT: device memory for one layer.
        time_budget_s: for the search of what a quantised precision spares, from now on: its best so
            far is then judged and written. Tracing, calibration and plans take what they take.
        on_note: given a sentence on each thing worth knowing; logged unless given.
        on_progress: given the stretches done of calibration, sweep and builds, with their rate and
            the seconds that are left to each.

    Returns:
        The bundle with its artefacts, whose ``details`` hold what was measured.

    Raises:
        ConfigError: an unknown format or precision, or arguments that do not go together.
        NetworkError: the network cannot be exported; the bundle stays as it was.
        EngineError: plans cannot be built or refitted here, and nothing else was asked for.
        PartialExportError: an artefact is not the model that it came from, or falls below a floor,
            or, of several, some were refused. Those that pass are written; ``outcome`` has what was
            written, and what was not and why.
        ParityError: the model's own logits are not finite; the bundle stays as it was.
    """
    switches(logits=logits, self_test=self_test, refittable=refittable)
    above_zero("workspace_mib", workspace_mib)
    above_zero("time_budget_s", time_budget_s)
    deadline = Deadline(time_budget_s)
    source = opened(bundle)
    mapping = labels_through(source.label_space, label_space, label_map, note=on_note)
    artefacts.export_bundle(
        source,
        formats,
        precisions=precisions,
        frames=sources("frames", frames, least=0),
        labels=None if labels is None else path_of("labels", labels),
        label_map=mapping,
        calibration=sources("calibration", calibration, least=0),
        with_logits=logits,
        self_test=self_test,
        p99_ms=p99_ms,
        argmax=argmax,
        opset=opset,
        floors=Floors(min_agreement, max_miou_drop),
        plans=PlanOptions(
            refittable,
            None if refit is None else opened(refit, "refit"),
            None if workspace_mib is None else round(workspace_mib * 2**20),
        ),
        deadline=deadline,
        note=on_note,
        report=stretches(on_progress),
    )
    return open_bundle(source.path, allow_networks=source.allow_networks)
