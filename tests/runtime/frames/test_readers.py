"""Recordings that others read: registered readers, damaged files, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from roadshift.runtime.errors import FrameError
from roadshift.runtime.frames import open_frames, readers
from roadshift.runtime.frames.readers import register_frame_reader


@pytest.fixture
def roadlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Makes a recording of as many frames, read by a reader of this test's own."""
    monkeypatch.setattr(readers, "_REGISTERED", {})

    @register_frame_reader(".roadlog")
    def read(path: Path) -> Iterator[tuple[NDArray[np.uint8], int]]:
        for number, line in enumerate(path.read_text().splitlines()):
            if line == "damaged":
                raise FrameError(f"{path}: is damaged after {number} frames.")
            yield np.full((4, 6, 3), int(line), np.uint8), 40_000_000 * number

    def make(count: int, end: str = "") -> Path:
        path = tmp_path / "drive.roadlog"
        path.write_text("".join(f"{i}\n" for i in range(count)) + end)
        return path

    return make


def test_frames_have_the_pictures_times_and_names_that_the_reader_gives(
    roadlog: Callable[[int], Path],
) -> None:
    source = open_frames(roadlog(3))
    assert source.length is None
    assert source.stills is None
    for _ in range(2):  # a source is read again and again
        frames = list(source)
        assert [frame.name for frame in frames] == [f"drive_{i:06d}" for i in range(3)]
        assert [frame.timestamp_ns for frame in frames] == [0, 40_000_000, 80_000_000]
        assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 1, 2]
    assert source.length == 3


def test_frames_are_counted_by_reading(roadlog: Callable[[int], Path]) -> None:
    assert open_frames(roadlog(5)).count() == 5


def test_what_comes_before_the_damage_counts_and_the_rest_is_said_once(
    roadlog: Callable[..., Path],
) -> None:
    path, said = roadlog(2, end="damaged\n9\n"), list[str]()
    source = open_frames(path, on_skip=said.append)
    assert [len(list(source)), len(list(source))] == [2, 2]
    assert source.skipped == said == [f"{path}: is damaged after 2 frames."]
    assert source.count() == 2


def test_a_recording_without_a_frame_is_an_error(roadlog: Callable[..., Path]) -> None:
    with pytest.raises(FrameError, match="is damaged after 0 frames"):
        list(open_frames(roadlog(0, end="damaged")))


@pytest.mark.parametrize(
    "given", [None, np.zeros((2, 2, 3), np.uint8), (np.zeros((2, 2), np.uint8), 0), ("x", 1)]
)
def test_what_is_no_picture_is_refused(
    given: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_REGISTERED", {})
    register_frame_reader(".odd", lambda _: [given])  # type: ignore[list-item,return-value]
    (tmp_path / "a.odd").touch()
    with pytest.raises(FrameError, match=r"a\.odd: its reader gave \w+ where a pair of a picture"):
        list(open_frames(tmp_path / "a.odd"))


@pytest.mark.usefixtures("roadlog")
@pytest.mark.parametrize(
    ("suffix", "reader", "why"),
    [
        ("roadlog", list, "a suffix is a dot"),
        (".MP4", list, "a suffix is a dot"),
        (".mp4", list, "reads files of that kind itself"),
        (".png", list, "reads files of that kind itself"),
        (".roadlog", 3, "3 cannot be called"),
        (".roadlog", tuple, "reads them already"),
    ],
)
def test_a_reader_that_cannot_be_registered_is_refused(
    suffix: str, reader: object, why: str
) -> None:
    with pytest.raises(FrameError, match=why):
        register_frame_reader(suffix, reader)  # type: ignore[type-var]


def test_a_file_that_nobody_reads_is_refused_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.roadlog").touch()
    with pytest.raises(FrameError, match="of a kind that is not read here"):
        open_frames(tmp_path / "a.roadlog")


def test_installed_packages_are_not_looked_through_for_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes milliseconds each time: a folder of 10,000 would open for half a minute."""

    def refuse(_: str) -> object:
        raise AssertionError("entry points were asked for")

    monkeypatch.setattr(readers, "installed_names", refuse)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), 50 * number, np.uint8))
    assert len(list(open_frames(tmp_path))) == 3
    assert len(list(open_frames(tmp_path / "1.png"))) == 1
