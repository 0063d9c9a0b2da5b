"""`roadshift adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .black_box_options import (
    BoxAnswers,
    BoxColour,
    BoxMean,
    BoxOutput,
    BoxStd,
    BoxTimeout,
    wiring_of,
)
from .learning import needs_torch, run_options
from .options import (
    BACKGROUND,
    AllowNetwork,
    CheckpointEvery,
    Config,
    Device,
    Json,
    LossBackend,
    Losses,
    MemoryBudget,
    Nice,
    Older,
    Out,
    Overwrite,
    Report,
    Resume,
    Seed,
    Set,
    Threads,
    TimeBudget,
    Topic,
)
from .parse import parse_search, parse_size, with_loss_backend, with_variant
from .report import write_page


def adapt(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="A model bundle (a folder), or a black box.")
    ],
    frames: Annotated[
        list[str], typer.Argument(help="Folders, images, videos or bags; no labels.")
    ],
    out: Out,
    topic: Topic = None,
    method: Annotated[
        str | None,
        typer.Option(help="See `roadshift methods`; unless given, --config's, or nightshift."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="Of the method, see `roadshift methods`: roadshift, paper, ..."),
    ] = None,
    config: Config = None,
    settings: Set = None,
    loss_backend: LossBackend = None,
    losses: Losses = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,...",
            help="Choose a setting without labels, e.g. weight_pe=0.2,0.5,1; given several times, "
            "every combination is run.",
        ),
    ] = None,
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
    time_budget: TimeBudget = None,
    memory_budget: MemoryBudget = None,
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
    student_output: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Black box: of what the student returns, its logits."),
    ] = None,
    output: BoxOutput = None,
    colour: BoxColour = None,
    mean: BoxMean = None,
    std: BoxStd = None,
    answers: BoxAnswers = None,
    answer_timeout: BoxTimeout = "60s",
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    nice: Nice = BACKGROUND,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Adapt a model to unlabelled frames.

    For a black-box method BUNDLE may also be an .onnx, .xml or .tflite file, the http:// address of
    a service on this machine, a folder of predictions or package.module:function.
    """
    from ..runtime.console.terminal import print_json
    from ..runtime.errors import RefusedError
    from .tables import print_made

    with needs_torch("adapt", threads, nice):
        from ..adapt import Student
        from ..adapt.methods import choose_method
        from ..adapt.workflows.adapt_request import adapt as adapt_model
        from ..adapt.workflows.recipes import settings_file
        from ..runtime.frames.source_files import with_topic

        chosen = with_loss_backend(settings, loss_backend, losses=losses, seed=seed)
        recipe = settings_file(config)
        if variant is not None:
            chosen = with_variant(chosen, choose_method(method, recipe), variant)
        size = None if input_size is None else parse_size("--input-size", input_size)
        with run_options(
            out, overwrite, device, resume, checkpoint_every, time_budget, memory_budget
        ) as options:
            try:
                adapted = adapt_model(
                    bundle,
                    with_topic(frames, topic),
                    options,
                    method=method,
                    file=recipe,
                    assignments=chosen,
                    seed=seed,
                    student=Student(student, label_space, size, init, student_output),
                    wiring=wiring_of(output, colour, mean, std, answers, answer_timeout),
                    search=parse_search(search or ()),
                    gate=gate,
                    older=older or (),
                    max_frames=max_frames,
                    allow_networks=allow_network or (),
                )
            except RefusedError as refusal:
                if as_json and refusal.search is not None:
                    print_json({"bundle": None, "search": refusal.search})
                raise
    write_page(
        report,
        "adapt",
        None,
        [bundle, adapted.bundle],
        frames=with_topic(frames, topic),
        allow_networks=allow_network or (),
        threads=threads,
    )
    print_made(adapted.bundle, as_json)
    if adapted.refusal is not None:
        raise adapted.refusal
