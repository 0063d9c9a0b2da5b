"""An AVI file that can be played at any moment while it grows: motion JPEG pictures.

Its sizes are stated as 0 until the end, when an index is put behind. They have 32 bits, so a file
is a series of parts of about a gibibyte, each with an index of its own, and a table of these is at
the start:

    RIFF AVI [ hdrl [ avih  strl [ strh  strf  indx ]  odml ]  movi [ 00dc ...  ix00 ]  idx1 ]
    RIFF AVIX [ movi [ 00dc ...  ix00 ] ]  ...

Microsoft's AVI RIFF file reference; OpenDML AVI file format extensions 1.02.
"""

from __future__ import annotations

import struct
from fractions import Fraction

from .growing_file import GrowingFile

_LONGEST_PART = 1 << 30  # bytes, but for the picture that reaches it
_MOST_PARTS = 256  # for which the table at the start has room
_STREAM = b"00dc"
_HAS_INDEX, _IS_INTERLEAVED, _KEY = 0x10, 0x100, 0x10
_OF_INDEXES, _OF_PICTURES = 0, 1


class AviFile:
    """One video track of constant rate, of pictures that depend on no other.

    A write that fails leaves the file as it was before.

    Args:
        file: empty.
        size: width and height.
        rate: pictures a second.

    Raises:
        OSError: the file cannot be written; from every method.
    """

    def __init__(self, file: GrowingFile, *, size: tuple[int, int], rate: Fraction) -> None:
        self._file = file
        self._size, self._rate = size, rate
        self._pictures = self._largest = 0
        self._in_first = self._size_of_first = 0  # pictures and bytes, once the first part is full
        self._indexes: list[tuple[int, int, int]] = []  # of each part: place, bytes, pictures
        self._begin_part()

    def append(self, picture: bytes) -> None:
        """Add a picture, a whole JPEG."""
        if self._file.end - self._riff_at > _LONGEST_PART and len(self._indexes) < _MOST_PARTS - 1:
            self._end_part()
            self._begin_part()
        self._places.append((self._file.append(_chunk(_STREAM, picture)), len(picture)))
        self._largest = max(self._largest, len(picture))
        self._pictures += 1

    def finish(self) -> None:
        """Add the last index, and state all sizes and the number of pictures."""
        self._end_part()
        self._file.overwrite(0, self._header())

    def _begin_part(self) -> None:
        start = struct.pack("<4sI4s", b"RIFF", 0, b"AVIX") if self._indexes else self._header()
        self._riff_at = self._file.append(start + struct.pack("<4sI4s", b"LIST", 0, b"movi"))
        self._movi_at = self._file.end - 4  # from which the places in indexes count
        self._places: list[tuple[int, int]] = []  # and lengths of the part's pictures

    def _end_part(self) -> None:
        """Put the part's index behind it, and state its size."""
        entries = [struct.pack("<II", at + 8 - self._movi_at, size) for at, size in self._places]
        index = _chunk(
            b"ix00",
            struct.pack("<HBBI4sQI", 2, 0, _OF_PICTURES, len(entries), _STREAM, self._movi_at, 0),
            *entries,
        )
        self._indexes.append((self._file.append(index), len(index), len(entries)))
        self._file.overwrite(self._movi_at - 4, struct.pack("<I", self._file.end - self._movi_at))
        if len(self._indexes) == 1:
            self._in_first = len(entries)
            old = [(at - self._movi_at, size) for at, size in self._places]
            entries = [struct.pack("<4sIII", _STREAM, _KEY, *one) for one in old]
            self._file.append(_chunk(b"idx1", *entries))
            self._size_of_first = self._file.end - 8
        size = self._file.end - self._riff_at - 8
        self._file.overwrite(self._riff_at + 4, struct.pack("<I", size))

    def _header(self) -> bytes:
        """All that stands before the pictures of the first part; of one length at any time."""
        width, height = self._size
        scale, rate = self._rate.denominator, self._rate.numerator
        main = struct.pack(
            "<14I", round(1e6 * scale / rate), 0, 0, _HAS_INDEX | _IS_INTERLEAVED, self._in_first,
            0, 1, self._largest + 8, width, height, 0, 0, 0, 0,
        )  # fmt: skip
        stream = struct.pack(
            "<4s4sIHH8I4H", b"vids", b"MJPG", 0, 0, 0, 0, scale, rate, 0, self._pictures,
            self._largest + 8, 0xFFFFFFFF, 0, 0, 0, width, height,
        )  # fmt: skip
        picture = struct.pack(
            "<IiiHH4sI4I", 40, width, height, 1, 24, b"MJPG", 3 * width * height, 0, 0, 0, 0
        )
        table = struct.pack("<HBBI4s12x", 4, 0, _OF_INDEXES, len(self._indexes), _STREAM)
        table += b"".join(struct.pack("<QII", *index) for index in self._indexes)
        lists = _list(
            b"hdrl",
            _chunk(b"avih", main),
            _list(
                b"strl",
                _chunk(b"strh", stream),
                _chunk(b"strf", picture),
                _chunk(b"indx", table.ljust(24 + 16 * _MOST_PARTS, b"\0")),
            ),
            _list(b"odml", _chunk(b"dmlh", struct.pack("<I244x", self._pictures))),
        )
        return struct.pack("<4sI4s", b"RIFF", self._size_of_first, b"AVI ") + lists


def _chunk(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack("<4sI", kind, len(body)) + body + bytes(len(body) % 2)


def _list(kind: bytes, *chunks: bytes) -> bytes:
    return _chunk(b"LIST", kind, *chunks)
