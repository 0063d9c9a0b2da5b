"""Names of outputs: as long as the file system takes, with what is added, and no byte longer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from roadshift.runtime.atomic import replacing, write_whole
from roadshift.runtime.bench.plots import check_can_plot
from roadshift.runtime.bundle import check_output
from roadshift.runtime.errors import OutputError
from roadshift.runtime.file_names import STAGED, beside, check_name, is_utf8, library_path
from roadshift.runtime.frames import open_frames
from roadshift.runtime.frames.images import write_image
from roadshift.runtime.labels import label_space
from roadshift.runtime.pipeline.sinks import VideoSink
from roadshift.runtime.signing import generate_key

LONGEST = 255


@pytest.mark.parametrize("letter", ["x", "ß", "走", "🚗", "\udcfc"])
@pytest.mark.parametrize("pattern", ["{}", STAGED, "{}.run"])
def test_the_limit_is_in_bytes_and_counts_what_is_added(
    tmp_path: Path, letter: str, pattern: str
) -> None:
    room = os.pathconf(tmp_path, "PC_NAME_MAX") - len(pattern) + 2
    width = len(os.fsencode(letter))
    fits = letter * (room // width) + "y" * (room % width)
    check_name(tmp_path / fits, pattern)
    (tmp_path / pattern.format(fits)).touch()
    for excess in (1, 50):
        with pytest.raises(OutputError, match=rf"the name is {excess} bytes too long; this file"):
            check_name(tmp_path / f"{fits}{'z' * excess}", pattern)
    with pytest.raises(OSError, match="File name too long"):
        (tmp_path / pattern.format(fits + "z")).touch()


@pytest.mark.parametrize(
    "check",
    [check_output, check_can_plot, lambda path: check_name(path, inside=True)],
    ids=["bundle", "plots", "folder"],
)
@pytest.mark.parametrize("length", [256, 300, 5000])
def test_every_output_with_a_long_name_is_refused_before_work(
    tmp_path: Path, check: Callable[[Path], object], length: int
) -> None:
    with pytest.raises(OutputError, match=r"^x+\.\.\.: the name is \d+ bytes too long"):
        check(tmp_path / ("x" * length))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [LONGEST - 13, 250, LONGEST])
def test_a_bundle_needs_room_for_the_name_it_is_written_under(tmp_path: Path, length: int) -> None:
    check_output(tmp_path / ("x" * (LONGEST - 14)))
    with pytest.raises(OutputError, match="14 are needed for the names that it has meanwhile"):
        check_output(tmp_path / ("x" * length))


def test_a_path_has_a_limit_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Path(os.path.relpath(tmp_path))
    while len(os.fsencode(os.path.abspath(deep))) < 3900:
        deep = deep / ("d" * 50)
    check_name(deep)
    with pytest.raises(
        OutputError, match=r"the path is \d+ bytes too long; this system takes 4096"
    ):
        check_name(deep / ("e" * 200), inside=True)
    monkeypatch.setattr(os, "pathconf", lambda _, name: {"PC_NAME_MAX": 143}.get(name, 4096))
    with pytest.raises(OutputError, match="this file system takes 143"):  # eCryptfs
        check_name(tmp_path / ("x" * 144))


@pytest.mark.parametrize("check", [check_name, check_output, check_can_plot])
@pytest.mark.parametrize("url", ["rtsp://me:s3cret@10.0.0.7/x", "HTTP://10.0.0.7/user=s3cret"])
def test_an_address_is_no_place_for_results(
    check: Callable[[Path], object], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"10\.0\.0\.7/\*\*\*: is an address") as error:
        check(Path(url))
    assert "s3cret" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_with_the_longest_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * (LONGEST - 4)}.png"
    write_image(path, np.zeros((2, 3), np.uint8))
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_file_is_written_whole_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "link").symlink_to("old")
    write_whole(tmp_path / "link", b"new")
    assert ((tmp_path / "old").read_bytes(), (tmp_path / "link").is_symlink()) == (b"new", True)
    with pytest.raises(OutputError, match="not an existing folder"):
        write_whole(tmp_path / "none/file", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "old"]


def test_a_name_in_another_encoding_is_read_by_its_descriptor(tmp_path: Path) -> None:
    for name in (b"fr\xfcher.txt", b"early.txt"):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        path.write_text(str(name))
        with library_path(path) as spelt:
            assert is_utf8(spelt)
            assert Path(spelt).read_text() == str(name)


def test_a_video_in_another_encoding_is_read_and_not_written(tmp_path: Path) -> None:
    clip = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"fr\xfcher.avi")))
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (32, 16)
    )
    for _ in range(3):
        writer.write(np.zeros((16, 32, 3), np.uint8))
    writer.release()
    os.rename(tmp_path / "clip.avi", clip)
    frames = list(open_frames(clip))
    assert len(frames) == 3
    assert is_utf8(frames[0].name)
    with pytest.raises(OutputError, match="bytes that are no UTF-8"):
        VideoSink(clip, label_space("camvid11"), overlays=False)
    with pytest.raises(OutputError, match="bytes that are no UTF-8"):
        check_output(clip.with_suffix(""))


@pytest.mark.parametrize("out", [".", "/"])
def test_an_output_has_a_name_of_its_own(out: str) -> None:
    with pytest.raises(OutputError, match=rf"^{out}: has no name of its own; choose another"):
        beside(Path(out), "{}.run")
    with pytest.raises(OutputError, match=rf"^{out}: has no name of its own; choose another"):
        generate_key(out)
    with pytest.raises(IsADirectoryError), replacing(Path(out), ".part"):
        pass
    assert beside(Path("a/{}"), "{}.run") == Path("a/{}.run")
