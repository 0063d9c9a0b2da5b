"""`roadshift train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runtime.errors import ConfigError
from .learning import needs_torch, run_options
from .options import (
    BACKGROUND,
    CheckpointEvery,
    Config,
    Device,
    Json,
    MemoryBudget,
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
from .parse import parse_size, with_loss_backend

VARIANT = "supervised.variant"


def _with_variant(settings: list[str], variant: str | None) -> list[str]:
    """``--set``'s settings and ``--variant``, which is one of them by another name.

    Raises:
        ConfigError: it is given both ways.
    """
    if variant is None:
        return settings
    if any(entry.partition("=")[0].strip() == VARIANT for entry in settings):
        raise ConfigError(
            f"--variant {variant} and --set {VARIANT} are both given; leave one of them out."
        )
    return [*settings, f"{VARIANT}={variant}"]


def train(
    images: Annotated[Path, typer.Option(help="Folder of training images.")],
    labels: Annotated[Path, typer.Option(help="Folder of their label maps.")],
    label_space: Annotated[str, typer.Option(help="A built-in label space or a JSON file.")],
    network: Annotated[str, typer.Option(help="A network or package.module:factory.")],
    out: Out,
    input_size: Annotated[str, typer.Option(help="WxH that the model sees.")] = "1024x512",
    init: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    output: Output = None,
    variant: Annotated[
        str | None, typer.Option(help="roadshift (the default), or paper: as source models are.")
    ] = None,
    config: Config = None,
    settings: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    time_budget: TimeBudget = None,
    memory_budget: MemoryBudget = None,
    checkpoint_every: CheckpointEvery = "60s",
    threads: Threads = None,
    nice: Nice = BACKGROUND,
    as_json: Json = False,
) -> None:
    """Train a source model on labelled images."""
    from .tables import print_made

    with needs_torch("train", threads, nice):
        from ..adapt import resolve_config, train_bundle
        from ..adapt.models.loading import network_spec, training_input
        from ..runtime.labels import label_space as find_label_space

        chosen = _with_variant(with_loss_backend(settings, seed=seed), variant)
        resolved = resolve_config("supervised", file=config, assignments=chosen, seed=seed)
        space = find_label_space(label_space)
        width, height = parse_size("--input-size", input_size)
        with run_options(
            out, overwrite, device, resume, checkpoint_every, time_budget, memory_budget
        ) as options:
            bundle = train_bundle(
                images,
                labels,
                space,
                network_spec(network, output=output),
                training_input(
                    network,
                    (width, height),
                    published=resolved.method_config["variant"] == "paper",
                ),
                resolved,
                options,
                initial=init,
            )
    print_made(bundle, as_json)
