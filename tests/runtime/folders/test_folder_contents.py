"""Contents of a folder: clips beside pictures, kinds that are not read, a line on all left out."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_folders import camera, make
from roadshift.runtime.errors import FrameError, OutputError
from roadshift.runtime.folders.folder_contents import folder_contents
from roadshift.runtime.frames import open_frames
from roadshift.runtime.frames.images import read_image, write_image
from roadshift.runtime.frames.source_files import safe_name
from roadshift.runtime.pictures.media_kinds import (
    IMAGE_SUFFIXES,
    UNREAD_IMAGE_SUFFIXES,
    UNREAD_VIDEO_SUFFIXES,
    VIDEO_SUFFIXES,
    WRITTEN_VIDEO_SUFFIXES,
)


def write_clip(path: Path, frames: int = 3) -> None:
    """A clip in MP4, whatever the suffix says: decoders go by content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_name("being-written.mp4")
    writer = cv2.VideoWriter(str(plain), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for i in range(frames):
        writer.write(cv2.resize(camera(i), (64, 48)))
    writer.release()
    plain.rename(path)


def listed(root: Path) -> tuple[list[str], str | None]:
    contents = folder_contents(root)
    sentence = contents.sentence
    return (
        [path.relative_to(root).as_posix() for path in contents.files],
        sentence and sentence.replace(str(root), "R"),
    )


# ---- clips and pictures -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "picture",
    ["thumb.png", "clip1.png", "clip1.mp4.jpg", "clip2_thumbnail.jpg", "poster.jpg", "me.png"],
)
def test_clips_beside_a_picture_are_the_frames(tmp_path: Path, picture: str) -> None:
    for i in (1, 2, 3):
        write_clip(tmp_path / f"clip{i}.mp4")
    write_image(tmp_path / picture, camera(0))
    said: list[str] = []
    source = open_frames(tmp_path, on_skip=said.append)
    assert len(list(source)) == 9
    assert said == [
        f"{tmp_path}: taken 3 videos; left out 1 picture beside the videos.",
    ]


def test_a_picture_for_each_clip_is_none_of_the_frames(tmp_path: Path) -> None:
    for i in range(3):
        write_clip(tmp_path / "day" / f"a{i}.mp4", 1)
        write_image(tmp_path / "day" / f"a{i}.jpg", camera(i))
    write_image(tmp_path / "cover.jpg", camera(9))
    found, sentence = listed(tmp_path)
    assert found == ["day/a0.mp4", "day/a1.mp4", "day/a2.mp4"]
    assert sentence == "R: taken 3 videos; left out 4 pictures beside the videos."


def test_many_pictures_and_clips_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for i in (1, 3, 10):
        write_image(tmp_path / f"{i}.png", camera(i))
    for i in (2, 4):
        write_clip(tmp_path / f"{i}.mp4", 1)
    found, sentence = listed(tmp_path)
    assert found == ["1.png", "2.mp4", "3.png", "4.mp4", "10.png"]
    assert sentence == "R: taken 3 pictures and 2 videos, in the order of their names."
    assert [frame.name for frame in open_frames(tmp_path)] == [
        *("1", "2_000000", "3", "4_000000", "10")
    ]


def test_label_maps_and_thumbnails_beside_clips_leave_the_clips(tmp_path: Path) -> None:
    write_clip(tmp_path / "drive.mp4")
    write_clip(tmp_path / "drive_overlay.mp4")
    write_image(tmp_path / "drive.jpg", camera(0))
    found, sentence = listed(tmp_path)
    assert found == ["drive.mp4"]
    assert "1 label map and the like (*overlay*.mp4 1), 1 picture beside the videos" in str(
        sentence
    )


def test_measuring_takes_pictures_and_says_that_clips_are_there(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 1)
    make(tmp_path, [("{}.png", "camera")])
    assert len(folder_contents(tmp_path, videos=False).files) == 4
    sentence = folder_contents(tmp_path, videos=False).sentence
    assert sentence == f"{tmp_path}: taken 4 pictures; left out 1 video."


def test_frames_of_a_clip_and_pictures_never_share_a_name(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 2)
    for i in range(2):
        write_image(tmp_path / f"clip_{i:06d}.png", camera(i))
    names = [frame.name for frame in open_frames(sorted(tmp_path.iterdir()))]
    assert len({*names}) == len(names) == 4


@pytest.mark.parametrize(
    "picture", ["clip_{}.png", "clip{}.jpg", "clip-{}.png", "clip.{}.png", "clip/{}.png"]
)
def test_a_clip_beside_its_frames_is_refused(tmp_path: Path, picture: str) -> None:
    write_clip(tmp_path / "clip.mp4", 2)
    make(tmp_path, [(picture, "camera")])
    with pytest.raises(FrameError, match=r"4 pictures such as .* after a video, .*clip\.mp4, and"):
        open_frames(tmp_path)
    assert len(folder_contents(tmp_path, videos=False).files) == 4


# ---- kinds of files ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES - {".h264", ".264", ".h265", ".265"}))
def test_clips_of_every_suffix_are_read(tmp_path: Path, suffix: str) -> None:
    for name in (f"a{suffix}", f"b{suffix.upper()}"):
        write_clip(tmp_path / name, 2)
    if suffix in {".hevc", ".mjpeg", ".mjpg", ".y4m", ".m2v", ".dav"}:
        assert len(folder_contents(tmp_path).files) == 2  # raw streams need their own content
        return
    assert len(list(open_frames(tmp_path))) == 4


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_pictures_of_every_suffix_are_read(tmp_path: Path, suffix: str) -> None:
    encoded = {".jpe": ".jpg", ".jif": ".jpg", ".jfif": ".jpg", ".pbm": ".ppm"}.get(suffix, suffix)
    picture = camera(0)[..., :1] if suffix == ".pgm" else camera(0)
    good, data = cv2.imencode(encoded, picture)
    assert good
    (tmp_path / f"a{suffix.upper()}").write_bytes(data.tobytes())
    (found,) = folder_contents(tmp_path, videos=False).files
    assert np.abs(read_image(found).astype(int) - picture[..., ::-1]).mean() < 12


