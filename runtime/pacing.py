"""A recording played as a camera would give it: each frame when its time has come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from time import monotonic

from .frames import Frame

STILLS_FPS = 10.0  # of frames that do not say when they were taken


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
            yield Frame(frame.image, frame.name, due_ns)

    def stop(self) -> None:
        """End the iteration, also while it waits."""
        self._stopped.set()
