"""Bags in SQLite of which SQLite reads nothing, or not all: cut, or with damaged pages.

The pages of a table are followed from the first one. Where some of them are lost, the pages that
they led to may be there still: then the leaves of all tables are gone through, and rows are told by
their columns. The schema is rosbag2's:

    topics(id, name, type, serialization_format, ...)
    messages(id, topic_id, timestamp, data)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .bag_file import CDR, Channel, Contents, Place
from .regions import BrokenBagError
from .sqlite_pages import INTERIOR, LEAF, Page, TablePages, size_of_value, varint

LARGEST = 2**30  # bytes of one message
_SCHEMA_ROOT = 1  # the page at which the table of tables begins
_DATA = 3  # column of the messages' data
_NAMES = 4096  # bytes of a row in which the names of a table or a topic lie
_SMALLEST_CELL = 6  # bytes of a row and of its place in its page
_FOLLOWED = 4  # pages of rows, for each page of the file; of a whole file each is followed once
_INTEGERS = (1, 2, 3, 4, 5, 6, 8, 9)
_KINDS_OF_ROW_NUMBERS = (0, *_INTEGERS)  # a primary key is NULL in its row

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Column = tuple[int, memoryview]  # serial type and bytes


class SqliteScan:
    """A bag in SQLite, read from its pages.

    Raises:
        BrokenBagError: its header is not one of a recorder.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._metadata = path.parent / "metadata.yaml"
        self._pages = TablePages(path, _SCHEMA_ROOT, _DATA, LARGEST)
        self._may_follow = _FOLLOWED * self._pages.count

    def close(self) -> None:
        """See `BagFile`."""
        self._pages.close()

    def read(self, place: Place) -> memoryview:
        """The message at a place that was found here: a page, and a row of it."""
        return self._pages.read_in(place.chunk, place.at)

    def contents(self, wanted: Collection[str]) -> Contents:
        """See `BagFile`."""
        roots = self._named(_SCHEMA_ROOT, _table)
        channels = self._named(roots.get("topics"), _topic) or self._named(None, _topic)
        root = roots.get("messages")
        found = self._messages(root, channels, wanted)
        if not found.counts and root is not None:  # it may be another table's
            root = None
            found = self._messages(root, channels, wanted)
        unknown = found.counts.keys() - channels.keys()
        known = {channel.topic for channel in channels.values()}
        lost = [channel for channel in _listed(self._metadata) if channel.topic not in known]
        if len(unknown) == len(lost) == 1:  # of several it is not known which is which
            channels[unknown.pop()] = lost[0]
            found = self._messages(root, channels, wanted)
        return found

    def _named(
        self, root: int | None, read: Callable[[int, list[_Column]], tuple[_Key, _Value] | None]
    ) -> dict[_Key, _Value]:
        """A small table, of the rows that can be read; those in its own pages before others."""
        found = dict[_Key, _Value]()
        for _, page in self._leaves(root):
            for cell in range(page.cells):
                with suppress(BrokenBagError):
                    row, *_ = self._pages.row(page, cell)
                    one = read(row, _columns(self._pages.first_bytes(page, cell, _NAMES)))
                    if one is not None:
                        found.setdefault(*one)
        return found

    def _messages(
        self, root: int | None, channels: dict[int, Channel], wanted: Collection[str]
    ) -> Contents:
        found = Contents(channels, was_scanned=True)
        met = set[int]()  # pages that are not used any more may hold a row as it once was
        for number, page in self._leaves(root):
            for cell in range(page.cells):
                with suppress(BrokenBagError):
                    row, length, local, first = self._pages.row(page, cell)
                    topic, log_ns = _message(length, local)
                    if first:
                        self._follow(first, self._pages.count_overflow(length))
                    channel = channels.get(topic)
                    if channel is not None and channel.schema in wanted:
                        if row in met:
                            continue
                        met.add(row)
                    found.found(Place(log_ns, number, cell, topic), wanted)
        return found

    def _leaves(self, root: int | None) -> Iterator[tuple[int, Page]]:
        """The leaves below a page, by number; where some are lost, those of all tables."""
        met = bytearray(self._pages.count + 1)
        ahead, is_whole = [] if root is None else [root], root is not None
        while ahead:
            number = ahead.pop()
            try:
                page = self._page(number)
                children = []
                if page.kind == INTERIOR:
                    children = [page.child(cell) for cell in range(page.cells, -1, -1)]
            except BrokenBagError:
                is_whole = False
                continue
            met[number] = 1
            for child in children:
                if child > self._pages.count or met[child]:  # lost, or a circle
                    is_whole = False
                else:
                    met[child] = 1
                    ahead.append(child)
            if not children:
                yield number, page
        if is_whole:
            return
        for place in np.flatnonzero(self._beginnings >> 24 == LEAF):
            number = int(place) + 1
            with suppress(BrokenBagError):
                if not met[number]:
                    yield number, self._page(number)

    def _page(self, number: int) -> Page:
        page = self._pages.page(number)
        if page.cells * _SMALLEST_CELL > self._pages.page_size:
            raise BrokenBagError(f"page {number} states more rows than it has room for")
        return page

    def _follow(self, page: int, count: int) -> None:
        """Hold a chain of so many pages against the file.

        Raises:
            BrokenBagError: it ends early, or leaves the file.
        """
        for _ in range(count):
            if not 2 <= page <= self._pages.count or self._may_follow <= 0:
                raise BrokenBagError("the row is longer than its pages")
            self._may_follow -= 1
            page = int(self._beginnings[page - 1])

    @cached_property
    def _beginnings(self) -> NDArray[np.uint32]:
        return self._pages.beginnings()


