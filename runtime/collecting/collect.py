"""`roadshift collect`: the frames of a drive that teach most, within a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines import Engine
from ..errors import ConfigError, FrameError, OutputError, arg, naming
from ..frames import Frame, FrameSource
from ..frames.live import LiveSource
from ..given import above_zero, no_path, path_of, whole_of
from ..notes import log_note
from ..pipeline.runner import Pipeline
from .collector import KEPT, Collector
from .frame_files import drive_number
from .store import INDEX, FrameStore, read_store


@naming(out=OutputError)
def collect_frames(
    frames: FrameSource | LiveSource,
    out: str | Path,
    budget: int,
    *,
    keep_free: float = 0.1,
    engine: Engine | None = None,
    cpu_share: float = 0.25,
    duration_s: float | None = None,
    max_frames: int | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] = lambda _, __: None,
    note: Callable[[str], None] = log_note,
    clock: Callable[[], float] = monotonic,
) -> dict[str, Any]:
    """Keep the frames that differ most from what is kept, in a folder that `adapt` takes.

    Frames of a recording are looked at one by one. Of a live source none is waited for: what comes
    while there is no time is left out, and an engine gets its frames as in `run_frames`.

    Args:
        out: a new folder, or one that was collected into before.
        budget: bytes on the disk that it never exceeds.
        keep_free: share of the disk, 0 to 1; while less is free, a frame is kept only in the place
            of others.
        engine: the running model; its labels tell rare classes and how much there is to see.
        cpu_share: of one core, beside the reading of the frames and the engine; of a live source.
        duration_s: stop after so many seconds.
        max_frames: stop after so many frames were read.
        stop_requested: asked before every frame.
        report: called with the frames looked at and kept so far.

    Returns:
        JSON values: "frames", "kept" and the others by reason (see `collector.REASONS`), of this
        drive; "frames_kept" and "bytes", of the folder, as the budget counts them; "ended_by":
        "end", "signal", "duration", "max_frames" or "lost", then with the sentence in "lost";
        "seconds", "skipped", "out"; "engine" or None; "pipeline", what `Pipeline.summary` says of
        its frames, or None without an engine and of a recording, which waits for it.

    Raises:
        FrameError: not one frame can be read.
        OutputError, ConfigError: see `FrameStore`.
        EngineError: the engine fails; what was kept before is whole.
    """
    no_path("frames", frames, "open_frames")
    no_path("engine", engine, "open_engine")
    above_zero("duration_s", duration_s)
    if max_frames is not None:
        whole_of("max_frames", max_frames)
    _check_share("keep_free", keep_free, least=0.0)
    _check_share("cpu_share", cpu_share, least=0.001)
    live = isinstance(frames, LiveSource)
    began, ended_by, lost = clock(), "end", None
    seen = 0

    def stop_when() -> bool:
        nonlocal ended_by
        if stop_requested():
            ended_by = "signal"
        elif duration_s is not None and clock() - began >= duration_s:
            ended_by = "duration"
        elif max_frames is not None and seen >= max_frames:
            ended_by = "max_frames"
        else:
            return False
        if isinstance(frames, LiveSource):
            frames.stop()
        return True

    def read() -> Iterator[Frame]:
        nonlocal seen
        if stop_when():
            return
        for frame in frames:
            yield frame
            seen += 1  # once it was handed over: `stop_when` is asked by the pipeline too
            if stop_when():
                return

    store = FrameStore(path_of("out", out), budget, keep_free=keep_free, note=note)
    with Collector(store, cpu_share=cpu_share, note=note) as collector:
        take = collector.offer if live else collector.consider
        pipeline = None
        if engine is not None:
            depth = 0 if live else 2
            pipeline = Pipeline(read(), engine, depth=depth, newest=live, stop_when=stop_when)
        pairs = _unlabelled(read()) if pipeline is None else _labelled(pipeline)
        try:
            for frame, labels in pairs:
                take(frame, labels)
                report(collector.counts["frames"], collector.counts[KEPT])
        except FrameError as error:
            if not live or not seen:
                raise
            ended_by, lost = "lost", str(error)
    return {
        **collector.counts,
        "frames_kept": len(store.frames),
        "bytes": store.used,
        "budget": budget,
        "ended_by": ended_by,
        "lost": lost,
        "seconds": clock() - began,
        "skipped": [] if isinstance(frames, LiveSource) else list(frames.skipped),
        "out": str(out),
        "engine": None if engine is None else engine.describe(),
        "pipeline": pipeline.summary() if pipeline is not None and live else None,
    }


def _check_share(argument: str, share: float, least: float) -> None:
    is_number = isinstance(share, (int, float))
    if not (is_number and least <= share <= 1):  # nan is within no bounds
        raise ConfigError(f"{arg(argument)}: {share!r} is no share from {least:g} to 1.")


Labelled = Iterator[tuple[Frame, NDArray[np.uint8] | None]]


def _unlabelled(frames: Iterator[Frame]) -> Labelled:
    return ((frame, None) for frame in frames)


def _labelled(pipeline: Pipeline) -> Labelled:
    """Frames with the engine's labels."""
    with pipeline:
        for result in pipeline:
            yield result.frame, result.labels


def collection_status(folder: Path) -> dict[str, Any]:
    """State of a folder, also while a collector writes into it; nothing is changed.

    Returns:
        JSON values: "frames_kept"; "bytes", as the budget counts them; "drives" (number of each one
        and its frames), "counts" of all drives up to the last index, "cut" files.

    Raises:
        OutputError: there is no such folder, or nothing was collected in it.
    """
    try:
        kept, counts, cut = read_store(folder)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be read ({error.strerror or error}); give the folder of "
            f"{arg('out')}."
        ) from error
    if not kept and not (folder / INDEX).exists():
        raise OutputError(f"{folder}: nothing was collected in it.")
    drives = Counter(drive_number(frame.name) for frame in kept)
    return {
        "out": str(folder),
        "frames_kept": len(kept),
        "bytes": FrameStore.used_by(kept),
        "first": kept[0].name if kept else None,
        "last": kept[-1].name if kept else None,
        "drives": {str(number): count for number, count in sorted(drives.items())},
        "counts": counts,
        "cut": cut,
    }
