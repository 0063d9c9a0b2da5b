"""Bytes of a bag, in its file or in a chunk of it, that never give more than there are.

A file is read with ``pread`` and never mapped: a recorder that shortens a mapped file ends the
process that looks at it. A large read lands in an array of its own, which a picture may keep.
"""

from __future__ import annotations

import os
import sys
from typing import Protocol

import numpy as np

_SMALL = 1 << 16  # bytes; of larger reads the array is kept and nothing is copied
_KEPT_ARRAYS = 4  # pictures that are under way at a time, in a pipeline


class BrokenBagError(ValueError):
    """Bytes that are no record or message of their format; the text is a clause without a stop."""


class Region(Protocol):
    """A stretch of bytes."""

    @property
    def size(self) -> int:
        """Bytes that there are."""

    def take(self, at: int, length: int) -> memoryview:
        """``length`` bytes from ``at`` on.

        Raises:
            BrokenBagError: they are not all there.
        """


class ReadBuffer:
    """Memory for large reads, taken again once nothing looks at it any more; for one thread.

    Fresh memory is handed over by the kernel page by page, which takes longer than reading into it.
    """

    def __init__(self) -> None:
        self._arrays = [np.empty(0, np.uint8)]
        self._of_a_free_one = sys.getrefcount(self._arrays[0])

    def get(self, length: int) -> memoryview:
        """So many writable bytes, which stay the caller's for as long as it holds them."""
        arrays = self._arrays
        for number in range(len(arrays)):
            is_free = sys.getrefcount(arrays[number]) <= self._of_a_free_one
            if is_free and arrays[number].size >= length:
                return arrays[number].data[:length]
        # The newest first: where pictures have become larger, the small arrays go.
        arrays.insert(0, np.empty(length, np.uint8))
        del arrays[_KEPT_ARRAYS:]
        return arrays[0].data[:length]


class FileRegion:
    """A stretch of a file that stays open elsewhere.

    Args:
        descriptor: of the file.
        start, size: of the stretch, in bytes.
        buffer: for what is read.
    """

    def __init__(
        self, descriptor: int, start: int, size: int, buffer: ReadBuffer | None = None
    ) -> None:
        self._descriptor, self.start, self.size = descriptor, start, size
        self._buffer = buffer or ReadBuffer()

    def take(self, at: int, length: int) -> memoryview:
        """See `Region`."""
        _check(at, length, self.size)
        if length <= _SMALL:
            data = memoryview(os.pread(self._descriptor, length, self.start + at))
            if len(data) < length:
                raise BrokenBagError("the file became shorter while it was read")
            return data
        whole = self._buffer.get(length)
        got = 0
        while got < length:
            count = os.preadv(self._descriptor, [whole[got:]], self.start + at + got)
            if count == 0:
                raise BrokenBagError("the file became shorter while it was read")
            got += count
        return whole

    def part(self, at: int, length: int) -> FileRegion:
        """A stretch of this one."""
        _check(at, length, self.size)
        return FileRegion(self._descriptor, self.start + at, length, self._buffer)


class MemoryRegion:
    """Bytes in memory: a chunk that was decompressed."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.size = len(data)

    def take(self, at: int, length: int) -> memoryview:
        """See `Region`."""
        _check(at, length, self.size)
        return self._data[at : at + length]


def _check(at: int, length: int, size: int) -> None:
    if at < 0 or length < 0 or at + length > size:
        raise BrokenBagError(f"{length} bytes were to begin at byte {at} of {size}")
