"""`roadshift adapt`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .bundles import opened_bundle
from .learning import needs_torch, run_options
from .options import (
    BACKGROUND,
    AllowNetwork,
    BundleIn,
    CheckpointEvery,
    Config,
    Device,
    Json,
    Losses,
    Nice,
    Older,
    Out,
    Overwrite,
    Resume,
    Seed,
    Set,
    Threads,
)
from .parse import parse_size, with_losses


def adapt(
    bundle: BundleIn,
    frames: Annotated[list[str], typer.Argument(help="Folders, images or videos; no labels.")],
    out: Out,
    method: Annotated[
        str | None,
        typer.Option(help="See `roadshift methods`; unless given, --config's, or nightshift."),
    ] = None,
    config: Config = None,
    settings: Set = None,
    losses: Losses = None,
    seed: Seed = None,
    device: Device = "auto",
    max_frames: Annotated[int, typer.Option(min=1, help="Use at most so many frames.")] = 3000,
    gate: Annotated[
        str | None,
        typer.Option(
            help="Judge the result without labels, on frames set aside: refuse (exit code 5 or 6 "
            "where it is not promoted; the default), warn, or off."
        ),
    ] = None,
    older: Older = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    time_budget: Annotated[str | None, typer.Option(help="Stop in time, e.g. 20m.")] = None,
    memory_budget: Annotated[str | None, typer.Option(help="Peak memory, e.g. 6GB.")] = None,
    checkpoint_every: CheckpointEvery = "60s",
    student: Annotated[str | None, typer.Option(help="Black box: the network that learns.")] = None,
    label_space: Annotated[
        str | None, typer.Option(help="Black box: of its answers, unless it says so itself.")
    ] = None,
    input_size: Annotated[
        str | None, typer.Option(help="Black box: WxH that the student sees.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Black box: weights that the student starts from.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Black box: of what the student returns, its logits."),
    ] = None,
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    nice: Nice = BACKGROUND,
    as_json: Json = False,
) -> None:
    """Adapt a model to unlabelled frames.

    For a black-box method BUNDLE may also be an .onnx file, a folder of predictions or
    package.module:function.
    """
    from ..runtime.terminal import note
    from .tables import print_made

    with needs_torch("adapt", threads, nice):
        from ..adapt import Job, Student, adapt_black_box, adapt_bundle, resolve_config
        from ..adapt.judging.judge import choose_gate
        from ..adapt.methods import adapting_method, choose_method
        from ..adapt.models import pick_device
        from ..adapt.pace import default_patience_s
        from ..runtime.errors import ConfigError

        method = choose_method(method, config)
        black_box = adapting_method(method).black_box
        chosen = with_losses(settings, losses, seed)
        resolved = resolve_config(method, file=config, assignments=chosen, seed=seed)
        learner = Student(
            student,
            label_space,
            None if input_size is None else parse_size("--input-size", input_size),
            init,
            output,
        )
        if not black_box and learner != Student():
            raise ConfigError(
                "--student, --label-space, --input-size, --init and --output are for black-box "
                "methods; "
                f"{method} starts from the bundle's own network."
            )
        gate = choose_gate(gate, method, black_box, note)
        if black_box and older:
            raise ConfigError("--older: a student of a black box is not judged; leave it out.")
        patience_s = default_patience_s(method, pick_device(device), config, chosen)
        with run_options(resume, checkpoint_every, time_budget, memory_budget) as options:
            job = Job(out, overwrite, device, replace(options, patience_s=patience_s))
            if black_box:
                adapted = adapt_black_box(
                    str(bundle), frames, resolved, job, learner, max_frames=max_frames
                )
            else:
                adapted = adapt_bundle(
                    opened_bundle(bundle, allow_network),
                    frames,
                    resolved,
                    job,
                    max_frames=max_frames,
                    gated=gate != "off",
                    older=older or (),
                )
    print_made(adapted, as_json)
    verdict = adapted.manifest.verdict
    error = verdict.error(adapted.path) if verdict else None
    if error is not None and gate == "refuse":
        raise error
