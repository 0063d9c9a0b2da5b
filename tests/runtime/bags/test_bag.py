"""Bags of all kinds: the pictures that went in come out, with their stamps, index or none."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bag_cases import (
    IMAGE,
    STEP_NS,
    cdr_images,
    log_of,
    message,
    pictures,
    raw_fields,
    rgb_fields,
    serialized,
    stamp_of,
    write_mcap,
    write_ros1,
    write_ros2,
)
from roadshift.runtime.bags.bag import BagIndex, read_index
from roadshift.runtime.bags.pictures import BagPicture, CameraTopic
from roadshift.runtime.bags.sqlite_pages import TablePages
from roadshift.runtime.errors import FrameError, MissingDependencyError
from roadshift.runtime.video.video_file import LostFrames

SHOWN = pictures(9)
KINDS: dict[str, Callable[[Path], Path]] = {
    "drive.bag": lambda path: write_ros1(path, SHOWN),
    "drive_lz4.bag": lambda path: write_ros1(path, SHOWN, "lz4", 6000),
    "drive_bz2.bag": lambda path: write_ros1(path, SHOWN, "bz2", 6000),
    "drive_db3": lambda path: write_ros2(path, SHOWN, "sqlite3"),
    "drive_mcap": lambda path: write_ros2(path, SHOWN),
    "zstd.mcap": lambda path: write_mcap(path, cdr_images(SHOWN), IMAGE, chunk_size=6000),
    "lz4.mcap": lambda path: write_mcap(
        path, cdr_images(SHOWN), IMAGE, compression="lz4", chunk_size=6000
    ),
    "none.mcap": lambda path: write_mcap(path, cdr_images(SHOWN), IMAGE, compression=""),
    "no_chunks.mcap": lambda path: write_mcap(path, cdr_images(SHOWN), IMAGE, use_chunking=False),
    "no_repeats.mcap": lambda path: write_mcap(
        path, cdr_images(SHOWN), IMAGE, repeat_channels=False, repeat_schemas=False
    ),
    "no_statistics.mcap": lambda path: write_mcap(
        path, cdr_images(SHOWN), IMAGE, use_statistics=False
    ),
}


def read(index: BagIndex, topic: str = "/front/image") -> tuple[list[BagPicture], list[LostFrames]]:
    """The pictures of a bag and what is lost."""
    good, lost = [], []
    for one in CameraTopic(index, topic).pictures():
        (good if isinstance(one, BagPicture) else lost).append(one)  # type: ignore[arg-type]
    return good, lost


def assert_all(good: list[BagPicture], numbers: range = range(len(SHOWN))) -> None:
    assert [one.number for one in good] == list(numbers)
    for one in good:
        np.testing.assert_array_equal(one.image, SHOWN[one.number])
        assert one.stamp_ns == stamp_of(one.number)
        assert one.frame_id == "front"


@pytest.mark.parametrize("name", KINDS)
def test_what_went_in_comes_out(tmp_path: Path, name: str) -> None:
    index = read_index(KINDS[name](tmp_path / name))
    good, lost = read(index)
    assert_all(good)
    assert lost == []
    assert len(CameraTopic(index, "/front/image")) == len(SHOWN) == index.counts["/front/image"]
    assert all(one.image.flags.writeable for one in good)


@pytest.mark.parametrize("name", ["drive.bag", "drive_lz4.bag", "none.mcap", "zstd.mcap"])
def test_a_whole_bag_is_not_gone_through(tmp_path: Path, name: str) -> None:
    assert read_index(KINDS[name](tmp_path / name)).scanned == ()


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_an_unfinished_mcap_is_gone_through(tmp_path: Path, compression: str) -> None:
    path = write_mcap(
        tmp_path / "drive.mcap",
        cdr_images(SHOWN),
        IMAGE,
        compression=compression,
        finish=False,
        chunk_size=1000,
    )
    index = read_index(path)
    good, lost = read(index)
    assert index.scanned == (path,)
    assert_all(good)  # each message is larger than a chunk, so that none waits
    assert lost == []


def test_a_bag_that_was_not_closed_is_gone_through(tmp_path: Path) -> None:
    whole = write_ros1(tmp_path / "whole.bag", SHOWN, threshold=3000).read_bytes()
    at = whole.index(b"index_pos=") + len(b"index_pos=")
    end = int.from_bytes(whole[at : at + 8], "little")
    path = tmp_path / "drive.bag"
    path.write_bytes(whole[:at] + bytes(8) + whole[at + 8 : end])  # as while it is recorded
    index = read_index(path)
    assert index.scanned == (path,)
    assert_all(read(index)[0])


def test_a_bag_without_metadata_is_read_by_its_files(tmp_path: Path) -> None:
    bag = write_ros2(tmp_path / "drive", SHOWN, "sqlite3")
    (bag / "metadata.yaml").unlink()
    assert_all(read(read_index(next(bag.glob("*.db3"))))[0])


def test_messages_are_read_from_the_files_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list[int]()
    read_page = TablePages.read
    monkeypatch.setattr(
        TablePages, "read", lambda pages, row: (rows.append(row), read_page(pages, row))[1]
    )
    assert_all(read(read_index(write_ros2(tmp_path / "drive", SHOWN, "sqlite3")))[0])
    assert len(rows) == len(SHOWN)


def test_a_recorder_that_is_at_work_is_read_through_its_log(tmp_path: Path) -> None:
    bag = write_ros2(tmp_path / "drive", SHOWN[:4], "sqlite3")
    path = next(bag.glob("*.db3"))
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    data = cdr_images(SHOWN)[4]
    database.execute(
        "INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, ?, ? FROM messages",
        (log_of(4), data),
    )
    database.commit()
    assert Path(f"{path}-wal").stat().st_size > 0
    assert_all(read(read_index(path))[0][:5], range(5))
    database.close()


def test_split_bags_are_one_recording(tmp_path: Path) -> None:
    first = write_ros2(tmp_path / "a", SHOWN[:3])
    whole = write_ros2(tmp_path / "drive", SHOWN)
    next(whole.glob("*.mcap")).rename(whole / "drive_10.mcap")
    next(first.glob("*.mcap")).rename(whole / "drive_2.mcap")
    index = read_index(whole)
    assert [part.name for part in index.parts] == ["drive_2.mcap", "drive_10.mcap"]
    good, _ = read(index)
    stamps = [one.stamp_ns for one in good]
    assert stamps == sorted(stamps)
    assert len(good) == 3 + len(SHOWN)


def test_messages_come_in_the_order_in_which_they_were_recorded(tmp_path: Path) -> None:
    images = cdr_images(SHOWN)
    path = write_mcap(tmp_path / "drive.mcap", images, IMAGE, chunk_size=1000)
    shuffled = tmp_path / "shuffled.mcap"
    from mcap.reader import make_reader
    from mcap.writer import Writer

    with path.open("rb") as file, shuffled.open("wb") as target:
        writer = Writer(target, chunk_size=1000)
        writer.start("", "test")
        found = list(make_reader(file).iter_messages())
        schema, channel, _ = found[0]
        assert schema is not None
        kind = writer.register_schema(schema.name, schema.encoding, schema.data)
        number = writer.register_channel(channel.topic, channel.message_encoding, kind)
        for place in (3, 0, 8, 1, 2, 7, 5, 4, 6):
            one = found[place][2]
            writer.add_message(number, one.log_time, one.data, one.publish_time)
        writer.finish()
    assert_all(read(read_index(shuffled))[0])


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "drive.mcap", cdr_images(SHOWN), IMAGE, compression="")
    index = read_index(path)
    asked: list[int] = []

    class Watched(BagIndex):
        def read(self, files, message):  # type: ignore[no-untyped-def]
            asked.append(message.place.log_ns)
            return super().read(files, message)

    watched = Watched(**{name: getattr(index, name) for name in index.__dataclass_fields__})
    good = list(CameraTopic(watched, "/front/image").pictures(lambda number: number in (2, 7)))
    assert [one.number for one in good if isinstance(one, BagPicture)] == [2, 7]
    assert asked == [log_of(2), log_of(7)]


def test_one_bad_message_is_left_out_and_said(tmp_path: Path) -> None:
    images = cdr_images(SHOWN)
    images[3] = images[3][:100]
    images[5] = b"\0\1\0\0"
    good, lost = read(read_index(write_mcap(tmp_path / "drive.mcap", images, IMAGE)))
    assert [one.number for one in good] == [0, 1, 2, 4, 6, 7, 8]
    assert [one.frames for one in lost] == [2]
    assert "2 of 9 messages of /front/image cannot be read and are left out" in lost[0].sentence
    assert "number 3" in lost[0].sentence


def test_log_time_stands_for_a_missing_stamp_and_is_said(tmp_path: Path) -> None:
    images = [serialized(IMAGE, message(IMAGE, 0, **rgb_fields(one))) for one in SHOWN[:3]]
    index = read_index(write_mcap(tmp_path / "drive.mcap", images, IMAGE))
    said: list[str] = []
    good = list(CameraTopic(index, "/front/image", said.append).pictures())
    assert [one.stamp_ns for one in good if isinstance(one, BagPicture)] == [*map(log_of, range(3))]
    assert len(set(said)) == 1
    assert "no time in their header" in said[0]


@pytest.mark.parametrize(("white", "says"), [(4095, True), (65535, False)])
def test_white_of_16_bits_is_one_for_the_camera(tmp_path: Path, white: int, says: bool) -> None:
    grey = [np.full((4, 6), value, np.uint16) for value in (white, white // 2, 0)]
    images = [
        serialized(IMAGE, message(IMAGE, stamp_of(i), **raw_fields(one, 6, 4, "mono16", 12)))
        for i, one in enumerate(grey)
    ]
    index = read_index(write_mcap(tmp_path / "drive.mcap", images, IMAGE))
    said: list[str] = []
    found = list(CameraTopic(index, "/front/image", said.append).pictures())
    assert [int(one.image[0, 0, 0]) for one in found if isinstance(one, BagPicture)] in (
        [255, 127, 0],
        [255, 128, 0],
    )
    assert bool(said) == says


def test_a_package_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mcap(tmp_path / "drive.mcap", cdr_images(SHOWN), IMAGE)
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(MissingDependencyError, match=r"zstandard: pip install 'roadshift\[bags\]'"):
        list(CameraTopic(read_index(path), "/front/image").pictures())


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.mcap", b"", "does not begin as an MCAP file"),
        ("a.bag", b"#ROSBAG V1.2\n", "old version.*rosbag fix"),
        ("a.bag", b"RIFF", "does not begin as a bag"),
        ("a.db3", b"SQLite format", "does not begin as an SQLite file"),
        *((f"a.{end}", LFS_POINTER, "it is a Git LFS pointer") for end in ("mcap", "bag", "db3")),
    ],
)
def test_what_is_no_bag_is_said(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FrameError, match=says):
        read_index(tmp_path / name)


def test_steps_between_frames_are_exact(tmp_path: Path) -> None:
    good, _ = read(read_index(write_ros1(tmp_path / "drive.bag", SHOWN)))
    assert set(np.diff([one.stamp_ns for one in good]).tolist()) == {STEP_NS}
