"""Frames of one size with random access, and those of a recording set aside to judge on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import Sentence, arg
from ...runtime.words import counted

LEAST_TO_JUDGE = 16  # frames of a recording; with fewer, none is set aside
Image = NDArray[np.uint8]


class FrameSet:
    """Frames of one size with random access.

    ``image(i)`` is uint8 (height, width, 3) RGB. ``labels(i)`` is uint8 (height, width) and exists
    only in a set opened by `labelled_frames`; frames to adapt on have none. ``stamps_ns`` are the
    times since 1970 at which they were taken, where all of them say so: those of bags.
    """

    def __init__(
        self,
        names: Sequence[str],
        width: int,
        height: int,
        image: Callable[[int], Image],
        labels: Callable[[int], Image] | None = None,
        stamps_ns: Sequence[int] | None = None,
    ) -> None:
        self.names = tuple(names)
        self.stamps_ns = None if stamps_ns is None else tuple(stamps_ns)
        self.width, self.height = width, height
        self.image = image
        self.labels = labels

    def __len__(self) -> int:
        return len(self.names)

    def only(self, chosen: Sequence[int]) -> FrameSet:
        """The frames with these indices, in that order."""
        labels = self.labels
        return FrameSet(
            [self.names[i] for i in chosen],
            self.width,
            self.height,
            lambda i: self.image(chosen[i]),
            None if labels is None else lambda i: labels(chosen[i]),
            None if self.stamps_ns is None else [self.stamps_ns[i] for i in chosen],
        )


def set_aside(
    frames: FrameSet, note: Callable[[str], None] = lambda _: None
) -> tuple[FrameSet, FrameSet | None]:
    """Frames to adapt to, and the recording's last ones to judge on; None if it is too short.

    A tenth is set aside, but at least 16 frames or a quarter, whichever is less. An eighth as many
    before them are used for nothing: neighbours in time are nearly the same frame. Where all frames
    have stamps, the last ones are the last in time, and of those before them the ones are used for
    nothing that lie as near to them in time as an eighth as many would; so it is with bags that
    overlap, or are not given in the order of their times. The split follows from the number of
    frames and their stamps alone, so a resumed run finds the same one.
    """
    count = len(frames)
    if count < LEAST_TO_JUDGE:
        return frames, None
    held = max(count // 10, min(16, count // 4))
    note(
        Sentence(
            f"the last {held} of {counted(count, 'frame')} are set aside to judge the result on "
            f"(see {arg('gate')})"
        )
    )
    learned, judged = _split(frames.stamps_ns, count, held)
    return frames.only(learned), frames.only(judged)


def _split(stamps_ns: Sequence[int] | None, count: int, held: int) -> tuple[list[int], list[int]]:
    """Indices to learn from and to judge on, in the order of the frames."""
    unused = held // 8
    learned, judged = list(range(count - held - unused)), list(range(count - held, count))
    if stamps_ns is None:
        return learned, judged
    stamps = np.asarray(stamps_ns, np.int64)
    in_time = np.argsort(stamps, kind="stable")
    last = np.sort(in_time[count - held :])
    steps = np.diff(np.unique(stamps[last]))
    gap_ns = 0.0
    if len(steps):
        usual = steps[steps <= 3 * np.median(steps)]  # without pauses
        gap_ns = (unused + 0.5) * float(usual.mean())
    first_ns = int(stamps[last].min())
    before = np.flatnonzero(first_ns - stamps > gap_ns)
    if len(before) <= 2 * held:  # nearly all of it lies within the gap, as with a long pause
        before = np.sort(in_time[: count - held - unused])
    return before.tolist(), last.tolist()
