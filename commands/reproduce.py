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
    Nice,
    Overwrite,
    Resume,
    Seed,
    Threads,
)


def reproduce(
    recipe: Annotated[str, typer.Argument(help="Such as gta5-cityscapes-iapc, or a TOML file.")],
    data: Annotated[Path, typer.Option(help="Root of the target's data set, as published.")],
    checkpoint: Annotated[Path, typer.Option(help="The source model: a checkpoint or a bundle.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    seed: Seed = None,
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    memory_budget: Annotated[str | None, typer.Option(help="Peak memory, e.g. 6GB.")] = None,
    checkpoint_every: CheckpointEvery = "60s",
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    nice: Nice = BACKGROUND,
    as_json: Json = False,
) -> None:
    """Adapt and measure as a published row says.

    Puts both figures side by side.
    """
    from .tables import published_tables, show

    with needs_torch("reproduce", threads, nice):
        from ..adapt.workflows.recipes import find_recipe
        from ..adapt.workflows.reproduction import reproduce as reproduce_row

        file = find_recipe(recipe)
        with run_options(
            out, overwrite, device, resume, checkpoint_every, memory_budget=memory_budget
        ) as options:
            result = reproduce_row(
                file,
                data,
                checkpoint,
                options,
                seed=seed,
                allow_networks=allow_network or (),
            )
    show(result, as_json, lambda: published_tables(result))
