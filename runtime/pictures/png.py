"""PNG files: whether they are whole, and label maps out of them, sample for sample.

OpenCV expands a palette to colours and stretches 1-, 2- and 4-bit samples to 0..255, which destroys
class ids. So a palette PNG is handed to it as the greyscale PNG of its indices (the same compressed
samples under another header), and stretched samples are divided back. Chunks are checked by length
and CRC first: OpenCV may return part of a truncated picture.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import LabelError
from .picture_size import PNG_SIGNATURE, picture_size, too_large

_GREY, _PALETTE = 0, 3


class Png(NamedTuple):
    """A PNG whose chunks are whole; samples still compressed.

    ``palette`` holds red, green and blue of each index, one byte each; empty where it has none.
    """

    width: int
    height: int
    bit_depth: int
    colour_type: int
    data: bytes
    palette: bytes

    @property
    def is_colour(self) -> bool:
        """Tell whether a pixel has more than one channel (grey with alpha too)."""
        return self.colour_type not in (_GREY, _PALETTE)


def read_png(path: Path) -> Png:
    """The header and data of a PNG file, palette indices turned into greyscale samples.

    Raises:
        LabelError: the file is missing, not a PNG, truncated, damaged, or of more pixels than
            `pixel_limit` allows.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LabelError(f"{path}: cannot read these labels ({error.strerror}).") from error
    return parse_png(data, path)


def parse_png(data: bytes, path: Path | str) -> Png:
    """As `read_png`, of a file's content.

    Args:
        path: where the content is from, for sentences.
    """
    if not data.startswith(PNG_SIGNATURE):
        raise LabelError(f"{path}: is not a PNG; labels are PNGs of one channel of class ids.")
    size = picture_size(data)
    if size is not None and (refusal := too_large(*size)):
        raise LabelError(f"{path}: this label map {refusal}.")
    kept, header, palette = [PNG_SIGNATURE], b"", b""
    try:
        for kind, view in png_chunks(data):
            body = bytes(view)
            if kind == b"IHDR" and len(body) == 13:
                header = body
                body = body[:9] + bytes([_GREY if body[9] == _PALETTE else body[9]]) + body[10:]
            if kind == b"PLTE":
                palette = body
            if kind in (b"IHDR", b"IDAT", b"IEND"):
                kept.append(_chunk(kind, body))
    except ValueError as error:
        raise LabelError(f"{path}: these labels are damaged, {error}; copy them again.") from error
    if not header:
        raise LabelError(f"{path}: these labels are damaged, no PNG header; copy them again.")
    width, height, bit_depth, colour_type = struct.unpack(">IIBB", header[:10])
    return Png(width, height, bit_depth, colour_type, b"".join(kept), palette)


class PngCutError(ValueError):
    """A PNG's data ends before its end chunk."""


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and body of each chunk of a PNG, up to and with IEND.

    Raises:
        PngCutError: the data ends before that; says where.
        ValueError: a checksum is wrong; says which.
    """
    view = memoryview(data)
    at, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at) if at + 12 <= len(data) else (0, b"")
        end = at + 12 + length
        if end > len(data):
            raise PngCutError(f"the PNG data ends early, after {len(data)} bytes")
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[at + 4 : end - 4]) != checksum:
            raise ValueError(f"a PNG checksum is wrong at byte {at}")
        yield kind, view[at + 8 : end - 4]
        at = end


def whole_png(data: bytes) -> bytes:
    """The data of a PNG whose picture is whole, with a new end chunk where only the end is cut off.

    Raises:
        ValueError: the data ends early or a checksum is wrong; says where.
    """
    end, samples = len(PNG_SIGNATURE), []
    try:
        for kind, body in png_chunks(data):
            end += 12 + len(body)
            if kind == b"IDAT":
                samples.append(body)
    except PngCutError:
        if not _ends(samples):
            raise
        return data[:end] + _chunk(b"IEND", b"")
    return data


def _ends(samples: Sequence[memoryview]) -> bool:
    """Tell whether a zlib stream in parts comes to its own end; holds 64 KiB of it at a time."""
    stream = zlib.decompressobj()
    try:
        for part in samples:
            waiting: bytes | memoryview = part
            while waiting and not stream.eof:
                stream.decompress(waiting, 1 << 16)
                waiting = stream.unconsumed_tail
    except zlib.error:
        return False
    return stream.eof


def decode_label_png(png: Png, path: Path | str, channel: int | None = None) -> NDArray[Any]:
    """Samples of a one-channel PNG, or of one ``channel`` (0 red) of a colour PNG.

    Returns:
        (H, W), uint8, or uint16 for a 16-bit PNG.

    Raises:
        LabelError: the compressed samples are damaged.
    """
    samples = _samples(png, path)
    if channel is not None:
        samples = np.ascontiguousarray(samples[..., 2 - channel])  # OpenCV: blue, green, red
    if png.bit_depth < 8:
        samples = samples // np.uint8(255 // ((1 << png.bit_depth) - 1))
    return samples


def _samples(png: Png, path: Path | str) -> NDArray[Any]:
    """The PNG as OpenCV decodes it; LabelError if it does not."""
    try:
        samples = cv2.imdecode(np.frombuffer(png.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        samples = None
    if samples is None or samples.shape[:2] != (png.height, png.width):
        raise LabelError(f"{path}: these labels are damaged and do not decode; copy them again.")
    return samples


def decode_colour_png(png: Png, path: Path) -> NDArray[Any]:
    """Samples of a colour PNG, (H, W, 3) in RGB order, uint8 or uint16; grey with alpha as grey.

    Raises:
        LabelError: the compressed samples are damaged, or pixels are transparent.
    """
    samples = _samples(png, path)
    if samples.ndim != 3 or samples.shape[2] not in (3, 4):
        raise LabelError(f"{path}: is no PNG of three or four channels.")
    if samples.shape[2] == 4 and (samples[..., 3] != np.iinfo(samples.dtype).max).any():
        raise LabelError(
            f"{path}: has transparent pixels, and labels have none; save it without transparency."
        )
    return np.ascontiguousarray(samples[..., 2::-1])  # OpenCV: blue, green, red, alpha


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
