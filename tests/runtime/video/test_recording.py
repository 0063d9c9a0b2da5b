"""Videos survive their writer: a full disk, a kill, two runs at once; and each plays in time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from roadshift.runtime.errors import OutputError
from roadshift.runtime.frames import Frame, open_frames
from roadshift.runtime.pictures.media_kinds import WRITTEN_VIDEO_SUFFIXES
from roadshift.runtime.pipeline import Result
from roadshift.runtime.pipeline.pacing import rate_of
from roadshift.runtime.pipeline.sinks import VideoSink, open_sink
from roadshift.runtime.video import avi, video_file
from roadshift.runtime.video.containers import container_damage
from roadshift.runtime.video.growing_file import GrowingFile
from roadshift.runtime.video.matroska import MatroskaFile
from roadshift.runtime.video.mp4 import Mp4File
from roadshift.runtime.video.recording import Recording
from roadshift.runtime.video.video_encoding import FragmentedVideo
from roadshift.runtime.video.video_file import count_packets
from spaces import TWO

WIDTH, HEIGHT = 64, 48
suffixes = pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    random = np.random.default_rng(index)
    return cv2.resize(random.integers(0, 256, (6, 8, 3), dtype=np.uint8), (width, height))


def record(path: Path, count: int, rate: float = 10.0, **settings: object) -> Recording:
    recording = Recording(path, **settings)  # type: ignore[arg-type]
    recording.open(rate, (WIDTH, HEIGHT))
    for index in range(count):
        recording.write(picture(index))
    return recording


# ---- what is written --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITTEN_VIDEO_SUFFIXES)
@pytest.mark.parametrize("count", [1, 32, 33, 100])
def test_a_video_has_every_picture_at_its_time(tmp_path: Path, suffix: str, count: int) -> None:
    path = tmp_path / f"clip{suffix}"
    record(path, count).publish()
    assert os.listdir(tmp_path) == [path.name]
    frames = list(open_frames(path))
    assert [frame.timestamp_ns for frame in frames] == [i * 100_000_000 for i in range(count)]
    for index in {0, count // 2, count - 1}:
        assert np.abs(frames[index].image.astype(float) - picture(index)).mean() < 15
    capture = cv2.VideoCapture(str(path))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (count, 10)
    if count > 40:  # the index finds pictures
        capture.set(cv2.CAP_PROP_POS_FRAMES, 40)
        assert np.abs(capture.read()[1][..., ::-1].astype(float) - picture(40)).mean() < 15


@pytest.mark.parametrize("rate", [0.1, 0.5, 1, 7.77, 24000 / 1001, 29.97, 30.303, 66.667, 240])
@suffixes
def test_every_rate_can_be_written(tmp_path: Path, suffix: str, rate: float) -> None:
    record(tmp_path / f"clip{suffix}", 3, rate).publish()
    frames = list(open_frames(tmp_path / f"clip{suffix}"))
    assert len(frames) == 3
    assert frames[-1].timestamp_ns == pytest.approx(2e9 / rate, rel=2e-3, abs=1e6)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_another_library_reads_the_same_before_and_after_a_video_is_finished(
    tmp_path: Path, suffix: str
) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / f"clip{suffix}"
    recording = record(path, 70, rate=25)
    for part, count in ((tmp_path / f".clip{suffix}.part{suffix}", 65), (path, 70)):
        with av.open(str(part)) as container:
            stream = container.streams.video[0]
            frames = [
                (frame.pts * stream.time_base, frame.key_frame) for frame in container.decode()
            ]
            assert stream.codec_context.extradata.startswith(b"\0\0\x01\xb0")
        assert [time for time, _ in frames] == [Fraction(i, 25) for i in range(count)]
        assert frames[0][1]
        if part != path:
            recording.publish()
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 25
        assert container.duration == 2_800_000


def test_an_mp4_that_cannot_grow_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    file = Mp4File(GrowingFile(descriptor), configuration=b"x", size=(8, 8), rate=Fraction(10))
    file.append([(b"picture", True)])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 500, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            file.append([(bytes(2000), True)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    file.append([(b"another", False)])
    file.finish()
    os.close(descriptor)
    data = path.read_bytes()
    assert data.startswith(before[: before.index(b"free") - 4])
    assert int.from_bytes(data[data.index(b"mdat") + 4 :][:8], "big") + 32 + 4 == data.rindex(
        b"moov"
    )


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_an_avi_of_several_parts_is_read_and_searched_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "clip.avi"
    recording = record(path, 20)
    monkeypatch.setattr(avi, "_LONGEST_PART", (tmp_path / ".clip.avi.part.avi").stat().st_size)
    for index in range(20, 20 * parts):
        recording.write(picture(index))
    recording.publish()
    data = path.read_bytes()
    assert data.count(b"RIFF") == parts
    assert container_damage(path) is None
    assert len(list(open_frames(path, on_skip=pytest.fail))) == 20 * parts
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 20 * parts
    last = 20 * parts - 1
    with av.open(str(path)) as container:  # by the table of indexes, from whichever part
        assert container.streams.video[0].frames == 20 * parts
        container.seek(round(last / 10 * 1e6))
        found = next(container.decode(video=0))
    assert found.time == pytest.approx(last / 10)
    assert np.abs(found.to_ndarray(format="rgb24").astype(float) - picture(last)).mean() < 15


# ---- what survives ----------------------------------------------------------------------------


WRITER = """
import os, resource, signal, sys
import cv2, numpy as np
from pathlib import Path
from roadshift.runtime.errors import RoadshiftError
from roadshift.runtime.video.recording import Recording
path, count, end, limit = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
recording = Recording(path)
recording.open(10, (320, 160))
random = np.random.default_rng(0)
try:
    try:
        for _ in range(count):
            small = random.integers(0, 256, (8, 16, 3), dtype=np.uint8)
            recording.write(cv2.resize(small, (320, 160)))
    except RoadshiftError:
        recording.abandon()
        raise
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "wait":
        print("recording", flush=True)
        sys.stdin.read()
    recording.publish()
