"""Damage that a decoder mends is found, sound videos are not blamed, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import roadshift
from damaged_videos import FRAMES, HEIGHT, WIDTH, damage_pictures, write_mpeg4
from processes import until
from roadshift.runtime.bench.run import BundleRun
from roadshift.runtime.bench.settings import BenchSettings
from roadshift.runtime.frames import FrameSource, open_frames
from roadshift.runtime.video import decoder_errors
from roadshift.runtime.video.damage_watch import DamageWatch
from roadshift.runtime.video.decoder_errors import find_errors, is_error

SENTENCE = (
    "{}: 2 of 24 frames were decoded with errors, first at frame 7 (0.7 s): the recording is "
    "damaged there"
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    return damage_pictures(write_mpeg4(tmp_path / "drive.mp4"), [7, 15])


def read(
    path: Path, said: list[str], *, most: int | None = None, at_once: bool = True
) -> tuple[FrameSource, DamageWatch]:
    """Read a video, wait for its check, and end that."""
    source = open_frames(path, on_skip=said.append)
    with DamageWatch(said.append, at_once=at_once) as watch:
        source.watch = watch
        list(islice(source, most))
        watch.finish()
    return source, watch


# ---- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [True, False])
def test_frames_decoded_with_errors_are_named(
    damaged: Path, said: list[str], at_once: bool
) -> None:
    source, watch = read(damaged, said, at_once=at_once)
    assert said == [SENTENCE.format(damaged)]
    assert (watch.damaged(damaged), watch.count) == ([7, 15], 2)
    assert source.damaged_names() == {"drive_000007", "drive_000015"}
    assert source.frames_skipped == 0  # they were read


def test_a_video_is_said_to_be_damaged_once_and_others_of_the_folder_are_not(
    damaged: Path, said: list[str]
) -> None:
    write_mpeg4(damaged.with_name("sound.mp4"))
    source = open_frames(damaged.parent, on_skip=said.append)
    with DamageWatch(said.append) as watch:
        source.watch = watch
        for _ in range(2):
            list(source)
            watch.finish()
    assert said == [SENTENCE.format(damaged)]


def test_only_frames_that_were_read_are_spoken_of(damaged: Path, said: list[str]) -> None:
    _, watch = read(damaged, said, most=7)
    assert (said, watch.count) == ([], 0)
    _, watch = read(damaged, said, most=8)
    assert watch.count == 1
    assert "1 of 8 frames were decoded with errors, first at frame 7" in said[0]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_pictures_stored_in_another_order_are_named_as_they_are_shown(
    tmp_path: Path, said: list[str], codec: str
) -> None:
    path = tmp_path / "clip.mp4"
    expected = None
    while expected is None:  # encoders' bytes differ, and a flip in a header ends FFmpeg's reading
        data = bytearray(write_reordered(path, codec).read_bytes())
        for share in (0.45, 0.6, 0.75):
            at = int(share * len(data))
            data[at : at + 3] = bytes(byte ^ 0xFF for byte in data[at : at + 3])
        path.write_bytes(data)
        with suppress(ValueError):  # of which PyAV's InvalidDataError is one
            expected = marked_by_ffmpeg(path)
    _, watch = read(path, said)
    assert watch.damaged(path) == expected != []


# ---- sound videos ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "mp4v"), (".mkv", "mp4v"), (".avi", "XVID"), (".avi", "MJPG")]
)
def test_what_opencv_wrote_is_sound(
    tmp_path: Path, said: list[str], suffix: str, codec: str
) -> None:
    path = tmp_path / f"clip{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (WIDTH, HEIGHT))
    for seed in range(FRAMES):
        writer.write(noise(seed))
    writer.release()
    _, watch = read(path, said)
    assert (said, watch.count) == ([], 0)


def test_a_video_that_does_not_begin_with_a_key_picture_is_not_damaged(
    tmp_path: Path, said: list[str]
) -> None:
    av = pytest.importorskip("av")
    whole = write_reordered(tmp_path / "whole.mp4", "libx264")
    path = tmp_path / "clip.mp4"
    with av.open(str(whole)) as opened, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(opened.streams.video[0])
        for number, packet in enumerate(opened.demux(video=0)):
            if number >= 5 and packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    _, watch = read(path, said)
    assert (said, watch.count) == ([], 0)


def test_what_a_cut_leaves_of_the_last_picture_is_not_said_twice(
    damaged: Path, said: list[str]
) -> None:
    path = write_mpeg4(damaged.with_name("cut.avi"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    read(path, said)
    (sentence,) = said
    assert "ends early" in sentence


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[OPENCV:FFMPEG:32] concealing 12 DC, 12 AC, 12 MV errors in P frame", True),
        ("[OPENCV:FFMPEG:16] error while decoding MB 0 14, bytestream 8133", True),
        ("[OPENCV:FFMPEG:24] Packet corrupt (stream = 0, dts = 10).", False),
        ("[OPENCV:FFMPEG:16] mmco: unref short failure", False),
        ("[OPENCV:FFMPEG:16] number of reference frames (0+4) exceeds max (3; probably", False),
        ("[ERROR:0@0.5] global cap.cpp error while decoding", False),
    ],
)
def test_errors_are_told_from_what_else_is_logged(line: str, expected: bool) -> None:
    assert is_error(line) is expected


# ---- what keeps a video from being checked -----------------------------------------------------


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("kill -9 $$", "signal 9 ended the process that checks it"),
        ("echo out of luck >&2; exit 3", "out of luck"),
        ("exit 3", "the process that checks it ended with 3"),
    ],
)
def test_a_check_that_fails_is_a_note(
    damaged: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    program = damaged.with_name("python")
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    _, watch = read(damaged, said)
    assert said == [f"{damaged} could not be checked for damage ({why})"]
    assert (watch.count, watch.damaged(damaged)) == (None, [])


def test_a_limit_that_comes_as_the_process_ends_is_no_error(
    damaged: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listen, failures = DamageWatch._listen, []

    def then_a_limit(watch: DamageWatch, path: Path, process: Any) -> Any:
        answer = listen(watch, path, process)
        watch._limits = {path: 1}
        try:
            watch._send_limit()
        except ValueError as error:
            failures.append(error)
        return answer

    monkeypatch.setattr(DamageWatch, "_listen", then_a_limit)
    _, watch = read(damaged, said)
    assert watch.count
    assert not failures


def test_a_process_that_is_refused_is_a_note(
    damaged: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(damaged.with_name("missing")))
    read(damaged, said)
    assert said == [f"{damaged} could not be checked for damage (No such file or directory)"]


def test_an_opencv_without_ffmpeg_or_without_its_log_says_so(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        def has_new_error(self) -> bool:
            return False

    monkeypatch.setattr(decoder_errors, "_Messages", Silent)
    answer = find_errors(damaged, lambda: 100, pytest.fail)
    assert answer == {"why": "this OpenCV does not pass on what FFmpeg logs"}
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: False)
    answer = find_errors(damaged, lambda: 100, pytest.fail)
    assert answer == {"why": "this OpenCV has no FFmpeg"}


# ---- the end -----------------------------------------------------------------------------------

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def test_what_there_is_no_time_for_is_said(tmp_path: Path, said: list[str]) -> None:
    with endless(tmp_path) as path, DamageWatch(said.append) as watch:
        watch.begin(path)
        watch.reached(path, 9)
        watch.finish(due=lambda: True)
        assert watch.count is None
    assert said == [f"{path}: 0 of the 9 frames read were checked for damage, for more there was "
                    "no time"]  # fmt: skip


@needs_proc
def test_a_stop_ends_the_process(tmp_path: Path, said: list[str]) -> None:
    pids = []

    def stop() -> None:
        pids.extend(checks_of(path))
        if pids:
            raise KeyboardInterrupt

    with endless(tmp_path) as path:
        watch = DamageWatch(said.append)
        watch.begin(path)
        watch.reached(path, 9)
        with watch, pytest.raises(KeyboardInterrupt):
            watch.finish(stop=stop)
        assert pids
        assert checks_of(path) == []
    assert said == []


@needs_proc
def test_the_process_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from roadshift.runtime.video.damage_watch import DamageWatch\n"
        "DamageWatch(print).begin(Path(sys.argv[1]))\n"
        "time.sleep(600)"
    )
    with endless(tmp_path) as path:
        parent = subprocess.Popen([sys.executable, "-c", code, str(path)])
        checks = lambda: [pid for pid in checks_of(path) if pid != parent.pid]  # noqa: E731
        try:
            until(lambda: len(checks()) == 1)
        finally:
            parent.send_signal(signal.SIGKILL)
            parent.wait()
        until(lambda: not checks())


# ---- commands ----------------------------------------------------------------------------------


def test_a_bench_says_that_its_frames_are_damaged(
    damaged: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = BundleRun.__new__(BundleRun)
    monkeypatch.setattr(run, "_settings", BenchSettings(frames=str(damaged)), raising=False)
    monkeypatch.setattr(run, "_note", said.append, raising=False)
    assert len(run._frames().frames) == FRAMES
    assert said == [SENTENCE.format(damaged)]


# ---- helpers -----------------------------------------------------------------------------------


def noise(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (WIDTH, HEIGHT)))


def write_reordered(path: Path, codec: str) -> Path:
    """A video with B pictures."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "12", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        large = np.kron(noise(0), np.ones((2, 2, 1), np.uint8))
        for seed in range(FRAMES):
            window = large[seed : seed + HEIGHT, 2 * seed : 2 * seed + WIDTH]
            moved = np.ascontiguousarray(window // 2 + noise(seed + 1) // 8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
    return path


def marked_by_ffmpeg(path: Path) -> list[int]:
    """Numbers of the frames that FFmpeg's own flag says are corrupt."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [i for i, frame in enumerate(container.decode(video=0)) if frame.is_corrupt]


@contextmanager
def endless(folder: Path) -> Iterator[Path]:
    """A file at which a check waits for ever."""
    path = folder / "endless.mp4"
    os.mkfifo(path)
    yield path


def checks_of(path: Path) -> list[int]:
    """Processes, which have not ended, that have the path in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(path) not in (folder / "cmdline").read_bytes().split(b"\0"):
                continue
        except OSError:  # it has ended meanwhile
            continue
        found.append(int(folder.name))
    return found


def test_packages_with_the_names_of_pythons_own_modules_do_no_harm(tmp_path: Path) -> None:
    """As the old ``typing`` from the package index, which lies beside Roadshift once installed."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "roadshift").symlink_to(Path(roadshift.__file__).parent)
    (site / "typing.py").write_text("raise ImportError('an old one')")
    path = damage_pictures(write_mpeg4(tmp_path / "drive.mp4"), [7])
    code = """
import sys
first = next(i for i, entry in enumerate(sys.path) if "site-packages" in entry)
sys.path.insert(first, sys.argv[1])  # as a folder of packages: behind Python's own modules
from roadshift.runtime.frames import open_frames
from roadshift.runtime.video import damage_watch
assert damage_watch.__file__.startswith(sys.argv[1])
source = open_frames(sys.argv[2])
with damage_watch.DamageWatch(print) as watch:
    source.watch = watch
    list(source)
    watch.finish()
"""
    command = [sys.executable, "-I", "-c", code, str(site), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "of 24 frames" in done.stdout
    assert "decoded with errors" in done.stdout
