"""MCAP files: by the index in their summary, or by going through them where there is none.

The format is that of https://mcap.dev/spec, version 0. Records are followed here, and not by the
`mcap` package, for the sake of damaged files: every length is held against the bytes that there
are before anything is read, and a chunk that is cut gives the messages before the cut.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from .bag_file import Channel, Contents, Place
from .chunked_file import ChunkedFile
from .chunks import decompressed
from .cursor import Cursor, text_of
from .regions import BrokenBagError, Region

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
_CHUNK_INDEX, _STATISTICS, _DATA_END = 0x08, 0x0B, 0x0F
_HEAD = 9  # bytes of an opcode and a length
_FOOTER_BYTES = _HEAD + 20
_MESSAGE_HEAD = 22  # bytes of channel, sequence and two times
_CHUNK_HEAD = 28  # bytes of two times, size and checksum
_MOST_SUMMARY = 2**28  # bytes; that of a million chunks has about a hundred million
_MOST_SMALL = 2**26  # bytes of a schema, a channel, an index: beyond it a length is damaged


class _McapRecord(NamedTuple):
    opcode: int
    at: int  # byte of its content
    length: int  # as it states, or what there is of it
    is_cut: bool

    @property
    def begins(self) -> int:
        """Byte of its opcode."""
        return self.at - _HEAD


def _records(region: Region, at: int, end: int | None = None) -> Iterator[_McapRecord]:
    """The records of a region from a byte on; one that is cut is the last.

    Raises:
        BrokenBagError: behind the last record lie bytes that are none.
    """
    end = region.size if end is None else end
    while at < end:
        if end - at < _HEAD:
            raise BrokenBagError(f"it ends within a record at byte {at}")
        head = Cursor(region.take(at, _HEAD))
        opcode, length = head.u8(), head.u64()
        at += _HEAD
        if opcode == 0:
            raise BrokenBagError(f"there is no record at byte {at - _HEAD}")
        if length > end - at:
            yield _McapRecord(opcode, at, end - at, is_cut=True)
            raise BrokenBagError(f"it ends within a record at byte {at - _HEAD}")
        yield _McapRecord(opcode, at, length, is_cut=False)
        at += length


class McapFile(ChunkedFile[_McapRecord]):
    """An MCAP file."""

    MAGIC = MAGIC
    _records = staticmethod(_records)

    def __init__(self, path: Path) -> None:
        self._schemas: dict[int, tuple[str, str, str]] = {}  # name, encoding, text
        super().__init__(path)

    @staticmethod
    def _other_start(start: bytes) -> str:  # noqa: ARG004 - there are no others that are known
        return "it does not begin as an MCAP file"

    @staticmethod
    def _is_chunk(record: _McapRecord) -> bool:
        return record.opcode == _CHUNK

    @staticmethod
    def _is_last(record: _McapRecord) -> bool:
        return record.opcode in (_FOOTER, _DATA_END)

    def _message(self, region: Region, place: Place) -> memoryview:
        head = Cursor(region.take(place.at, _HEAD + _MESSAGE_HEAD))
        opcode, length, channel = head.u8(), head.u64(), head.u16()
        _, log_ns = head.u32(), head.u64()
        if (opcode, channel) != (_MESSAGE, place.channel) or length < _MESSAGE_HEAD:
            raise BrokenBagError("the index leads to no message")
        if log_ns != place.log_ns:
            raise BrokenBagError("the index leads to another message")
        return region.take(place.at + _HEAD + _MESSAGE_HEAD, length - _MESSAGE_HEAD)

    # ---- by the index --------------------------------------------------------------------------

    def _indexed(self, wanted: Collection[str]) -> Contents | None:
        """Contents by the summary, see `ChunkedFile`."""
        size = self._file.size
        footer = Cursor(self._file.take(size - _FOOTER_BYTES - len(MAGIC), _FOOTER_BYTES))
        opcode, length, summary = footer.u8(), footer.u64(), footer.u64()
        if opcode != _FOOTER or length != _FOOTER_BYTES - _HEAD or not summary:
            raise BrokenBagError("it has no summary")
        end = size - _FOOTER_BYTES - len(MAGIC)
        if summary > end or end - summary > _MOST_SUMMARY:
            raise BrokenBagError("its summary is not where it should be")
        self._check_summary(summary, end)
        found, chunks, messages = Contents(), list[Cursor](), None
        for record in _records(self._file, summary, end):
            if record.opcode in (_SCHEMA, _CHANNEL):
                self._note_kind(found, record, self._file)
            elif record.opcode == _CHUNK_INDEX:
                chunks.append(self._small(self._file, record))
            elif record.opcode == _STATISTICS:
                messages = _counts(self._small(self._file, record), found)
        if messages is None or not set(found.counts) <= set(found.channels):
            return None
        seen = {number for number, one in found.channels.items() if one.schema in wanted}
        for cursor in chunks:
            self._take_chunk_index(cursor, seen, found)
        # Messages may also lie outside of chunks, where no index knows them.
        expected = sum(found.counts.get(number, 0) for number in seen)
        return found if len(found.places) == expected else None

    def _check_summary(self, summary: int, end: int) -> None:
        """Hold the summary against its checksum, where it has one; the last field of the footer."""
        covered = self._file.take(summary, end - summary + _FOOTER_BYTES)
        checksum = int.from_bytes(covered[-4:], "little")
        if checksum and zlib.crc32(covered[:-4]) != checksum:
            raise BrokenBagError("its summary differs from its checksum")

    def _take_chunk_index(self, cursor: Cursor, seen: Collection[int], found: Contents) -> None:
        """Add the places of wanted messages in a chunk.

        Raises:
            BrokenBagError: they are not where the chunk is, or not of its times.
        """
        first_ns, last_ns, chunk, _ = cursor.u64(), cursor.u64(), cursor.u64(), cursor.u64()
        offsets = Cursor(cursor.sequence())
        cursor.u64(), cursor.string(), cursor.u64()
        size = cursor.u64()
        while offsets.left:
            channel, at = offsets.u16(), offsets.u64()
            if channel not in seen:
                continue
            head = Cursor(self._file.take(at, _HEAD))
            opcode, length = head.u8(), head.u64()
            if opcode != _MESSAGE_INDEX or length > _MOST_SMALL:
                raise BrokenBagError("an index of messages is not where it should be")
            index = Cursor(self._file.take(at + _HEAD, length))
            if index.u16() != channel:
                raise BrokenBagError("an index of messages is another channel's")
            entries = Cursor(index.sequence())
            while entries.left:
                place = Place(entries.u64(), chunk, entries.u64(), channel)
                if not first_ns <= place.log_ns <= last_ns or place.at >= size:
                    raise BrokenBagError("an index of messages is damaged")
                found.places.append(place)

    # ---- records -------------------------------------------------------------------------------

    def _note(
        self,
        found: Contents,
        record: _McapRecord,
        region: Region,
        chunk: int,
        wanted: Collection[str],
    ) -> None:
        if record.opcode in (_SCHEMA, _CHANNEL):
            self._note_kind(found, record, region)
        elif record.opcode == _MESSAGE:
            head = Cursor(region.take(record.at, min(_MESSAGE_HEAD, record.length)))
            channel, _, log_ns = head.u16(), head.u32(), head.u64()
            found.found(Place(log_ns, chunk, record.begins, channel), wanted)

    def _region_of(self, chunk: int) -> tuple[Region, str | None]:
        if chunk < 0:
            return self._file, None
        head = Cursor(self._file.take(chunk, _HEAD))
        if head.u8() != _CHUNK:
            raise BrokenBagError("the index leads to no chunk")
        length = min(head.u64(), self._file.size - chunk - _HEAD)
        at = chunk + _HEAD
        names = Cursor(self._file.take(at, min(length, _CHUNK_HEAD + 64)))
        names.take(16)
        size, _ = names.u64(), names.u32()
        kind, stored = names.string(), names.u64()
        at += names.at
        stored = min(stored, length - names.at)
        if kind == "":
            return self._file.part(at, stored), None
        return self._chunks.get(
            chunk, lambda: decompressed(kind, self._file.take(at, stored), size)
        )

    def _note_kind(self, found: Contents, record: _McapRecord, region: Region) -> None:
        """Note a schema or a channel."""
        cursor = self._small(region, record)
        number = cursor.u16()
        if record.opcode == _SCHEMA:
            name, encoding, text = cursor.string(), cursor.string(), cursor.sequence()
            is_text = encoding.startswith("ros")
            self._schemas[number] = name, encoding, text_of(text) if is_text else ""
            return
        schema, topic, encoding = cursor.u16(), cursor.string(), cursor.string()
        name, _, text_definition = self._schemas.get(schema, ("", "", ""))
        found.channels[number] = Channel(topic, name, encoding, text_definition)

    def _small(self, region: Region, record: _McapRecord) -> Cursor:
        if record.length > _MOST_SMALL:
            raise BrokenBagError(f"a record of {record.length} bytes is damaged")
        return Cursor(region.take(record.at, record.length))


def _counts(cursor: Cursor, found: Contents) -> int:
    """Take the messages of each channel from a statistics record; all messages."""
    messages = cursor.u64()
    cursor.take(2 + 4 * 4 + 2 * 8)
    counts = Cursor(cursor.sequence())
    while counts.left:
        channel = counts.u16()
        found.counts[channel] = counts.u64()
    return messages
