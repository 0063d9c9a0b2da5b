"""`roadshift bench`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    AllowNetwork,
    Device,
    Json,
    LabelMapFile,
    LabelSpaceOfFiles,
    Report,
    Threads,
    Topic,
)
from .parse import parse_duration, parse_names
from .report import write_page

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle


def bench(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Model bundles.")],
    frames: Annotated[
        Path | None, typer.Option(help="Frames to time; random images unless given.")
    ] = None,
    topic: Topic = None,
    labels: Annotated[
        Path | None, typer.Option(help="Their label maps, to measure mIoU as well.")
    ] = None,
    label_space: LabelSpaceOfFiles = None,
    label_map: LabelMapFile = None,
    queries: Annotated[
        int | None, typer.Option(min=1, help="Timed frames of a row; 200 unless given.")
    ] = None,
    duration: Annotated[
        str | None, typer.Option(help="Time each row for so long at least, e.g. 60s.")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option(min=0, help="Frames before timing; until steady unless given.")
    ] = None,
    camera: Annotated[
        float | None, typer.Option(metavar="FPS", help="Frames arrive at this rate, ready or not.")
    ] = None,
    backends: Annotated[
        str, typer.Option(help="auto, all, or names with commas; see docs/bench.md.")
    ] = "auto",
    rounds: Annotated[
        int, typer.Option(min=1, help="Rows take turns; 1: one engine at a time in memory.")
    ] = 5,
    device: Device = "auto",
    threads: Threads = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for latency.svg and accuracy.svg.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the rows as a baseline.")] = None,
    compare_with: Annotated[
        Path | None,
        typer.Option("--compare", help="A baseline; exit code 3 where this run is worse."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Percent by which times and memory may grow.")
    ] = 10.0,
    max_drop: Annotated[
        float, typer.Option(min=0, help="Points by which agreement and mIoU may fall.")
    ] = 0.1,
    any_machine: Annotated[
        bool, typer.Option("--any-machine", help="Compare with another machine's baseline.")
    ] = False,
    allow_network: AllowNetwork = None,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Measure every artefact on every backend.

    Latency, memory, energy, label agreement and mIoU.
    """
    from ..runtime.bench import BenchSettings
    from ..runtime.bench.evaluation import check_label_map
    from ..runtime.bench.session import BenchFiles, bench_bundles
    from ..runtime.console.terminal import note, progress
    from ..runtime.frames.source_files import with_topic
    from ..runtime.labels import label_space as find_label_space
    from .bench_tables import bench_table, print_comparison
    from .tables import show

    check_label_map(label_space, label_map)
    settings = BenchSettings(
        frames=next(iter(with_topic([str(frames)] if frames else [], topic)), None),
        labels=labels,
        label_space=find_label_space(label_space) if label_space else None,
        label_map=label_map,
        queries=queries,
        duration_s=parse_duration("--duration", duration) if duration else None,
        warmup=warmup,
        camera_fps=camera,
        rounds=rounds,
        backends=parse_names(backends),
        device=device,
        threads=threads,
    )
    result = bench_bundles(
        _opened(bundles, allow_network or ()),
        settings,
        BenchFiles(
            plots=plots,
            save=save,
            baseline=compare_with,
            tolerance=tolerance,
            max_drop=max_drop,
            any_machine=any_machine,
        ),
        note=note,
        progress=lambda: progress("bench", "steps"),
    )
    write_page(report, "bench", result.rows, bundles)
    show(result.rows, as_json, lambda: bench_table(result.rows))
    if result.comparison is not None:
        print_comparison(result.comparison, on_stdout=not as_json)
    result.check()


def _opened(paths: Sequence[Path], allow: Sequence[str]) -> Iterator[Bundle]:
    """Open one bundle after the other."""
    from ..runtime.bundle import open_bundle
    from ..runtime.console.terminal import note

    for path in paths:
        yield open_bundle(path, allow_networks=allow, note=note)
