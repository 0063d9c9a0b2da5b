"""The pixels every engine sees: fit a frame to the network's input, bring its labels back.

Colour order and normalisation are inside the exported graphs, so these two functions are all that
stands between a frame and an engine. Each returns its argument untouched when the size fits.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ShapeError


def fit_frame(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize an (H, W, 3) uint8 image to (``height``, ``width``, 3).

    Area averaging when neither side grows, bilinear otherwise; the aspect ratio is not kept. The
    image itself is returned, not a copy, when it has that size already.

    Raises:
        ShapeError: ``image`` is not a non-empty uint8 (H, W, 3) array.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ShapeError(
            f"fit_frame: the image must be a non-empty uint8 (H, W, 3) array, "
            f"got {image.dtype} {image.shape}."
        )
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method).astype(np.uint8, copy=False)


def restore_labels(labels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize an (h, w) uint8 label map to (``height``, ``width``): nearest pixel centre.

    The map itself is returned, not a copy, when it has that size already.

    Raises:
        ShapeError: ``labels`` is not a non-empty uint8 (h, w) array.
    """
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.size == 0:
        raise ShapeError(
            f"restore_labels: the label map must be a non-empty uint8 (h, w) array, "
            f"got {labels.dtype} {labels.shape}."
        )
    if labels.shape == (height, width):
        return labels
    resized = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(np.uint8, copy=False)
