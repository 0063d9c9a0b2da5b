"""Bags of ROS 2 in SQLite, ``.db3``: one table of topics and one of messages."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from .bag_file import CDR, Channel, Contents, Place
from .chunks import CHUNK_LIMIT, decompressed
from .regions import BrokenBagError, ReadBuffer

MAGIC = b"SQLite format 3\0"
_PIECE = 1 << 16  # bytes read at a time; larger ones come from fresh memory
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
        self._database = _connected(path)
        self._buffer = ReadBuffer()
        self._database.text_factory = lambda text: text.decode(errors="replace")

    def close(self) -> None:
        """See `BagFile`."""
        self._database.close()

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
        try:
            has_blobs = sys.version_info >= (3, 11)
            data = self._read_blob(place.at) if has_blobs else self._read_row(place.at)
        except (sqlite3.Error, OverflowError, MemoryError) as error:
            raise BrokenBagError(f"SQLite cannot read it ({error})") from error
        return _unpacked(data) if self._is_zstd else data

    def _read_blob(self, row: int) -> memoryview:
        """A message in pieces, which takes a third of the time: no whole copies are made of it."""
        with self._database.blobopen("messages", "data", row, readonly=True) as blob:
            length = len(blob)
            if length > _LARGEST:
                raise BrokenBagError(f"it has {length} bytes")
            data = self._buffer.get(length)
            for at in range(0, length, _PIECE):
                data[at : at + _PIECE] = blob.read(_PIECE)
        return data

    def _read_row(self, row: int) -> memoryview:
        found = self._database.execute(
            "SELECT data FROM messages WHERE id = ? AND length(data) <= ?", (row, _LARGEST)
        ).fetchone()
        if found is None or not isinstance(found[0], bytes):
            raise BrokenBagError("it has no data")
        return memoryview(found[0])

    def _take_places(self, found: Contents, channel: int) -> None:
        """Add the places of a topic's messages, those before damage at least."""
        rows = self._database.execute(
            "SELECT timestamp, id FROM messages WHERE topic_id = ?", (channel,)
        )
        before = len(found.places)
        try:
            for log_ns, row in rows:
                if isinstance(log_ns, int) and isinstance(row, int) and 0 <= log_ns <= _LATEST_NS:
                    found.places.append(Place(log_ns, -1, row, channel))
        finally:
            found.counts[channel] = len(found.places) - before


def _connected(path: Path) -> sqlite3.Connection:
    """The file, read with the log of a recorder that is at work or was ended, if there is one.

    Reading that takes a file beside it; where none can be made, the log's messages are missing.
    """
    has_log = Path(f"{path}-wal").exists()
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
