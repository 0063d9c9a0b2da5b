"""Raw pixels of camera messages as RGB: the encodings of ``sensor_msgs`` and of Foxglove."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..pictures.picture_size import too_large
from .messages import CameraMessage
from .regions import BrokenBagError, ReadBuffer


class _Layout(NamedTuple):
    """Samples of a pixel in a row, what they are, and OpenCV's conversion to RGB; None: they are
    RGB."""

    channels: int
    sample: type[np.generic]
    conversion: int | None
    even: tuple[int, int] = (1, 1)  # what width and height are multiples of


_BAYER = {
    "rggb": cv2.COLOR_BayerRGGB2RGB,
    "bggr": cv2.COLOR_BayerBGGR2RGB,
    "gbrg": cv2.COLOR_BayerGBRG2RGB,
    "grbg": cv2.COLOR_BayerGRBG2RGB,
}
_COLOURS = {
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
    "mono": (1, cv2.COLOR_GRAY2RGB),
    **{f"bayer_{pattern}": (1, conversion) for pattern, conversion in _BAYER.items()},
}
_LAYOUTS = {
    **{f"{name}8": _Layout(n, np.uint8, code) for name, (n, code) in _COLOURS.items()},
    **{f"{name}16": _Layout(n, np.uint16, code) for name, (n, code) in _COLOURS.items()},
    # Of OpenCV's own names, whose pixels are blue, green, red:
    "8uc1": _Layout(1, np.uint8, cv2.COLOR_GRAY2RGB),
    "8uc3": _Layout(3, np.uint8, cv2.COLOR_BGR2RGB),
    "8uc4": _Layout(4, np.uint8, cv2.COLOR_BGRA2RGB),
    "16uc3": _Layout(3, np.uint16, cv2.COLOR_BGR2RGB),
    "16uc4": _Layout(4, np.uint16, cv2.COLOR_BGRA2RGB),
    # ROS calls "yuv422" what others call UYVY.
    **dict.fromkeys(("yuv422", "uyvy"), _Layout(2, np.uint8, cv2.COLOR_YUV2RGB_UYVY, (2, 1))),
    **dict.fromkeys(
        ("yuv422_yuy2", "yuyv", "yuy2"), _Layout(2, np.uint8, cv2.COLOR_YUV2RGB_YUYV, (2, 1))
    ),
}
_PLANAR = {  # a plane of brightness, and below it one of half the height with both colours
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
}
_NEEDS_NEIGHBOURS = {*_BAYER.values(), *_PLANAR.values()}  # in other rows, to convert a pixel
_ONE_THREAD = 1 << 16  # pixels that OpenCV converts without waking threads of its own
ENCODINGS = (*_LAYOUTS, *_PLANAR)
"""Encodings that are read, in lower case."""


def raw_pixels(message: CameraMessage, buffer: ReadBuffer | None = None) -> NDArray[Any]:
    """RGB of a raw message, (H, W, 3), uint8 or uint16; rows' padding is left out.

    Args:
        buffer: for pixels that must be converted; fresh memory unless given.

    Raises:
        BrokenBagError: its encoding is not read here, or its size and its bytes disagree.
    """
    encoding = message.encoding.strip().lower()
    if message.width == 0 or message.height == 0:
        raise BrokenBagError(f"it has {message.width} x {message.height} pixels")
    if refusal := too_large(message.width, message.height):
        raise BrokenBagError(f"it {refusal}")
    if encoding in _PLANAR:
        layout = _Layout(1, np.uint8, _PLANAR[encoding], (2, 2))
        samples = _rows(message, layout, message.height * 3 // 2)
        return _converted(samples, layout, message, buffer)
    if encoding not in _LAYOUTS:
        raise BrokenBagError(f"pixels in {message.encoding!r} are not read here")
    layout = _LAYOUTS[encoding]
    return _converted(_rows(message, layout, message.height), layout, message, buffer)


def _rows(message: CameraMessage, layout: _Layout, rows: int) -> NDArray[Any]:
    """A view of the samples, (rows, W, channels), or (rows, W) of one channel."""
    size = np.dtype(layout.sample).itemsize
    row = message.width * layout.channels * size
    step = message.step or row  # some writers of JSON leave it out
    needed = step * (rows - 1) + row
    if step < row or len(message.data) < needed:
        raise BrokenBagError(
            f"{message.width} x {message.height} pixels in {message.encoding} need rows of {row} "
            f"bytes and {needed} in all, and it has rows of {step} and {len(message.data)}"
        )
    dtype = np.dtype(layout.sample)
    dtype = dtype.newbyteorder(">") if message.is_bigendian else dtype.newbyteorder("<")
    shape: tuple[int, ...] = (rows, message.width, layout.channels)
    strides: tuple[int, ...] = (step, layout.channels * size, size)
    if layout.channels == 1:
        shape, strides = shape[:2], strides[:2]
    samples: NDArray[Any] = np.ndarray(shape, dtype, message.data, 0, strides)
    return samples


def _converted(
    samples: NDArray[Any], layout: _Layout, message: CameraMessage, buffer: ReadBuffer | None
) -> NDArray[Any]:
    if message.width % layout.even[0] or message.height % layout.even[1]:
        raise BrokenBagError(
            f"{message.width} x {message.height} pixels are not even, as {message.encoding} needs"
        )
    if not samples.dtype.isnative or any(stride <= 0 for stride in samples.strides):
        samples = samples.astype(samples.dtype.newbyteorder("="))
    if layout.conversion is None:
        is_own = samples.flags.c_contiguous and samples.flags.writeable
        return samples if is_own else np.array(samples)
    into = None
    if buffer is not None and samples.dtype == np.uint8:
        shape = message.height, message.width, 3
        into = np.frombuffer(buffer.get(int(np.prod(shape))), np.uint8).reshape(shape)
    try:
        if into is None or layout.conversion in _NEEDS_NEIGHBOURS:
            return np.asarray(cv2.cvtColor(samples, layout.conversion, into))
        rows = max(1, _ONE_THREAD // message.width)
        for top in range(0, message.height, rows):
            cv2.cvtColor(samples[top : top + rows], layout.conversion, into[top : top + rows])
        return into
    except cv2.error as error:
        raise BrokenBagError(f"OpenCV cannot convert it ({error.err or error})") from error
