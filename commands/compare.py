"""`roadshift compare`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .learning import needs_torch, run_options
from .options import (
    BACKGROUND,
    AllowNetwork,
    Device,
    Json,
    LabelMapFile,
    LabelSpaceOfFiles,
    LossBackend,
    Losses,
    Nice,
    Report,
    Set,
    Threads,
    Topic,
)
from .parse import needed, parse_names, with_loss_backend
from .report import write_page


def compare(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="A model bundle (a folder).")
    ] = None,
    frames: Annotated[
        list[str] | None,
        typer.Argument(metavar="FRAMES", help="Folders, images, videos or bags to adapt to."),
    ] = None,
    topic: Topic = None,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of label maps, to measure with; needed.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of their images; FRAMES unless given.")
    ] = None,
    label_space: LabelSpaceOfFiles = None,
    label_map: LabelMapFile = None,
    methods: Annotated[
        str, typer.Option(help="all, or names with commas; name:variant for a variant.")
    ] = "all",
    ablation: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="Compare the rows of a paper's table, e.g. iapc-table-3, or of a TOML file.",
        ),
    ] = None,
    list_ablations: Annotated[
        bool, typer.Option("--list-ablations", help="List those tables, and do nothing else.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of each method that takes steps; its own otherwise.")
    ] = None,
    settings: Set = None,
    loss_backend: LossBackend = None,
    losses: Losses = None,
    explain: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FRAMES",
            help="Also explain each result on these frames, see explain; may be given several "
            "times.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path(
        "roadshift-compare"
    ),
    device: Device = "auto",
    max_frames: Annotated[int, typer.Option(min=1, help="Adapt to at most so many.")] = 3000,
    time_budget: Annotated[str | None, typer.Option(help="Of each run, e.g. 20m.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Run anew what is finished or was stopped.")
    ] = False,
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    nice: Nice = BACKGROUND,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Adapt with several methods, or the rows of a paper's table, and measure them side by side.

    Every method starts from the same bundle, with the same frames, steps and seeds. The same
    command takes up finished runs and goes on where it was stopped.
    """
    from ..runtime.addresses import without_password
    from ..runtime.console.terminal import note
    from .tables import ablations_table, comparison_table, show

    if list_ablations:
        with needs_torch("compare"):
            from ..adapt.workflows.ablations import ablation_listing

            tables = ablation_listing()
        show(tables, as_json, lambda: ablations_table(tables))
        return
    bundle = needed("BUNDLE", bundle, "--list-ablations")
    frames = needed("FRAMES", frames, "--list-ablations")
    labels = needed("--labels", labels, "--list-ablations")
    with needs_torch("compare", threads, nice):
        from ..adapt.workflows.compare_report import write_report
        from ..adapt.workflows.compare_request import compare_methods
        from ..adapt.workflows.compare_rows import comparison_rows
        from ..adapt.workflows.explained_results import explain_results, explained_sections
        from ..runtime.frames import open_frames
        from ..runtime.frames.source_files import with_topic

        names = parse_names(methods)
        if explain:
            open_frames(explain)  # what is not there is said at once
        chosen = with_loss_backend(settings, loss_backend, losses=losses)
        with run_options(
            out, overwrite, device, time_budget=time_budget, title="compare", unit="done"
        ) as options:
            comparison = compare_methods(
                bundle,
                with_topic(frames, topic),
                labels,
                options,
                images=images,
                label_space=label_space,
                label_map=label_map,
                methods=None if names == ["all"] else names,
                ablation=ablation,
                assignments=chosen,
                seeds=seeds,
                steps=steps,
                max_frames=max_frames,
                allow_networks=allow_network or (),
            )
            explained = explain_results(comparison, explain, options) if explain else {}
        rows = comparison_rows(comparison)
        command = shlex.join(["roadshift", *map(without_password, sys.argv[1:])])
        write_report(comparison, rows, out, command, device=device, explained=explained)
    note(f"wrote {out / 'compare.md'}")
    title = "Methods, side by side" if comparison.ablation is None else comparison.ablation.title
    seen = explained_sections(out, explained) if report is not None else ()
    write_page(report, "compare", rows, [bundle], seen)
    show(rows, as_json, lambda: comparison_table(rows, title))
    if not comparison.succeeded:
        raise typer.Exit(1)
