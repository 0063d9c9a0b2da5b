"""`roadshift select`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .learning import needs_torch
from .options import AllowNetwork, BundleIn, Device, FramesLookedAt, Json, Overwrite, Threads, Topic

if TYPE_CHECKING:
    from ..runtime.arguments import ProgressUpdate


def _shares(origins: Sequence[Mapping[str, str | int]]) -> str:
    """Frames of each folder of images, such as " (dusk 6, kitti 3)"; "" where all are of one."""
    folders = Counter(str(Path(str(o["file"])).parent) for o in origins if "file" in o)
    recorded = len(origins) - folders.total()
    if len(folders) + bool(recorded) < 2:
        return ""
    shared = os.path.commonpath(folders) if len(folders) > 1 else os.path.dirname(*folders)
    told = [f"{os.path.relpath(folder, shared)} {n}" for folder, n in folders.most_common()]
    if recorded:
        told.append(f"videos and bags {recorded}")
    return f" ({', '.join(told)})"


def select(
    bundle: BundleIn,
    frames: Annotated[
        list[str], typer.Argument(help="Folders, images, videos or bags to choose from.")
    ],
    to: Annotated[str, typer.Option(help="cvat, cityscapes, coco, label-studio or labelme.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Frames to choose.")] = 100,
    by: Annotated[
        str, typer.Option(help="balanced, representative, coverage, diverse, entropy or random.")
    ] = "balanced",
    max_frames: FramesLookedAt = 3000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    topic: Topic = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Choose the frames worth labelling, with pre-labels.

    In the layout of the tool that labels them.
    """
    from ..runtime.bundle import open_bundle
    from ..runtime.console.phases import PhaseDisplay, pace
    from ..runtime.console.signals import stop_on_signals
    from ..runtime.console.terminal import note, say
    from ..runtime.words import counted
    from .tables import show

    with needs_torch("select", threads):
        from ..adapt.workflows import selection
        from ..runtime.frames.source_files import with_topic

        with stop_on_signals() as stop_requested, PhaseDisplay() as display:

            def report(now: ProgressUpdate) -> None:
                display.show(now.task, now.unit, now.done, now.total, pace(now.per_s, now.left_s))

            made = selection.select_frames(
                open_bundle(bundle, allow_networks=allow_network or ()),
                with_topic(frames, topic),
                out=out,
                tool=to,
                count=count,
                by=by,
                seed=seed,
                max_frames=max_frames,
                device=device,
                overwrite=overwrite,
                on_note=note,
                on_progress=report,
                stop_requested=stop_requested,
            )
    said = (
        f"{counted(len(made.frames), 'frame')} of {made.looked_at} chosen in {made.seconds:.1f} s"
        f"{_shares(made.origins)}; pre-labelled for {made.tool} in {made.out}."
    )
    show(made.record(), as_json, lambda: say(said))
