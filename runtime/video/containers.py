"""Video containers followed by their structure: the evidence that a file was cut or damaged.

Headers state frame counts that are estimates (Matroska) or count what is never shown (MP4 with an
edit list), so fewer frames than a header states prove nothing. The structure does: every part of a
container states its size in bytes, and a file that was cut is shorter than what it states.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_IN_SEGMENT = frozenset(  # seek head, info, tracks, cues, attachments, chapters, tags
    {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, _CLUSTER}
)
_INFO, _TIME_SCALE, _CLUSTER_TIME = 0x1549A966, 0x2AD7B1, 0xE7
_ANYWHERE = frozenset({0xEC, 0xBF})  # void, checksum
_IN_CLUSTER = frozenset(  # time, silent tracks, position, size before, blocks of three kinds
    {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF}
)
_MP4_STARTS = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})

_Bytes = mmap.mmap


@dataclass(frozen=True)
class Damage:
    """The damage that a container's structure proves: it is cut, or damaged inside.

    ``reason`` is a clause without a full stop.
    """

    reason: str
    is_cut: bool


def container_damage(path: Path) -> Damage | None:
    """Damage that the structure of an MP4, MOV, Matroska, WebM or AVI file proves.

    None where it proves nothing, and for other containers, which do not state their size.
    """
    with path.open("rb") as file:
        if not file.read(1):
            return Damage("it is empty", is_cut=True)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[4:8] in _MP4_STARTS:
                return _mp4_damage(data)
            if data[:4] == b"\x1aE\xdf\xa3":
                return _matroska_damage(data)
            if data[:4] == b"RIFF":
                return _avi_damage(data)
    return None


def is_matroska(path: Path) -> bool:
    """A Matroska or WebM file, by content."""
    with path.open("rb") as file:
        return file.read(4) == b"\x1aE\xdf\xa3"


def matroska_is_finished(path: Path) -> bool:
    """A Matroska file whose writer ended it: it states the size of its segment."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(
            kind == _SEGMENT and end is not None
            for _, kind, _, end in _elements(data, 0, len(data))
        )


def end_of_whole_groups(path: Path) -> int:
    """The byte behind the last whole group of pictures in an MP4 or Matroska file that grows.

    A group is a fragment (its index and its pictures), or a cluster.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        is_mp4 = data[4:8] in _MP4_STARTS
        ends = _ends_of_boxes(data) if is_mp4 else _ends_in_segments(data)
        return max((end for end in ends if end <= len(data)), default=0)


def _ends_of_boxes(data: _Bytes) -> Iterator[int]:
    """Offsets of the outermost boxes' ends, but for the index of a fragment."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        at += size
        if kind != b"moof":
            yield at


def _ends_in_segments(data: _Bytes) -> Iterator[int]:
    for _, kind, start, _ in _elements(data, 0, len(data)):
        if kind == _SEGMENT:
            yield from (end for _, _, _, end in _elements(data, start, len(data)) if end)
            return


def matroska_start_ns(path: Path) -> int | None:
    """Time of a Matroska file's first cluster, from which its duration does not count.

    None where the file is cut before it.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        scale_ns = 1_000_000
        for _, kind, start, end in _elements(data, 0, len(data)):
            if kind != _SEGMENT:
                continue
            for _, inner, body, stop in _elements(data, start, min(end or len(data), len(data))):
                stop = min(stop or len(data), len(data))
                if inner == _INFO:
                    scale_ns = _number(data, body, stop, _TIME_SCALE) or scale_ns
                elif inner == _CLUSTER:
                    time = _number(data, body, stop, _CLUSTER_TIME)
                    return None if time is None else time * scale_ns
    return None


def _number(data: _Bytes, start: int, stop: int, wanted: int) -> int | None:
    """The unsigned number that the first element of this kind in a range holds."""
    for _, kind, body, end in _elements(data, start, stop):
        if kind == wanted and end is not None and end <= stop:
            return int.from_bytes(data[body:end], "big")
    return None


def _missing(count: int) -> Damage:
    return Damage(
        f"the file's last {count} bytes are missing; copy it again if it is longer at its source",
        is_cut=True,
    )


def _damaged(at: int) -> Damage:
    return Damage(f"its structure is broken at byte {at}", is_cut=False)


def _mp4_damage(data: _Bytes) -> Damage | None:
    """Follow the outermost boxes; what recorders pad the file's end with is none."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalnum():  # padding
            return None
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, at + 8)
        elif size == 0:  # to the end of the file
            return None
        if size < 8:
            return _damaged(at)
        at += size
    return _missing(at - len(data)) if at > len(data) else None


def _avi_damage(data: _Bytes) -> Damage | None:
    """Follow the outermost chunks: one, and one more for every further gigabyte."""
    at = 0
    while at + 12 <= len(data) and data[at : at + 4] == b"RIFF":
        (size,) = struct.unpack_from("<I", data, at + 4)
        if size in (0, 0xFFFFFFFF):
            return Damage("its recording was not finished", is_cut=True)
        at += 8 + size
        if at > len(data):
            return _missing(at - len(data))
        at += size % 2
    return None


def _matroska_damage(data: _Bytes) -> Damage | None:
    for at, kind, start, end in _elements(data, 0, len(data)):
        if kind == _SEGMENT:
            stop = len(data) if end is None else end
            inside = _segment_damage(data, start, min(stop, len(data)))
            if inside is not None and not inside.is_cut:
                return inside
            return _missing(stop - len(data)) if stop > len(data) else inside
        if end is None or end > len(data):
            return _damaged(at)
    return None


def _segment_damage(data: _Bytes, start: int, stop: int) -> Damage | None:
    """Damage of a segment that is there up to ``stop``, which may lie inside an element."""
    in_cluster = False  # one of unknown size, whose blocks lie beside the clusters here
    for at, kind, inside, end in _elements(data, start, stop):
        if kind not in _IN_SEGMENT | _ANYWHERE and not (in_cluster and kind in _IN_CLUSTER):
            return _damaged(at)
        if kind in _IN_SEGMENT:
            in_cluster = kind == _CLUSTER and end is None
        if end is not None and end > stop:
            broken = _cluster_damage(data, inside, stop) if kind == _CLUSTER else None
            return broken or _missing(end - stop)
        if kind == _CLUSTER and end is not None and (broken := _cluster_damage(data, inside, end)):
            return broken
    return None


def _cluster_damage(data: _Bytes, start: int, stop: int) -> Damage | None:
    for at, kind, _, _ in _elements(data, start, stop):
        if kind not in _IN_CLUSTER | _ANYWHERE:
            return _damaged(at)
    return None


def _elements(data: _Bytes, start: int, stop: int) -> Iterator[tuple[int, int, int, int | None]]:
    """(place, id, start and end of its body) of the EBML elements side by side in a range.

    The end is None where the element does not state it; what follows is then taken as beside it.
    A header that is cut by the end of the range, or is none, is given with id 0 or not at all.
    """
    at = start
    while at < stop:
        id_bytes = 9 - data[at].bit_length()
        if id_bytes > 4:
            yield at, 0, at, at
            return
        size_at = at + id_bytes
        if size_at >= stop:
            return
        size_bytes = 9 - data[size_at].bit_length()
        body = size_at + size_bytes
        if size_bytes > 8 or body > stop:
            return
        kind = int.from_bytes(data[at:size_at], "big")
        size = int.from_bytes(data[size_at:body], "big") & ((1 << 7 * size_bytes) - 1)
        unknown = size == (1 << 7 * size_bytes) - 1
        yield at, kind, body, None if unknown else body + size
        at = body if unknown else body + size
