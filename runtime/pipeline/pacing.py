"""A recording played as a camera would give it: each frame when its time has come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from time import monotonic

import numpy as np

from ..frames import Frame

STILLS_FPS = 10.0  # of frames that do not say when they were taken
FASTEST_FPS = 240.0  # of a video that is written


class Paced:
    """Frames at the pace of their times, which go on from one video to the next.

    Args:
        frames: of a recording. Images, which have no times, and the first frame of each further
            video come one period after the frame before.
        fps: one over that period.

    Attributes:
        fps: frames a second at the pace so far.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        fps: float = STILLS_FPS,
        *,
        clock: Callable[[], float] = monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.fps = fps
        self._frames = frames
        self._clock = clock
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait

    def __iter__(self) -> Iterator[Frame]:
        period_ns = round(1e9 / self.fps)
        start = None
        due_ns = before_ns = 0
        for frame in self._frames:
            if start is None:
                start = self._clock()
            else:
                step_ns = frame.timestamp_ns - before_ns
                if step_ns > 0:
                    self.fps = 1e9 / step_ns
                due_ns += step_ns if step_ns > 0 else period_ns
            before_ns = frame.timestamp_ns
            early_s = start + due_ns / 1e9 - self._clock()
            if early_s > 0:
                self._wait(early_s)
            if self._stopped.is_set():
                return
            yield replace(frame, timestamp_ns=due_ns)

    def stop(self) -> None:
        """End the iteration, also while it waits."""
        self._stopped.set()


def rate_of(times_ns: list[int]) -> float | None:
    """Pictures a second at which pictures of these times can be shown; None where none is later.

    The mean of the short intervals between them, those within a quarter of the shortest tenth:
    where the times are uneven, pictures are then held longer rather than left out.
    """
    steps = np.diff(np.asarray(times_ns, np.int64))
    steps = steps[steps > 0]
    if not len(steps):
        return None
    short = steps[steps <= 1.25 * np.quantile(steps, 0.1, method="lower")]
    return min(1e9 / float(short.mean()), FASTEST_FPS)
