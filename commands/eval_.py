"""`roadshift eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .engines import engine_of
from .options import (
    AllowNetwork,
    ArtefactIn,
    Backend,
    BundleIn,
    Device,
    Json,
    LabelMapFile,
    LabelSpaceOfFiles,
    Report,
    Threads,
)
from .report import write_page


def eval_(
    bundle: BundleIn,
    images: Annotated[Path, typer.Option(help="Folder of images.")],
    labels: Annotated[Path, typer.Option(help="Folder of their label maps.")],
    label_space: LabelSpaceOfFiles = None,
    label_map: LabelMapFile = None,
    backend: Backend = "auto",
    artefact: ArtefactIn = None,
    device: Device = "auto",
    threads: Threads = None,
    allow_network: AllowNetwork = None,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Measure mIoU and per-class IoU against labels."""
    from ..runtime.api import evaluate
    from ..runtime.console.terminal import note, progress
    from .tables import evaluation_table, show

    with engine_of(bundle, backend, device, artefact, threads, allow_network) as engine:
        note(engine.reason)
        with progress("eval", "frames") as update:
            found = evaluate(
                engine,
                images,
                labels,
                label_space=label_space,
                label_map=label_map,
                on_note=note,
                on_progress=lambda now: update(now.done, now.total, ""),
            )
    record = found.record()
    write_page(report, "eval", record, [bundle])
    show(record, as_json, lambda: evaluation_table({engine.backend: record}))
