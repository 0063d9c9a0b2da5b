"""Bags of rosbag2 that are compressed: as whole files, which are unpacked, and by messages."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zstandard
from bag_cases import pictures, stamp_of, write_ros2
from roadshift.runtime import atomic
from roadshift.runtime.bags import packed_parts
from roadshift.runtime.errors import FrameError, OutputError
from roadshift.runtime.frames import open_frames
from roadshift.runtime.frames.source import FrameSource

SHOWN = pictures(9)
LARGE = pictures(40, 160, 120)  # five fill a piece, so that damage leaves some
PLUGINS = pytest.mark.parametrize("plugin", ["sqlite3", "mcap"])


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def said() -> list[str]:
    return []


def packed(bag: Path) -> Path:
    """The packed file of a bag."""
    (part,) = bag.glob("*.zstd")
    return part


def assert_all(source: FrameSource, count: int = len(SHOWN)) -> None:
    frames = list(source)
    assert [one.name for one in frames] == [f"drive_{number:06d}" for number in range(count)]
    for number, one in enumerate(frames):
        np.testing.assert_array_equal(one.image, SHOWN[number])
        assert one.timestamp_ns == stamp_of(number)


@PLUGINS
def test_files_that_were_compressed_as_a_whole(
    tmp_path: Path, plugin: str, scratch: Path, said: list[str]
) -> None:
    bag = write_ros2(tmp_path / "drive", SHOWN, plugin, compressed="file")
    assert packed(bag)
    source = open_frames(bag, on_skip=said.append)
    (content,) = scratch.glob(".roadshift-bag.tmp-*/drive.*")
    assert_all(source)
    assert_all(source)
    assert len(source) == len(SHOWN)
    assert list(scratch.glob(".roadshift-bag.tmp-*/drive.*")) == [content]  # once for all
    again = open_frames(bag)
    del source
    assert_all(again)
    assert list(scratch.glob(".roadshift-bag.tmp-*/drive.*")) == [content]
    del again
    gc.collect()
    assert list(scratch.iterdir()) == []
    assert said == []


@PLUGINS
@pytest.mark.parametrize("has_metadata", [True, False])
def test_messages_that_were_compressed_by_themselves(
    tmp_path: Path, plugin: str, has_metadata: bool
) -> None:
    bag = write_ros2(tmp_path / "drive", SHOWN, plugin, compressed="message")
    (part,) = bag.glob("*.[dm][bc]*")
    assert zstandard.FRAME_HEADER in part.read_bytes()
    if not has_metadata:
        (bag / "metadata.yaml").unlink()
    assert_all(open_frames(bag if has_metadata else part))


def test_packed_files_outside_of_a_bag_s_folder(tmp_path: Path, said: list[str]) -> None:
    folder = tmp_path / "drives"
    folder.mkdir()
    for name, plugin, ending in (("a", "sqlite3", "zstd"), ("b", "mcap", "zst")):
        part = packed(write_ros2(tmp_path / name, SHOWN, plugin, compressed="file"))
        part.rename(folder / f"{Path(part.stem).name}.{ending}")
    names = [one.name for one in open_frames(folder, on_skip=said.append)]
    assert names == [f"{bag}_{number:06d}" for bag in "ab" for number in range(len(SHOWN))]
    assert [one.name for one in open_frames(folder / "b.mcap.zst")] == names[len(SHOWN) :]
    assert said == []


@pytest.mark.parametrize("has_metadata", [True, False])
def test_a_packed_file_beside_its_content_is_not_read_twice(
    tmp_path: Path, has_metadata: bool
) -> None:
    bag = write_ros2(tmp_path / "drive", SHOWN, "sqlite3", compressed="file")
    part = packed(bag)
    with part.open("rb") as file:
        content = zstandard.ZstdDecompressor().stream_reader(file).read()
    (bag / part.stem).write_bytes(content)
    part.write_bytes(part.read_bytes()[:1000])  # its recorder was killed
    if not has_metadata:
        (bag / "metadata.yaml").unlink()
    assert_all(open_frames(bag))


@pytest.mark.parametrize("usable", [True, False])
def test_a_tmpdir_that_cannot_be_used_is_spoken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scratch: Path, said: list[str], usable: bool
) -> None:
    bag = write_ros2(tmp_path / "drive", SHOWN, "mcap", compressed="file")
    monkeypatch.setenv("TMPDIR", str(scratch if usable else tmp_path / "gone"))
    assert_all(open_frames(bag, on_skip=said.append))
    gone = f"TMPDIR is {tmp_path}/gone, where no file can be written; {scratch} is used instead."
    assert said == ([] if usable else [gone])


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def overwritten(data: bytes) -> bytes:
    """Damage longer than a block of zstd, which may not notice what lies within one."""
    middle = len(data) // 2
    return data[:middle] + b"\xff" * 200_000 + data[middle + 200_000 :]


@PLUGINS
@pytest.mark.parametrize("damage", [cut, overwritten])
@pytest.mark.parametrize("states_size", [True, False])
def test_what_lies_before_damage_is_read(
    tmp_path: Path,
    plugin: str,
    damage: Callable[[bytes], bytes],
    states_size: bool,
    scratch: Path,
    said: list[str],
) -> None:
    bag = write_ros2(tmp_path / "drive", LARGE, plugin, compressed="file")
    part = packed(bag)
    if states_size:  # as rosbag2's own does
        with part.open("rb") as file:
            content = zstandard.ZstdDecompressor().stream_reader(file).read()
        part.write_bytes(zstandard.ZstdCompressor().compress(content))
    part.write_bytes(damage(part.read_bytes()))
    source = open_frames(bag, on_skip=said.append)
    frames = list(source)
    assert 5 < len(frames) < len(LARGE) - 5
    for number, one in enumerate(frames):
        np.testing.assert_array_equal(one.image, LARGE[number])
    assert f"{part} is damaged: it " in said[-1]
    assert f"; {len(frames)} pictures of /front/image were read" in said[-1]
    if states_size and damage is cut:
        assert " that it says to hold; " in said[-1]
    del source
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_what_is_no_zstd_is_an_error_that_says_so(tmp_path: Path, scratch: Path) -> None:
    bag = write_ros2(tmp_path / "drive", SHOWN, "sqlite3", compressed="file")
    packed(bag).write_bytes(b"no frame of zstd")
    with pytest.raises(FrameError, match=r"drive\.db3\.zstd cannot be read as a bag: it cannot be"):
        open_frames(bag)
    gc.collect()
    assert list(scratch.iterdir()) == []


def free(monkeypatch: pytest.MonkeyPatch, *sizes: int) -> None:
    """Let the disk have so many bytes free, one number a look, and the last of them for ever."""
    left = list(sizes)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(free=left.pop(0) if left[1:] else left[0])
    )


def test_what_does_not_fit_on_the_disk_is_not_begun(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = packed(write_ros2(tmp_path / "drive", SHOWN, "sqlite3", compressed="file"))
    shutil.copy(part, part.with_name("drive_1.db3.zstd"))
    for one in part.parent.glob("*.zstd"):
        one.write_bytes(zstandard.ZstdCompressor().compress(bytes(300_000_000)))
    free(monkeypatch, 800_000_000)
    with pytest.raises(OutputError) as refused:
        open_frames(part.parent)
    assert f"{part.parent} takes 600 MB once it is unpacked, and {scratch} has 800 MB free" in str(
        refused.value
    )
    assert "TMPDIR" in str(refused.value)
    free(monkeypatch, 500_000_000)
    with pytest.raises(OutputError, match=r"drive\.db3\.zstd takes 300 MB once"):
        open_frames(part)
    shutil.copy(part, tmp_path / "other.db3.zstd")
    with pytest.raises(OutputError):  # and is not left out as one bag of many may be
        open_frames(tmp_path)
    assert list(scratch.iterdir()) == []


def test_a_disk_that_fills_up_stops_it(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = packed(write_ros2(tmp_path / "drive", SHOWN, "sqlite3", compressed="file"))
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    part.write_bytes(compressor.compress(bytes(100_000_000)))
    free(monkeypatch, 10**9, 10**9, 280_000_000)
    with pytest.raises(OutputError, match=r"takes more than 16\.78 MB once it is unpacked"):
        open_frames(part)
    assert list(scratch.iterdir()) == []


def test_of_a_long_one_is_said_how_far_it_is(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    part = packed(write_ros2(tmp_path / "drive", LARGE, "mcap", compressed="file"))
    monkeypatch.setattr(packed_parts, "_LONG", 0)
    monkeypatch.setattr(packed_parts, "_EVERY_S", 0.0)
    open_frames(part, on_skip=said.append)
    assert said[0].startswith(f"{part} (")
    assert said[0].endswith(f" is unpacked into {scratch} to be read.")
    assert said[-1] == f"unpacking {part}: 100%"


@pytest.mark.parametrize("behind", [bytes(4096), b"x"])
@PLUGINS
def test_no_picture_before_damage_is_lost(tmp_path: Path, plugin: str, behind: bytes) -> None:
    bag = write_ros2(tmp_path / "drive", SHOWN, plugin, compressed="file")
    with packed(bag).open("ab") as file:
        file.write(behind)
    assert_all(open_frames(bag))


def test_what_a_killed_process_left_makes_room(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_ros2(tmp_path / "drive", SHOWN, "mcap", compressed="file")
    left = scratch / ".roadshift-bag.tmp-0123"
    left.mkdir()
    (left / "drive.mcap").write_bytes(bytes(1000))
    os.utime(left, (0, 0))

    def free(_: object) -> SimpleNamespace:
        return SimpleNamespace(free=0 if left.exists() else 1 << 40)

    monkeypatch.setattr(packed_parts.shutil, "disk_usage", free)
    assert_all(open_frames(bag))
    assert not left.exists()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_leaves_the_content_to_its_owner(tmp_path: Path, scratch: Path) -> None:
    bag = write_ros2(tmp_path / "drive", SHOWN, "mcap", compressed="file")
    source = open_frames(bag)
    child = os.fork()
    if not child:
        try:
            del source
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert_all(source)
    del source
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_a_signal_while_the_content_is_removed_leaves_nothing(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, times = shutil.rmtree, iter([1])

    def interrupted(folder: Path, **how: bool) -> None:
        if next(times, None):
            raise KeyboardInterrupt
        remove(folder, **how)

    monkeypatch.setattr(atomic.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic.staging_folder(scratch / "target") as folder:
        (folder / "content").touch()
    assert list(scratch.iterdir()) == []
