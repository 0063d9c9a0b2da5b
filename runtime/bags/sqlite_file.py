"""Bags of ROS 2 in SQLite, ``.db3``: one table of topics and one of messages."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from ..printable import one_line
from .bag_file import CDR, Channel, Contents, Place
from .regions import BrokenBagError
from .sqlite_pages import HEADER_BYTES, TablePages, page_size_of
from .sqlite_scan import LARGEST, SqliteScan

MAGIC = b"SQLite format 3\0"
_LATEST_NS = 2**63 - 1
# What SQLite says of a damaged schema may quote it, and be no UTF-8.
_SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)


class SqliteFile:
    """A ``.db3`` of rosbag2.

    Raises:
        BrokenBagError: it is no such file.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
            size = file.seek(0, os.SEEK_END)
        if header[: len(MAGIC)] != MAGIC:
            raise BrokenBagError("it does not begin as an SQLite file")
        self._path = path
        has_log = Path(f"{path}-wal").exists()
        # Of a file with a log, SQLite alone knows which pages hold.
        self._problem = None if has_log else _cut(header, size)
        self._database: sqlite3.Connection | None = None
        self._pages: TablePages | None = None
        self._scan: SqliteScan | None = None
        if self._problem is None:
            try:
                self._database = _connected(path, has_log)
            except BrokenBagError as error:
                self._problem = str(error)
        if self._database is not None:
            self._database.text_factory = lambda text: text.decode(errors="replace")
            self._pages = None if has_log else _pages_of_messages(self._database, path)

    def close(self) -> None:
        """See `BagFile`."""
        for one in (self._database, self._pages, self._scan):
            if one is not None:
                one.close()

    def contents(self, wanted: Collection[str]) -> Contents:
        """See `BagFile`."""
        if self._database is None:
            found, problem = Contents(), self._problem
        else:
            found = _queried(self._database, wanted)
            problem = found.damage
        if problem is not None:
            with suppress(BrokenBagError):
                scanned = self._scanned().contents(wanted)
                if _worth(scanned) > _worth(found):
                    found = scanned
            if self._database is None and not found.channels:
                raise BrokenBagError(problem)
            found.damaged(problem)
        found.places.sort()
        return found

    def read(self, place: Place) -> memoryview:
        """See `BagFile`."""
        return self._read(place.at) if place.chunk < 0 else self._scanned().read(place)

    def _scanned(self) -> SqliteScan:
        """The file, read without SQLite."""
        if self._scan is None:
            self._scan = SqliteScan(self._path)
        return self._scan

    def _read(self, row: int) -> memoryview:
        """A message from its pages, which takes a third of the time, or else by SQLite."""
        if self._pages is not None:
            with suppress(BrokenBagError):  # SQLite says what is wrong, if anything is
                return self._pages.read(row)
        if self._database is None:
            raise BrokenBagError("its file cannot be opened any more")
        try:
            found = self._database.execute(
                "SELECT data FROM messages WHERE rowid = ? AND length(data) <= ?", (row, LARGEST)
            ).fetchone()
        except (*_SQLITE_ERRORS, OverflowError, MemoryError) as error:
            raise BrokenBagError(f"SQLite cannot read it ({one_line(str(error))})") from error
        if found is None or not isinstance(found[0], bytes):
            raise BrokenBagError("it has no data")
        return memoryview(found[0])


def _queried(database: sqlite3.Connection, wanted: Collection[str]) -> Contents:
    """Contents as SQLite reads them, up to the first damage that it meets."""
    found = Contents()
    try:
        topics = database.execute("SELECT id, name, type, serialization_format FROM topics")
        for number, topic, schema, encoding in topics:
            if isinstance(number, int):
                found.channels[number] = Channel(*map(str, (topic, schema, encoding or CDR)))
        for number, channel in found.channels.items():
            if channel.schema in wanted:
                _take_places(database, found, number)
            else:
                count = database.execute(
                    "SELECT count(*) FROM messages WHERE topic_id = ?", (number,)
                )
                found.counts[number] = count.fetchone()[0]
    except _SQLITE_ERRORS as error:
        found.damaged(f"SQLite cannot read all of it ({one_line(str(error))})")
    return found


def _take_places(database: sqlite3.Connection, found: Contents, channel: int) -> None:
    """Add the places of a topic's messages, those before damage at least."""
    rows = database.execute("SELECT timestamp, rowid FROM messages WHERE topic_id = ?", (channel,))
    before = len(found.places)
    try:
        for log_ns, row in rows:
            if isinstance(log_ns, int) and isinstance(row, int) and 0 <= log_ns <= _LATEST_NS:
                found.places.append(Place(log_ns, -1, row, channel))
    finally:
        found.counts[channel] = len(found.places) - before


def _worth(found: Contents) -> tuple[int, int]:
    return len(found.places), len(found.channels)


def _cut(header: bytes, size: int) -> str | None:
    """A clause on a file of fewer bytes than its header states; None on one of as many."""
    stated = page_size_of(header) * int.from_bytes(header[28:32], "big")
    if len(header) == HEADER_BYTES and size < stated:
        return f"it ends at byte {size} of {stated}"
    return None


def _connected(path: Path, has_log: bool) -> sqlite3.Connection:
    """The file, read with the log of a recorder that is at work or was ended, if there is one.

    Reading that takes a file beside it; where none can be made, the log's messages are missing.
    """
    for how in ("mode=ro", "immutable=1") if has_log else ("immutable=1",):
        address = f"file:{quote(str(path.absolute()))}?{how}"
        database = sqlite3.connect(address, uri=True, timeout=1, check_same_thread=False)
        try:
            # A damaged page may hold triggers and views; none of a bag's is needed.
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except _SQLITE_ERRORS as error:
            database.close()
            problem = error
            continue
        return database
    raise BrokenBagError(f"SQLite cannot open it ({one_line(str(problem))})")


def _pages_of_messages(database: sqlite3.Connection, path: Path) -> TablePages | None:
    """The pages of the messages' data; None where they are not as a recorder makes them."""
    with suppress(*_SQLITE_ERRORS, BrokenBagError, OSError):
        tables = "SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name = 'messages'"
        root = database.execute(tables).fetchone()
        columns = [name for _, name, *_ in database.execute("PRAGMA table_xinfo(messages)")]
        if root and isinstance(root[0], int) and "data" in columns:
            return TablePages(path, root[0], columns.index("data"), LARGEST)
    return None
