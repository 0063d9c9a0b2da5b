"""An MP4 (or MOV) file that can be played at any moment while it grows: MPEG-4 part 2 pictures.

OpenCV writes an MP4's index when the video is finished, and one without its index cannot be read at
all. Here pictures are appended as fragments, each with its own index:

    ftyp  free  moov(no pictures)  moof mdat  moof mdat  ...

and at the end the whole is made an ordinary file in one step: an ordinary index is put behind it,
and the 16 bytes of ``free`` become the header of an ``mdat`` that spans all between:

    ftyp  mdat(all of it)  moov

ISO/IEC 14496-12 (boxes, fragments), 14496-14 (esds).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from fractions import Fraction

from .growing_file import GrowingFile

_MATRIX = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)  # no rotation
_VISUAL_STREAM, _MPEG4_VISUAL = 4 << 2 | 1, 0x20
_KEY, _NOT_KEY = 0x02000000, 0x01010000  # depends on no other picture, or on others


class Mp4File:
    """One video track of constant rate.

    A write that fails leaves the file as it was before: whole up to the fragment before.

    Args:
        file: empty.
        configuration: the decoder's, as the encoder gives it (its visual object layer).
        size: width and height, each below 65,536.
        rate: pictures a second.

    Raises:
        OSError: the file cannot be written; from every method.
    """

    def __init__(
        self, file: GrowingFile, *, configuration: bytes, size: tuple[int, int], rate: Fraction
    ) -> None:
        self._file = file
        self._size, self._rate, self._configuration = size, rate, configuration
        self._sizes, self._keys = array("I"), array("I")  # of all pictures; numbers, from 1
        self._chunks: list[tuple[int, int]] = []  # place of each fragment's pictures, and number
        file.append(_box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso5iso2mp41"))
        self._free_at = file.append(_box(b"free", bytes(8)))
        self._file.append(
            self._movie(_full(b"trex", 0, struct.pack(">5I", 1, 1, rate.denominator, 0, 0)))
        )

    def append(self, pictures: Sequence[tuple[bytes, bool]]) -> None:
        """Add compressed pictures, with whether each is a key picture; the first must be one."""
        if not pictures:
            return
        before = len(self._sizes)
        bodies = [picture for picture, _ in pictures]
        fragment = self.group(pictures, before=before, rate=self._rate)
        end = self._file.append(fragment) + len(fragment)
        self._chunks.append((end - sum(map(len, bodies)), len(pictures)))
        self._sizes.extend(map(len, bodies))
        self._keys.extend(before + n for n, (_, is_key) in enumerate(pictures, 1) if is_key)

    def finish(self) -> None:
        """Make the file an ordinary one, with one index."""
        index_at = self._file.append(self._movie())
        span = index_at - self._free_at
        self._file.overwrite(self._free_at, struct.pack(">I4sQ", 1, b"mdat", span))

    @staticmethod
    def group(pictures: Sequence[tuple[bytes, bool]], *, before: int, rate: Fraction) -> bytes:
        """The fragment that adds pictures to a file of ``rate`` that has ``before`` of them."""

        def index(data_at: int) -> bytes:
            entries = [
                struct.pack(">II", len(body), _KEY if is_key else _NOT_KEY)
                for body, is_key in pictures
            ]
            return _box(
                b"moof",
                _full(b"mfhd", 0, struct.pack(">I", before + 1)),  # numbers that rise
                _box(
                    b"traf",
                    _full(b"tfhd", 0x020000, struct.pack(">I", 1)),  # places count from here
                    _full(b"tfdt", 1 << 24, struct.pack(">Q", before * rate.denominator)),
                    _full(b"trun", 0x601, struct.pack(">Ii", len(entries), data_at), *entries),
                ),
            )

        return index(len(index(0)) + 8) + _box(b"mdat", *(body for body, _ in pictures))

    def _movie(self, extension: bytes = b"") -> bytes:
        """The index of all pictures so far, times in units of 1 / ``rate.numerator`` seconds.

        With the defaults of fragments (``extension``), which it then announces.
        """
        width, height = self._size
        duration = min(len(self._sizes) * self._rate.denominator, 0xFFFFFFFF)
        times = struct.pack(">4I", 0, 0, self._rate.numerator, duration)
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
                self._sample_table(),
            ),
        )
        fragments = _box(b"mvex", extension) if extension else b""
        return _box(b"moov", header, _box(b"trak", track_header, media), fragments)

    def _sample_table(self) -> bytes:
        entry = _box(
            b"mp4v", struct.pack(">6xH16x", 1), struct.pack(">HH", *self._size),
            struct.pack(">IIIH32xHh", 72 << 16, 72 << 16, 0, 1, 24, -1),
            _decoder(self._configuration),
        )  # fmt: skip
        count = len(self._sizes)
        times = [(count, self._rate.denominator)] if count else []
        lengths = [(n, length, 1) for n, (_, length) in enumerate(self._chunks, 1)]
        runs = [run for n, run in enumerate(lengths) if not n or run[1] != lengths[n - 1][1]]
        places = struct.pack(f">{len(self._chunks)}Q", *(at for at, _ in self._chunks))
        return _box(
            b"stbl",
            _full(b"stsd", 0, struct.pack(">I", 1), entry),
            _full(b"stts", 0, _table(times)),
            _full(b"stss", 0, _table([(key,) for key in self._keys])) if count else b"",
            _full(b"stsc", 0, _table(runs)),
            _full(b"stsz", 0, bytes(4), _table([(size,) for size in self._sizes])),
            _full(b"co64", 0, struct.pack(">I", len(self._chunks)), places),
        )


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full(kind: bytes, version_and_flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version_and_flags), *parts)


def _table(rows: Sequence[Iterable[int]]) -> bytes:
    """The number of rows, then their numbers, in 32 bits each."""
    numbers = [number for row in rows for number in row]
    return struct.pack(f">{1 + len(numbers)}I", len(rows), *numbers)


def _decoder(configuration: bytes) -> bytes:
    """The elementary stream descriptor: MPEG-4 visual, with the decoder's configuration."""
    decoder = _descriptor(
        4,
        struct.pack(">BBBHII", _MPEG4_VISUAL, _VISUAL_STREAM, 0, 0, 0, 0),
        _descriptor(5, configuration),
    )
    stream = _descriptor(3, struct.pack(">HB", 1, 0), decoder, _descriptor(6, b"\2"))
    return _full(b"esds", 0, stream)


def _descriptor(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length = [len(body) >> shift & 0x7F for shift in (21, 14, 7, 0)]
    return bytes([tag, *(one | 0x80 for one in length[:3]), length[3]]) + body
