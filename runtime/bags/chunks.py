"""Compressed chunks of bags, decompressed to what they announce and never to more.

A few kilobytes can be made to expand to gigabytes, and a damaged number can announce as much. So
nothing is decompressed that announces more than `CHUNK_LIMIT`, nor further than it announces. Of a
chunk that is cut or damaged, what was decompressed before the damage is given.
"""

from __future__ import annotations

import bz2
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from ..errors import MissingDependencyError
from .regions import BrokenBagError, MemoryRegion, Region

CHUNK_LIMIT = 2**29  # bytes of one chunk; recorders write about one or four megabytes
_PIECE = 1 << 18  # bytes that are decompressed at a time where a chunk is damaged
_ZSTD = b"\x28\xb5\x2f\xfd"  # a frame begins with
_KEPT_CHUNKS, _KEPT_BYTES = 8, 2**28


def bags_package(name: str, needed_for: str) -> Any:
    """A module of the packages that reading or writing bags needs.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{needed_for} needs {name.partition('.')[0]}: pip install 'roadshift[bags]'."
        ) from error


def decompressed(kind: str, data: memoryview, size: int) -> tuple[memoryview, str | None]:
    """The content of a chunk, read-only, and a clause on what is wrong with it or None.

    Args:
        kind: "lz4", "zstd" or "bz2".
        data: compressed; perhaps cut.
        size: bytes of the content, as the chunk announces.

    Raises:
        BrokenBagError: it announces too much, or is of another kind.
        MissingDependencyError: its package is not installed.
    """
    if size > CHUNK_LIMIT:
        raise BrokenBagError(f"it announces {size} bytes, and at most {CHUNK_LIMIT} are taken")
    read_into, errors = _decoder(kind, data)
    content = np.empty(size, np.uint8).data  # memory that is not written to costs nothing
    got, problem = 0, None
    try:
        while got < size:
            count = read_into(content[got : got + _PIECE])
            if count == 0:
                problem = f"it holds {got} of the {size} bytes that it announces"
                break
            got += count
    except errors as error:
        problem = f"it cannot be decompressed ({error})"
    return content[:got].toreadonly(), problem


_ReadInto = Callable[[memoryview], int]
"""Fills a buffer from its start and gives how many bytes it wrote; 0 at the end."""


def _decoder(kind: str, data: memoryview) -> tuple[_ReadInto, tuple[type[Exception], ...]]:
    """A decompressor into buffers, and the errors that it raises of damaged data."""
    if kind == "zstd":
        zstandard = bags_package("zstandard", "a bag whose chunks are compressed with zstd")
        reader = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(data)
        return reader.readinto, (zstandard.ZstdError,)
    if kind == "lz4":
        lz4 = bags_package("lz4.frame", "a bag whose chunks are compressed with lz4")
        return _filling(lz4.LZ4FrameDecompressor(), data), (RuntimeError, EOFError, ValueError)
    if kind == "bz2":
        return _filling(bz2.BZ2Decompressor(), data), (OSError, EOFError, ValueError)
    raise BrokenBagError(f"its compression {kind!r} is none of lz4, zstd and bz2")


def _filling(decoder: Any, data: memoryview) -> _ReadInto:
    """A decoder of pieces that holds back what is more than asked for."""
    at = 0

    def read_into(buffer: memoryview) -> int:
        nonlocal at
        while not decoder.eof:
            piece = b""
            if decoder.needs_input:
                piece = bytes(data[at : at + _PIECE])
                at += len(piece)
                if not piece:
                    return 0
            part = decoder.decompress(piece, max_length=len(buffer))
            if part:
                buffer[: len(part)] = part
                return len(part)
        return 0

    return read_into


def unpacked_message(data: memoryview) -> memoryview:
    """A message of ROS 2, which a recorder may have compressed by itself with zstd.

    No other message begins as such a frame does: CDR has a zero there.

    Raises:
        BrokenBagError: it is damaged, or does not state a size that is taken.
        MissingDependencyError: zstandard is not installed.
    """
    if bytes(data[:4]) != _ZSTD:
        return data
    size = zstd_content_size(data)
    if size is None or size > CHUNK_LIMIT:
        raise BrokenBagError("it does not state a size that could be decompressed")
    content, problem = decompressed("zstd", data, size)
    if problem:
        raise BrokenBagError(problem)
    return content


def zstd_content_size(data: memoryview) -> int | None:
    """Bytes that a zstd frame states to hold; None where it is none, or does not state it.

    The layout is that of RFC 8878, section 3.1.1.
    """
    if bytes(data[:4]) != _ZSTD or len(data) < 6:
        return None
    flags = data[4]
    is_single = bool(flags & 0x20)
    at = 5 + (not is_single) + (0, 1, 2, 4)[flags & 3]
    width = (int(is_single), 2, 4, 8)[flags >> 6]
    if width == 0 or len(data) < at + width:
        return None
    return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)


class ChunkCache:
    """The chunks decompressed last: messages in the order of their times may alternate between
    chunks that overlap."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Region, str | None]] = OrderedDict()

    def get(
        self, at: int, load: Callable[[], tuple[memoryview, str | None]]
    ) -> tuple[Region, str | None]:
        """The content of the chunk at byte ``at`` and what is wrong with it."""
        if at in self._kept:
            self._kept.move_to_end(at)
            return self._kept[at]
        content, problem = load()
        self._kept[at] = MemoryRegion(content), problem
        while len(self._kept) > 1 and (
            len(self._kept) > _KEPT_CHUNKS
            or sum(region.size for region, _ in self._kept.values()) > _KEPT_BYTES
        ):
            self._kept.popitem(last=False)
        return self._kept[at]
