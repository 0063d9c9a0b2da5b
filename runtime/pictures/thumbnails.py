"""Thumbnails of mean 0 and deviation 1: pictures compared by what they show, not by their light."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 32, 16  # noise and compression are averaged away
LEAST_DIFFERENCE = 0.1  # root mean square; below it two pictures are nearly the same
LEAST_CONTRAST = 2.0  # grey levels: the deviation of a thumbnail is taken to be at least that


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The normalised thumbnail of a picture, uint8 (H, W, 3) or (H, W)."""
    small = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
    return normalised(small)


def normalised(small: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values of mean 0 and deviation 1; a flat picture's are smaller."""
    return np.asarray((small - small.mean()) / max(float(small.std()), LEAST_CONTRAST), np.float32)


def difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Root mean square of the difference of two thumbnails."""
    return float(np.sqrt(np.square(one - other).mean()))
