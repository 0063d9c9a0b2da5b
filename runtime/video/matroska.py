"""A Matroska file that can be played at any moment while it grows: MPEG-4 part 2 pictures.

Pictures are added as clusters. The length of the whole is stated as unknown until the end, when it
is filled in with the duration, and an index (cues) is put behind. RFC 9559.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction

from .growing_file import GrowingFile

_LONGEST_CLUSTER_MS = 30_000  # times in a cluster are signed 16-bit numbers, relative to its own
_CUES_ID = bytes.fromhex("1c53bb6b")


class MatroskaFile:
    """One video track of constant rate.

    A write that fails leaves the file as it was before.

    Args:
        file: empty.
        configuration: the decoder's, as the encoder gives it (its visual object layer).
        size: width and height.
        rate: pictures a second.

    Raises:
        OSError: the file cannot be written; from every method.
    """

    def __init__(
        self, file: GrowingFile, *, configuration: bytes, size: tuple[int, int], rate: Fraction
    ) -> None:
        self._file = file
        self._rate = rate
        self._pictures = 0
        self._cues: list[tuple[int, int]] = []  # time in ms, and place, of each group of pictures
        file.append(_header() + bytes.fromhex("18538067 01ffffffffffffff"))
        self._start = file.end  # of the segment's body, behind its size
        self._seek_at = file.append(_void(len(_seek_head(0))))
        duration = _void(len(_duration(0)))
        info = (
            _number("2ad7b1", 1_000_000)  # ns: times are in ms
            + _element("4d80", b"roadshift")
            + _element("5741", b"roadshift")
            + duration
        )
        file.append(_element("1549a966", info))
        self._duration_at = file.end - len(duration)
        file.append(_element("1654ae6b", _track(configuration, size, rate)))

    def append(self, pictures: Sequence[tuple[bytes, bool]]) -> None:
        """Add compressed pictures, with whether each is a key picture; the first must be one."""
        if not pictures:
            return
        clusters = self.group(pictures, before=self._pictures, rate=self._rate)
        first_ms = _time_ms(self._pictures, self._rate)
        self._cues.append((first_ms, self._file.append(clusters) - self._start))
        self._pictures += len(pictures)

    @staticmethod
    def group(pictures: Sequence[tuple[bytes, bool]], *, before: int, rate: Fraction) -> bytes:
        """The clusters that add pictures to a file of ``rate`` that has ``before`` of them."""
        clusters: list[bytes] = []
        start_ms = body = None
        for number, (picture, is_key) in enumerate(pictures, before):
            time_ms = _time_ms(number, rate)
            if body is None or start_ms is None or time_ms - start_ms > _LONGEST_CLUSTER_MS:
                start_ms, body = time_ms, bytearray(_number("e7", time_ms))
                clusters.append(b"")
            head = struct.pack(">BhB", 0x81, time_ms - start_ms, 0x80 if is_key else 0)
            body += _element("a3", head + picture)
            clusters[-1] = _element("1f43b675", bytes(body))
        return b"".join(clusters)

    def finish(self) -> None:
        """Add the index, and state the length, the duration and where the index is."""
        points = b"".join(_cue(time_ms, at) for time_ms, at in self._cues)
        cues_at = self._file.append(_element(_CUES_ID.hex(), points)) - self._start
        self._file.overwrite(self._seek_at, _seek_head(cues_at))
        self._file.overwrite(
            self._duration_at, _duration(float(1000 * self._pictures / self._rate))
        )
        length = self._file.end - self._start
        self._file.overwrite(self._start - 8, (1 << 56 | length).to_bytes(8, "big"))


def _time_ms(number: int, rate: Fraction) -> int:
    return round(Fraction(1000 * number) / rate)


def _element(kind: str, body: bytes) -> bytes:
    """An element whose size is stated in 8 bytes, or in one where that does."""
    size = len(body)
    stated = bytes([0x80 | size]) if size < 0x7F else (1 << 56 | size).to_bytes(8, "big")
    return bytes.fromhex(kind) + stated + body


def _number(kind: str, value: int) -> bytes:
    return _element(kind, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))


def _void(length: int) -> bytes:
    """Room for an element of this length in bytes."""
    return _element("ec", bytes(length - 2))


def _duration(ms: float) -> bytes:
    return _element("4489", struct.pack(">d", ms))


def _seek_head(cues_at: int) -> bytes:
    entry = _element("53ab", _CUES_ID) + _element("53ac", struct.pack(">Q", cues_at))
    return _element("114d9b74", _element("4dbb", entry))


def _cue(time_ms: int, at: int) -> bytes:
    place = _element("b7", _number("f7", 1) + _number("f1", at))  # of track 1
    return _element("bb", _number("b3", time_ms) + place)


def _header() -> bytes:
    versions = (("4286", 1), ("42f7", 1), ("42f2", 4), ("42f3", 8), ("4287", 4), ("4285", 2))
    numbers = b"".join(_number(kind, value) for kind, value in versions)
    return _element("1a45dfa3", numbers + _element("4282", b"matroska"))


def _track(configuration: bytes, size: tuple[int, int], rate: Fraction) -> bytes:
    width, height = size
    return _element(
        "ae",
        _number("d7", 1)  # number
        + _number("73c5", 1)  # unique number
        + _number("83", 1)  # video
        + _number("9c", 0)  # one picture a block
        + _number("23e383", round(Fraction(10**9) / rate))
        + _element("86", b"V_MPEG4/ISO/ASP")
        + _element("63a2", configuration)
        + _element("e0", _number("b0", width) + _number("ba", height)),
    )
