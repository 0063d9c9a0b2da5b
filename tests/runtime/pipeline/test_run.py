"""`run` as in a car: the newest frame wins, every frame is accounted for, and it ends cleanly."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from damaged_videos import damage_pictures, write_mpeg4
from fake_engines import Threshold
from processes import until
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.errors import ConfigError, FrameError, OutputError
from roadshift.runtime.frames import Frame, images, open_frames
from roadshift.runtime.frames.capture import Capture
from roadshift.runtime.frames.images import write_image
from roadshift.runtime.frames.live import LiveSource
from roadshift.runtime.pipeline import Pipeline, Result
from roadshift.runtime.pipeline import runner as pipeline_module
from roadshift.runtime.pipeline.handoff import Handoff
from roadshift.runtime.pipeline.latency import Latencies
from roadshift.runtime.pipeline.run_frames import run_frames
from roadshift.runtime.pipeline.sinks import open_sink
from spaces import TWO

TIMEOUT_S = 60.0  # only a failure waits so long


@pytest.fixture(autouse=True)
def cameras_that_hang_are_left_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "LEAVE_AFTER_S", 0.05)


def frame(index: int, time_ms: int = 0) -> Frame:
    return Frame(np.full((48, 64, 3), index % 256, np.uint8), f"{index:06d}", time_ms * 1_000_000)


class Feed:
    """An endless camera that gives a frame whenever the test asks for one, as OpenCV would."""

    def __init__(self) -> None:
        self.wanted: threading.Semaphore = threading.Semaphore(0)
        self.broken = False
        self.given = 0

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return not self.broken

    def get(self, _: int) -> float:
        return 20.0

    def read(self) -> tuple[bool, Any]:
        self.wanted.acquire()
        if self.broken:
            return False, None
        self.given += 1
        return True, np.full((48, 64, 3), self.given % 256, np.uint8)

    def release(self) -> None:
        pass

    def source(self, **settings: Any) -> LiveSource:
        return LiveSource("camera:0", lambda: Capture(self), note=lambda _: None, **settings)


# ---- the newest frame wins --------------------------------------------------------------------


def test_while_the_engine_is_busy_newer_frames_replace_the_one_that_waits() -> None:
    feed = Feed()
    entered, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def busy() -> None:
        entered.release()
        assert go_on.acquire(timeout=TIMEOUT_S)

    pipeline = Pipeline(feed.source(), Threshold(busy), newest=True)
    names: list[str] = []
    caller = threading.Thread(
        target=lambda: names.extend(r.frame.name[-1] for r in pipeline), daemon=True
    )
    caller.start()
    feed.wanted.release()
    assert entered.acquire(timeout=TIMEOUT_S)  # the engine holds frame 0
    for read in range(2, 6):  # frames 1 to 4 come meanwhile
        feed.wanted.release()
        until(lambda read=read: pipeline.frames_read == read)
    assert (pipeline.dropped, pipeline.in_flight) == (3, 2)
    go_on.release()
    assert entered.acquire(timeout=TIMEOUT_S)  # the engine holds frame 4, the newest
    feed.wanted.release()
    until(lambda: pipeline.frames_read == 6)
    pipeline.stop()
    go_on.release(2)
    caller.join(TIMEOUT_S)
    assert names == ["0", "4", "5"]  # and frame 5, which waited at the stop, came through
    assert (pipeline.frames_read, pipeline.dropped, pipeline.in_flight) == (6, 3, 0)
    feed.wanted.release()


def test_a_slow_sink_holds_up_the_engine_and_no_more_frames_wait_than_the_depth() -> None:
    """The engine's lead is bounded, so the frames that come meanwhile are dropped."""
    feed = Feed()
    go_on = threading.Event()
    pipeline = Pipeline(
        feed.source(),
        Threshold(),
        depth=0,
        newest=True,
        sink=lambda _: go_on.wait(TIMEOUT_S),
    )
    count = 0

    def consume() -> None:
        nonlocal count
        for _ in pipeline:
            count += 1

    caller = threading.Thread(target=consume, daemon=True)
    caller.start()
    for read in range(1, 31):
        feed.wanted.release()
        until(lambda read=read: pipeline.frames_read == read)
    until(lambda: pipeline.in_flight <= 4)
    assert pipeline.dropped >= 26
    pipeline.stop()
    go_on.set()
    caller.join(TIMEOUT_S)
    assert pipeline.frames_read == 30 == count + pipeline.dropped
    feed.wanted.release()


