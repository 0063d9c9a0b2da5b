"""`roadshift explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .learning import needs_torch
from .options import AllowNetwork, BundleIn, Device, FramesLookedAt, Json, Overwrite, Threads, Topic

if TYPE_CHECKING:
    from ..runtime.arguments import ProgressUpdate


def explain(
    bundle: BundleIn,
    frames: Annotated[
        list[str], typer.Argument(help="Folders, images, videos or bags to look at.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    topic: Topic = None,
    source: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="The source model, shown beside it and as teacher."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="iapc, ld or atp: leave out the others' figures; all.")
    ] = "all",
    max_frames: FramesLookedAt = 8,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of t-SNE.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Show what the methods see in frames, as pictures and a page.

    Importance, probabilities, prototypes, pseudo-labels and features; no label is read.
    """
    from ..runtime.bundle import open_bundle
    from ..runtime.console.phases import PhaseDisplay, pace
    from ..runtime.console.signals import stop_on_signals
    from ..runtime.console.terminal import note, say
    from ..runtime.words import counted
    from .tables import show

    allowed = allow_network or ()  # bundles first: to load torch takes seconds
    model = open_bundle(bundle, allow_networks=allowed)
    teacher = None if source is None else open_bundle(source, allow_networks=allowed)
    with needs_torch("explain", threads):
        from ..adapt.workflows import explanation
        from ..runtime.frames.source_files import with_topic

        with stop_on_signals() as stop_requested, PhaseDisplay() as display:

            def report(now: ProgressUpdate) -> None:
                display.show(now.task, now.unit, now.done, now.total, pace(now.per_s, now.left_s))

            made = explanation.explain(
                model,
                with_topic(frames, topic),
                out=out,
                source=teacher,
                method=method,
                max_frames=max_frames,
                seed=seed,
                device=device,
                overwrite=overwrite,
                on_note=note,
                on_progress=report,
                stop_requested=stop_requested,
            )
    said = f"{counted(len(made.frames), 'frame')} in {made.seconds:.1f} s; look at {made.page}."
    show(made.record(), as_json, lambda: say(said))
