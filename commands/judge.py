"""`roadshift judge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .learning import needs_torch
from .options import AllowNetwork, Device, FramesLookedAt, Json, Older, Report, Threads, Topic
from .report import write_page


def judge(
    incumbent: Annotated[Path, typer.Argument(help="The bundle in the car.")],
    candidate: Annotated[Path, typer.Argument(help="The bundle that may replace it.")],
    frames: Annotated[
        list[str], typer.Argument(help="Folders, images, videos or bags that neither learned from.")
    ],
    topic: Topic = None,
    device: Device = "auto",
    max_frames: FramesLookedAt = 32,
    older: Older = None,
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Judge a model against the one in the car.

    Needs no labels, but frames that neither learned from.
    Exit code 0: promote the candidate. 5: keep the incumbent. 6: ask a person.
    """
    from ..runtime.bundle import open_bundle
    from ..runtime.console.signals import stop_on_signals
    from ..runtime.console.terminal import note, progress
    from .tables import show, verdict_table

    with needs_torch("judge", threads):
        from ..adapt.api import judge_bundles
        from ..runtime.frames.source_files import with_topic

        with stop_on_signals() as stop_requested, progress("judge", "frames") as update:
            verdict = judge_bundles(
                open_bundle(incumbent, allow_networks=allow_network or ()),
                open_bundle(candidate, allow_networks=allow_network or ()),
                with_topic(frames, topic),
                device=device,
                max_frames=max_frames,
                older=older or (),
                on_note=note,
                on_progress=lambda now: update(now.done, now.total, ""),
                stop_requested=stop_requested,
            )
    write_page(
        report,
        "judge",
        verdict.record(),
        [incumbent, candidate],
        frames=with_topic(frames, topic),
        allow_networks=allow_network or (),
        threads=threads,
    )
    show(verdict.record(), as_json, lambda: verdict_table(verdict))
    error = verdict.error(candidate)
    if error is not None:
        raise typer.Exit(error.exit_code)
