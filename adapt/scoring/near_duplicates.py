"""Frames that show something else than those before: copies of one are no evidence of their own."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 32, 16  # of a thumbnail: noise and compression are averaged away
LEAST_DIFFERENCE = 0.1  # root mean square, of thumbnails of mean 0 and deviation 1
LEAST_CONTRAST = 2.0  # grey levels: the deviation of a thumbnail is taken to be at least that


class DistinctFrames:
    """Detector of frames that are nearly the same picture as an earlier one.

    Two thumbnails of mean 0 and deviation 1 whose difference has a root mean square of d have a
    correlation of 1 - d^2 / 2, so 0.995 at the limit: exposure does not count, movement does. Noise
    and JPEG's losses stay below 0.06; frames of CamVid, a second apart, begin at 0.14.
    """

    def __init__(self) -> None:
        self._seen: list[NDArray[np.float32]] = []

    def is_new(self, image: NDArray[np.uint8]) -> bool:
        """Tell whether the picture, uint8 RGB (H, W, 3), differs from all that were new before."""
        thumbnail = _thumbnail(image)
        new = all(_difference(thumbnail, other) >= LEAST_DIFFERENCE for other in self._seen)
        if new:
            self._seen.append(thumbnail)
        return new


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray((small - small.mean()) / max(float(small.std()), LEAST_CONTRAST), np.float32)


def _difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(one - other).mean()))
