"""`roadshift run`: frames through an engine into a folder or a video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .engine import Engine
from .errors import OutputError
from .frames import FrameSource
from .pipeline import Pipeline
from .sinks import open_sink


def run_frames(
    frames: FrameSource,
    engine: Engine,
    out: Path,
    *,
    overlay: bool = False,
    overwrite: bool = False,
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Segment every frame and write the results.

    Args:
        out: a folder (``labels/NAME.png`` and with ``overlay`` ``overlays/NAME.jpg``), or a video
            file of class colours, or of overlays.
        report: called with the frames done so far.

    Returns:
        ``{"frames", "seconds", "fps", "stages_ms", "skipped", "out", "engine"}``.

    Raises:
        OutputError: ``out`` exists (unless ``overwrite``) or cannot be written.
        FrameError: not one frame can be read.
    """
    occupied = any(out.iterdir()) if out.is_dir() else out.exists()
    if occupied and not overwrite:
        raise OutputError(f"{out}: already exists; choose another name or use --overwrite.")
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
