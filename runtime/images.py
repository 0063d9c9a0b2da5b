"""Image files: read and write; folders of them are listed and paired with label maps elsewhere.

Importing this module quiets OpenCV's own messages about damaged files (set ``OPENCV_LOG_LEVEL`` to
bring them back), since every damaged file is reported once, by name and reason, by its reader.
"""

import os
import secrets
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .atomic import output_error
from .errors import FrameError, OutputError
from .folder_contents import list_images
from .label_pairs import find_labels, labelled_pairs
from .media_kinds import IMAGE_SUFFIXES

__all__ = [
    "IMAGE_SUFFIXES",
    "Image",
    "find_labels",
    "labelled_pairs",
    "list_images",
    "read_image",
    "write_image",
]

if "OPENCV_LOG_LEVEL" not in os.environ:
    _set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # 4.x, 5.x
    _set_log_level(0)  # silent

Image = NDArray[np.uint8]


def read_image(path: str | Path) -> Image:
    """Read an image file as (H, W, 3) uint8 RGB.

    Grey becomes three equal channels, alpha is dropped, 16-bit values v become round(v / 257), and
    an EXIF orientation is applied.

    Raises:
        FrameError: the file is missing, unreadable, damaged, cut short, or neither 8 nor 16 bits.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path} cannot be read: {error.strerror or error}.") from error
    if damage := _damage(data):
        raise FrameError(f"{path} is damaged: {damage}; copy the file again or remove it.")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise FrameError(f"{path} cannot be decoded: {error.err or error}.") from error
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise FrameError(
            f"{path} is damaged, or no image of 8 or 16 bits a channel ({len(data)} bytes); "
            "copy it again, convert it or remove it."
        )
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _damage(data: bytes) -> str | None:
    """What is wrong with a file that decoders would read in part or complain about on stderr."""
    if not data:
        return "it is empty"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_damage(data)
    # A JPEG without an end marker after its last scan decodes with its lower part grey.
    if data.startswith(b"\xff\xd8\xff") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        return f"the JPEG data ends early, after {len(data)} bytes"
    return None


def _png_damage(data: bytes) -> str | None:
    """Follow the chunks (length, type, body, CRC) of a PNG to IEND."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if (
            zlib.crc32(memoryview(data)[at + 4 : end - 4])
            != struct.unpack_from(">I", data, end - 4)[0]
        ):
            return f"a PNG checksum is wrong at byte {at}"
        if data[at + 4 : at + 8] == b"IEND":
            return None
        at = end
    return f"the PNG data ends early, after {len(data)} bytes"


def write_image(path: str | Path, image: Image) -> None:
    """Write (H, W, 3) uint8 RGB or an (H, W) uint8 map; the suffix chooses the format.

    The file is written beside its place and renamed, so that a reader never sees half of it.

    Raises:
        OutputError: the format is unknown, or the disk is full or the folder cannot be written.
    """
    path = Path(path)
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        _, data = cv2.imencode(path.suffix, pixels)
    except cv2.error as error:
        raise OutputError(
            f"{path}: there is no encoder for {path.suffix!r}; use .png or .jpg."
        ) from error
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")  # never longer than its own name
    try:
        temporary.write_bytes(data.tobytes())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise output_error(error, path) from error
