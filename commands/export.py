"""`roadshift export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..cli_start import STARTED
from .learning import needs_torch
from .options import (
    AllowNetwork,
    BundleIn,
    Json,
    LabelMapFile,
    LabelSpaceOfFiles,
    Report,
    Threads,
    Topic,
)
from .parse import parse_duration, parse_memory, parse_names
from .report import write_page

if TYPE_CHECKING:
    from ..runtime.arguments import ProgressUpdate


def export(
    bundle: BundleIn,
    to: Annotated[str, typer.Option(help="Formats, separated by commas: onnx, tensorrt.")] = "onnx",
    precision: Annotated[
        str, typer.Option(help="With commas: fp32, fp16, bf16, int8, fp8, int8-cpu.")
    ] = "fp32",
    logits: Annotated[bool, typer.Option("--logits", help="Also give raw scores.")] = False,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Leave four of the frames with their labels in the bundle, for who installs it.",
        ),
    ] = False,
    p99_ms: Annotated[
        float | None,
        typer.Option(
            "--p99-ms",
            help="Longest time of a frame in the engine, 99th percentile, for trials in slots.",
        ),
    ] = None,
    argmax: Annotated[
        str,
        typer.Option(
            help="Where labels are made: graph, runtime (from logits), or auto, the faster here."
        ),
    ] = "auto",
    frames: Annotated[
        list[str] | None, typer.Option(help="Frames to compare on; built-in scenes unless given.")
    ] = None,
    topic: Topic = None,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of their label maps, to measure mIoU with.")
    ] = None,
    label_space: LabelSpaceOfFiles = None,
    label_map: LabelMapFile = None,
    opset: Annotated[
        int | None, typer.Option(help="Version of ONNX's operators; the exporter's unless given.")
    ] = None,
    calibration: Annotated[
        list[str] | None, typer.Option(help="Frames of the road to quantise for, not compared on.")
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Percent of pixels that must keep their class; by precision if absent."),
    ] = None,
    max_miou_drop: Annotated[
        float | None, typer.Option(help="Points of mIoU that a precision may lose against fp32.")
    ] = None,
    refittable: Annotated[
        bool, typer.Option("--refittable", help="TensorRT: weights can be swapped later.")
    ] = False,
    refit: Annotated[
        Path | None,
        typer.Option(metavar="OLD", help="TensorRT: swap weights into this bundle's plans."),
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(help="Search for what INT8 and FP8 spare no longer than this, e.g. 10m."),
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(help="TensorRT: device memory for one layer, e.g. 2GiB.")
    ] = None,
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Export a bundle's model and verify the result against it."""
    from ..export.choices import formats_of, precisions_of
    from ..runtime.bench.evaluation import labels_through
    from ..runtime.bundle import open_bundle
    from ..runtime.console.phases import PhaseDisplay, pace
    from ..runtime.console.terminal import note, say
    from .tables import export_line, show

    def paced(now: ProgressUpdate) -> str:
        return ", ".join(filter(None, [now.task, pace(now.per_s, now.left_s)]))

    formats, precisions = formats_of(parse_names(to)), precisions_of(parse_names(precision))
    with needs_torch("export", threads):
        from ..adapt.run.budget import Deadline
        from ..export.artefacts import export_bundle
        from ..export.judge import Floors
        from ..export.outcome import PartialExportError
        from ..export.plan_maker import PlanOptions
        from ..export.stretches import stretches
        from ..runtime.frames.source_files import with_topic

        plans = PlanOptions(
            refittable,
            open_bundle(refit) if refit else None,
            parse_memory("--workspace", workspace) if workspace else None,
        )
        opened = open_bundle(bundle, allow_networks=allow_network or (), note=note)
        mapping = labels_through(opened.label_space, label_space, label_map, note=note)
        asked = with_topic([*(frames or ()), *(calibration or ())], topic)
        seconds = parse_duration("--time-budget", time_budget) if time_budget else None
        refused = None
        with PhaseDisplay() as display:  # its stretches are short and many
            try:
                record = export_bundle(
                    opened,
                    formats,
                    precisions=precisions,
                    frames=asked[: len(frames or ())],
                    labels=labels,
                    label_map=mapping,
                    calibration=asked[len(frames or ()) :],
                    with_logits=logits,
                    self_test=self_test,
                    p99_ms=p99_ms,
                    argmax=argmax,
                    opset=opset,
                    floors=Floors(min_agreement, max_miou_drop),
                    plans=plans,
                    deadline=Deadline(seconds, STARTED),
                    note=note,
                    report=stretches(
                        lambda now: display.show(
                            "export", now.unit, now.done, now.total, paced(now)
                        )
                    ),
                )
            except PartialExportError as error:
                record, refused = error.record, error
    write_page(report, "export", record, [open_bundle(bundle)])
    show(record, as_json, lambda: say(*(export_line(bundle, row) for row in record["artefacts"])))
    if refused is not None:
        raise refused
