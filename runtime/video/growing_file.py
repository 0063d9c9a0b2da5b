"""A file to which parts are added whole: one that does not fit the disk leaves it as it was."""

from __future__ import annotations

import os


class GrowingFile:
    """A file that is written at its end, part by part.

    Args:
        descriptor: of a file that can be written; stays the caller's.
        end: its length in bytes.

    Attributes:
        end: its length in bytes.
    """

    def __init__(self, descriptor: int, end: int = 0) -> None:
        self._descriptor = descriptor
        self.end = end

    def append(self, data: bytes) -> int:
        """Add a part and return where it lies.

        Raises:
            OSError: there is no room for all of it, and none of it is there.
        """
        start = at = self.end
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, at)
                view, at = view[written:], at + written
        except OSError:
            os.ftruncate(self._descriptor, self.end)
            raise
        self.end = at
        return start

    def overwrite(self, at: int, data: bytes) -> None:
        """Write over what is there, once everything added so far is on the disk."""
        os.fsync(self._descriptor)
        os.pwrite(self._descriptor, data, at)