def test_the_kinds_do_not_overlap() -> None:
    sets = (IMAGE_SUFFIXES, VIDEO_SUFFIXES, UNREAD_IMAGE_SUFFIXES, UNREAD_VIDEO_SUFFIXES)
    assert len(frozenset().union(*sets)) == sum(map(len, sets))
    assert VIDEO_SUFFIXES.issuperset(WRITTEN_VIDEO_SUFFIXES)
    assert {".jfif", ".ts", ".mts", ".mpg", ".wmv", ".3gp"} <= IMAGE_SUFFIXES | VIDEO_SUFFIXES


@pytest.mark.parametrize("suffix", sorted(UNREAD_IMAGE_SUFFIXES | UNREAD_VIDEO_SUFFIXES))
def test_kinds_that_are_not_read_are_counted(tmp_path: Path, suffix: str) -> None:
    make(tmp_path, [("{}.png", "camera"), (f"x{{}}{suffix.upper()}", "other")])
    kind = "pictures" if suffix in UNREAD_IMAGE_SUFFIXES else "videos"
    _, sentence = listed(tmp_path)
    assert (
        sentence == f"R: taken 4 pictures; left out 4 {kind} of a kind not read here ({suffix} 4)."
    )
    for picture in tmp_path.glob("*.png"):
        picture.unlink()
    with pytest.raises(FrameError, match=rf"without images or videos .*\{suffix} 4"):
        open_frames(tmp_path)


def test_everything_else_is_counted_by_suffix(tmp_path: Path) -> None:
    make(
        tmp_path,
        [("{}.png", "camera"), ("meta/{}.json", "other"), ("{}", "other"), ("{}.JSON", "other")],
    )
    (tmp_path / "notes.txt").write_text("")
    _, sentence = listed(tmp_path)
    assert sentence == (
        "R: taken 4 pictures; left out 13 other files (.json 8, no suffix 4, .txt 1)."
    )


def test_what_systems_leave_behind_is_not_spoken_of(tmp_path: Path) -> None:
    make(tmp_path, [("{}.png", "camera"), ("._{}.png", "other"), (".cache/{}.png", "other")])
    make(tmp_path, [("__MACOSX/{}.png", "other"), ("@eaDir/{}/thumb.jpg", "other")])
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_text("")
    assert listed(tmp_path) == ([f"{i:04d}.png" for i in range(4)], None)


def test_folders_that_cannot_be_opened_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, [("{}.png", "camera"), ("private/{}.png", "camera")])
    real = os.scandir

    def closed(path: str | os.PathLike[str]) -> object:
        if os.path.basename(path) == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    found, sentence = listed(tmp_path)
    assert len(found) == 4
    assert sentence == (
        "R: taken 4 pictures; left out 1 folder that cannot be opened (private: Permission denied)."
    )
    with pytest.raises(FrameError, match="private cannot be opened: Permission denied"):
        open_frames(tmp_path / "private")


def test_a_source_whose_name_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="cannot be opened: File name too long"):
        open_frames(tmp_path / ("x" * 300))


def test_a_pipe_among_the_pictures_does_not_hang(tmp_path: Path) -> None:
    make(tmp_path, [("{}.png", "camera")])
    os.mkfifo(tmp_path / "pipe.png")
    found, sentence = listed(tmp_path)
    assert len(found) == 4
    assert sentence == "R: taken 4 pictures; left out 1 other file (pipes and devices 1)."


# ---- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("letter", ["x", "é", "路", "😀"])
@pytest.mark.parametrize("bytes_long", [1, 100, 160, 161, 200, 244, 251])
def test_results_of_long_names_can_be_written(tmp_path: Path, letter: str, bytes_long: int) -> None:
    stem = (letter * bytes_long).encode()[:bytes_long].decode(errors="ignore") or "x"
    write_clip(tmp_path / f"{stem}.mp4", 1)
    write_image(tmp_path / "b.png", camera(0))
    write_image(tmp_path / "c.png", camera(1))
    (tmp_path / "out").mkdir()
    for frame in open_frames(tmp_path):
        write_image(tmp_path / "out" / f"{frame.name}.png", frame.image)
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_long_names_stay_apart_and_short_ones_stay_as_they_are() -> None:
    assert safe_name("front view é-1.2") == "front_view_é-1.2"
    first, second = safe_name("x" * 240 + "1"), safe_name("x" * 240 + "2")
    assert first != second
    assert first == safe_name("x" * 240 + "1")
    assert len(first.encode()) <= 160


@pytest.mark.parametrize("name", ["-", "--help", " ", "a b", "é", "名前", "%s", "a;b", "#1", "{0}"])
def test_odd_names_are_frames(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.png").write_bytes(cv2.imencode(".png", camera(0))[1].tobytes())
    (frame,) = open_frames(tmp_path)
    write_image(tmp_path / f"{frame.name}.jpg", frame.image)


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES.difference(WRITTEN_VIDEO_SUFFIXES)))
def test_results_are_not_written_to_kinds_that_are_only_read(tmp_path: Path, suffix: str) -> None:
    from roadshift.runtime.pipeline.run_frames import check_out

    with pytest.raises(OutputError, match=rf"no \{suffix} file is written"):
        check_out(tmp_path / f"out{suffix}", overwrite=False)
