"""A recording of a kind of one's own: pictures by NumPy, one after the other, with their times."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from roadshift import FrameError


def read_frames(path: Path) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """The pictures in a file of NumPy's ``.npz`` format under another name."""
    with np.load(path, allow_pickle=False) as log:
        times = log["timestamp_ns"]
        for number, (image, time) in enumerate(zip(log["images"], times, strict=False)):
            if time < 0:
                raise FrameError(f"{path}: is damaged after {number} frames.")
            yield image, int(time)
