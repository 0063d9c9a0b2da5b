"""Bags for tests, written by `rosbags` and by `mcap`: what our readers are held against."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.timestamp_pb2 import DESCRIPTOR as TIMESTAMP_FILE
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from numpy.typing import NDArray
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"
START_NS = 1_700_000_000_123_456_789
STEP_NS = 100_000_001
ROS1, ROS2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)

Picture = NDArray[np.uint8]


def pictures(count: int, width: int = 32, height: int = 24) -> list[Picture]:
    """Noise, (height, width, 3): any two differ nearly everywhere."""
    random = np.random.default_rng(7)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def stamp_of(number: int) -> int:
    """Nanoseconds in the header of message ``number``."""
    return START_NS + number * STEP_NS


def log_of(number: int) -> int:
    """Nanoseconds at which message ``number`` is recorded: later than its stamp."""
    return stamp_of(number) + 5_000_000


def message(kind: str, stamp_ns: int, store: Any = ROS2, **fields: Any) -> Any:
    """A message of ``sensor_msgs`` with these fields behind its header."""
    time = store.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    numbered = (0, time, "front") if store is ROS1 else (time, "front")
    return store.types[kind](store.types["std_msgs/msg/Header"](*numbered), **fields)


def raw_fields(
    data: Picture, width: int, height: int, encoding: str, step: int, is_bigendian: int = 0
) -> dict[str, Any]:
    """Fields of an Image."""
    return {
        **{"height": height, "width": width, "encoding": encoding, "is_bigendian": is_bigendian},
        **{"step": step, "data": np.ascontiguousarray(data).reshape(-1).view(np.uint8)},
    }


def rgb_fields(picture: Picture) -> dict[str, Any]:
    """Fields of an Image in rgb8 without padding."""
    height, width = picture.shape[:2]
    return raw_fields(picture, width, height, "rgb8", 3 * width)


def serialized(kind: str, given: Any, store: Any = ROS2) -> bytes:
    """A message's bytes, in CDR or in ROS 1's layout."""
    serialize = store.serialize_ros1 if store is ROS1 else store.serialize_cdr
    return bytes(serialize(given, kind))


def write_ros2(
    path: Path,
    shown: Sequence[Picture],
    plugin: str = "mcap",
    topics: Sequence[str] = ("/front/image",),
    compressed: str = "none",
) -> Path:
    """A folder of rosbag2 with the pictures on each topic, and words beside them.

    Args:
        compressed: "file" or "message", with zstd.
    """
    storage = StoragePlugin.MCAP if plugin == "mcap" else StoragePlugin.SQLITE3
    writer = Ros2Writer(path, version=9, storage_plugin=storage)
    mode = CompressionMode[compressed.upper()]
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        cameras = [writer.add_connection(topic, IMAGE, typestore=ROS2) for topic in topics]
        words = writer.add_connection("/words", STRING, typestore=ROS2)
        for number, picture in enumerate(shown):
            data = serialized(IMAGE, message(IMAGE, stamp_of(number), **rgb_fields(picture)))
            for camera in cameras:
                writer.write(camera, log_of(number), data)
            word = ROS2.types[STRING](f"word {number}")
            writer.write(words, log_of(number), ROS2.serialize_cdr(word, STRING))
    return path


def write_ros1(
    path: Path, shown: Sequence[Picture], compression: str = "", threshold: int = 1 << 20
) -> Path:
    """A ``.bag`` with the pictures on one topic, and words beside them."""
    writer = Ros1Writer(path)
    writer.chunk_threshold = threshold
    if compression:
        writer.set_compression(Ros1Writer.CompressionFormat[compression.upper()])
    with writer:
        camera = writer.add_connection("/front/image", IMAGE, typestore=ROS1)
        words = writer.add_connection("/words", STRING, typestore=ROS1)
        for number, picture in enumerate(shown):
            given = message(IMAGE, stamp_of(number), ROS1, **rgb_fields(picture))
            writer.write(camera, log_of(number), serialized(IMAGE, given, ROS1))
            word = ROS1.types[STRING](f"word {number}")
            writer.write(words, log_of(number), ROS1.serialize_ros1(word, STRING))
    return path


def write_mcap(
    path: Path,
    messages: Sequence[bytes],
    schema: str,
    *,
    encoding: str = "cdr",
    topic: str = "/front/image",
    compression: str = "zstd",
    finish: bool = True,
    definition: bytes | None = None,
    **settings: Any,
) -> Path:
    """An MCAP file of messages that are bytes already.

    Args:
        encoding: of the messages; that of the schema follows from it.
        finish: False leaves it as a recorder that was killed does.
        definition: of the schema; where it is not given, that of ROS or nothing.
        settings: of `mcap.writer.Writer`.
    """
    if definition is None:
        definition = _definition(schema, encoding)
    named = {"cdr": "ros2msg", "ros1": "ros1msg", "json": "jsonschema"}
    with path.open("wb") as file:
        writer = McapWriter(
            file, compression=CompressionType[compression.upper() or "NONE"], **settings
        )
        writer.start("", "test")
        kind = writer.register_schema(schema, named.get(encoding, encoding), definition)
        channel = writer.register_channel(topic, encoding, kind)
        for number, data in enumerate(messages):
            writer.add_message(channel, log_of(number), data, stamp_of(number), number)
        if finish:
            writer.finish()
    return path


def _definition(schema: str, encoding: str) -> bytes:
    """The text of a type of ROS; nothing of others."""
    store, version = (ROS1, 1) if encoding == "ros1" else (ROS2, 2)
    name = schema if "/msg/" in schema else schema.replace("/", "/msg/")
    if encoding not in ("cdr", "ros1") or name not in store.fielddefs:
        return b""
    text: str = store.generate_msgdef(name, ros_version=version)[0]  # type: ignore[arg-type]
    return text.encode()


def cdr_images(shown: Sequence[Picture]) -> list[bytes]:
    """The pictures as messages of ROS 2."""
    return [
        serialized(IMAGE, message(IMAGE, stamp_of(number), **rgb_fields(picture)))
        for number, picture in enumerate(shown)
    ]


def json_message(number: int, **fields: Any) -> bytes:
    """A message of Foxglove in JSON; bytes become base64."""
    seconds, parts = divmod(stamp_of(number), 10**9)
    shown = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in fields.items()
    }
    stamp = {"sec": seconds, "nsec": parts}
    return json.dumps({"timestamp": stamp, "frame_id": "front", **shown}).encode()


_NUMBERS: dict[str, Mapping[str, tuple[int, str]]] = {
    "CompressedImage": {
        **{"timestamp": (1, "time"), "data": (2, "bytes"), "format": (3, "string")},
        "frame_id": (4, "string"),
    },
    "CompressedVideo": {
        **{"timestamp": (1, "time"), "frame_id": (2, "string"), "data": (3, "bytes")},
        "format": (4, "string"),
    },
    "RawImage": {
        **{"timestamp": (1, "time"), "width": (2, "fixed32"), "height": (3, "fixed32")},
        **{"encoding": (4, "string"), "step": (5, "fixed32"), "data": (6, "bytes")},
        "frame_id": (7, "string"),
    },
}
_TYPES = {"time": 11, "bytes": 12, "string": 9, "fixed32": 7}  # of descriptor.proto


def _foxglove_pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(
        name="foxglove.proto", package="foxglove", syntax="proto3"
    )
    file.dependency.append(TIMESTAMP_FILE.name)
    for name, numbers in _NUMBERS.items():
        described = file.message_type.add(name=name)
        for field, (number, kind) in numbers.items():
            one = described.field.add(name=field, number=number, type=_TYPES[kind], label=1)
            if kind == "time":
                one.type_name = ".google.protobuf.Timestamp"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(TIMESTAMP_FILE.serialized_pb)
    pool.Add(file)
    return pool


_POOL = _foxglove_pool()


def protobuf_message(name: str, number: int, **fields: Any) -> bytes:
    """A message of Foxglove as protobuf's own library writes it."""
    made = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"foxglove.{name}"))()
    made.timestamp.seconds, made.timestamp.nanos = divmod(stamp_of(number), 10**9)
    made.frame_id = "front"
    for field, value in fields.items():
        setattr(made, field, value)
    return bytes(made.SerializeToString())
