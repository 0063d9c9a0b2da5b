"""Image files: read and write; folders of them are listed and paired with label maps elsewhere.

Importing this module quiets OpenCV's own messages about damaged files (set ``OPENCV_LOG_LEVEL`` to
bring them back), since every damaged file is reported once, by name and reason, by its reader.
"""

import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ..atomic import output_errors, replacing
from ..errors import FrameError, OutputError
from ..lfs_pointers import IS_LFS_POINTER, LFS_START
from ..notes import log_note
from ..pictures.jpeg import JPEG_SIGNATURE, decode_jpeg
from ..pictures.picture_size import PNG_SIGNATURE, picture_size, pnm_largest, too_large
from ..pictures.png import whole_png
from ..pictures.white import TWELVE_BITS, white_of_one
from .bit_depth import white_in_folder

if "OPENCV_LOG_LEVEL" not in os.environ:
    _set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # 4.x, 5.x
    _set_log_level(0)  # silent

_REMARKED: set[Path] = set()  # folders of which an odd file was logged by this process

Image = NDArray[np.uint8]
_Read = TypeVar("_Read")


def _log_once(folder: Path, sentence: str) -> None:
    if folder not in _REMARKED:
        _REMARKED.add(folder)
        log_note(sentence)


def read_image(path: str | Path, *, remark: Callable[[str], None] | None = None) -> Image:
    """Read an image file by itself as (H, W, 3) uint8 RGB.

    Grey becomes three equal channels, alpha is dropped, an EXIF orientation is applied. 16-bit
    values v become round(v / 257); those of a file whose values end at 4095, which are the twelve
    bits of a camera, become round(v / 16.06), and a remark says so. PBM to PPM files state their
    own largest value.

    Args:
        remark: called with a sentence on an odd file that is read all the same; unless given, the
            first such sentence on a file of each folder is logged.

    Raises:
        FrameError: the file is missing, unreadable, a Git LFS pointer, damaged, cut short (one that
            lacks only its end marker is whole), neither 8 nor 16 bits, or of more pixels than
            `pixel_limit`.
    """
    return _read(Path(path), remark, lambda _, brightest: white_of_one(brightest))


def read_frame_image(path: str | Path, *, remark: Callable[[str], None] | None = None) -> Image:
    """Read an image file as one of the frames of its folder, as `read_image` does.

    Whether 16 bits hold the twelve of a camera is decided for the folder, see `bit_depth`, so that
    a dark frame of 16 bits stays dark.
    """
    return _read(
        Path(path), remark, lambda of, brightest: white_in_folder(of, brightest, _brightest)
    )


def _read(
    path: Path, remark: Callable[[str], None] | None, white_of: Callable[[Path, int], int]
) -> Image:
    data = _file_data(path)
    if data.startswith(JPEG_SIGNATURE):
        return _undamaged(decode_jpeg, data, path)
    image = _pixels(data, path)
    image = _eight_bits(image, data, path, remark or partial(_log_once, path.parent), white_of)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _brightest(path: Path) -> int | None:
    """The largest value of a 16-bit picture whose file does not state its white; None of others."""
    try:
        data = _file_data(path)
        if data.startswith(JPEG_SIGNATURE) or pnm_largest(data) is not None:
            return None
        image = _pixels(data, path)
    except FrameError:
        return None  # it is reported where it is read as a frame
    return int(image.max()) if image.dtype == np.uint16 else None


def _file_data(path: Path) -> bytes:
    """The bytes of an image file that is not too large to decode."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not data:
        raise FrameError(f"{path} is damaged: it is empty; copy the file again or remove it.")
    if data.startswith(LFS_START):
        raise FrameError(f"{path} {IS_LFS_POINTER}.")
    size = picture_size(data)
    if size is not None and (refusal := too_large(*size)):
        raise FrameError(f"{path} {refusal}.")
    return data


def _undamaged(read: Callable[[bytes], _Read], data: bytes, path: Path) -> _Read:
    try:
        return read(data)
    except ValueError as error:
        raise FrameError(
            f"{path} is damaged: {error}; copy the file again or remove it."
        ) from error


def _pixels(data: bytes, path: Path) -> NDArray[Any]:
    """The decoded pixels of a file that is no JPEG, (H, W, 3) BGR, uint8 or uint16."""
    if data.startswith(PNG_SIGNATURE):
        data = _undamaged(whole_png, data, path)
    image = None if picture_size(data) is None else _decode(data, path)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise FrameError(
            f"{path} is damaged, or no image of 8 or 16 bits a channel ({len(data)} bytes); "
            "copy it again, convert it or remove it."
        )
    return image


def _decode(data: bytes, path: Path) -> NDArray[Any] | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise FrameError(f"{path} cannot be decoded: {error.err or error}.") from error


def _eight_bits(
    image: NDArray[Any],
    data: bytes,
    path: Path,
    remark: Callable[[str], None],
    white_of: Callable[[Path, int], int],
) -> NDArray[Any]:
    """The values of a decoded image as 0 to 255, by the largest value that its kind of file has."""
    largest = np.iinfo(image.dtype).max
    stated = pnm_largest(data)
    if stated is not None:
        largest = stated
    elif image.dtype == np.uint16:
        brightest = int(image.max())
        largest = white_of(path, brightest)
        if largest == TWELVE_BITS and brightest:
            remark(
                f"{path} has 16 bits a channel and no value above {brightest}: its values are "
                f"taken as the twelve bits of a camera, {TWELVE_BITS} is white; if it is meant to "
                "be nearly black, convert it to 8 bits."
            )
    return image if largest == 255 else cv2.convertScaleAbs(image, alpha=255 / largest)


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
    temporary = f".{secrets.token_hex(8)}.part"  # never longer than its own name
    with output_errors(path), replacing(path, temporary, flushed=False) as file:
        file.write(data.tobytes())
