"""Messages in every layout, written by libraries of others, and videos among them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from bag_cases import (
    COMPRESSED,
    IMAGE,
    ROS1,
    ROS2,
    cdr_images,
    json_message,
    message,
    pictures,
    protobuf_message,
    rgb_fields,
    serialized,
    stamp_of,
    write_mcap,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.runtime.bags.bag import read_index
from roadshift.runtime.bags.bag_file import Channel
from roadshift.runtime.bags.messages import CAMERA_SCHEMAS, CameraMessage, camera_message
from roadshift.runtime.bags.pictures import BagPicture, CameraTopic
from roadshift.runtime.bags.regions import BrokenBagError
from roadshift.runtime.video.video_file import LostFrames
from rosbags.typesys import get_types_from_msg

SHOWN = pictures(5)
PNGS = [cv2.imencode(".png", one[..., ::-1])[1].tobytes() for one in SHOWN]
HEIGHT, WIDTH = SHOWN[0].shape[:2]
_IN_PARTS = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"
FOXGLOVE = {
    "CompressedImage": _IN_PARTS,
    "CompressedVideo": _IN_PARTS,
    "RawImage": (
        "builtin_interfaces/Time timestamp\nstring frame_id\nuint32 width\nuint32 height\n"
        "string encoding\nuint32 step\nuint8[] data\n"
    ),
}
for name, text in FOXGLOVE.items():
    ROS2.register(get_types_from_msg(text, f"foxglove_msgs/msg/{name}"))


def foxglove_cdr(name: str, number: int, *fields: object) -> bytes:
    kind = f"foxglove_msgs/msg/{name}"
    time = ROS2.types["builtin_interfaces/msg/Time"](*divmod(stamp_of(number), 10**9))
    return serialized(kind, ROS2.types[kind](time, "front", *fields))


def read(
    tmp_path: Path, messages: Sequence[bytes], schema: str, encoding: str
) -> list[BagPicture | LostFrames]:
    path = write_mcap(tmp_path / "drive.mcap", messages, schema, encoding=encoding)
    return list(CameraTopic(read_index(path), "/front/image").pictures())


def flat(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


CASES = {
    "ros2 image": (IMAGE, "cdr", cdr_images(SHOWN)),
    "ros1 image": (
        "sensor_msgs/Image",
        "ros1",
        [
            serialized(IMAGE, message(IMAGE, stamp_of(i), ROS1, **rgb_fields(one)), ROS1)
            for i, one in enumerate(SHOWN)
        ],
    ),
    "ros2 png": (
        COMPRESSED,
        "cdr",
        [
            serialized(COMPRESSED, message(COMPRESSED, stamp_of(i), format="png", data=flat(one)))
            for i, one in enumerate(PNGS)
        ],
    ),
    "ros1 png": (
        "sensor_msgs/CompressedImage",
        "ros1",
        [
            serialized(
                COMPRESSED,
                message(COMPRESSED, stamp_of(i), ROS1, format="png", data=flat(one)),
                ROS1,
            )
            for i, one in enumerate(PNGS)
        ],
    ),
    "foxglove cdr png": (
        "foxglove_msgs/msg/CompressedImage",
        "cdr",
        [foxglove_cdr("CompressedImage", i, flat(one), "png") for i, one in enumerate(PNGS)],
    ),
    "foxglove cdr raw": (
        "foxglove_msgs/msg/RawImage",
        "cdr",
        [
            foxglove_cdr("RawImage", i, WIDTH, HEIGHT, "rgb8", 3 * WIDTH, one.ravel())
            for i, one in enumerate(SHOWN)
        ],
    ),
    "protobuf png": (
        "foxglove.CompressedImage",
        "protobuf",
        [
            protobuf_message("CompressedImage", i, data=one, format="png")
            for i, one in enumerate(PNGS)
        ],
    ),
    "protobuf raw": (
        "foxglove.RawImage",
        "protobuf",
        [
            protobuf_message(
                "RawImage",
                i,
                **{"width": WIDTH, "height": HEIGHT, "encoding": "rgb8", "step": 3 * WIDTH},
                data=one.tobytes(),
            )
            for i, one in enumerate(SHOWN)
        ],
    ),
    "json png": (
        "foxglove.CompressedImage",
        "json",
        [json_message(i, data=one, format="png") for i, one in enumerate(PNGS)],
    ),
    "json raw": (
        "foxglove.RawImage",
        "json",
        [
            json_message(
                i,
                **{"width": WIDTH, "height": HEIGHT, "encoding": "rgb8", "step": 3 * WIDTH},
                data=one.tobytes(),
            )
            for i, one in enumerate(SHOWN)
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_went_in_comes_out(tmp_path: Path, case: str) -> None:
    schema, encoding, messages = CASES[case]
    found = read(tmp_path, messages, schema, encoding)
    assert len(found) == len(SHOWN)
    for number, one in enumerate(found):
        assert isinstance(one, BagPicture)
        np.testing.assert_array_equal(one.image, SHOWN[number])
        assert (one.stamp_ns, one.frame_id) == (stamp_of(number), "front")


def test_big_endian_cdr() -> None:
    data = serialized(IMAGE, message(IMAGE, stamp_of(0), **rgb_fields(SHOWN[0])))
    big = bytes(ROS2.serialize_cdr(ROS2.deserialize_cdr(data, IMAGE), IMAGE, little_endian=False))
    assert big[:2] == b"\0\0"
    channel = Channel("/front", IMAGE, "cdr")
    assert camera_message(channel, memoryview(big)) == camera_message(channel, memoryview(data))


def test_the_first_foxglove_types_had_no_frame_id() -> None:
    text = "builtin_interfaces/Time timestamp\nuint8[] data\nstring format\n"
    old = "old_foxglove_msgs/msg/CompressedImage"
    ROS2.register(get_types_from_msg(text, old))
    time = ROS2.types["builtin_interfaces/msg/Time"](5, 6)
    data = serialized(old, ROS2.types[old](time, flat(PNGS[0]), "png"))
    found = camera_message(
        Channel("/front", "foxglove_msgs/msg/CompressedImage", "cdr", text), memoryview(data)
    )
    assert (found.stamp_ns, found.frame_id, found.encoding) == (5 * 10**9 + 6, "", "png")
    assert bytes(found.data) == PNGS[0]


def test_images_of_ros_in_json() -> None:
    data = (
        b'{"header": {"stamp": {"secs": 5, "nsecs": 6}, "frame_id": "front"}, "height": 1, '
        b'"width": 2, "encoding": "mono8", "step": 2, "is_bigendian": 0, "data": [7, 9]}'
    )
    found = camera_message(Channel("/front", "sensor_msgs/Image", "json"), memoryview(data))
    expected = CameraMessage(
        "raw", 5 * 10**9 + 6, "front", "mono8", memoryview(b"\7\11"), 2, 1, 2, False
    )
    assert found == expected


@settings(deadline=None)
@given(
    st.sampled_from(sorted(CAMERA_SCHEMAS)),
    st.sampled_from(["cdr", "ros1", "protobuf", "json", "flatbuffer"]),
    st.binary(max_size=200) | st.binary(max_size=100).map(lambda data: b"\0\1\0\0" + data),
)
def test_any_bytes_give_a_message_or_an_error(schema: str, encoding: str, data: bytes) -> None:
    try:
        found = camera_message(Channel("/front", schema, encoding), memoryview(data))
    except BrokenBagError:
        return
    assert len(found.data) <= 200


# ---- video --------------------------------------------------------------------------------------


def video(codec: str, shown: int = 24, gop: int = 8) -> list[bytes]:
    """One compressed picture a message, without B pictures; brightness tells the number."""
    file = io.BytesIO()
    kind = {"libx264": "h264", "libx265": "hevc"}[codec]
    container = av.open(file, "w", format=kind)
    stream = container.add_stream(codec, rate=Fraction(10))
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.options = (
        {"preset": "ultrafast", "tune": "zerolatency", "x264-params": f"keyint={gop}:scenecut=0"}
        if codec == "libx264"
        else {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "x265-params": f"keyint={gop}:bframes=0:log-level=none:pools=none:frame-threads=1",
        }
    )
    packets: list[bytes] = []
    for number in range(shown):
        grey = np.full((48, 64, 3), 20 + 9 * number, np.uint8)
        frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
        packets += [bytes(packet) for packet in stream.encode(frame)]
    return packets + [bytes(packet) for packet in stream.encode(None)]


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "h265")])
def test_video_is_decoded_picture_by_picture(tmp_path: Path, codec: str, name: str) -> None:
    parts = video(codec)
    assert len(parts) == 24
    messages = [
        protobuf_message("CompressedVideo", i, data=part, format=name)
        for i, part in enumerate(parts)
    ]
    found = read(tmp_path, messages, "foxglove.CompressedVideo", "protobuf")
    assert [one.number for one in found if isinstance(one, BagPicture)] == list(range(24))
    for number, one in enumerate(found):
        assert isinstance(one, BagPicture)
        assert abs(float(one.image.mean()) - (20 + 9 * number)) < 4
        assert one.stamp_ns == stamp_of(number)


def test_video_begins_with_a_key_picture_and_goes_on_after_damage(tmp_path: Path) -> None:
    parts = video("libx264")[3:]  # from the middle of a group
    parts[9] = parts[9][:6]  # number 12 of the video, in the second group
    messages = [
        foxglove_cdr("CompressedVideo", i, flat(part), "h264") for i, part in enumerate(parts)
    ]
    found = read(tmp_path, messages, "foxglove_msgs/msg/CompressedVideo", "cdr")
    good = [one for one in found if isinstance(one, BagPicture)]
    for one in good:
        assert abs(float(one.image.mean()) - (20 + 9 * (one.number + 3))) < 4
    numbers = [one.number for one in good]
    assert numbers[:4] == [5, 6, 7, 8]
    assert set(range(13, 21)) <= set(numbers)  # the third group
    assert 9 not in numbers
    lost = [one for one in found if isinstance(one, LostFrames)]
    assert "number 0: it comes before a key picture" in lost[0].sentence
    assert lost[0].frames + len(good) == len(parts)


def test_of_a_video_only_what_is_wanted_is_given(tmp_path: Path) -> None:
    messages = [
        protobuf_message("CompressedVideo", i, data=part, format="h264")
        for i, part in enumerate(video("libx264"))
    ]
    path = write_mcap(
        tmp_path / "drive.mcap", messages, "foxglove.CompressedVideo", encoding="protobuf"
    )
    camera = CameraTopic(read_index(path), "/front/image")
    found = list(camera.pictures(lambda number: number in (5, 20)))
    assert [one.number for one in found if isinstance(one, BagPicture)] == [5, 20]
    assert len(found) == 2
