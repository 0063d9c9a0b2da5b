"""Files of records, and of chunks that hold records: what ROS 1 bags and MCAP have alike."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from .bag_file import Contents, Place
from .chunks import ChunkCache
from .regions import BrokenBagError, FileRegion, Region


class Record(Protocol):
    """A record, or what there is of it at the end of its file or chunk."""

    @property
    def begins(self) -> int:
        """Byte of the region at which it begins."""

    @property
    def is_cut(self) -> bool:
        """Tell whether it states more bytes than there are."""


_R = TypeVar("_R", bound=Record)


class ChunkedFile(ABC, Generic[_R]):
    """A file that is read by its index, or gone through where it has no whole one.

    Raises:
        BrokenBagError: it does not begin as one of its format.
        OSError: it cannot be opened.
    """

    MAGIC: ClassVar[bytes]

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._file = FileRegion(self._descriptor, 0, os.fstat(self._descriptor).st_size)
        self._chunks = ChunkCache()
        start = bytes(self._file.take(0, min(len(self.MAGIC), self._file.size)))
        if start != self.MAGIC:
            self.close()
            raise BrokenBagError(self._other_start(start))

    def close(self) -> None:
        """See `BagFile`."""
        os.close(self._descriptor)

    def contents(self, wanted: Collection[str]) -> Contents:
        """See `BagFile`."""
        try:
            found = self._indexed(wanted)
        except BrokenBagError:
            found = None
        found = self._scanned(wanted) if found is None else found
        found.places.sort()
        return found

    def read(self, place: Place) -> memoryview:
        """See `BagFile`."""
        region, problem = self._region_of(place.chunk)
        try:
            return self._message(region, place)
        except BrokenBagError as error:
            raise BrokenBagError(problem or str(error)) from error

    def _scanned(self, wanted: Collection[str]) -> Contents:
        """Contents as they are met, record by record, up to the first damage."""
        found = Contents(was_scanned=True)
        try:
            for record in self._records(self._file, len(self.MAGIC)):
                if self._is_last(record):
                    break
                if self._is_chunk(record):
                    self._scan_chunk(found, record, wanted)
                elif not record.is_cut:
                    self._note(found, record, self._file, -1, wanted)
        except BrokenBagError as error:
            found.damaged(str(error))
        return found

    def _scan_chunk(self, found: Contents, chunk: _R, wanted: Collection[str]) -> None:
        region, problem = self._region_of(chunk.begins)
        try:
            for record in self._records(region, 0):
                if not record.is_cut:
                    self._note(found, record, region, chunk.begins, wanted)
        except BrokenBagError as error:
            problem = problem or str(error)
        if problem and not chunk.is_cut:
            found.damaged(f"its chunk at byte {chunk.begins} is damaged: {problem}")

    # ---- the format ----------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def _other_start(start: bytes) -> str:
        """A clause on a file that begins with other bytes than `MAGIC`."""

    @abstractmethod
    def _indexed(self, wanted: Collection[str]) -> Contents | None:
        """Contents by the index; None where it does not say where every message lies.

        Raises:
            BrokenBagError: it is damaged, or there is none.
        """

    @staticmethod
    @abstractmethod
    def _records(region: Region, at: int) -> Iterator[_R]:
        """The records of a region from a byte on; one that is cut is the last.

        Raises:
            BrokenBagError: behind the last record lie bytes that are none.
        """

    @staticmethod
    @abstractmethod
    def _is_chunk(record: _R) -> bool:
        """Tell whether a record of the file is a chunk."""

    @staticmethod
    def _is_last(record: _R) -> bool:  # noqa: ARG004 - most formats know no such record
        """Tell whether no messages come behind a record of the file."""
        return False

    @abstractmethod
    def _note(
        self, found: Contents, record: _R, region: Region, chunk: int, wanted: Collection[str]
    ) -> None:
        """Note a channel or a message, in the chunk at a byte, or outside (-1)."""

    @abstractmethod
    def _region_of(self, chunk: int) -> tuple[Region, str | None]:
        """The records of the chunk at a byte, or of the file (-1), and what is wrong with it."""

    @abstractmethod
    def _message(self, region: Region, place: Place) -> memoryview:
        """The message at a place in its region.

        Raises:
            BrokenBagError: another one lies there, or none.
        """