except RoadshiftError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def writer(path: Path, count: int, end: str = "publish", limit: int = 0) -> list[str]:
    return [sys.executable, "-c", WRITER, str(path), str(count), end, str(limit)]


@suffixes
def test_a_killed_run_leaves_a_video_that_the_next_one_keeps(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    assert subprocess.run(writer(path, 200, "kill"), check=False).returncode == -9
    said: list[str] = []
    record(path, 3, note=said.append).publish()
    kept = tmp_path / f"clip.incomplete{suffix}"
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, kept.name])
    assert said == [f"an earlier run did not finish {path}; what it recorded is kept as {kept}."]
    frames = len(list(open_frames(kept, on_skip=lambda _: None)))
    assert 140 <= frames <= 200
    assert len(list(open_frames(path))) == 3


def test_a_picture_of_an_avi_is_in_the_file_at_once(tmp_path: Path) -> None:
    recording = record(tmp_path / "clip.avi", 0)
    for index in range(3):
        recording.write(picture(index))
        assert count_packets(tmp_path / ".clip.avi.part.avi") == index + 1
    recording.publish()


def test_an_avi_is_written_and_kept_where_opencv_has_no_ffmpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: False)
    monkeypatch.setattr(video_file, "_open_packets", lambda _: cv2.VideoCapture())
    record(tmp_path / "whole.avi", 3).publish()
    record(tmp_path / "cut.avi", 3, note=lambda _: None).abandon()
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["cut.incomplete.avi", "whole.avi"]
    assert [count_packets(path) for path in tmp_path.iterdir()] == [3, 3]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_picture_is_in_the_file_within_a_second(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    path.touch()
    now = 0.0
    container = MatroskaFile if suffix == ".mkv" else Mp4File
    encoding = FragmentedVideo(
        container, path, tmp_path / "group.mkv", 10, (WIDTH, HEIGHT), clock=lambda: now
    )
    in_file = []
    for index, time_s in enumerate([0.0, 0.4, 0.9, 1.1, 1.5, 5.0, 9.0]):
        now = time_s
        encoding.write(picture(index).copy())
        in_file.append(count_packets(path))
    assert in_file == [1, 1, 1, 4, 4, 6, 7]
    assert encoding.close() == 7


def test_a_slow_engine_s_video_begins_after_two_seconds(tmp_path: Path) -> None:
    now = 0.0
    with VideoSink(tmp_path / "a.mp4", TWO, overlays=True, clock=lambda: now) as sink:
        in_file = []
        for index in range(5):
            now = 0.9 * index
            frame = Frame(picture(index), f"{index}", index * 40_000_000)
            sink(Result(frame, np.zeros((HEIGHT, WIDTH), np.uint8), {}, 0.0))
            in_file.append(count_packets(tmp_path / ".a.mp4.part.mp4"))
    assert in_file[:3] == [0, 0, 0]
    assert in_file[3] > 0
    assert len(list(open_frames(tmp_path / "a.mp4"))) == 5


def test_what_several_killed_runs_left_is_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    for _ in range(2):
        subprocess.run(writer(path, 40, "kill"), check=False, capture_output=True)
    record(path, 1, note=lambda _: None).publish()
    expected = ["clip.incomplete-2.mp4", "clip.incomplete.mp4", "clip.mp4"]
    assert sorted(os.listdir(tmp_path)) == expected


def test_a_killed_run_that_recorded_nothing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    subprocess.run(writer(path, 0, "kill"), check=False)
    said: list[str] = []
    recording = record(path, 0, note=said.append)
    recording.abandon()
    assert (os.listdir(tmp_path), said) == ([], [])


def kept_frames(folder: Path, said: str) -> int:
    """Frames in all files of a folder, each of which is named in what was said."""
    paths = list(folder.iterdir())
    assert [str(path) in said for path in paths] == [True] * len(paths)
    return sum(len(list(open_frames(path, on_skip=lambda _: None))) for path in paths)


@suffixes
def test_a_file_that_may_not_grow_is_one_sentence_and_what_is_valid_is_kept(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"clip{suffix}"
    ran = subprocess.run(
        writer(path, 200, limit=600_000), check=False, capture_output=True, text=True
    )
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "OutputError" in ran.stderr
    kept = tmp_path / f"clip.incomplete{suffix}"
    assert str(kept) in ran.stderr
    assert kept_frames(tmp_path, ran.stderr) >= 30


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB; the test is skipped where none can be made."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(["mount", *options], check=False, capture_output=True).returncode
    )
    if not mounted:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@suffixes
def test_a_disk_that_fills_up_is_noticed_and_what_is_valid_is_kept(
    small_disk: Path, suffix: str
) -> None:
    path = small_disk / f"clip{suffix}"
    said: list[str] = []
    written = 0

    def fill() -> None:
        nonlocal written
        labels = np.zeros((320, 640), np.uint8)
        with open_sink(path, TWO, overlays=True, note=said.append) as sink:
            for written in range(3000):
                frame = Frame(picture(written, 640, 320), f"{written}", written * 40_000_000)
                sink(Result(frame, labels, {}, 0.0))

    with pytest.raises(OutputError, match="the disk is full"):
        fill()
    kept = small_disk / f"clip.incomplete{suffix}"
    assert f"kept as {kept}" in said[-1]
    assert written - 70 <= kept_frames(small_disk, said[-1]) <= written + 1


# ---- two at once ------------------------------------------------------------------------------


def test_two_runs_to_one_video_are_one_refusal(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with subprocess.Popen(
        writer(path, 3, "wait"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "recording\n"
        with pytest.raises(OutputError, match=r"clip\.mp4: another run is writing this video"):
            Recording(path)
        other.communicate("")
    assert other.returncode == 0
    assert len(list(open_frames(path))) == 3


@suffixes
def test_a_name_that_was_taken_meanwhile_is_not_replaced_unless_asked(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"clip{suffix}"
    recording = record(path, 3, replace=False)
    path.write_text("somebody else's")
    with pytest.raises(OutputError, match=r"made by somebody else .* kept as .*clip\.incomplete"):
        recording.publish()
    assert path.read_text() == "somebody else's"
    assert len(list(open_frames(tmp_path / f"clip.incomplete{suffix}"))) == 3
    record(path, 2, replace=True).publish()
    assert len(list(open_frames(path))) == 2


def test_two_runs_into_one_folder_are_one_refusal(tmp_path: Path) -> None:
    first = open_sink(tmp_path / "out", TWO)
    with pytest.raises(OutputError, match="out: another run is writing into this folder"):
        open_sink(tmp_path / "out", TWO)
    with first:
        pass
    with open_sink(tmp_path / "out", TWO):
        pass


def test_unfinished_files_that_a_dead_run_left_in_a_folder_are_removed(tmp_path: Path) -> None:
    labels = tmp_path / "out" / "labels"
    labels.mkdir(parents=True)
    (labels / ".0.png.4711.part").write_bytes(b"half")
    (labels / "1.png").write_bytes(b"whole")
    with open_sink(tmp_path / "out", TWO):
        pass
    assert os.listdir(labels) == ["1.png"]


# ---- in time ----------------------------------------------------------------------------------

TIMES_MS = {
    "constant": [40 * i for i in range(40)],
    "milliseconds": [round(1000 / 30 * i) for i in range(60)],
    "variable": np.cumsum([0, *(33 if i % 2 else 100 for i in range(39))]).tolist(),
    "offset": [5000 + 33 * i for i in range(40)],
    "first gap": [0, *(1000 + 33 * i for i in range(39))],
    "gap inside": [33 * i + (4000 if i > 19 else 0) for i in range(40)],
    "jitter": [33 * i + i % 3 for i in range(40)],
    "time lapse": [30_000 * i for i in range(5)],
}


def numbered(number: int, time_ms: int) -> Result:
    """A result whose class colours show its number, one white or black column for each bit."""
    bits = [number >> bit & 1 for bit in range(8)]
    labels = np.repeat(np.array(bits, np.uint8), WIDTH // 8)[None].repeat(HEIGHT, axis=0)
    frame = Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), f"{number}", time_ms * 1_000_000)
    return Result(frame, labels, {}, 0.0)


def number_of(image: np.ndarray) -> int:
    columns = image.mean(axis=(0, 2)).reshape(8, -1).mean(axis=1)
    return sum(int(value > 127) << bit for bit, value in enumerate(columns))


def shown_at(path: Path, times_ms: list[int]) -> dict[int, float]:
    """The time at which each numbered picture of a written video is first shown, in ms."""
    with open_sink(path, TWO, note=lambda _: None) as sink:
        for index, time in enumerate(times_ms):
            sink(numbered(index, time))
    first: dict[int, float] = {}
    for frame in open_frames(path):
        first.setdefault(number_of(frame.image), frame.timestamp_ns / 1e6)
    return first


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("times", TIMES_MS)
def test_every_picture_is_shown_at_its_time(tmp_path: Path, suffix: str, times: str) -> None:
    expected = np.subtract(TIMES_MS[times], TIMES_MS[times][0])
    found = shown_at(tmp_path / f"clip{suffix}", TIMES_MS[times])
    assert sorted(found) == list(range(len(expected)))
    rate = rate_of([time * 1_000_000 for time in TIMES_MS[times]])
    assert rate is not None
    for index, time in enumerate(expected):
        assert found[index] == pytest.approx(time, abs=500 / rate + 2)


def test_pictures_that_come_faster_than_the_rate_are_left_out_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    with open_sink(
        tmp_path / "a.mkv", TWO, overlays=True, rate=lambda: 2.0, note=said.append
    ) as sink:
        for index, time in enumerate([0, 10, 20, 500, 1000]):
            frame = Frame(picture(index), f"{index}", time * 1_000_000)
            sink(Result(frame, np.zeros((HEIGHT, WIDTH), np.uint8), {}, 0.0))
    assert len(list(open_frames(tmp_path / "a.mkv"))) == 3
    assert "2 frames came faster than its 2 a second and are left out" in said[0]


def test_videos_one_after_the_other_keep_their_times(tmp_path: Path) -> None:
    found = shown_at(tmp_path / "a.mp4", [0, 100, 200, 0, 100, 300])
    assert [round(found[i]) for i in range(6)] == [0, 100, 200, 300, 400, 600]


def test_images_are_shown_at_the_rate_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    with open_sink(tmp_path / "a.mp4", TWO, note=said.append, fps=4) as sink:
        for index in range(40):
            frame = Frame(picture(index), f"{index}", 0)
            sink(Result(frame, np.zeros((HEIGHT, WIDTH), np.uint8), {}, 0.0))
    times = [frame.timestamp_ns for frame in open_frames(tmp_path / "a.mp4")]
    assert times == [i * 250_000_000 for i in range(40)]
    assert said == [
        f"{tmp_path / 'a.mp4'}: images have no times; they are shown at 4 a second (fps)."
    ]


def test_the_rate_of_uneven_times_is_that_of_their_short_intervals() -> None:
    ms = 1_000_000
    assert rate_of([]) is None
    assert rate_of([5, 5, 3]) is None
    assert rate_of([0, 50 * ms]) == pytest.approx(20)
    assert rate_of([i * 33 * ms + (i % 3) * ms for i in range(24)]) == pytest.approx(30.3, rel=0.01)
    assert rate_of([0, 1000 * ms, 1033 * ms, 1066 * ms]) == pytest.approx(30.3, rel=0.01)
    assert rate_of([0, 1]) == 240


def test_a_relative_path_with_a_colon_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("12:30:00.mp4", "12:30:00.mkv"):
        record(Path(name), 3).publish()
        assert count_packets(Path(name)) == 3
    assert sorted(os.listdir(tmp_path)) == ["12:30:00.mkv", "12:30:00.mp4"]
