"""Frames that show nothing: a covered lens, or a decoder that gives one colour alone."""

from __future__ import annotations

from collections.abc import Sequence

from ...runtime.errors import FrameError
from ...runtime.spacing import evenly_spaced
from ...runtime.words import counted
from .frame_set import FrameSet

LOOKED_AT = 16  # frames, evenly spaced
LEAST_RANGE = 2  # grey levels, of any channel; below it there is one colour, and a codec's rounding


def check_not_blank(frames: FrameSet, sources: Sequence[str]) -> None:
    """Refuse frames that are all of one colour each: statistics and labels of nothing do harm.

    Where one of those looked at shows something, the others are left to the method.

    Raises:
        FrameError: none of them does.
    """
    for i in evenly_spaced(len(frames), LOOKED_AT):
        image = frames.image(i)
        if int((image.max(axis=(0, 1)) - image.min(axis=(0, 1))).max()) >= LEAST_RANGE:
            return
    every = "the frame is" if len(frames) == 1 else f"all {counted(len(frames), 'frame')} are"
    raise FrameError(
        f"{', '.join(sources)}: {every} of one colour, so there is nothing to adapt to; look at "
        "the camera and its recording, and give frames of the road."
    )