def _columns(row: memoryview) -> list[_Column]:
    """A row's columns, those behind its bytes left out."""
    begins, at = varint(row, 0)
    end, found = begins, list[_Column]()
    while at < min(end, len(row)):
        kind, at = varint(row, at)
        size = size_of_value(kind)
        if begins + size > len(row):
            break
        found.append((kind, row[begins : begins + size]))
        begins += size
    return found


def _message(length: int, local: memoryview) -> tuple[int, int]:
    """Topic and time of a row of messages, of which its leaf has so much.

    Raises:
        BrokenBagError: it is no row of messages.
    """
    begins, at = varint(local, 0)
    end, kinds = begins, list[int]()
    while at < end and len(kinds) <= _DATA:
        kind, at = varint(local, at)
        kinds.append(kind)
    if at != end or len(kinds) != _DATA + 1:
        raise BrokenBagError("the row has other columns")
    number, topic, time, data = kinds
    is_one = number in _KINDS_OF_ROW_NUMBERS and topic in _INTEGERS and time in _INTEGERS
    if not is_one or data < 12 or data % 2 or length != end + sum(map(size_of_value, kinds)):
        raise BrokenBagError("the row has other columns")
    columns = _columns(local)
    if len(columns) < _DATA:
        raise BrokenBagError("the row is not in its page")
    log_ns = _integer(columns[2])
    if log_ns < 0:
        raise BrokenBagError("the row has no time")
    return _integer(columns[1]), log_ns


def _integer(column: _Column) -> int:
    kind, data = column
    return kind - 8 if kind in (8, 9) else int.from_bytes(data, "big", signed=True)


def _text(column: _Column) -> str | None:
    kind, data = column
    return bytes(data).decode(errors="replace") if kind >= 12 and kind % 2 else None


def _table(_: int, columns: list[_Column]) -> tuple[str, int] | None:
    """Name and first page of a table, from the table of tables."""
    if len(columns) < 4 or _text(columns[0]) != "table" or columns[3][0] not in _INTEGERS:
        return None
    return _text(columns[1]) or "", _integer(columns[3])


def _topic(row: int, columns: list[_Column]) -> tuple[int, Channel] | None:
    """Number and channel of a row of topics; None of another table's."""
    if len(columns) < 4 or columns[0][0] not in _KINDS_OF_ROW_NUMBERS:
        return None
    name, schema, encoding = (_text(column) for column in columns[1:4])
    if not name or not schema or "/" not in schema or encoding is None:
        return None
    return row, Channel(name, schema, encoding or CDR)


def _listed(metadata: Path) -> Iterator[Channel]:
    """The topics that the file beside a bag lists."""
    with suppress(OSError):
        text = metadata.read_text(encoding="utf-8", errors="replace")
        for part in text.split("topic_metadata:")[1:]:
            said = [
                re.search(rf"^\s*{key}:\s*[\"']?([^\s\"']+)", part, re.M)
                for key in ("name", "type", "serialization_format")
            ]
            name, schema, encoding = (match[1] if match else "" for match in said)
            if name and schema:
                yield Channel(name, schema, encoding or CDR)
