"""Frames that show something else than those before: copies of one are no evidence of their own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...runtime.pictures.thumbnails import LEAST_DIFFERENCE, difference, thumbnail


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
        small = thumbnail(image)
        new = all(difference(small, other) >= LEAST_DIFFERENCE for other in self._seen)
        if new:
            self._seen.append(small)
        return new
