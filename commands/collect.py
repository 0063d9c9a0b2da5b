"""`roadshift collect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.errors import FrameError, RunInterrupted
from .engines import engine_of
from .options import AllowNetwork, Backend, Device, Duration, FramesRead, Json, Threads, Topic
from .parse import needed, parse_duration, parse_memory, parse_share

if TYPE_CHECKING:
    from ..runtime.engines import Engine


def collect(
    frames: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, images, videos or bags; or one camera:0, or the URL of one stream."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder to collect in.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Room on the disk that it never exceeds, e.g. 20GB.")
    ] = None,
    keep_free: Annotated[
        str, typer.Option(help="Share of the disk that stays free for others.")
    ] = "10%",
    bundle: Annotated[
        Path | None,
        typer.Option(help="The running model, whose labels tell rare classes and busy scenes."),
    ] = None,
    cpu: Annotated[
        str, typer.Option(help="Share of one core, beside a camera; frames are left out first.")
    ] = "25%",
    duration: Duration = None,
    max_frames: FramesRead = None,
    status: Annotated[
        Path | None,
        typer.Option("--status", metavar="DIR", help="Say what a folder holds, and end."),
    ] = None,
    topic: Topic = None,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    allow_network: AllowNetwork = None,
    as_json: Json = False,
) -> None:
    """Keep the frames of a drive that teach most, within a budget.

    The folder is one that adapt takes.
    """
    from ..runtime.collecting.collect import collect_frames, collection_status
    from ..runtime.collecting.cpu_share import step_back
    from ..runtime.console.phases import PhaseDisplay
    from ..runtime.console.signals import stop_on_signals
    from ..runtime.console.terminal import note, say
    from ..runtime.frames import FrameSource
    from ..runtime.frames.live import open_source
    from ..runtime.frames.source_files import with_topic
    from .tables import collected_line, collection_line, show

    if status is not None:
        found = collection_status(status)
        show(found, as_json, lambda: say(*collection_line(found)))
        return
    where = needed("--out", out, "--status")
    room = parse_memory("--budget", needed("--budget", budget, "--status"))
    left_free, share = parse_share("--keep-free", keep_free), parse_share("--cpu", cpu)
    seconds = parse_duration("--duration", duration) if duration else None
    source = open_source(with_topic(needed("FRAMES", frames, "--status"), topic), note=note)
    if bundle is None and not isinstance(source, FrameSource):
        step_back()  # the camera's thread too: an engine runs in another process
    with stop_on_signals() as stop_requested, PhaseDisplay() as display:
        engine: Engine | None = None
        try:
            if bundle is not None:
                engine = engine_of(bundle, backend, device, None, threads, allow_network)
                note(engine.reason)
            display.show("collect", "frames", 0, source.length, by_tenths=True)
            summary = collect_frames(
                source,
                where,
                room,
                keep_free=left_free,
                engine=engine,
                cpu_share=share,
                duration_s=seconds,
                max_frames=max_frames,
                stop_requested=stop_requested,
                note=note,
                report=lambda done, kept: display.show(
                    "collect", "frames", done, source.length, f"{kept} kept", by_tenths=True
                ),
            )
        finally:
            if engine is not None:
                engine.close()
    show(summary, as_json, lambda: say(*collected_line(summary)))
    if summary["lost"]:
        raise FrameError(summary["lost"])
    if summary["ended_by"] == "signal" and isinstance(source, FrameSource):
        raise typer.Exit(RunInterrupted.exit_code)  # a recording that was not looked at to its end
