"""Pictures that a dead writer compressed last come into its video: once, in order, never lost."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from roadshift.runtime.frames import open_frames
from roadshift.runtime.video import recording as recording_module
from roadshift.runtime.video import video_encoding
from roadshift.runtime.video.recording import Recording
from roadshift.runtime.video.salvage import as_fraction, rounded_rate

WIDTH, HEIGHT, RATE = 64, 48, 7.77
FIRST, GROUP = 1, 32  # pictures in the video when its writer dies, and in the group it then writes


def numbered(number: int) -> np.ndarray:
    """A picture that shows its number, one white or black column for each of six bits."""
    bits = np.array([255 * (number >> bit & 1) for bit in range(8)], np.uint8)
    return np.repeat(bits, WIDTH // 8)[None, :, None].repeat(HEIGHT, 0).repeat(3, 2)


def numbers(path: Path) -> list[int]:
    found = []
    for frame in open_frames(path, on_skip=lambda _: None):
        columns = frame.image.mean(axis=(0, 2)).reshape(8, -1).mean(axis=1)
        found.append(sum(int(value > 127) << bit for bit, value in enumerate(columns)))
    return found


@pytest.fixture(params=[".mp4", ".mkv", ".mov"])
def left(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    return Left(tmp_path, request.param, monkeypatch)


class Left:
    """A video without its second group, with it, and that group's file, as a dead writer leaves."""

    def __init__(self, folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / f"clip{suffix}"
        self.part = folder / f".clip{suffix}.part{suffix}"
        self.scratch = folder / f".clip{suffix}.group.mkv"
        groups: list[bytes] = []
        read = video_encoding.read_packets

        def reading(path: Path) -> object:
            groups.append(path.read_bytes())
            self.without = self.part.read_bytes()
            return read(path)

        monkeypatch.setattr(video_encoding, "read_packets", reading)
        monkeypatch.setattr(video_encoding, "_TOGETHER_S", 3600.0)
        recording = Recording(self.path, note=lambda _: None)
        recording.open(RATE, (WIDTH, HEIGHT))
        for number in range(FIRST + GROUP):
            recording.write(numbered(number))
        self.with_group = self.part.read_bytes()
        self.group = groups[-1]
        recording.abandon()
        for path in folder.iterdir():
            path.unlink()

    def leave(self, part: bytes, group: bytes) -> None:
        self.part.write_bytes(part)
        self.scratch.write_bytes(group)

    def keep(self) -> list[str]:
        """Start and end the next run to the same name; the notes of it."""
        said: list[str] = []
        Recording(self.path, note=said.append).abandon()
        return said

    @property
    def kept(self) -> Path:
        return self.path.with_name(f"clip.incomplete{self.path.suffix}")


def unfinished(group: bytes, share: float) -> bytes:
    """The first part of a group's file, as it is before its writer has ended it."""
    size_at = group.index(bytes.fromhex("18538067")) + 4
    data = bytearray(group[: int(share * len(group))])
    data[size_at : size_at + 8] = bytes.fromhex("01ffffffffffffff")
    return bytes(data)


def test_a_group_that_was_not_added_is_added(left: Left) -> None:
    left.leave(left.without, left.group)
    said = left.keep()
    assert said == [
        f"an earlier run did not finish {left.path}; what it recorded is kept as {left.kept}."
    ]
    assert os.listdir(left.path.parent) == [left.kept.name]
    assert numbers(left.kept) == list(range(FIRST + GROUP))
    times = [frame.timestamp_ns for frame in open_frames(left.kept)]
    assert times == pytest.approx([i / RATE * 1e9 for i in range(FIRST + GROUP)], abs=1e6)


def test_the_whole_pictures_of_a_group_that_was_not_finished_are_added(left: Left) -> None:
    left.leave(left.without, unfinished(left.group, 0.7))
    left.keep()
    found = numbers(left.kept)
    assert FIRST + GROUP // 3 < len(found) < FIRST + GROUP
    assert found == list(range(len(found)))


def test_a_group_that_is_in_the_video_is_not_added_again(left: Left) -> None:
    left.leave(left.with_group, left.group)
    left.keep()
    assert os.listdir(left.path.parent) == [left.kept.name]
    assert numbers(left.kept) == list(range(FIRST + GROUP))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_group_that_is_torn_in_the_video_is_made_whole(left: Left, share: float) -> None:
    added = len(left.with_group) - len(left.without)
    left.leave(left.with_group[: len(left.without) + int(share * added)], left.group)
    left.keep()
    assert numbers(left.kept) == list(range(FIRST + GROUP))


def test_a_group_is_a_video_where_nothing_was_added_before(left: Left) -> None:
    left.leave(b"", left.group)
    left.keep()
    assert numbers(left.kept) == list(range(FIRST, FIRST + GROUP))
    left.leave(left.without[:100], left.group)
    left.keep()
    second = left.kept.with_name(f"clip.incomplete-2{left.path.suffix}")
    assert numbers(second) == list(range(FIRST, FIRST + GROUP))


def test_a_group_of_pictures_that_are_all_alike_is_added(left: Left) -> None:
    """Its bytes may be those of the group before, where the camera stands."""
    left.leave(left.with_group, unfinished(left.group, 0.7))
    left.keep()
    found = numbers(left.kept)
    assert found[: FIRST + GROUP] == list(range(FIRST + GROUP))
    assert found[FIRST + GROUP :] == list(range(FIRST, len(found) - GROUP))
    assert len(found) > FIRST + GROUP


def test_a_group_for_which_the_disk_has_no_room_is_kept_beside(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording_module, "add_group", full)
    left.leave(left.without, left.group)
    said = left.keep()
    end = left.path.with_name("clip.incomplete-end.mkv")
    assert f"kept as {left.kept}, and its end as {end}." in said[0]
    assert (numbers(left.kept), len(numbers(end))) == ([0], GROUP)


def test_a_video_torn_elsewhere_is_left_and_the_group_kept_beside(left: Left) -> None:
    left.leave(left.with_group[:-40], unfinished(left.group, 0.7))
    left.keep()
    assert numbers(left.kept)[: GROUP - 1] == list(range(GROUP - 1))
    assert numbers(left.path.with_name("clip.incomplete-end.mkv"))


def test_a_video_that_ends_within_an_index_is_kept(left: Left) -> None:
    left.part.write_bytes(left.with_group[: len(left.without) + 40])
    left.keep()
    assert numbers(left.kept) == [0]


@pytest.mark.parametrize("rate", [0.1, 7.77, 24000 / 1001, 30.303, 66.667, 240])
def test_a_rate_that_a_header_states_is_the_rate_that_was_written(rate: float) -> None:
    written = rounded_rate(rate)
    stated = float(Fraction(written).limit_denominator(60000)) * (1 + 1e-7)
    assert as_fraction(rounded_rate(stated)) == as_fraction(written)
