"""`roadshift train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .learning import needs_torch, run_options
from .options import (
    BACKGROUND,
    AllowNetwork,
    CheckpointEvery,
    Config,
    Device,
    Json,
    MemoryBudget,
    NetworkArgument,
    Nice,
    Out,
    Output,
    Overwrite,
    Resume,
    Seed,
    Set,
    Threads,
    TimeBudget,
)
from .parse import parse_arguments, parse_size, with_loss_backend, with_variant

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle


def train(
    images: Annotated[Path, typer.Option(help="Folder of training images.")],
    labels: Annotated[Path, typer.Option(help="Folder of their label maps.")],
    out: Out,
    label_space: Annotated[
        str | None, typer.Option(help="A built-in label space or a JSON file.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="A network or package.module:factory.")
    ] = None,
    argument: NetworkArgument = None,
    input_size: Annotated[
        str | None, typer.Option(help="WxH that the model sees: the bundle's, or 1024x512.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(help="Bundle to learn on from, network and all; or weights to start from."),
    ] = None,
    output: Output = None,
    variant: Annotated[
        str | None,
        typer.Option(
            help="roadshift; paper: as source models are; finetune: the default with a bundle."
        ),
    ] = None,
    config: Config = None,
    settings: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    allow_network: AllowNetwork = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    time_budget: TimeBudget = None,
    memory_budget: MemoryBudget = None,
    checkpoint_every: CheckpointEvery = "60s",
    threads: Threads = None,
    nice: Nice = BACKGROUND,
    as_json: Json = False,
) -> None:
    """Train a source model on labelled images, or teach a bundle more."""
    from .tables import print_made

    with needs_torch("train", threads, nice):
        from ..adapt import train_bundle
        from ..adapt.methods import given_settings
        from ..adapt.workflows.recipes import SOURCES, settings_file
        from ..adapt.workflows.training_request import training_settings, training_start
        from ..runtime.bundle import open_bundle
        from ..runtime.labels import label_space as find_label_space

        initial: Path | Bundle | None = init
        if init is not None and init.is_dir():
            initial = open_bundle(init, allow_networks=allow_network or ())
        chosen = with_variant(with_loss_backend(settings, seed=seed), "supervised", variant)
        recipe = settings_file(config, SOURCES)
        resolved = training_settings(given_settings("supervised", recipe, chosen), initial, seed)
        start = training_start(
            initial,
            resolved,
            network=network,
            arguments=parse_arguments("--argument", argument or ()),
            output=output,
            label_space=None if label_space is None else find_label_space(label_space),
            size=None if input_size is None else parse_size("--input-size", input_size),
        )
        with run_options(
            out, overwrite, device, resume, checkpoint_every, time_budget, memory_budget
        ) as options:
            bundle = train_bundle(
                images,
                labels,
                start.label_space,
                start.network,
                start.seen,
                resolved,
                options,
                initial=start.initial,
            )
    print_made(bundle, as_json)
