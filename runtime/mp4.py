"""An MP4 (or MOV) file around pictures that are compressed already: MPEG-4 part 2, constant rate.

OpenCV writes an MP4's index when the video is finished, so one that is not finished cannot be read
at all. Videos are therefore recorded as Matroska, which can be read up to where it stops, and put
into an MP4 at the end; OpenCV's own encapsulation of compressed pictures loses the decoder's
configuration, without which players refuse the file. ISO/IEC 14496-12 (boxes), 14496-14 (esds).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from fractions import Fraction
from typing import BinaryIO

_MATRIX = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)  # no rotation
_VISUAL_STREAM = 4 << 2 | 1
_MPEG4_VISUAL = 0x20


def write_mp4(
    file: BinaryIO,
    pictures: Iterable[tuple[bytes, bool]],
    *,
    configuration: bytes,
    size: tuple[int, int],
    rate: Fraction,
) -> int:
    """Write a video of one track and return the number of its pictures.

    Args:
        file: empty, open for writing, and one that can seek.
        pictures: compressed, with whether each is a key picture, in the order of their display.
        configuration: the decoder's, as the encoder gives it (its visual object layer).
        size: width and height, each below 65,536.
        rate: pictures a second.

    Raises:
        OSError: the file cannot be written.
    """
    file.write(_box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso2mp41"))
    data_at = file.tell()
    file.write(struct.pack(">I4sQ", 1, b"mdat", 0))  # the size follows
    sizes, keys = array("I"), array("I")
    for picture, is_key in pictures:
        file.write(picture)
        sizes.append(len(picture))
        if is_key:
            keys.append(len(sizes))
    end = file.tell()
    file.seek(data_at + 8)
    file.write(struct.pack(">Q", end - data_at))
    file.seek(end)
    table = _sample_table(sizes, keys, data_at + 16, configuration, size, rate)
    file.write(_movie(table, len(sizes), size, rate))
    return len(sizes)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full(kind: bytes, flags: int, *parts: bytes) -> bytes:
    """A box with version 0 and flags."""
    return _box(kind, struct.pack(">I", flags), *parts)


def _big_endian(numbers: array[int]) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def _movie(table: bytes, count: int, size: tuple[int, int], rate: Fraction) -> bytes:
    """The index: times are in units of 1 / ``rate.numerator`` seconds."""
    width, height = size
    duration = min(count * rate.denominator, 0xFFFFFFFF)
    times = struct.pack(">4I", 0, 0, rate.numerator, duration)
    header = _full(
        b"mvhd", 0, times, struct.pack(">IH10x", 1 << 16, 1 << 8), _MATRIX, bytes(24),
        struct.pack(">I", 2),
    )  # fmt: skip
    track_header = _full(
        b"tkhd", 3, struct.pack(">5I", 0, 0, 1, 0, duration), bytes(16), _MATRIX,
        struct.pack(">II", width << 16, height << 16),
    )  # fmt: skip
    media = _box(
        b"mdia",
        _full(b"mdhd", 0, times, struct.pack(">HH", 0x55C4, 0)),  # language: undetermined
        _full(b"hdlr", 0, bytes(4), b"vide", bytes(12), b"video\0"),
        _box(
            b"minf",
            _full(b"vmhd", 1, bytes(8)),
            _box(b"dinf", _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1))),
            table,
        ),
    )
    return _box(b"moov", header, _box(b"trak", track_header, media))


def _sample_table(
    sizes: array[int],
    keys: array[int],
    data_at: int,
    configuration: bytes,
    size: tuple[int, int],
    rate: Fraction,
) -> bytes:
    """All pictures as one chunk that starts at ``data_at``."""
    count = len(sizes)
    entry = _box(
        b"mp4v", struct.pack(">6xH16x", 1), struct.pack(">HH", *size),
        struct.pack(">IIIH32xHh", 72 << 16, 72 << 16, 0, 1, 24, -1), _decoder(configuration),
    )  # fmt: skip
    return _box(
        b"stbl",
        _full(b"stsd", 0, struct.pack(">I", 1), entry),
        _full(b"stts", 0, struct.pack(">III", 1, count, rate.denominator)),
        _full(b"stss", 0, struct.pack(">I", len(keys)), _big_endian(keys)),
        _full(b"stsc", 0, struct.pack(">4I", 1, 1, count, 1)),
        _full(b"stsz", 0, struct.pack(">II", 0, count), _big_endian(sizes)),
        _full(b"co64", 0, struct.pack(">IQ", 1, data_at)),
    )


def _decoder(configuration: bytes) -> bytes:
    """The elementary stream descriptor: MPEG-4 visual, with the decoder's configuration."""
    decoder = _descriptor(
        4,
        struct.pack(">BBBHII", _MPEG4_VISUAL, _VISUAL_STREAM, 0, 0, 0, 0),
        _descriptor(5, configuration),
    )
    return _full(
        b"esds", 0, _descriptor(3, struct.pack(">HB", 1, 0), decoder, _descriptor(6, b"\2"))
    )


def _descriptor(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length = [len(body) >> shift & 0x7F for shift in (21, 14, 7, 0)]
    return bytes([tag, *(one | 0x80 for one in length[:3]), length[3]]) + body
