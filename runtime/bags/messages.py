"""Camera messages of ROS and Foxglove, from bytes to fields; the pixels stay as they are.

Layouts: ``sensor_msgs`` of ROS 1 and ROS 2 (http://docs.ros.org/en/api/sensor_msgs/html,
https://github.com/ros2/common_interfaces), and Foxglove's schemas
(https://docs.foxglove.dev/docs/visualization/message-schemas).
"""

from __future__ import annotations

from dataclasses import dataclass

from .bag_file import CDR, JSON, PROTOBUF, ROS1, Channel
from .cursor import Cursor, cdr_cursor
from .json_messages import json_message
from .message_fields import COMPRESSED, RAW, VIDEO, Fields
from .protobuf_messages import protobuf_message
from .regions import BrokenBagError

_KINDS = {
    "sensor_msgs/Image": RAW,
    "sensor_msgs/CompressedImage": COMPRESSED,
    "foxglove/RawImage": RAW,
    "foxglove/CompressedImage": COMPRESSED,
    "foxglove/CompressedVideo": VIDEO,
}
_PACKAGES = {"sensor_msgs": ("sensor_msgs",), "foxglove": ("foxglove", "foxglove_msgs")}
_SPELLINGS = {
    spelled.format(package, kind.partition("/")[2]): kind
    for kind in _KINDS
    for package in _PACKAGES[kind.partition("/")[0]]
    for spelled in ("{}/{}", "{}/msg/{}", "{}.{}", "{}.msg.{}")
}
CAMERA_SCHEMAS = frozenset(_SPELLINGS)
"""Names of the types of messages that hold pictures, as ROS 1, ROS 2 and Foxglove write them."""


def is_video(schema: str) -> bool:
    """Tell whether messages of a camera's type are parts of a video, each built on the last."""
    return _KINDS[_SPELLINGS[schema]] == VIDEO


@dataclass(frozen=True, slots=True)
class CameraMessage:
    """One message of a camera.

    Attributes:
        kind: `RAW`, `COMPRESSED` or `VIDEO`.
        stamp_ns: of its header, nanoseconds; 0 where it has none.
        frame_id: of its header.
        encoding: of raw pixels, such as "bgr8"; of a compressed picture or a video, its format.
        data: pixels, a file's content, or a part of a stream.
        width, height, step: pixels, and bytes of a row; 0 of what is not raw.
        is_bigendian: of raw pixels of 16 bits.
    """

    kind: str
    stamp_ns: int
    frame_id: str
    encoding: str
    data: memoryview
    width: int = 0
    height: int = 0
    step: int = 0
    is_bigendian: bool = False


def camera_message(channel: Channel, data: memoryview) -> CameraMessage:
    """The message that a camera's channel has as these bytes.

    Raises:
        BrokenBagError: they are none, or the message's encoding is not read here.
    """
    schema = _SPELLINGS[channel.schema]
    kind = _KINDS[schema]
    if channel.encoding == PROTOBUF:
        return _of_fields(kind, protobuf_message(schema, data))
    if channel.encoding == JSON:
        return _of_fields(kind, json_message(data))
    if channel.encoding == ROS1:
        cursor, is_ros1 = Cursor(data), True
    elif channel.encoding == CDR:
        cursor, is_ros1 = cdr_cursor(data), False
    else:
        raise BrokenBagError(f"messages in {channel.encoding!r} are not read here")
    if schema.startswith("sensor_msgs/"):
        return _of_sensor_msgs(kind, cursor, is_ros1)
    return _of_foxglove(kind, cursor, channel)


def _of_sensor_msgs(kind: str, cursor: Cursor, is_ros1: bool) -> CameraMessage:
    if is_ros1:
        cursor.u32()  # the header's number
    stamp_ns, frame_id = _stamp_ns(cursor), cursor.string()
    if kind == COMPRESSED:
        return CameraMessage(kind, stamp_ns, frame_id, cursor.string(), cursor.sequence())
    height, width, encoding = cursor.u32(), cursor.u32(), cursor.string()
    is_bigendian, step = cursor.u8() != 0, cursor.u32()
    return CameraMessage(
        kind, stamp_ns, frame_id, encoding, cursor.sequence(), width, height, step, is_bigendian
    )


def _of_foxglove(kind: str, cursor: Cursor, channel: Channel) -> CameraMessage:
    stamp_ns = _stamp_ns(cursor)
    # The first versions of these types had no frame_id.
    has_frame_id = not channel.definition or "frame_id" in channel.definition
    frame_id = cursor.string() if has_frame_id else ""
    if kind != RAW:
        data = cursor.sequence()
        return CameraMessage(kind, stamp_ns, frame_id, cursor.string(), data)
    width, height, encoding, step = cursor.u32(), cursor.u32(), cursor.string(), cursor.u32()
    data = cursor.sequence()
    return CameraMessage(kind, stamp_ns, frame_id, encoding, data, width, height, step)


def _stamp_ns(cursor: Cursor) -> int:
    return cursor.u32() * 10**9 + cursor.u32()


def _of_fields(kind: str, fields: Fields) -> CameraMessage:
    return CameraMessage(
        kind,
        fields.stamp_ns,
        fields.frame_id,
        fields.encoding,
        fields.data,
        fields.width,
        fields.height,
        fields.step,
        fields.is_bigendian,
    )
