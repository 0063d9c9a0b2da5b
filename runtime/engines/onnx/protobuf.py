"""Messages of Google's protobuf, read without its library, which a vehicle does not have."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers of a protobuf message with their values: integers, or bytes.

    Raises:
        ValueError, IndexError: the bytes are no such message.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = varint(message, at)
        number, wire = (key & 0xFFFFFFFF) >> 3, key & 7  # protobuf drops what is beyond 32 bits
        value: int | memoryview
        if wire == _VARINT:
            value, at = varint(message, at)
        elif wire == _BYTES:
            size, at = varint(message, at)
            value, at = message[at : at + size], at + size
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
            value, at = message[at : at + size], at + size
        else:
            raise ValueError("a group, which ONNX does not use")
        if at > end or number == 0:
            raise ValueError("cut off, or no field")
        yield number, value


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, seven bits each, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
