"""Large values of an SQLite file, read from its pages in a few pieces.

SQLite reads a value page by page: 676 calls for a picture of 1280x720, and a millisecond. Its
mapping of the file takes less, but ends the process where the file shrinks or its disk fails. So
the pages are followed here, as https://www.sqlite.org/fileformat2.html describes them; those of one
value mostly lie one behind the other, and are read many at a time, each to its place in the value.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .regions import BrokenBagError, FileRegion, ReadBuffer

HEADER_BYTES = 100  # that a file begins with, before its first page's own
INTERIOR, LEAF = 0x05, 0x0D  # kinds of pages of a table
_DEEPEST = 20  # levels of a table; SQLite's own limit
_TOGETHER = 256  # pages of a value in a read, to two places each; systems allow 1,024 places
_SCANNED = 1 << 18  # bytes of pages of which only the beginnings count, in a read
_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)  # bytes of a value of these serial types


class TablePages:
    """The pages of one table, of a file that nobody changes.

    Args:
        path: of the file.
        root: number of the table's first page.
        column: number of the column that is read, in the order in which the table was made.
        most: bytes of a value; longer ones are refused.

    Attributes:
        page_size: bytes of a page.
        count: whole pages of the file.

    Raises:
        BrokenBagError: it is no such file.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, root: int, column: int, most: int) -> None:
        self._root, self._column, self._most = root, column, most
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._file = FileRegion(self._descriptor, 0, os.fstat(self._descriptor).st_size)
            header = self._file.take(0, HEADER_BYTES)
            self.page_size = page_size_of(header)
            if not self.page_size or header[20]:  # bytes of each page for an extension's use
                raise BrokenBagError("its pages are not as a recorder's")
        except BaseException:
            self.close()
            raise
        self.count = self._file.size // self.page_size
        self._buffer = ReadBuffer()
        self._following = np.empty((_TOGETHER, 4), np.uint8)  # number of the page behind each
        self._into_following = [number.data for number in self._following]

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def read(self, row: int) -> memoryview:
        """The value, a blob, in the row of this number.

        Raises:
            BrokenBagError: there is none, or it lies in a way that is not followed here.
            OSError: the file cannot be read.
        """
        page = self._leaf(row)
        cell = bisect_left(range(page.cells), row, key=lambda cell: page.row_of(cell)[0])
        if cell == page.cells or page.row_of(cell)[0] != row:
            raise BrokenBagError("there is no such row")
        return self._value(page, cell)

    def read_in(self, leaf: int, cell: int) -> memoryview:
        """The value in a row of this leaf, however the leaf may be reached; see `read`."""
        page = self.page(leaf)
        if page.kind != LEAF or cell >= page.cells:
            raise BrokenBagError("there is no such row")
        return self._value(page, cell)

    def page(self, number: int) -> Page:
        """A page of a table, leaf or interior.

        Raises:
            BrokenBagError: it is none, or not wholly in the file.
            OSError: the file cannot be read.
        """
        data = self._file.take((number - 1) * self.page_size, self.page_size)
        page = Page(data, HEADER_BYTES if number == 1 else 0)
        if page.kind not in (INTERIOR, LEAF):
            raise BrokenBagError(f"page {number} is none of a table")
        return page

    def row(self, page: Page, cell: int) -> tuple[int, int, memoryview, int]:
        """A leaf's row: its number, its length, what the leaf has of it, and where the rest begins.

        The rest begins in the page of the last number; 0: there is no rest.
        """
        row, at, length = page.row_of(cell)
        if not 0 <= length <= self._file.size:
            raise BrokenBagError("the row is longer than its file")
        local = self._local_bytes(length)
        first = int.from_bytes(page.take(at + local, 4), "big") if local < length else 0
        return row, length, page.take(at, local), first

    def first_bytes(self, page: Page, cell: int, most: int) -> memoryview:
        """Up to so many bytes that a leaf's row begins with."""
        _, length, local, first = self.row(page, cell)
        if not first or len(local) >= most:
            return local
        row = memoryview(bytearray(min(length, most)))
        row[: len(local)] = local
        self._read_overflow(first, row[len(local) :])
        return row

    def beginnings(self) -> NDArray[np.uint32]:
        """The first four bytes of each page as a number: of an overflow page, the next one's."""
        found = np.zeros(self.count, np.uint32)
        together = max(1, _SCANNED // self.page_size)
        pages = np.empty((together, self.page_size), np.uint8)
        for at in range(0, self.count, together):
            into = pages[: self.count - at].reshape(-1).data
            whole = os.preadv(self._descriptor, [into], at * self.page_size) // self.page_size
            found[at : at + whole] = pages[:whole, :4].copy().view(">u4").ravel()
        return found

    def count_overflow(self, length: int) -> int:
        """Pages that hold what a row of this length has outside its leaf."""
        return -(-(length - self._local_bytes(length)) // (self.page_size - 4))

    def _value(self, page: Page, cell: int) -> memoryview:
        _, length, payload, first = self.row(page, cell)
        local = len(payload)
        begins, size = self._place_of_value(payload)
        if begins > local or begins + size > length or size > min(self._most, self._file.size):
            raise BrokenBagError("the row's value is not where it should be")
        value = self._buffer.get(size)
        here = min(size, local - begins)
        value[:here] = payload[begins : begins + here]
        if here < size:
            self._read_overflow(first, value[here:])
        return value

    def _leaf(self, row: int) -> Page:
        """The last page on the way to a row."""
        number = self._root
        for _ in range(_DEEPEST):
            page = self.page(number)
            if page.kind == LEAF:
                return page
            cell = bisect_left(range(page.cells), row, key=page.last_row_below)
            number = page.child(cell)
        raise BrokenBagError("its pages lead nowhere")

    def _local_bytes(self, length: int) -> int:
        """Count the bytes of a row that lie in its leaf; the rest is in overflow pages."""
        if length <= self.page_size - 35:
            return length
        least = (self.page_size - 12) * 32 // 255 - 23
        wanted = least + (length - least) % (self.page_size - 4)
        return wanted if wanted <= self.page_size - 35 else least

    def _place_of_value(self, payload: memoryview) -> tuple[int, int]:
        """Byte at which the column begins in its row, and how many bytes it has."""
        begins, at = varint(payload, 0)
        end = begins
        for column in range(self._column + 1):
            if at >= end:
                raise BrokenBagError("the row has too few columns")
            kind, at = varint(payload, at)
            if column == self._column and (kind < 12 or kind % 2):
                raise BrokenBagError("the row's value is no blob")
            size = size_of_value(kind)
            begins += size
        return begins - size, size

    def _read_overflow(self, page: int, value: memoryview) -> None:
        """Fill a value from the chain of pages that begins with this one.

        So many are read as if they lay one behind the other; those behind a break in the chain are
        read again.
        """
        room = self.page_size - 4
        together = _TOGETHER
        while len(value):
            following = self._read_pages(page, value, min(together, -(-len(value) // room)))
            breaks = np.flatnonzero(following[:-1] != page + np.arange(1, len(following)))
            run = int(breaks[0]) + 1 if len(breaks) else len(following)
            value, page = value[run * room :], int(following[run - 1])
            together = min(2 * run, _TOGETHER)  # of a scattered value little is in vain

    def _read_pages(self, first: int, value: memoryview, count: int) -> NDArray[np.uint32]:
        """Fill a value's beginning from so many pages, one behind the other, at least one.

        Returns:
            of each page that was read the number of the page behind it.
        """
        if first < 2:
            raise BrokenBagError("the row is longer than its pages")
        room = self.page_size - 4
        into = [self._into_following[0]] * (2 * count)
        into[::2] = self._into_following[:count]
        into[1::2] = [value[at : at + room] for at in range(0, count * room, room)]
        got = os.preadv(self._descriptor, into, (first - 1) * self.page_size)
        is_all = got == 4 * count + min(len(value), count * room)
        read = count if is_all else got // self.page_size
        if read == 0:
            raise BrokenBagError(f"there is no page {first}")
        return self._following[:read].view(">u4").ravel()


class Page:
    """A page of a table: a leaf with rows, or one that leads to other pages.

    Args:
        data: its bytes.
        begins: byte at which it begins; the file's first page has the file's header before.
    """

    def __init__(self, data: memoryview, begins: int = 0) -> None:
        self._data, self._begins = data, begins
        self.kind = data[begins]
        self.cells = int.from_bytes(data[begins + 3 : begins + 5], "big")
        self._pointers = begins + (8 if self.kind == LEAF else 12)

    def take(self, at: int, length: int) -> memoryview:
        """Bytes of the page."""
        if at + length > len(self._data):
            raise BrokenBagError("a row leaves its page")
        return self._data[at : at + length]

    def row_of(self, cell: int) -> tuple[int, int, int]:
        """The number of a leaf's row, the byte at which it begins, and its length."""
        length, at = varint(self._data, self._place(cell))
        row, at = varint(self._data, at)
        return row, at, length

    def last_row_below(self, cell: int) -> int:
        """The largest number of a row in the page that a cell leads to."""
        return varint(self._data, self._place(cell) + 4)[0]

    def child(self, cell: int) -> int:
        """Number of the page that a cell leads to; behind the last one there is one more."""
        at = self._place(cell) if cell < self.cells else self._begins + 8
        return int.from_bytes(self.take(at, 4), "big")

    def _place(self, cell: int) -> int:
        return int.from_bytes(self.take(self._pointers + 2 * cell, 2), "big")


def page_size_of(header: memoryview | bytes) -> int:
    """Bytes of a page that a file's header states; 0 where it states none that there is."""
    stated = int.from_bytes(header[16:18], "big")
    size = 65536 if stated == 1 else stated
    return size if size >= 512 and size & (size - 1) == 0 else 0


def size_of_value(kind: int) -> int:
    """Bytes of a value of a serial type."""
    return (kind - 12) // 2 if kind >= 12 else _SIZES[max(0, min(kind, len(_SIZES) - 1))]


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """A signed number of one to nine bytes, and the byte behind it."""
    value = 0
    for byte in data[at : at + 8]:
        value, at = value << 7 | byte & 0x7F, at + 1
        if byte < 0x80:
            return value, at
    if at >= len(data):
        raise BrokenBagError("a number leaves its page")
    value = value << 8 | data[at]
    return value - (1 << 64) if value >= 1 << 63 else value, at + 1
