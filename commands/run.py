"""`roadshift run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runtime.errors import FrameError, RunInterrupted
from .engines import engine_of, engine_of_slots
from .options import (
    AllowNetwork,
    ArtefactIn,
    Backend,
    Device,
    Duration,
    FramesRead,
    Json,
    Overwrite,
    Slots,
    Threads,
    Topic,
    TrustOfModel,
)
from .parse import parse_duration


def run(
    bundle: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", help="A model bundle (a folder); with --slots, frames follow at once."
        ),
    ],
    frames: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, images, videos or bags; or one camera:0 "
            "(camera:0?size=1280x720&fps=30), or the URL of one RTSP or HTTP stream."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="A folder, a .mp4 or a .mcap file; figures alone unless given."
        ),
    ] = None,
    topic: Topic = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Blend labels over frames.")] = False,
    realtime: Annotated[
        bool,
        typer.Option(
            "--realtime",
            help="Play a recording as a camera gives it, dropping what comes too fast.",
        ),
    ] = False,
    fps: Annotated[
        float | None,
        typer.Option(min=0.1, help="Rate of images, 10 unless given; of a live source's video."),
    ] = None,
    duration: Duration = None,
    max_frames: FramesRead = None,
    backend: Backend = "auto",
    artefact: ArtefactIn = None,
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
    slots: Slots = None,
    trust: TrustOfModel = None,
    allow_network: AllowNetwork = None,
    as_json: Json = False,
) -> None:
    """Segment a recording, a camera or a stream.

    Writes label maps, overlays or a video. With --slots it runs the committed model of a vehicle,
    lets one on trial see frames beside it, and swaps to it between two frames once it is healthy.
    """
    from ..runtime.console.phases import PhaseDisplay
    from ..runtime.console.signals import stop_on_signals
    from ..runtime.console.terminal import note, say
    from ..runtime.frames.live import open_source
    from ..runtime.frames.source_files import with_topic
    from ..runtime.pipeline.run_frames import check_out, run_frames
    from .tables import run_line, show

    if slots is not None and Path(bundle, "manifest.json").is_file():
        raise typer.BadParameter(
            f"{bundle} is a bundle, and with --slots the model is that of the slots; give frames "
            "alone.",
            param_hint="FRAMES",
        )
    sources = [bundle, *(frames or ())] if slots is not None else frames
    if not sources:
        raise typer.BadParameter("it is missing; give frames to segment.", param_hint="FRAMES")
    if out is not None:
        check_out(out, overwrite)
    source = open_source(with_topic(sources, topic), note=note)
    seconds = parse_duration("--duration", duration) if duration else None
    with (
        stop_on_signals() as stop_requested,
        (
            engine_of_slots(
                *(slots, trust, backend, device, threads), artefact=artefact, allow=allow_network
            )
            if slots is not None
            else engine_of(Path(bundle), backend, device, artefact, threads, allow_network, trust)
        ) as engine,
    ):
        note(engine.reason)
        with PhaseDisplay() as display:
            display.show("run", "frames", 0, source.length, by_tenths=True)
            summary = run_frames(
                source,
                engine,
                out,
                overlay=overlay,
                overwrite=overwrite,
                realtime=realtime,
                fps=fps,
                duration_s=seconds,
                max_frames=max_frames,
                stop_requested=stop_requested,
                note=note,
                phase=display.counting,
                report=lambda done, dropped: display.show(
                    "run",
                    "frames",
                    done,
                    source.length,
                    f"{dropped} dropped" if dropped else "",
                    by_tenths=True,
                ),
            )
    show(summary, as_json, lambda: say(run_line(summary)))
    if summary["lost"]:
        raise FrameError(summary["lost"])
    if summary["ended_by"] == "signal" and summary["reconnects"] is None:
        raise typer.Exit(RunInterrupted.exit_code)  # a recording that was not run to its end
