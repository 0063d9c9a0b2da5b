"""Camera messages in JSON: Foxglove's schemas, and those of ROS as bridges write them."""

from __future__ import annotations

import binascii
import json
from typing import Any

from .message_fields import Fields
from .regions import BrokenBagError


def json_message(data: memoryview) -> Fields:
    """The fields of a message; bytes are base64, or a list of numbers.

    Raises:
        BrokenBagError: it is no such message.
    """
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise BrokenBagError(f"it is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise BrokenBagError("it is no JSON object")
    header = found.get("header", found)
    stamp = header.get("stamp", header.get("timestamp")) if isinstance(header, dict) else None
    return Fields(
        _stamp_ns(stamp),
        _text(header.get("frame_id")) if isinstance(header, dict) else "",
        _text(found.get("encoding", found.get("format"))),
        _bytes(found.get("data")),
        _number(found.get("width")),
        _number(found.get("height")),
        _number(found.get("step")),
        bool(found.get("is_bigendian")),
    )


def _stamp_ns(stamp: Any) -> int:
    if not isinstance(stamp, dict):
        return 0
    seconds = stamp.get("sec", stamp.get("secs", stamp.get("seconds")))
    parts = stamp.get("nsec", stamp.get("nanosec", stamp.get("nsecs", stamp.get("nanos"))))
    return _number(seconds) * 10**9 + _number(parts)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return int(value) if is_number else 0


def _bytes(value: Any) -> memoryview:
    try:
        if isinstance(value, str):
            return memoryview(binascii.a2b_base64(value))
        if isinstance(value, list):
            return memoryview(bytes(value))
    except (ValueError, TypeError) as error:
        raise BrokenBagError(f"its data are neither base64 nor bytes ({error})") from error
    raise BrokenBagError("it has no data")
