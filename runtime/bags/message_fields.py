"""Fields of a camera message that a schema names one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

RAW, COMPRESSED, VIDEO = "raw", "compressed", "video"


@dataclass(slots=True)
class Fields:
    """Fields that a message was found to have; the rest is as a message without it means it."""

    stamp_ns: int = 0
    frame_id: str = ""
    encoding: str = ""
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    width: int = 0
    height: int = 0
    step: int = 0
    is_bigendian: bool = False
