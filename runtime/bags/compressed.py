"""Pictures that camera messages hold as JPEG or PNG."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..pictures.jpeg import JPEG_SIGNATURE, decode_jpeg
from ..pictures.picture_size import PNG_SIGNATURE, picture_size, too_large
from ..pictures.png import whole_png
from .messages import CameraMessage
from .regions import BrokenBagError

# "rgb8; jpeg compressed rgb8": the encoder was given red where it takes blue. Where the second
# encoding is bgr8, as image_transport writes it, the picture is as any other.
_SWAPPED = re.compile(r"^\s*rgb.*;.*compressed\s+rgb", re.IGNORECASE)


def compressed_pixels(message: CameraMessage) -> NDArray[Any]:
    """RGB of a JPEG or a PNG, (H, W, 3), uint8 or uint16; its kind is told by its content.

    Raises:
        BrokenBagError: it is damaged, of another kind, a depth map, or too large.
    """
    if is_depth(message.encoding):
        raise BrokenBagError("it is a depth map, not a picture")
    data = bytes(message.data)
    size = picture_size(data)
    if size is not None and (refusal := too_large(*size)):
        raise BrokenBagError(f"it {refusal}")
    try:
        if data.startswith(JPEG_SIGNATURE):
            rgb: NDArray[Any] = decode_jpeg(data)
        elif data.startswith(PNG_SIGNATURE):
            rgb = _png(data)
        else:
            shown = message.encoding[:60] or "an unnamed format"
            raise BrokenBagError(f"it is neither JPEG nor PNG ({shown!r})")
    except BrokenBagError:
        raise
    except ValueError as error:
        raise BrokenBagError(f"its picture is damaged: {error}") from error
    return np.ascontiguousarray(rgb[..., ::-1]) if _SWAPPED.match(message.encoding) else rgb


def is_depth(encoding: str) -> bool:
    """Tell whether a format is that of depth, which has no colours."""
    return "compresseddepth" in encoding.lower()


def _png(data: bytes) -> NDArray[Any]:
    try:
        image = cv2.imdecode(
            np.frombuffer(whole_png(data), np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error as error:
        raise BrokenBagError(f"its picture cannot be decoded ({error.err or error})") from error
    if image is None:
        raise BrokenBagError("its picture is damaged")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
