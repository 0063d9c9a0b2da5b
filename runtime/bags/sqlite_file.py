"""Bags of ROS 2 in SQLite, ``.db3``: one table of topics and one of messages."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from .bag_file import CDR, Channel, Contents, Place
from .chunks import CHUNK_LIMIT, decompressed
from .regions import BrokenBagError
from .sqlite_pages import TablePages

MAGIC = b"SQLite format 3\0"
_LARGEST = 2**30  # bytes of one message
_LATEST_NS = 2**63 - 1


class SqliteFile:
    """A ``.db3`` of rosbag2; its messages may be compressed one by one with zstd.

    Raises:
        BrokenBagError: it is no such file.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise BrokenBagError("it does not begin as an SQLite file")
        self._is_zstd = _messages_are_compressed(path.parent / "metadata.yaml")
        has_log = Path(f"{path}-wal").exists()
        self._database = _connected(path, has_log)
        self._database.text_factory = lambda text: text.decode(errors="replace")
        # Of a file with a log, SQLite alone knows which pages hold.
        self._pages = None if has_log else _pages_of_messages(self._database, path)

    def close(self) -> None:
        """See `BagFile`."""
        self._database.close()
        if self._pages is not None:
            self._pages.close()

    def contents(self, wanted: Collection[str]) -> Contents:
        """See `BagFile`."""
        found = Contents()
        try:
            topics = self._database.execute(
                "SELECT id, name, type, serialization_format FROM topics"
            )
            for number, topic, schema, encoding in topics:
                if isinstance(number, int):
                    found.channels[number] = Channel(*map(str, (topic, schema, encoding or CDR)))
            for number, channel in found.channels.items():
                if channel.schema in wanted:
                    self._take_places(found, number)
                else:
                    count = self._database.execute(
                        "SELECT count(*) FROM messages WHERE topic_id = ?", (number,)
                    )
                    found.counts[number] = count.fetchone()[0]
        except sqlite3.Error as error:
            found.damaged(f"SQLite cannot read all of it ({error})")
        found.places.sort()
        return found

    def read(self, place: Place) -> memoryview:
        """See `BagFile`."""
        data = self._read(place.at)
        return _unpacked(data) if self._is_zstd else data

    def _read(self, row: int) -> memoryview:
        """A message from its pages, which takes a third of the time, or else by SQLite."""
        if self._pages is not None:
            with suppress(BrokenBagError):  # SQLite says what is wrong, if anything is
                return self._pages.read(row)
        try:
            found = self._database.execute(
                "SELECT data FROM messages WHERE rowid = ? AND length(data) <= ?", (row, _LARGEST)
            ).fetchone()
        except (sqlite3.Error, OverflowError, MemoryError) as error:
            raise BrokenBagError(f"SQLite cannot read it ({error})") from error
        if found is None or not isinstance(found[0], bytes):
            raise BrokenBagError("it has no data")
        return memoryview(found[0])

    def _take_places(self, found: Contents, channel: int) -> None:
        """Add the places of a topic's messages, those before damage at least."""
        rows = self._database.execute(
            "SELECT timestamp, rowid FROM messages WHERE topic_id = ?", (channel,)
        )
        before = len(found.places)
        try:
            for log_ns, row in rows:
                if isinstance(log_ns, int) and isinstance(row, int) and 0 <= log_ns <= _LATEST_NS:
                    found.places.append(Place(log_ns, -1, row, channel))
        finally:
            found.counts[channel] = len(found.places) - before


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
        except sqlite3.Error as error:
            database.close()
            problem = error
            continue
        return database
    raise BrokenBagError(f"SQLite cannot open it ({problem})")


def _pages_of_messages(database: sqlite3.Connection, path: Path) -> TablePages | None:
    """The pages of the messages' data; None where they are not as a recorder makes them."""
    with suppress(sqlite3.Error, BrokenBagError, OSError):
        tables = "SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name = 'messages'"
        root = database.execute(tables).fetchone()
        columns = [name for _, name, *_ in database.execute("PRAGMA table_xinfo(messages)")]
        if root and isinstance(root[0], int) and "data" in columns:
            return TablePages(path, root[0], columns.index("data"), _LARGEST)
    return None


def _messages_are_compressed(metadata: Path) -> bool:
    with suppress(OSError):
        text = metadata.read_text(encoding="utf-8", errors="replace")
        return re.search(r"^\s*compression_mode:\s*[\"']?message", text, re.I | re.M) is not None
    return False


def _unpacked(data: memoryview) -> memoryview:
    """A message that was compressed by itself; its frame states its size."""
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
    if bytes(data[:4]) != b"\x28\xb5\x2f\xfd" or len(data) < 6:
        return None
    flags = data[4]
    is_single = bool(flags & 0x20)
    at = 5 + (not is_single) + (0, 1, 2, 4)[flags & 3]
    width = (int(is_single), 2, 4, 8)[flags >> 6]
    if width == 0 or len(data) < at + width:
        return None
    return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
