"""`roadshift bench`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .bundles import check_label_options, import_torch_backend, opened_bundle
from .options import AllowNetwork, Device, Json, LabelMapFile, LabelSpaceOfFiles, Threads
from .parse import parse_duration, parse_names


def bench(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Model bundles.")],
    frames: Annotated[
        Path | None, typer.Option(help="Frames to time; random images unless given.")
    ] = None,
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
    as_json: Json = False,
) -> None:
    """Measure every artefact on every backend.

    Latency, memory, energy, label agreement and mIoU.
    """
    from ..runtime.bench import BenchSettings, check_none_failed, measure_bundle
    from ..runtime.bench.baseline import (
        check_can_save,
        check_comparable,
        compare_baseline,
        load_baseline,
        save_baseline,
    )
    from ..runtime.bench.plots import check_can_plot, write_plots
    from ..runtime.bench.row import scenario
    from ..runtime.labels import label_space as find_label_space
    from ..runtime.printable import printable
    from ..runtime.terminal import note, print_json, progress
    from .bench_tables import bench_table, print_comparison

    check_label_options(label_space, label_map)
    settings = BenchSettings(
        frames=frames,
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
    baseline = load_baseline(compare_with) if compare_with else None
    if baseline is not None:
        check_comparable(baseline, scenario(camera), any_machine=any_machine)
    if save is not None:
        check_can_save(save)
    if plots is not None:
        check_can_plot(plots)
    import_torch_backend()
    measured = []
    for bundle in bundles:
        with progress("bench", "steps") as update:
            found = measure_bundle(
                opened_bundle(bundle, allow_network), settings, note=note, report=update
            )
        measured += [replace(m, row={"bundle": printable(str(bundle)), **m.row}) for m in found]
    rows = [m.row for m in measured]
    comparison = None
    if baseline is not None:
        comparison = compare_baseline(baseline, rows, tolerance=tolerance, max_drop=max_drop)
    if plots is not None:  # files first: what was measured is kept though it cannot be printed
        for picture in write_plots(measured, plots):
            note(f"wrote {picture}")
    if save is not None and (comparison is None or comparison.passed):
        save_baseline(save, rows)
        note(f"wrote {save}")
    if as_json:
        print_json(rows)
    else:
        bench_table(rows)
    if comparison is not None and compare_with is not None:
        print_comparison(comparison, on_stdout=not as_json)
        comparison.check(compare_with)
    check_none_failed(measured)