def test_a_recording_is_never_dropped_from_however_late_the_caller_is() -> None:
    pipeline = Pipeline((frame(i) for i in range(50)), Threshold())
    for _ in pipeline:
        threading.Event().wait(0.001)
    assert (pipeline.frames, pipeline.frames_read, pipeline.dropped) == (50, 50, 0)


def test_frames_that_are_abandoned_are_in_flight() -> None:
    with Pipeline((frame(i) for i in range(50)), Threshold(), depth=2) as pipeline:
        next(iter(pipeline))
    assert pipeline.in_flight == pipeline.frames_read - 1 <= 5


def test_after_its_end_a_handoff_refuses_counts_nothing_and_gives_what_waits() -> None:
    handoff: Handoff[int] = Handoff(newest=False)
    assert handoff.put(1)
    error = FrameError("lost")
    handoff.end(error)
    handoff.end()
    assert not handoff.put(2)
    assert (handoff.given, handoff.dropped) == (1, 0)
    assert [handoff.get(), handoff.get(), handoff.get()] == [1, error, error]


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_of_latencies_are_right_to_a_hundredth(seed: int) -> None:
    times = np.random.default_rng(seed).lognormal(2, 1.5, 5000)
    latencies = Latencies()
    assert latencies.summary() == {"p50": 0, "p90": 0, "p99": 0, "max": 0}
    for time in times:
        latencies.add(float(time))
    for percent in (50, 90, 99):
        exact = np.percentile(times, percent, method="inverted_cdf")
        assert latencies.percentile(percent) == pytest.approx(exact, rel=0.01)
    assert latencies.summary()["max"] == times.max()
    latencies.add(0.0)
    latencies.add(1e12)
    assert latencies.summary()["max"] == 1e12


# ---- accounting and ends ----------------------------------------------------------------------


def accounted(summary: dict[str, Any]) -> bool:
    assert summary["in_flight"] == 0
    out = summary["frames"] + summary["dropped"] + summary["frames_skipped"]
    return bool(summary["frames_read"] == out)


def folder_of(path: Path, count: int) -> Path:
    path.mkdir()
    for index in range(count):
        write_image(path / f"{index}.png", frame(index).image)
    return path


