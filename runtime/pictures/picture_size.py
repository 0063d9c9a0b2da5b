"""Width and height of a picture from its header alone, and the limit on what is decoded.

A few hundred kilobytes can describe a picture of gigabytes. So the header is read first, and a
picture of more pixels than `pixel_limit` is refused before a decoder allocates anything for it.
"""

from __future__ import annotations

import os
import re
import struct

from ..words import shortened

DEFAULT_MEGAPIXELS = 100.0  # five times the largest frames of driving data sets
LIMIT_VARIABLE = "ROADSHIFT_MAX_MEGAPIXELS"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GAP = rb"(?:\s|#[^\n\r]*[\n\r])+"  # with comments
_PNM = re.compile(rb"P([1-6])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})")
_PNM_LARGEST = re.compile(_PNM.pattern + _GAP + rb"(\d{1,5})\s")
_NO_FRAME = frozenset({0xC4, 0xC8, 0xCC})  # DHT, JPG, DAC lie among the start-of-frame markers


def pixel_limit() -> float:
    """Pixels that one picture or video frame may have.

    100 million, unless the environment variable ``ROADSHIFT_MAX_MEGAPIXELS`` holds another number
    of millions.

    Raises:
        ValueError: the variable holds something else than a positive number.
    """
    written = os.environ.get(LIMIT_VARIABLE, "")
    megapixels = float(written) if written.strip() else DEFAULT_MEGAPIXELS
    if not megapixels > 0:
        raise ValueError(f"{LIMIT_VARIABLE}={written} is not a positive number")
    return megapixels * 1e6


def too_large(width: int, height: int) -> str | None:
    """The end of a sentence that refuses a picture of this size; None where it may be decoded."""
    try:
        limit = pixel_limit()
    except ValueError:
        found = shortened(os.environ[LIMIT_VARIABLE])
        return (
            f"cannot be measured against {LIMIT_VARIABLE}={found!r}, which is "
            "not a positive number; set it to one, or unset it"
        )
    if width * height <= limit:
        return None
    needed = -(-width * height // 1_000_000)
    return (
        f"has {width} x {height} pixels, {needed} megapixels, and at most {limit / 1e6:g} are "
        f"decoded; remove it, or set {LIMIT_VARIABLE}={needed} if it is meant to be so large"
    )


def picture_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that the header of a picture states; None where it is not understood.

    Understood are JPEG, PNG, WebP, BMP, TIFF, PBM to PPM, Sun raster, GIF, JPEG 2000 and AVIF,
    by content.
    """
    try:
        return _size(data)
    except (struct.error, IndexError):  # the header is cut
        return None


def pnm_largest(data: bytes) -> int | None:
    """The value of white in a PGM or PPM file as OpenCV decodes it; None for any other file.

    That is what the file states, 1 to 65535, but 255 where its numbers are written out and of
    8 bits: those alone are scaled by the decoder.
    """
    found = _PNM_LARGEST.match(data)
    if found is None or found[1] in b"14":
        return None
    largest = int(found[4])
    if not 0 < largest < 1 << 16:
        return None
    return 255 if found[1] in b"23" and largest < 256 else largest


def _size(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(PNG_SIGNATURE):
        return _pair(">II", data, 16)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] == b"BM":
        return _bmp(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(data)
    if data[:4] == b"\x59\xa6\x6a\x95":  # Sun raster
        return _pair(">II", data, 4)
    if data[:4] == b"GIF8":
        return _pair("<HH", data, 6)
    if found := _PNM.match(data):
        return int(found[2]), int(found[3])
    if data[4:8] == b"jP  " or data[:4] == b"\xff\x4f\xff\x51":
        return _jpeg_2000(data)
    if data[4:8] == b"ftyp":
        return _avif(data)
    return None


def _pair(layout: str, data: bytes, at: int) -> tuple[int, int]:
    width, height = struct.unpack_from(layout, data, at)
    return width, height


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            return None
        while data[at] == 0xFF:
            at += 1
        kind = data[at]
        if 0xC0 <= kind <= 0xCF and kind not in _NO_FRAME:
            height, width = struct.unpack_from(">HH", data, at + 4)
            return width, height
        if kind == 0xD9:
            return None
        alone = kind in (0, 1) or 0xD0 <= kind <= 0xD8
        at += 1 if alone else 1 + struct.unpack_from(">H", data, at + 1)[0]


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":  # canvas: three bytes each, less one
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = _pair("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _bmp(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = _pair("<HH" if header == 12 else "<ii", data, 18)
    return abs(width), abs(height)  # a negative height: rows from the top


def _tiff(data: bytes) -> tuple[int, int] | None:
    """The first page, which is the one that is read; of a classic or a Big TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:3] == b"+" or data[3:4] == b"+"
    pointer, entries, entry_size, value_at = ("Q", "Q", 20, 12) if big else ("I", "H", 12, 8)
    (at,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + entries, data, at)
    at += struct.calcsize(entries)
    found: dict[int, int] = {}
    for entry in range(at, at + min(count, 4096) * entry_size, entry_size):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):
            layout = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
            if layout is None:
                return None
            (found[tag],) = struct.unpack_from(order + layout, data, entry + value_at)
    return (found[256], found[257]) if len(found) == 2 else None


def _jpeg_2000(data: bytes) -> tuple[int, int] | None:
    at = data.find(b"\xff\x4f\xff\x51")  # SOC, SIZ: the code stream's own word
    if at < 0:
        return None
    width, height, left, top = struct.unpack_from(">IIII", data, at + 8)
    return width - left, height - top


def _avif(data: bytes) -> tuple[int, int] | None:
    """The largest image that the file's properties (``ispe``) tell of."""
    sizes = [_pair(">II", data, found.end() + 4) for found in re.finditer(b"ispe", data[: 1 << 16])]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)
