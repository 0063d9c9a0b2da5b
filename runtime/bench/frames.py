"""The frames that a bench cycles through, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

import numpy as np

from ..errors import FrameError
from ..frames import Frame
from ..frames.preprocess import fit_frame

MAX_FRAMES = 64  # of a source, kept in memory and cycled through


@dataclass(frozen=True)
class BenchFrames:
    """Frames, what they are, and the mean milliseconds to read one; None if they were in memory."""

    frames: Sequence[Frame]
    kind: str
    decode_ms: float | None = None

    @property
    def title(self) -> str:
        """Title such as "64 given"."""
        return f"{len(self.frames)} {self.kind}"


def read_frames(frames: Iterable[Frame]) -> BenchFrames:
    """All frames of a list; of a source the first 64.

    Raises:
        FrameError: there are none.
    """
    in_memory = isinstance(frames, Sequence)
    started = perf_counter()
    chosen = list(frames if in_memory else islice(frames, MAX_FRAMES))
    seconds = perf_counter() - started
    if not chosen:
        raise FrameError("No frames to measure with; give one, or None for random textures.")
    return BenchFrames(chosen, "given", None if in_memory else 1e3 * seconds / len(chosen))


def random_frames(width: int, height: int) -> BenchFrames:
    """Smooth random textures, for a bench without frames; the time of no engine depends on them."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 9, 16, 3), dtype=np.uint8)
    frames = [
        Frame(fit_frame(image, width, height), f"random_{index}", 0)
        for index, image in enumerate(coarse)
    ]
    return BenchFrames(frames, "random textures")
