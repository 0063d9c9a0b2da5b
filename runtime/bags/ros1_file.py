"""Bags of ROS 1, version 2.0: by their index, or by going through them where they have none.

The format is that of http://wiki.ros.org/Bags/Format/2.0. Records are followed here, and not by
the `rosbags` package, which opens no bag without an index: a recorder that was ended writes none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from .bag_file import ROS1, Channel, Contents, Place
from .chunked_file import ChunkedFile
from .chunks import decompressed
from .cursor import Cursor, text_of
from .regions import BrokenBagError, Region

MAGIC = b"#ROSBAG V2.0\n"
_MESSAGE, _BAG, _INDEX, _CHUNK, _CHUNK_INFO, _CONNECTION = 2, 3, 4, 5, 6, 7
_MOST_HEADER = 2**22  # bytes of a record's header; beyond it a length is damaged
_MOST_SMALL = 2**26  # bytes of a definition or an index

_Fields = Mapping[str, memoryview]


class _RosRecord(NamedTuple):
    fields: _Fields
    begins: int
    at: int  # byte of its data
    length: int  # of its data, as it states, or what there is of it
    is_cut: bool

    @property
    def op(self) -> int:
        """Kind of the record."""
        return self.cursor("op").u8()

    def cursor(self, name: str) -> Cursor:
        """A field of its header.

        Raises:
            BrokenBagError: it has none of that name.
        """
        if name not in self.fields:
            raise BrokenBagError(f"a record at byte {self.begins} has no {name}")
        return Cursor(self.fields[name])


def _record(region: Region, at: int) -> _RosRecord:
    """The record at a byte.

    Raises:
        BrokenBagError: there is none, or it ends within its header.
    """
    header_length = Cursor(region.take(at, 4)).u32()
    if header_length > _MOST_HEADER:
        raise BrokenBagError(f"there is no record at byte {at}")
    cursor = Cursor(region.take(at + 4, header_length))
    fields = _fields(cursor)
    begins = at + 4 + header_length
    length = Cursor(region.take(begins, 4)).u32()
    left = region.size - begins - 4
    return _RosRecord(fields, at, begins + 4, min(length, left), length > left)


def _fields(cursor: Cursor) -> dict[str, memoryview]:
    """The fields of a header, name=value."""
    fields = {}
    while cursor.left:
        field = cursor.sequence()
        name, separator, value = bytes(field).partition(b"=")
        if not separator:
            raise BrokenBagError("a header has a field without a name")
        fields[name.decode("latin-1")] = memoryview(value)
    return fields


def _records(region: Region, at: int) -> Iterator[_RosRecord]:
    """The records from a byte on; one that is cut is the last.

    Raises:
        BrokenBagError: behind the last record lie bytes that are none.
    """
    while at < region.size:
        record = _record(region, at)
        yield record
        if record.is_cut:
            raise BrokenBagError(f"it ends within a record at byte {at}")
        at = record.at + record.length


def _time_ns(cursor: Cursor) -> int:
    return cursor.u32() * 10**9 + cursor.u32()


class Ros1File(ChunkedFile[_RosRecord]):
    """A ``.bag`` of version 2.0."""

    MAGIC = MAGIC
    _records = staticmethod(_records)

    @staticmethod
    def _other_start(start: bytes) -> str:
        if start.startswith(b"#ROSBAG V"):
            return "it is of an old version; convert it with `rosbag fix`"
        return "it does not begin as a bag"

    @staticmethod
    def _is_chunk(record: _RosRecord) -> bool:
        return record.op == _CHUNK

    def _message(self, region: Region, place: Place) -> memoryview:
        record = _record(region, place.at)
        if record.op != _MESSAGE or record.cursor("conn").u32() != place.channel:
            raise BrokenBagError("the index leads to no message")
        if _time_ns(record.cursor("time")) != place.log_ns:
            raise BrokenBagError("the index leads to another message")
        if record.is_cut:
            raise BrokenBagError("it is cut")
        return region.take(record.at, record.length)

    # ---- by the index --------------------------------------------------------------------------

    def _indexed(self, wanted: Collection[str]) -> Contents | None:
        """Contents by the index, see `ChunkedFile`."""
        bag = _record(self._file, len(MAGIC))
        index = bag.cursor("index_pos").u64()
        if bag.op != _BAG or index == 0:
            return None
        found, chunks = Contents(), list[_RosRecord]()
        for record in _records(self._file, index):
            if record.op == _CONNECTION:
                self._note_connection(found, record, self._file)
            elif record.op == _CHUNK_INFO:
                chunks.append(record)
        expected = bag.cursor("conn_count").u32(), bag.cursor("chunk_count").u32()
        if (len(found.channels), len(chunks)) != expected:
            return None
        seen = {number for number, one in found.channels.items() if one.schema in wanted}
        for info in chunks:
            self._take_chunk_info(found, info, seen)
        return found

    def _take_chunk_info(self, found: Contents, info: _RosRecord, seen: Collection[int]) -> None:
        """Count a chunk's messages, and add the places of wanted ones from the index behind it."""
        counts = Cursor(self._small(self._file, info))
        of_chunk: dict[int, int] = {}
        while counts.left:
            connection = counts.u32()
            of_chunk[connection] = counts.u32()
        known = info.cursor("count").u32() == len(of_chunk)
        if not known or not of_chunk.keys() <= found.channels.keys():
            raise BrokenBagError("what the index says of a chunk is damaged")
        for connection, count in of_chunk.items():
            found.counts[connection] = found.counts.get(connection, 0) + count
        if not seen & of_chunk.keys():
            return
        chunk_at = info.cursor("chunk_pos").u64()
        first_ns, last_ns = (_time_ns(info.cursor(name)) for name in ("start_time", "end_time"))
        chunk = _record(self._file, chunk_at)
        at, missing = chunk.at + chunk.length, set(of_chunk)
        while missing:
            record = _record(self._file, at)
            connection = record.cursor("conn").u32()
            if record.op != _INDEX or record.is_cut or connection not in missing:
                raise BrokenBagError("an index of messages is not where it should be")
            missing.discard(connection)
            if connection in seen:
                entries = Cursor(self._small(self._file, record))
                places = []
                while entries.left:
                    places.append(Place(_time_ns(entries), chunk_at, entries.u32(), connection))
                in_time = all(first_ns <= place.log_ns <= last_ns for place in places)
                if len(places) != of_chunk[connection] or not in_time:
                    raise BrokenBagError("an index of messages is damaged")
                found.places += places
            at = record.at + record.length

    # ---- records -------------------------------------------------------------------------------

    def _note(
        self,
        found: Contents,
        record: _RosRecord,
        region: Region,
        chunk: int,
        wanted: Collection[str],
    ) -> None:
        if record.op == _CONNECTION:
            self._note_connection(found, record, region)
        elif record.op == _MESSAGE:
            time_ns, channel = _time_ns(record.cursor("time")), record.cursor("conn").u32()
            found.found(Place(time_ns, chunk, record.begins, channel), wanted)

    def _region_of(self, chunk: int) -> tuple[Region, str | None]:
        if chunk < 0:
            return self._file, None
        record = _record(self._file, chunk)
        if record.op != _CHUNK:
            raise BrokenBagError("the index leads to no chunk")
        size = record.cursor("size").u32()
        kind = text_of(record.fields.get("compression", memoryview(b"none")))
        if kind == "none":
            return self._file.part(record.at, record.length), None
        return self._chunks.get(
            chunk, lambda: decompressed(kind, self._file.take(record.at, record.length), size)
        )

    def _note_connection(self, found: Contents, record: _RosRecord, region: Region) -> None:
        fields = _fields(Cursor(self._small(region, record)))
        topic = text_of(record.fields.get("topic", memoryview(b"")))
        found.channels[record.cursor("conn").u32()] = Channel(
            topic,
            text_of(fields.get("type", memoryview(b""))),
            ROS1,
            text_of(fields.get("message_definition", memoryview(b""))),
        )

    def _small(self, region: Region, record: _RosRecord) -> memoryview:
        if record.is_cut or record.length > _MOST_SMALL:
            raise BrokenBagError(f"a record of {record.length} bytes is damaged")
        return region.take(record.at, record.length)
