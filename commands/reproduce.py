"""`roadshift reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .learning import needs_torch, run_options
from .options import (
    BACKGROUND,
    AllowNetwork,
    CheckpointEvery,
    Device,
    Json,
    MemoryBudget,
    Nice,
    Overwrite,
    Resume,
    Seed,
    Threads,
)
from .parse import needed


def reproduce(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="Such as gta5-cityscapes-iapc, or a TOML file."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Root of the target's data set, as published; needed.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The source model: a checkpoint or a bundle; needed.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder to write; needed.")
    ] = None,
    list_rows: Annotated[
        bool, typer.Option("--list", help="List all published rows, and do nothing else.")
    ] = False,
    seed: Seed = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs, with the seeds 0, 1 and so on.")] = 1,
    init: Annotated[
        Path | None,
        typer.Option(help="Black box: weights that the student starts from; random without."),
    ] = None,
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    memory_budget: MemoryBudget = None,
    checkpoint_every: CheckpointEvery = "60s",
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    nice: Nice = BACKGROUND,
    as_json: Json = False,
) -> None:
    """Adapt and measure as a published row says.

    Puts both figures side by side.
    """
    from ..runtime.console.terminal import note
    from .tables import published_listing_table, published_tables, show

    if list_rows:
        with needs_torch("reproduce"):
            from ..adapt.workflows.published import published_listing

            rows = published_listing()
        show(rows, as_json, lambda: published_listing_table(rows))
        note("the papers' ablations run on any frames: roadshift compare --list-ablations")
        return
    recipe = needed("RECIPE", recipe, "--list")
    with needs_torch("reproduce", threads, nice):
        from ..adapt.workflows.recipes import find_recipe
        from ..adapt.workflows.reproduction import reproduce as reproduce_row

        file = find_recipe(recipe)  # that there is none is said before what else is missing
        data = needed("--data", data, "--list")
        checkpoint = needed("--checkpoint", checkpoint, "--list")
        out = needed("--out", out, "--list")
        with run_options(
            out,
            overwrite,
            device,
            resume,
            checkpoint_every,
            memory_budget=memory_budget,
            title="reproduce",
        ) as options:
            result = reproduce_row(
                file,
                data,
                checkpoint,
                options,
                seed=seed,
                seeds=seeds,
                initial=init,
                allow_networks=allow_network or (),
            )
    show(result, as_json, lambda: published_tables(result))
