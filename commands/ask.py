"""`roadshift ask`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from .learning import needs_torch
from .options import Json, Overwrite, Resume, Threads, Topic

if TYPE_CHECKING:
    from ..runtime.arguments import ProgressUpdate


def ask(
    black_box: Annotated[
        str,
        typer.Argument(
            metavar="BLACK_BOX",
            help="An .onnx, .xml or .tflite file, an exported bundle, the http:// address of a "
            "service on this machine, or package.module:function.",
        ),
    ],
    frames: Annotated[list[str], typer.Argument(help="Folders, images, videos or bags.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of answers to write.")],
    label_space: Annotated[
        str | None, typer.Option(help="Of its answers, unless it says so itself.")
    ] = None,
    output: BoxOutput = None,
    colour: BoxColour = None,
    mean: BoxMean = None,
    std: BoxStd = None,
    answers: BoxAnswers = None,
    answer_timeout: BoxTimeout = "60s",
    soft: Annotated[
        bool, typer.Option("--soft", help="Write probabilities too, NAME.npz.")
    ] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    topic: Topic = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Write down what a black box says about frames.

    One label map for each, at the frame's size: for `roadshift eval --labels`, or to learn from.
    """
    from ..runtime.console.phases import PhaseDisplay, pace
    from ..runtime.console.signals import stop_on_signals
    from ..runtime.console.terminal import note, say
    from ..runtime.words import counted
    from .tables import show

    with needs_torch("ask", threads):
        from ..adapt import Events
        from ..adapt.workflows.asking import ask_black_box
        from ..runtime.frames.source_files import with_topic
        from ..runtime.labels import label_space as find_label_space

        with stop_on_signals() as stop_requested, PhaseDisplay() as display:

            def report(now: ProgressUpdate) -> None:
                text = pace(now.per_s, now.left_s)
                display.show(now.task, now.unit, now.done, now.total, text)

            made = ask_black_box(
                black_box,
                with_topic(frames, topic),
                out,
                space=None if label_space is None else find_label_space(label_space),
                wiring=wiring_of(output, colour, mean, std, answers, answer_timeout),
                soft=soft,
                resume=resume,
                overwrite=overwrite,
                events=Events(note, report_phase=report, stop_requested=stop_requested),
            )
    largest = sorted(made.shares.items(), key=lambda item: -item[1])[:5]
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in largest)
    before = f", {made.kept} answered before" if made.kept else ""
    said = f"{counted(made.asked, 'frame')} asked about in {made.seconds:.1f} s{before}"
    show(made.record(), as_json, lambda: say(f"{said}: {shares}."))
