"""`roadshift run`: frames through an engine into a folder, a video, a bag, or figures alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

from ..atomic import check_parent, output_errors
from ..engines import Engine
from ..errors import (
    ConfigError,
    EngineError,
    FrameError,
    OutputError,
    RoadshiftError,
    RunInterrupted,
    arg,
)
from ..file_names import check_name
from ..frames import Frame, FrameSource
from ..frames.live import LiveSource
from ..notes import log_note
from ..pictures.media_kinds import (
    BAG_SUFFIXES,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    WRITTEN_VIDEO_SUFFIXES,
)
from ..video.damage_watch import DamageWatch, Phase, no_phase
from .bag_sink import BAG_SUFFIX
from .pacing import STILLS_FPS, Paced
from .runner import Pipeline, Result
from .sinks import open_sink

# Suffixes of files that look like a result and are not written; else a folder is meant.
_FILES = (*WRITTEN_VIDEO_SUFFIXES, BAG_SUFFIX)
_NOT_WRITTEN = (IMAGE_SUFFIXES | VIDEO_SUFFIXES | BAG_SUFFIXES | {".gif"}).difference(_FILES)

# Frames a second: more than cameras give, and few enough that files and waits hold the times.
_LEAST_FPS, _MOST_FPS = 0.1, 1000.0

_MEANWHILE = ".{}.incomplete.mkv"  # the longest name that a video has before it is whole


def run_frames(
    frames: FrameSource | LiveSource,
    engine: Engine,
    out: Path | None,
    *,
    overlay: bool = False,
    overwrite: bool = False,
    realtime: bool = False,
    fps: float | None = None,
    duration_s: float | None = None,
    max_frames: int | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] = lambda _, __: None,
    note: Callable[[str], None] = log_note,
    phase: Phase = no_phase,
    clock: Callable[[], float] = monotonic,
) -> dict[str, Any]:
    """Segment frames and write the results.

    A recording is segmented frame by frame. A live source, and a recording with ``realtime``, is
    segmented as it comes: where the engine is late, it gets the newest frame and the others are
    dropped. However it ends, frames that were read and not dropped are finished and written.

    Args:
        out: a folder (``labels/NAME.png`` and with ``overlay`` ``overlays/NAME.jpg``), a video
            file of class colours, or of overlays, a ``.mcap`` file of label maps and with
            ``overlay`` of overlays; None writes nothing.
        realtime: play a recording at the pace of its times.
        fps: the pace of images, which have no times, and the rate of a video made from them, 10
            unless given; of a live source, the rate of a video made from it.
        duration_s: stop after so many seconds.
        max_frames: stop after so many frames were read.
        stop_requested: asked all the time; stop once it is true.
        report: called with the frames done and dropped so far.
        note: called with a sentence on what is odd about a video, or left of an unfinished one.
        phase: shows work after the last frame, see `damage_watch.Phase`.

    Returns:
        JSON values. "frames": done; "frames_read"; "dropped"; "frames_skipped": those that could
        not be decoded; "in_flight", which is 0.
        ``frames_read == frames + dropped + frames_skipped + in_flight``. "skipped": a sentence for
        each file that could not be read, or not to its end. "damaged": frames of recorded videos
        that were read and in whose decoding errors were met; None of a live source, and where that
        could not be found out. "reconnects": of a live
        source, else None. "ended_by": "end" of the frames, "signal", "duration", "max_frames", or
        "lost"; then "lost" is the sentence that says how. "seconds", "fps", "latency_ms" (see
        `Result`; p50, p90, p99, max), "stages_ms" (means), "out", "engine".

    Raises:
        ConfigError: ``fps`` is no rate from 0.1 to 1000.
        OutputError: ``out`` exists (unless ``overwrite``), names a kind of file that is not
            written, or cannot be written.
        FrameError: not one frame can be read.
        EngineError: the engine has no labels for a frame, or does not end after a stop. What was
            written before is complete.
        RunInterrupted: a second signal came; likewise.
    """
    if fps is not None and not _LEAST_FPS <= fps <= _MOST_FPS:  # nan is within no bounds
        raise ConfigError(
            f"{arg('fps')}: {fps:g} is no rate; give {_LEAST_FPS:g} to {_MOST_FPS:g} frames a "
            "second."
        )
    if out is not None:
        check_out(out, overwrite)
    live = isinstance(frames, LiveSource)
    watch = DamageWatch(note, at_once=False)  # after the last frame: the cores are the engine's
    if isinstance(frames, FrameSource):
        frames.watch = watch
    paced = Paced(frames, fps or STILLS_FPS) if realtime and not live else None
    timed = frames if isinstance(frames, LiveSource) else paced
    source: Iterable[Frame] = timed or frames
    ended_by, stopped_by, lost = "end", "end", None
    failure: RoadshiftError | None = None
    started = clock()

    def stop_when() -> bool:
        nonlocal stopped_by
        if stop_requested():
            stopped_by = "signal"
        elif duration_s is not None and clock() - started >= duration_s:
            stopped_by = "duration"
        else:
            return False
        if timed is not None:
            timed.stop()
        return True

    writing: AbstractContextManager[Callable[[Result], object] | None] = (
        nullcontext()
        if out is None
        else open_sink(
            out,
            engine.label_space,
            overlays=overlay,
            fps=fps or STILLS_FPS,
            rate=None if timed is None else lambda: fps or timed.fps,
            replace=overwrite,
            note=note,
        )
    )
    with (
        writing as sink,
        Pipeline(
            source if max_frames is None else islice(source, max_frames),
            engine,
            depth=2 if timed is None else 0,  # what comes in time should not grow old in queues
            newest=timed is not None,
            sink=sink,
            stop_when=stop_when,
        ) as pipeline,
    ):
        try:
            for _ in pipeline:
                report(pipeline.frames, pipeline.dropped)
        except FrameError as error:
            if not live or not pipeline.frames:
                raise
            ended_by, lost = "lost", str(error)
        except (EngineError, KeyboardInterrupt) as error:
            failure = _failure(error, pipeline.frames, out)
            if not pipeline.frames:  # nothing to complete
                raise failure from error
        finally:
            if timed is not None:
                timed.stop()
        summary = pipeline.summary()
    if failure is not None:
        raise failure
    if ended_by == "end" and pipeline.cut_short:
        ended_by = stopped_by
    if ended_by == "end" and max_frames is not None and pipeline.frames_read >= max_frames:
        ended_by = "max_frames"
    with watch:
        watch.finish(phase=phase, due=stop_requested)
    skipped, lost_frames = (
        ([], 0) if isinstance(frames, LiveSource) else (list(frames.skipped), frames.frames_skipped)
    )
    return {
        **summary,
        "frames_read": pipeline.frames_read + lost_frames,
        "frames_skipped": lost_frames,
        "skipped": skipped,
        "damaged": None if live else watch.count,
        "reconnects": frames.reconnects if isinstance(frames, LiveSource) else None,
        "ended_by": ended_by,
        "lost": lost,
        "out": None if out is None else str(out),
        "engine": engine.describe(),
    }


def _failure(error: BaseException, frames: int, out: Path | None) -> RoadshiftError:
    """The error that ended a run before its time, as `run_frames` raises it."""
    if isinstance(error, RoadshiftError):
        return error
    done = f"{frames} frame{' is' if frames == 1 else 's are'} finished"
    where = f" and written to {out}" if frames and out is not None else ""
    return RunInterrupted(f"Stopped at once by a second signal; {done}{where}.")


def check_out(out: Path, overwrite: bool) -> None:
    """Check that labels may be written to ``out``, before a bag is unpacked for them.

    Raises:
        OutputError: as `run_frames` does.
    """
    check_name(out, _MEANWHILE, inside=True, by_library=out.suffix.lower() in VIDEO_SUFFIXES)
    with output_errors(out):
        is_folder = out.is_dir()
        occupied = any(out.iterdir()) if is_folder else out.exists()
    suffix = out.suffix.lower()
    if suffix in _NOT_WRITTEN and not is_folder:
        raise OutputError(
            f"{out}: no {suffix} file is written; give a folder, a video such as clip.mp4, or a "
            "bag such as drive.mcap."
        )
    if suffix in _FILES and is_folder:
        kind = "bag" if suffix == BAG_SUFFIX else "video"
        raise OutputError(f"{out}: is a folder, and a {kind} is a file; choose another name.")
    if occupied and not overwrite:
        raise OutputError(
            f"{out}: already exists; choose another name or use {arg('overwrite', True)}."
        )
    if not is_folder:
        check_parent(out)
