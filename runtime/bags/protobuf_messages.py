"""Foxglove's camera messages in protobuf's wire format.

Their fields' numbers are published and fixed, so that neither generated classes nor the schema in
the bag are needed: https://github.com/foxglove/foxglove-sdk/tree/main/schemas/proto/foxglove.
"""

from __future__ import annotations

from collections.abc import Iterator

from .cursor import Cursor, text_of
from .message_fields import Fields
from .regions import BrokenBagError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAMES = {
    "foxglove/CompressedImage": {1: "timestamp", 2: "data", 3: "encoding", 4: "frame_id"},
    "foxglove/CompressedVideo": {1: "timestamp", 2: "frame_id", 3: "data", 4: "encoding"},
    "foxglove/RawImage": {
        **{1: "timestamp", 2: "width", 3: "height", 4: "encoding", 5: "step", 6: "data"},
        7: "frame_id",
    },
}


def protobuf_message(schema: str, data: memoryview) -> Fields:
    """The fields of a message.

    Args:
        schema: "foxglove/CompressedImage", "foxglove/CompressedVideo" or "foxglove/RawImage".

    Raises:
        BrokenBagError: it is no such message.
    """
    if schema not in _NAMES:
        raise BrokenBagError(f"{schema} in protobuf is not read here")
    fields, names = Fields(), _NAMES[schema]
    for number, value in _values(Cursor(data)):
        name = names.get(number)
        if name == "timestamp" and isinstance(value, memoryview):
            fields.stamp_ns = _stamp_ns(value)
        elif name == "data" and isinstance(value, memoryview):
            fields.data = value
        elif name in ("encoding", "frame_id") and isinstance(value, memoryview):
            setattr(fields, name, text_of(value))
        elif name in ("width", "height", "step") and isinstance(value, int):
            setattr(fields, name, value)
    return fields


def _stamp_ns(data: memoryview) -> int:
    parts = {number: value for number, value in _values(Cursor(data)) if isinstance(value, int)}
    return parts.get(1, 0) * 10**9 + parts.get(2, 0)


def _values(cursor: Cursor) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field."""
    while cursor.left:
        tag = _varint(cursor)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            yield number, _varint(cursor)
        elif kind == _FIXED64:
            yield number, cursor.u64()
        elif kind == _BYTES:
            yield number, cursor.take(_varint(cursor))
        elif kind == _FIXED32:
            yield number, cursor.u32()
        else:
            raise BrokenBagError("a field in it is of no kind that protobuf has")


def _varint(cursor: Cursor) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = cursor.u8()
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise BrokenBagError("a number in it has more than ten bytes")
