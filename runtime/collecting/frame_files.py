"""Files of collected frames: a JPEG that carries in a comment what the collector knows of it.

The name says when: the number of the drive, when the drive began, and milliseconds since then, so
that the order of names is the order in time, also where a clock was set meanwhile. The comment has
the descriptor, the weight, the classes and the length of the whole file, so that an index can be
made again from the files' first kilobytes, and a file that a power loss cut is told.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .appearance import LENGTH, Vector

QUALITY = 95
SUFFIX = ".jpg"
_NAME = re.compile(r"(\d{6})-(\d{8}T\d{6}Z)-(\d{12})\.jpg")
_START, _END, _COMMENT = b"\xff\xd8", b"\xff\xd9", b"\xff\xfe"
_KEY = b"roadshift-collect "
_LENGTH_DIGITS = 10
_FIRST_BYTES = 8192  # a comment of 255 classes is shorter


@dataclass(frozen=True, slots=True)
class KeptFrame:
    """Facts about one kept frame, in its file and in the index.

    Attributes:
        name: of its file.
        size: bytes of the file.
        time_s: seconds since the drive began.
        weight: how much it has to teach for its distance, see `interest`.
        descriptor: see `Appearance`.
        classes: share of the pixels that the model gives each class; empty without a model.
    """

    name: str
    size: int
    time_s: float
    weight: float
    descriptor: Vector
    classes: dict[int, float]

    def line(self) -> bytes:
        """The frame as a line of the index."""
        return json.dumps(self.record(), separators=(",", ":")).encode() + b"\n"

    def record(self) -> dict[str, Any]:
        """The frame as JSON values."""
        text = base64.b85encode(np.asarray(self.descriptor, "<f2").tobytes()).decode()
        classes = {str(index): round(share, 4) for index, share in self.classes.items()}
        return {
            "name": self.name,
            "size": self.size,
            "time_s": round(self.time_s, 3),
            "weight": round(self.weight, 4),
            "descriptor": text,
            "classes": classes,
        }

    @classmethod
    def from_record(cls, record: Any) -> KeptFrame:
        """The frame of JSON values.

        Raises:
            ValueError: they are none of a frame.
        """
        try:
            packed = np.frombuffer(base64.b85decode(record["descriptor"]), "<f2")
            classes = {int(index): float(share) for index, share in record["classes"].items()}
            frame = cls(
                str(record["name"]),
                int(record["size"]),
                float(record["time_s"]),
                float(record["weight"]),
                packed.astype(np.float32),
                classes,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no record of a frame: {error!r}") from error
        numbers = np.array([frame.time_s, frame.weight, *frame.descriptor])
        if len(packed) != LENGTH or frame.weight <= 0 or not np.isfinite(numbers).all():
            raise ValueError("a record of a frame with other numbers than a frame has")
        return frame


def drive_name(number: int, began: datetime) -> str:
    """The start of the names of a drive's frames."""
    return f"{number:06d}-{began.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}"


def frame_name(drive: str, time_s: float) -> str:
    """The name of the file of a frame, in order of time for thirty years."""
    return f"{drive}-{round(time_s * 1000):012d}{SUFFIX}"


def is_frame_name(name: str) -> bool:
    """Tell whether a file is called as collected frames are."""
    return _NAME.fullmatch(name) is not None


def drive_number(name: str) -> int:
    """The number of the drive that a frame is of, by its name."""
    found = _NAME.fullmatch(name)
    assert found is not None, name
    return int(found[1])


def encode_frame(image: NDArray[np.uint8], frame: KeptFrame) -> bytes:
    """The bytes of a frame's file; ``frame.size`` is not read, and is their number."""
    _, data = cv2.imencode(
        SUFFIX, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    picture = data.tobytes()
    record = {key: value for key, value in frame.record().items() if key not in ("name", "size")}
    text = json.dumps(record, separators=(",", ":")).encode()
    length = len(picture) + 4 + len(_KEY) + _LENGTH_DIGITS + len(text)
    comment = _KEY + f"{length:0{_LENGTH_DIGITS}d}".encode() + text
    segment = _COMMENT + struct.pack(">H", len(comment) + 2) + comment
    return _START + segment + picture[len(_START) :]


def read_frame_file(path: Path) -> KeptFrame:
    """Facts that a frame's file states, from its first kilobytes and its last two bytes.

    Raises:
        ValueError: it is cut, or was not written here.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_FIRST_BYTES)
        size = file.seek(0, 2)
        file.seek(max(0, size - len(_END)))
        end = file.read()
    if not start.startswith(_START + _COMMENT) or len(start) < 6:
        raise ValueError("it has no comment of a collector")
    (length,) = struct.unpack(">H", start[4:6])
    comment = start[6 : 4 + length]
    if not comment.startswith(_KEY) or len(comment) != length - 2:
        raise ValueError("it has no whole comment of a collector")
    stated = comment[len(_KEY) : len(_KEY) + _LENGTH_DIGITS]
    if not stated.isdigit() or int(stated) != size or end != _END:
        raise ValueError(f"it is cut: it has {size} bytes")
    record = json.loads(comment[len(_KEY) + _LENGTH_DIGITS :])
    if not isinstance(record, dict):
        raise ValueError("its comment is no record of a frame")
    return KeptFrame.from_record(record | {"name": path.name, "size": size})
