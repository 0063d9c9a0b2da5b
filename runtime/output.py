"""`roadshift run`: frames through an engine into a folder or a video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .atomic import output_errors
from .engine import Engine
from .errors import OutputError
from .frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES, FrameSource
from .pipeline import Pipeline
from .sinks import open_sink

# Suffixes of files that look like a result and are not written; else a folder is meant.
_NOT_WRITTEN = IMAGE_SUFFIXES | {".gif", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".ogv"}


def run_frames(
    frames: FrameSource,
    engine: Engine,
    out: Path,
    *,
    overlay: bool = False,
    overwrite: bool = False,
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Segment every frame and write the results.

    Args:
        out: a folder (``labels/NAME.png`` and with ``overlay`` ``overlays/NAME.jpg``), or a video
            file of class colours, or of overlays.
        report: called with the frames done so far.

    Returns:
        ``{"frames", "seconds", "fps", "stages_ms", "skipped", "out", "engine"}``.

    Raises:
        OutputError: ``out`` exists (unless ``overwrite``), names a kind of file that is not
            written, or cannot be written.
        FrameError: not one frame can be read.
    """
    _check_out(out, overwrite)
    with (
        open_sink(out, engine.label_space, overlays=overlay) as sink,
        Pipeline(frames, engine, sink=sink) as pipeline,
    ):
        for _ in pipeline:
            report(pipeline.frames)
        summary = pipeline.summary()
    return {
        **summary,
        "skipped": list(frames.skipped),
        "out": str(out),
        "engine": engine.describe(),
    }


def _check_out(out: Path, overwrite: bool) -> None:
    with output_errors(out):
        is_folder = out.is_dir()
        occupied = any(out.iterdir()) if is_folder else out.exists()
    suffix = out.suffix.lower()
    if suffix in _NOT_WRITTEN and not is_folder:
        raise OutputError(
            f"{out}: no {suffix} file is written; give a folder, or a video such as clip.mp4."
        )
    if suffix in VIDEO_SUFFIXES and is_folder:
        raise OutputError(f"{out}: is a folder, and a video is a file; choose another name.")
    if occupied and not overwrite:
        raise OutputError(f"{out}: already exists; choose another name or use --overwrite.")
