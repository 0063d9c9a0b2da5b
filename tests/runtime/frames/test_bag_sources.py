"""Bags as sources of frames: which camera, what is said, names, folders of bags, damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_cases import (
    COMPRESSED,
    IMAGE,
    ROS2,
    STRING,
    cdr_images,
    message,
    pictures,
    raw_fields,
    serialized,
    stamp_of,
    write_mcap,
    write_ros1,
    write_ros2,
)
from roadshift.runtime.errors import FrameError
from roadshift.runtime.frames import open_frames, readers
from roadshift.runtime.frames.source import Origin
from roadshift.runtime.frames.source_files import with_topic
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer

SHOWN = pictures(6)


@pytest.fixture
def said() -> list[str]:
    return []


def test_frames_have_names_stamps_and_where_they_come_from(tmp_path: Path) -> None:
    source = open_frames(write_ros2(tmp_path / "drive", SHOWN))
    frames = list(source)
    assert len(source) == source.count() == len(frames) == 6
    assert [one.name for one in frames] == [f"drive_{number:06d}" for number in range(6)]
    assert [one.timestamp_ns for one in frames] == [*map(stamp_of, range(6))]
    origin = frames[2].origin
    assert origin is not None
    assert origin == Origin("/front/image", "front", stamp_of(2))
    assert [one.name for one in source] == [one.name for one in frames]  # again and again


def test_frames_at_some_places(tmp_path: Path) -> None:
    folder = tmp_path / "drives"
    folder.mkdir()
    write_ros2(folder / "b", SHOWN)
    write_ros1(folder / "a.bag", SHOWN)
    cv2.imwrite(str(folder / "c.png"), SHOWN[0])
    found = list(open_frames([folder / "a.bag", folder / "b", folder / "c.png"]).at({0, 5, 7, 12}))
    assert [one.name for one in found] == ["a_000000", "a_000005", "b_000001", "c"]
    np.testing.assert_array_equal(found[2].image, SHOWN[1])


def test_several_cameras_are_listed_and_one_can_be_chosen(tmp_path: Path) -> None:
    bag = write_ros2(tmp_path / "drive", SHOWN, topics=("/front/image", "/rear/image"))
    with pytest.raises(FrameError) as refused:
        open_frames(bag)
    for part in (
        "pictures on 2 topics",
        "/front/image (sensor_msgs/msg/Image, rgb8, 6 messages, 10 a second)",
        "/rear/image",
        "choose one with topic",
        f"{bag}#/front/image",
    ):
        assert part in str(refused.value)
    assert "/words" not in str(refused.value)
    for chosen in (open_frames(bag, topic="/rear/image"), open_frames(f"{bag}#rear/image")):
        assert [one.origin and one.origin.topic for one in chosen] == ["/rear/image"] * 6


def test_a_depth_camera_beside_is_no_choice(tmp_path: Path) -> None:
    path = tmp_path / "drive"
    with Ros2Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        colour = writer.add_connection("/colour", IMAGE, typestore=ROS2)
        depth = writer.add_connection("/depth", IMAGE, typestore=ROS2)
        packed = writer.add_connection("/depth/packed", COMPRESSED, typestore=ROS2)
        for number, data in enumerate(cdr_images(SHOWN)):
            writer.write(colour, stamp_of(number), data)
            metres = np.ones((4, 6), np.float32)
            fields = raw_fields(metres.view(np.uint8), 6, 4, "32FC1", 24)
            given = message(IMAGE, stamp_of(number), **fields)
            writer.write(depth, stamp_of(number), serialized(IMAGE, given))
            given = message(
                COMPRESSED,
                stamp_of(number),
                format="16UC1; compressedDepth png",
                data=np.zeros(9, np.uint8),
            )
            writer.write(packed, stamp_of(number), serialized(COMPRESSED, given))
    assert len(list(open_frames(path))) == 6
    with pytest.raises(FrameError, match="pixels in '32FC1' are not read here"):
        list(open_frames(path, topic="/depth"))


def test_a_first_picture_of_a_damaged_encoding_does_not_hide_the_camera(tmp_path: Path) -> None:
    images = cdr_images(SHOWN)
    images[0] = images[0].replace(b"rgb8", b"r\xefb8")
    assert len(list(open_frames(write_mcap(tmp_path / "drive.mcap", images, IMAGE)))) == 5


def recorded(path: Path, *topics: str) -> Path:
    """A bag with the same pictures on some topics, and a list of classes on /front/label_info."""
    with Ros2Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        numbers = [writer.add_connection(topic, IMAGE, typestore=ROS2) for topic in topics]
        classes = writer.add_connection("/front/label_info", STRING, typestore=ROS2)
        writer.write(classes, 5, ROS2.serialize_cdr(ROS2.types[STRING]("road"), STRING))
        for number, data in enumerate(cdr_images(SHOWN)):
            for topic in numbers:
                writer.write(topic, stamp_of(number), data)
    return path


def test_label_maps_recorded_beside_a_camera_are_no_choice(tmp_path: Path) -> None:
    path = recorded(
        tmp_path / "a", "/front/image", "/front/mask", "/front/labels", "/front/overlay/compressed"
    )
    assert {one.origin and one.origin.topic for one in open_frames(path)} == {"/front/image"}
    path = recorded(tmp_path / "b", "/front/labels", "/front/overlay/compressed")
    with pytest.raises(FrameError, match=r"what a model made of pictures \(/front/labels, "):
        open_frames(path)
    assert len(list(open_frames(path, topic="/front/labels"))) == 6
    path = recorded(tmp_path / "c", "/rear/mask")  # without a list of classes it may be anything
    assert len(list(open_frames(path))) == 6


def test_label_maps_beside_bags_are_left_out(tmp_path: Path, said: list[str]) -> None:
    write_ros2(tmp_path / "drive", SHOWN)
    ids = np.kron(np.arange(12).reshape(3, 4), np.ones((8, 8))).astype(np.uint8)
    (tmp_path / "out/labels").mkdir(parents=True)
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"out/labels/drive_{number:06d}.png"), ids)
    assert len(list(open_frames(tmp_path, on_skip=said.append))) == 6
    assert "left out 4 label maps and the like (out/labels/ 4)" in said[0]


def test_a_bag_without_pictures_names_its_topics(tmp_path: Path) -> None:
    with Ros2Writer(tmp_path / "drive", version=9) as writer:
        words = writer.add_connection("/words", STRING, typestore=ROS2)
        writer.write(words, 5, ROS2.serialize_cdr(ROS2.types[STRING]("a"), STRING))
    says = r"holds no pictures: its topics are /words \(std_msgs/msg/String, 1 message\)"
    with pytest.raises(FrameError, match=says):
        open_frames(tmp_path / "drive")
    with pytest.raises(FrameError, match=r"/words holds no pictures but std_msgs/msg/String"):
        open_frames(tmp_path / "drive", topic="/words")
    with pytest.raises(FrameError, match=r"has no topic /wrods: its topics are /words"):
        open_frames(tmp_path / "drive", topic="/wrods")


def test_a_folder_of_bags_in_natural_order(tmp_path: Path, said: list[str]) -> None:
    write_ros1(tmp_path / "drive_10.bag", SHOWN[:2])
    write_ros2(tmp_path / "drive_2", SHOWN[:2])
    write_mcap(tmp_path / "drive_1.mcap", cdr_images(SHOWN[:2]), IMAGE)
    (tmp_path / "notes.txt").write_text("sunny")
    source = open_frames(tmp_path, on_skip=said.append)
    assert [one.name for one in source] == [
        *("drive_1_000000", "drive_1_000001", "drive_2_000000", "drive_2_000001"),
        *("drive_10_000000", "drive_10_000001"),
    ]
    assert said == [f"{tmp_path}: taken 3 bags; left out 1 other file (.txt 1)."]


def test_in_a_folder_a_bag_that_lacks_the_camera_is_said(tmp_path: Path, said: list[str]) -> None:
    write_ros2(tmp_path / "a", SHOWN, topics=("/left", "/right"))
    write_ros2(tmp_path / "b", SHOWN, topics=("/left",))
    found = list(open_frames(tmp_path, topic="/right", on_skip=said.append))
    assert {one.name[0] for one in found} == {"a"}
    left_out = f"left out: {tmp_path / 'b'} has no topic /right"
    assert any(one.startswith(left_out) for one in said)


def test_bags_of_several_cameras_in_a_folder_are_said(tmp_path: Path, said: list[str]) -> None:
    for bag, topic in (("a", "/left"), ("b", "/right"), ("c", "/left")):
        write_ros2(tmp_path / bag, SHOWN[:2], topics=(topic,))
    assert len(list(open_frames(tmp_path, on_skip=said.append))) == 6
    assert said == [
        f"{tmp_path}: the bags have pictures on 2 topics, which are read one after the other as "
        "one drive: /left in a and 1 more, /right in b; if they are different cameras, choose one "
        "with topic."
    ]
    said.clear()
    list(open_frames(tmp_path, topic="/left", on_skip=said.append))
    assert not any("on 2 topics" in one for one in said)


def test_a_note_on_a_folder_is_not_called_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for bag, topic in (("a", "/left"), ("b", "/right")):
        write_ros2(tmp_path / bag, SHOWN[:1], topics=(topic,))
    open_frames(tmp_path)
    assert [one.getMessage().partition(":")[0] for one in caplog.records] == [str(tmp_path)]


def test_a_cut_bag_gives_what_there_is_and_says_so(tmp_path: Path, said: list[str]) -> None:
    whole = write_ros1(tmp_path / "whole.bag", SHOWN, threshold=100)
    path = tmp_path / "drive.bag"
    path.write_bytes(whole.read_bytes()[:9000])
    source = open_frames(path, on_skip=said.append)
    frames = list(source)
    assert 0 < len(frames) < 6
    assert "has no whole index" in said[0]
    assert f"{path} is damaged: it ends within a record at byte" in said[-1]
    assert source.skipped == [said[-1]]


@pytest.mark.parametrize("name", ["drive.bag.active", "drive.bag"])
def test_a_bag_that_is_being_recorded(tmp_path: Path, name: str) -> None:
    shutil.copy(write_ros1(tmp_path / "whole.bag", SHOWN), tmp_path / name)
    assert len(list(open_frames(tmp_path / name))) == 6


def test_a_topic_of_what_is_no_bag_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), SHOWN[0])
    for source in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(FrameError, match="no bag, and topic is of bags; leave it out"):
            open_frames(source, topic="/front/image")
    for sources, says in (
        (["camera:0"], "live source"),
        ([f"{tmp_path / 'a.png'}#/x"], "names a topic itself"),
        ([], "there are no frames"),
    ):
        with pytest.raises(FrameError, match=says):
            with_topic(sources, "/front/image")


def test_a_reader_of_ones_own_comes_before_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mcap(tmp_path / "drive.mcap", cdr_images(SHOWN), IMAGE)
    monkeypatch.setitem(readers._REGISTERED, ".mcap", lambda _: [(SHOWN[0], 7)])
    for source in (path, tmp_path):
        assert [one.timestamp_ns for one in open_frames(source)] == [7]


def test_a_file_whose_name_has_a_hash_is_itself(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "drive#2.mcap", cdr_images(SHOWN), IMAGE)
    assert len(list(open_frames(path))) == 6
    assert len(list(open_frames(f"{path}#/front/image"))) == 6
