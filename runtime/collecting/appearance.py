"""Looks of a frame in a few numbers: what tells places apart, and what makes a frame worthless.

All of it comes from a picture of 32x16 pixels and three small windows at full size, so that a frame
of a camera costs well under a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..pictures.thumbnails import HEIGHT, WIDTH, normalised

Image = NDArray[np.uint8]
Vector = NDArray[np.float32]

LENGTH = 48  # numbers of a descriptor
_STRUCTURE = 42  # of them; then four of colour, and brightness and contrast
_COARSE = 128  # columns of the picture that is made before the thumbnail
_WINDOW = 128  # pixels, side of a window that sharpness is measured in
_SCALE, _LEAST = 16, 0.25  # of the coarse detail; of the detail, against noise in flat windows
_PER_STOP = 0.08  # distance between two frames of which one is twice as bright
_OF_COLOUR = 1.0  # distance between a grey and a fully coloured half of a picture
_DARK, _DARK_HIGHLIGHT, _FLAT = 10.0, 24.0, 3.0  # grey levels


def _low_frequencies() -> NDArray[np.intp]:
    """Places of the lowest frequencies in a flattened (16, 32) cosine transform, but the mean."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    order = np.lexsort((columns.ravel(), (rows / HEIGHT + columns / WIDTH).ravel()))
    return np.asarray(order[1 : _STRUCTURE + 1], np.intp)


_LOW = _low_frequencies()


@dataclass(frozen=True, slots=True)
class Appearance:
    """Looks of one frame.

    Attributes:
        descriptor: (48,) float32. The distance of two is, for the most part, the root mean square
            difference of their thumbnails of mean 0 and deviation 1, without the fine detail.
        brightness: mean grey level, 0 to 255.
        is_dark: hardly any light reached the camera: a covered lens, a dark garage.
        is_flat: nothing can be told apart: a lens that is wiped, fogged or blinded.
        sharpness: log2 of the detail at full size over that at a sixteenth of it; a sharp frame has
            more than a blurred one of the same camera, whatever it shows.
    """

    descriptor: Vector
    brightness: float
    is_dark: bool
    is_flat: bool
    sharpness: float


def appearance(image: Image) -> Appearance:
    """Looks of a frame, (H, W, 3) uint8 RGB of any size."""
    step = max(1, image.shape[1] // (2 * _COARSE))
    columns, rows = max(1, image.shape[1] // step), max(1, image.shape[0] // step)
    whole = image[: rows * step, : columns * step]  # so that each column is one of the picture's
    coarse = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_NEAREST)
    small = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = small @ np.array([0.299, 0.587, 0.114], np.float32)
    brightness, deviation = float(grey.mean()), float(grey.std())
    return Appearance(
        _descriptor(small, grey, brightness, deviation),
        brightness,
        brightness < _DARK and float(np.percentile(grey, 98)) < _DARK_HIGHLIGHT,
        deviation < _FLAT,
        _sharpness(image),
    )


def _descriptor(small: Vector, grey: Vector, brightness: float, deviation: float) -> Vector:
    frequencies = cv2.dct(normalised(grey)).ravel()[_LOW] / np.sqrt(HEIGHT * WIDTH)
    means = small.reshape(2, -1, 3).mean(axis=1)  # of the upper and the lower half
    total = means.sum(axis=1) + 8  # so that noise in the dark is no colour
    colour = np.stack([means[:, 0] - means[:, 1], means[:, 2] - means[:, 1]]) / total
    descriptor = np.zeros(LENGTH, np.float32)
    descriptor[:_STRUCTURE] = frequencies
    descriptor[_STRUCTURE : _STRUCTURE + 4] = _OF_COLOUR * colour.ravel()
    descriptor[-2] = _PER_STOP * np.log2(brightness + 4)
    descriptor[-1] = _PER_STOP * np.log2(deviation + 4)
    return descriptor


def _sharpness(image: Image) -> float:
    height, width = image.shape[:2]
    side = min(_WINDOW, height, width) // _SCALE * _SCALE
    if side < 3 * _SCALE:
        return 0.0
    top = (height - side) // 2
    lefts = {int(share * (width - side)) for share in (0.2, 0.5, 0.8)}
    windows = [image[top : top + side, left : left + side] for left in sorted(lefts)]
    grey = cv2.cvtColor(np.concatenate(windows, axis=1), cv2.COLOR_RGB2GRAY)
    size = grey.shape[1] // _SCALE, grey.shape[0] // _SCALE
    coarse = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    fine, rough = (float(np.abs(cv2.Laplacian(one, cv2.CV_16S)).mean()) for one in (grey, coarse))
    return float(np.log2((fine + _LEAST) / (rough + _LEAST)))