def test_damaged_frames_of_a_recording_stay_in_it_and_are_counted(tmp_path: Path) -> None:
    path, said = damage_pictures(write_mpeg4(tmp_path / "drive.mp4"), [7, 15]), list[str]()
    titles = list[str]()

    def phase(title: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
        titles.append(f"{title}, {total}")
        return nullcontext(lambda _: None)

    frames = open_frames(path, on_skip=said.append)
    summary = run_frames(frames, Threshold(), None, note=said.append, phase=phase)
    assert accounted(summary)
    assert (summary["frames"], summary["frames_skipped"], summary["damaged"]) == (24, 0, 2)
    assert titles == ["checking drive.mp4 for damage, 24"]
    assert [sentence.split(": ")[1][:38] for sentence in said] == [
        "2 of 24 frames were decoded with error"
    ]


def test_a_bad_file_in_the_middle_is_skipped_and_accounted_for(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 5)
    (source / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    summary = run_frames(open_frames(source, on_skip=lambda _: None), Threshold(), tmp_path / "out")
    assert accounted(summary)
    assert (summary["frames"], summary["frames_read"], summary["dropped"]) == (4, 5, 0)
    assert (summary["ended_by"], summary["reconnects"]) == ("end", None)
    assert sorted(os.listdir(tmp_path / "out/labels")) == ["0.png", "1.png", "3.png", "4.png"]


def test_without_an_output_there_are_figures_alone(tmp_path: Path) -> None:
    source = open_frames(folder_of(tmp_path / "in", 3))
    summary = run_frames(source, Threshold(), None)
    assert (summary["frames"], summary["out"]) == (3, None)
    assert set(summary["latency_ms"]) == {"p50", "p90", "p99", "max"}
    assert 0 < summary["latency_ms"]["p50"] <= summary["stages_ms"]["end_to_end_ms"] * 10
    assert json.loads(json.dumps(summary)) == summary
    assert os.listdir(tmp_path) == ["in"]


def test_max_frames_counts_what_is_read(tmp_path: Path) -> None:
    source = open_frames(folder_of(tmp_path / "in", 6))
    summary = run_frames(source, Threshold(), None, max_frames=4)
    assert (summary["frames"], summary["ended_by"]) == (4, "max_frames")
    assert accounted(summary)
    assert run_frames(source, Threshold(), None, max_frames=9)["ended_by"] == "end"


def drive(feed: Feed, frames: int) -> threading.Thread:
    """Let the camera give ``frames`` frames, from another thread, and then hang."""
    thread = threading.Thread(target=lambda: feed.wanted.release(frames), daemon=True)
    thread.start()
    return thread


def test_a_camera_that_hangs_does_not_keep_a_signal_waiting(tmp_path: Path) -> None:
    feed = Feed()
    drive(feed, 12)
    done = 0

    def report(frames: int, dropped: int) -> None:
        nonlocal done
        done = frames + dropped

    summary = run_frames(
        feed.source(),
        Threshold(),
        tmp_path / "clip.mp4",
        stop_requested=lambda: done == 12,
        report=report,
    )
    assert (summary["ended_by"], summary["frames_read"]) == ("signal", 12)
    assert accounted(summary)
    assert len(list(open_frames(tmp_path / "clip.mp4"))) >= 1
    feed.wanted.release()


def test_duration_ends_a_run() -> None:
    feed = Feed()
    drive(feed, 3)
    now = iter([100.0, *[105.0] * 3, *[111.0] * 99])
    summary = run_frames(feed.source(), Threshold(), None, duration_s=10, clock=lambda: next(now))
    assert summary["ended_by"] == "duration"
    assert accounted(summary)
    feed.wanted.release()


def test_a_camera_that_is_lost_leaves_what_was_written(tmp_path: Path) -> None:
    feed = Feed()

    def breaks(result: int, _: int) -> None:
        feed.broken = result == 1
        feed.wanted.release()

    drive(feed, 1)
    summary = run_frames(
        feed.source(give_up_after_s=0), Threshold(), tmp_path / "clip.mp4", report=breaks
    )
    assert summary["ended_by"] == "lost"
    assert "camera:0 has given no frame" in summary["lost"]
    assert accounted(summary)
    assert len(list(open_frames(tmp_path / "clip.mp4"))) == 1


def test_a_camera_that_was_never_there_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    feed = Feed()
    feed.broken = True
    for out in ("clip.mp4", "out"):
        with pytest.raises(FrameError, match="camera:0 cannot be opened"):
            run_frames(feed.source(), Threshold(), tmp_path / out)
    assert os.listdir(tmp_path) == []


def test_a_stop_before_the_first_frame_writes_nothing(tmp_path: Path) -> None:
    feed = Feed()
    out = tmp_path / "clip.mp4"
    summary = run_frames(feed.source(), Threshold(), out, stop_requested=lambda: True)
    assert (summary["frames"], summary["ended_by"]) == (0, "signal")
    assert os.listdir(tmp_path) == []
    feed.wanted.release()


def test_a_disk_that_fills_up_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = iter(range(99))
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if next(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(images.os, "replace", full)
    source = open_frames(folder_of_plain(tmp_path / "in", 5))
    with pytest.raises(OutputError, match=r"2\.png: the disk is full"):
        run_frames(source, Threshold(), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out/labels")) == ["0.png", "1.png"]


def folder_of_plain(path: Path, count: int) -> Path:
    """Images written by OpenCV alone, where our own writer is made to fail."""
    path.mkdir()
    for index in range(count):
        cv2.imwrite(str(path / f"{index}.png"), frame(index).image)
    return path


# ---- a video that keeps time ------------------------------------------------------------------


def written(path: Path, times_ms: list[int], **settings: Any) -> list[int]:
    """The grey of each picture of a video made of frames 0, 1, ... that came at those times."""
    with open_sink(path, TWO, overlays=True, **settings) as sink:
        for index, time in enumerate(times_ms):
            shown = frame(100 * index, time)
            sink(Result(shown, np.zeros((48, 64), np.uint8), {}, 0.0))
    # Overlays darken: half of what the frame was.
    return [round(picture.image.mean() / 50) for picture in open_frames(path)]


def test_pictures_are_held_until_the_next_frames_time(tmp_path: Path) -> None:
    held = written(tmp_path / "a.avi", [0, 50, 200], rate=lambda: 20.0)
    assert held == [0, 1, 1, 1, 2]
    assert written(tmp_path / "b.avi", [0, 50, 200]) == [0, 1, 1, 1, 2]  # its own rate: 20


def test_frames_that_come_faster_than_the_videos_rate_are_left_out(tmp_path: Path) -> None:
    assert written(tmp_path / "a.avi", [0, 20, 100], rate=lambda: 10.0) == [0, 2]


def test_a_long_gap_is_cut_to_ten_seconds(tmp_path: Path) -> None:
    held = written(tmp_path / "a.avi", [0, 500, 3_600_000], rate=lambda: 2.0)
    assert held == [0, 1, *[1] * 20, 2]


def test_images_have_the_rate_that_was_asked_for(tmp_path: Path) -> None:
    source = open_frames(folder_of(tmp_path / "in", 4))
    run_frames(source, Threshold(), tmp_path / "a.mp4", fps=25)
    times = [frame.timestamp_ns for frame in open_frames(tmp_path / "a.mp4")]
    assert times == [0, 40_000_000, 80_000_000, 120_000_000]


@pytest.mark.parametrize("fps", [float("inf"), float("nan"), 1e300, 0.0, -1.0])
@pytest.mark.parametrize("realtime", [False, True])
def test_a_rate_that_is_none_is_refused_before_anything_is_written(
    fps: float, realtime: bool, tmp_path: Path
) -> None:
    source = open_frames(folder_of(tmp_path / "in", 4))
    with pytest.raises(ConfigError, match=r"fps: .* is no rate; give 0.1 to 1000 frames a second"):
        run_frames(source, Threshold(), tmp_path / "a.mp4", fps=fps, realtime=realtime)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# ---- memory -----------------------------------------------------------------------------------


def test_thousands_of_frames_leave_nothing_behind() -> None:
    """With drops; what one frame would leave, 9 kB of pixels, is far above what is allowed."""

    def frames(count: int) -> Iterator[Frame]:
        return (frame(index) for index in range(count))

    def run(count: int) -> Pipeline:
        pipeline = Pipeline(frames(count), Threshold(), newest=True)
        for _ in pipeline:
            pass
        return pipeline

    run(300)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        pipeline = run(3000)
        gc.collect()
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    assert pipeline.frames_read == 3000 == pipeline.frames + pipeline.dropped
    grown = sum(row.size_diff for row in after.compare_to(before, "filename"))
    assert grown < 200_000


# ---- the command ------------------------------------------------------------------------------


@pytest.fixture
def drive_bundle(make_bundle: Callable[..., Bundle]) -> Path:
    return make_bundle("model", width=64, height=48).path


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "roadshift.cli", "run", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_a_whole_video_and_its_summary(
    tmp_path: Path, drive_bundle: Path, number: signal.Signals
) -> None:
    """Half an hour of images at their pace; the signal comes once the first are being written."""
    source = folder_of(tmp_path / "in", 3)
    many = [str(source)] * 600
    clip = tmp_path / "clip.mp4"
    process = start(
        *(drive_bundle, *many, "--out", clip, "--realtime", "--fps", "50", "--json"),
        *("--device", "cpu"),
    )
    try:
        part = tmp_path / ".clip.mp4.part.mp4"
        until(lambda: part.exists() and part.stat().st_size > 0)
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    summary = json.loads(out)
    assert process.returncode == 130  # a recording that was not run to its end
    assert "Traceback" not in err
    assert summary["ended_by"] == "signal"
    assert accounted(summary)
    assert 2 <= summary["frames"] < 1800
    assert len(list(open_frames(clip))) >= summary["frames"]
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "in", "model"]
