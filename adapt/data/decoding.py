"""Frames decoded within a run's time, and shown while they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...runtime.errors import FrameError
from ...runtime.frames import Frame, FrameSource
from ...runtime.frames.images import read_frame_image
from ...runtime.frames.preprocess import fit_frame
from ...runtime.words import counted
from ..run.work import Work

TRIED = 4  # images that are decoded to see how long one takes


def images_in_time(
    stills: Sequence[tuple[Path, str]], width: int, height: int, work: Work
) -> int | None:
    """As many of the images as can be decoded in the time of the deadline's part; None: all.

    Args:
        stills: files and names.
        width, height: that they are fitted to.
    """
    if not work.deadline.bounded or len(stills) <= TRIED:
        return None
    started = work.deadline.elapsed_s
    for path, _ in stills[:: max(1, len(stills) // TRIED)][:TRIED]:
        try:
            fit_frame(read_frame_image(path), width, height)
        except FrameError:  # noqa: PERF203 - it is reported where it is read in earnest
            continue
    each_s = (work.deadline.elapsed_s - started) / TRIED
    if each_s * len(stills) <= work.deadline.left_s:
        return None
    return max(TRIED, int(work.deadline.left_s / each_s))


def decoded(
    frames: FrameSource | Iterator[Frame],
    total: int | None,
    work: Work,
) -> Iterator[Frame]:
    """The frames, shown as they are read; no more of them once the deadline's part is over.

    Args:
        total: how many are expected, where that is known.

    Raises:
        RunInterrupted: a signal came.
    """
    with work.phase("decoding", total) as done:
        for count, frame in enumerate(frames, 1):
            work.events.stop_if_requested()
            yield frame
            done(count)
            if work.deadline.due and count != total:
                work.events.note(
                    f"decoding: the first {counted(count, 'frame')}, for more the time "
                    "budget leaves no time"
                )
                return


def damaged_names(frames: FrameSource, work: Work) -> set[str]:
    """Names of the frames read that were decoded with errors, as far as there is time to find out.

    Args:
        frames: with a `FrameSource.watch`.

    Raises:
        RunInterrupted: a signal came.
    """
    if frames.watch is not None:
        stop = work.events.stop_if_requested
        frames.watch.finish(phase=work.phase, due=lambda: work.deadline.due, stop=stop)
    return frames.damaged_names()
