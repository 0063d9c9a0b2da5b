"""Weight of a frame by the labels that the running model gave it: rare classes, much to see."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

_STEP = 8  # every so many pixels of a label map are looked at
_PRESENT = 0.002  # share of the pixels from which on a class counts as being there
_RAREST = 5.0  # bits: a class that one frame in 32 holds is as rare as it gets
_PER_BIT, _OF_BORDERS = 0.2, 0.25  # parts of the weight, beside 1


class Interest:
    """Weights of frames, by how often each class was met so far; at most as many as classes.

        weight = 1 + 0.2 r + 0.25 e

    with r the bits, log2 of 1 over the share of the frames that hold it, of the rarest class of the
    frame, at most 5; and e the share of pixels beside one of another class over the mean of all
    frames, at most 2. Borders are where a network is unsure and where labels are worth most.
    """

    def __init__(self) -> None:
        self._frames = 0
        self._holding: Counter[int] = Counter()
        self._borders = 0.0  # sum over the frames

    def known(self, classes: dict[int, float]) -> None:
        """Count a frame of an earlier drive."""
        if classes:
            self._frames += 1
            self._holding.update(_present(classes))

    def of(self, labels: NDArray[np.uint8] | None) -> tuple[float, dict[int, float]]:
        """Weight, and share of the pixels of each class, of a frame with this (H, W) label map."""
        if labels is None:
            return 1.0, {}
        few = labels[::_STEP, ::_STEP]
        counts = np.bincount(few.ravel())
        found = np.flatnonzero(counts)
        classes = {int(index): float(counts[index] / few.size) for index in found}
        borders = float((few[:, 1:] != few[:, :-1]).mean()) if few.shape[1] > 1 else 0.0
        self._frames += 1
        self._holding.update(_present(classes))
        self._borders += borders
        mean = self._borders / self._frames
        busy = min(borders / mean, 2.0) if mean > 0 else 1.0
        return 1 + _PER_BIT * self._bits(classes) + _OF_BORDERS * busy, classes

    def _bits(self, classes: dict[int, float]) -> float:
        shares = [self._holding[index] / self._frames for index in _present(classes)]
        return min(_RAREST, -float(np.log2(min(shares)))) if shares else 0.0


def _present(classes: dict[int, float]) -> list[int]:
    return [index for index, share in classes.items() if share >= _PRESENT]
