"""Pipeline and sinks: order, overlap, bounded memory, errors, early ends, what is written."""

import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import fake_engines
import numpy as np
import pytest
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import EngineError, FrameError, OutputError
from roadshift.runtime.frames import Frame, open_frames
from roadshift.runtime.frames.images import read_image, write_image
from roadshift.runtime.labels import read_labels
from roadshift.runtime.pipeline import Pipeline, Result
from roadshift.runtime.pipeline.overlay import overlay
from roadshift.runtime.pipeline.run_frames import run_frames
from roadshift.runtime.pipeline.runner import STAGES
from roadshift.runtime.pipeline.sinks import open_sink
from spaces import TWO

pytestmark = pytest.mark.usefixtures("same_threads")

TIMEOUT_S = 20.0


class Threshold(fake_engines.Threshold):
    width, height = 8, 4


def frame(index: int, height: int = 4, width: int = 8) -> Frame:
    random = np.random.default_rng(index)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Frame(image, f"{index:03d}", index * 50_000_000)


def our_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread not in before]


# ---- results ----------------------------------------------------------------------------------


def test_results_are_those_of_segment_in_the_order_of_the_frames() -> None:
    frames = [frame(i, *size) for i, size in enumerate([(4, 8), (8, 16), (5, 9), (4, 8)] * 5)]
    engine = Threshold()
    results = list(Pipeline(frames, engine))
    assert [result.frame.name for result in results] == [frame.name for frame in frames]
    for result in results:
        np.testing.assert_array_equal(result.labels, engine.segment(result.frame))


def test_every_stage_of_every_frame_is_timed_and_summed_up() -> None:
    written: list[Result] = []
    pipeline = Pipeline([frame(i) for i in range(5)], Threshold(), sink=written.append)
    results = list(pipeline)
    assert written == results
    for result in results:
        stages = result.stages_ms
        assert set(stages) == set(STAGES)
        work = sum(stages[stage] for stage in STAGES if stage not in ("sink_ms", "end_to_end_ms"))
        assert 0 < work <= stages["end_to_end_ms"]
    summary = pipeline.summary()
    assert summary["frames"] == 5
    assert summary["fps"] == pytest.approx(5 / pipeline.seconds)
    mean = np.mean([result.stages_ms["infer_ms"] for result in results])
    assert summary["stages_ms"]["infer_ms"] == pytest.approx(mean)  # type: ignore[index]


def test_decoding_inference_and_writing_overlap() -> None:
    """The three wait for each other: they meet only if all are at work at the same time."""
    meeting = threading.Barrier(3, timeout=TIMEOUT_S)

    def frames() -> Iterator[Frame]:
        for index in range(6):
            if index == 2:
                meeting.wait()
            yield frame(index)

    inferred = iter(range(6))
    written = iter(range(6))
    engine = Threshold(lambda: meeting.wait() if next(inferred) == 1 else None)
    pipeline = Pipeline(
        frames(), engine, sink=lambda _: meeting.wait() if next(written) == 0 else None
    )
    assert len(list(pipeline)) == 6


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_no_more_than_depth_plus_four_frames_are_in_memory(depth: int) -> None:
    alive: weakref.WeakSet[np.ndarray] = weakref.WeakSet()
    most = 0

    class Pixels(np.ndarray):  # a plain array takes no weak reference in a set: it has no hash
        __hash__ = object.__hash__

    def frames() -> Iterator[Frame]:
        nonlocal most
        for index in range(30):
            image = frame(index, 8, 16).image.view(Pixels)
            alive.add(image)
            most = max(most, len(alive))
            yield Frame(image, str(index), 0)

    count = 0
    for _ in Pipeline(frames(), Threshold(), depth):
        count += 1
        threading.Event().wait(0.002)  # a slow caller, so that the queues fill
    assert count == 30
    assert 1 < most <= depth + 4 + 1  # and the one that the generator above still holds


def test_a_frame_of_the_input_size_reaches_the_engine_without_a_copy() -> None:
    frames = [frame(i) for i in range(3)]
    seen = []

    class Looks(Threshold):
        def _infer(self, batch: np.ndarray) -> np.ndarray:
            seen.append(batch)
            return super()._infer(batch)

    list(Pipeline(frames, Looks()))
    assert all(np.shares_memory(b, f.image) for b, f in zip(seen, frames, strict=True))


def test_no_frames_give_no_results_and_a_pipeline_runs_once() -> None:
    pipeline = Pipeline([], Threshold())
    assert list(pipeline) == []
    assert pipeline.summary()["fps"] == 0.0
    with pytest.raises(RuntimeError, match="runs once"):
        list(pipeline)


# ---- errors and early ends --------------------------------------------------------------------


def failing_source(after: int) -> Iterator[Frame]:
    for index in range(after):
        yield frame(index)
    raise FrameError("the disk went away")


def collect(pipeline: Pipeline) -> tuple[list[str], Exception | None]:
    """The names of the frames that came out, and the error that ended the run."""
    names: list[str] = []
    try:
        names.extend(result.frame.name for result in pipeline)
    except Exception as error:
        return names, error
    return names, None


@pytest.mark.parametrize("stage", ["source", "infer", "sink"])
@pytest.mark.parametrize("after", [0, 1, 7])
def test_an_error_in_any_stage_is_raised_after_the_results_before_it(
    stage: str, after: int
) -> None:
    threads = set(threading.enumerate())
    counts = {"infer": iter(range(99)), "sink": iter(range(99))}

    def fail(here: str) -> None:
        if next(counts[here]) == after and here == stage:
            raise EngineError(f"{here} broke")

    source = failing_source(after) if stage == "source" else (frame(i) for i in range(50))
    pipeline = Pipeline(source, Threshold(lambda: fail("infer")), sink=lambda _: fail("sink"))
    names, error = collect(pipeline)
    assert isinstance(error, FrameError if stage == "source" else EngineError)
    assert str(error) == ("the disk went away" if stage == "source" else f"{stage} broke")
    assert names == [f"{i:03d}" for i in range(after)]
    assert our_threads(threads) == []


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_leaving_early_ends_the_threads_and_reads_no_further(taken: int) -> None:
    threads = set(threading.enumerate())
    read = 0

    def frames() -> Iterator[Frame]:
        nonlocal read
        while True:  # an endless drive
            read += 1
            yield frame(read)

    with Pipeline(frames(), Threshold(), depth=2) as pipeline:
        results = iter(pipeline)
        for _ in range(taken):
            next(results)
    assert our_threads(threads) == []
    assert read <= taken + 2 + 3
    assert list(results) == []  # closed: no result, and no hanging


def test_breaking_out_of_the_loop_ends_the_threads() -> None:
    threads = set(threading.enumerate())
    for result in Pipeline((frame(i) for i in range(1000)), Threshold()):
        if result.frame.name == "003":
            break
    assert our_threads(threads) == []


def test_an_error_in_the_callers_loop_ends_the_threads() -> None:
    threads = set(threading.enumerate())

    def fail(pipeline: Pipeline) -> None:
        for _ in pipeline:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Pipeline([frame(0)] * 50, Threshold()) as pipeline:
        fail(pipeline)
    assert our_threads(threads) == []


# ---- sinks ------------------------------------------------------------------------------------


def test_a_folder_gets_label_maps_and_overlays_by_name(
    tmp_path: Path, make_bundle: Callable[..., Bundle]
) -> None:
    (tmp_path / "in").mkdir()
    for index in range(3):
        write_image(tmp_path / "in" / f"{index}.png", frame(index, 20, 30).image)
    source = open_frames(tmp_path / "in")
    out = tmp_path / "out"
    with open_engine(make_bundle(), device="cpu") as engine:
        with open_sink(out, engine.label_space, overlays=True) as sink:
            results = list(Pipeline(source, engine, sink=sink))
        space = engine.label_space
    names = [result.frame.name for result in results]
    assert sorted(os.listdir(out / "labels")) == [f"{name}.png" for name in names]
    assert sorted(os.listdir(out / "overlays")) == [f"{name}.jpg" for name in names]
    for result in results:
        written = read_labels(out / "labels" / f"{result.frame.name}.png", space)
        np.testing.assert_array_equal(written, result.labels)
        picture = read_image(out / "overlays" / f"{result.frame.name}.jpg")
        expected = overlay(result.frame.image, result.labels, space)
        assert np.abs(picture.astype(float) - expected).mean() < 25  # JPEG of noise


def test_a_video_has_the_rate_and_size_of_its_frames(tmp_path: Path) -> None:
    frames = [frame(0, 48, 64), frame(1, 48, 64), frame(2, 24, 32)]  # 20 a second
    for overlays in (False, True):
        path = tmp_path / f"out{overlays}.mp4"
        with open_sink(path, TWO, overlays=overlays) as sink:
            list(Pipeline(frames, Threshold(), sink=sink))
        read = list(open_frames(path))
        assert [f.image.shape for f in read] == [(48, 64, 3)] * 3
        assert [f.timestamp_ns for f in read] == [0, 50_000_000, 100_000_000]
    assert sorted(os.listdir(tmp_path)) == ["outFalse.mp4", "outTrue.mp4"]


def test_a_video_of_one_still_and_one_of_odd_size_are_whole(tmp_path: Path) -> None:
    image = np.zeros((47, 63, 3), np.uint8)
    image[:, :32] = 255
    with open_sink(tmp_path / "one.avi", TWO) as sink:
        list(Pipeline([Frame(image, "still", 0)], Threshold(), sink=sink))
    (read,) = list(open_frames(tmp_path / "one.avi"))
    assert read.image[10, 5].min() > 200
    assert read.image[10, 55].max() < 50


def test_a_run_that_fails_keeps_its_video_beside_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"an older one")
    said: list[str] = []
    with pytest.raises(FrameError), open_sink(path, TWO, note=said.append) as sink:
        list(Pipeline(failing_source(5), Threshold(), sink=sink))
    assert sorted(os.listdir(tmp_path)) == ["out.incomplete.mp4", "out.mp4"]
    assert path.read_bytes() == b"an older one"
    assert len(list(open_frames(tmp_path / "out.incomplete.mp4"))) == 5
    kept = f"what there is of it is kept as {tmp_path / 'out.incomplete.mp4'}"
    assert said == [f"{path} was not finished; {kept}."]


def test_a_run_whose_first_frame_fails_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FrameError), open_sink(tmp_path / "out", TWO, overlays=True) as sink:
        list(Pipeline(failing_source(0), Threshold(), sink=sink))
    assert os.listdir(tmp_path) == []
    with pytest.raises(FrameError), open_sink(tmp_path / "out", TWO) as sink:
        list(Pipeline(failing_source(2), Threshold(), sink=sink))
    assert sorted(os.listdir(tmp_path / "out" / "labels")) == ["000.png", "001.png"]


def test_an_existing_output_is_refused_unless_overwritten(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(2):
        write_image(tmp_path / "in" / f"{index}.png", frame(index, 48, 64).image)
    one, both = open_frames(tmp_path / "in" / "0.png"), open_frames(tmp_path / "in")
    (tmp_path / "out").mkdir()  # empty: nothing to lose
    for out in (tmp_path / "out", tmp_path / "out.mp4"):
        run_frames(one, Threshold(), out)
        with pytest.raises(OutputError, match=f"{out.name}: already exists"):
            run_frames(both, Threshold(), out)
        run_frames(both, Threshold(), out, overwrite=True)
    assert len(list(open_frames(tmp_path / "out.mp4"))) == 2
    assert sorted(os.listdir(tmp_path / "out" / "labels")) == ["0.png", "1.png"]


def test_run_frames_reports_progress_and_what_was_skipped(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(3):
        write_image(tmp_path / "in" / f"{index}.png", frame(index).image)
    (tmp_path / "in" / "1.png").write_bytes(b"")
    done: list[int] = []
    source = open_frames(tmp_path / "in", on_skip=lambda _: None)
    summary = run_frames(source, Threshold(), tmp_path / "out", report=lambda n, _: done.append(n))
    assert done == [1, 2]
    assert (summary["frames"], summary["out"]) == (2, str(tmp_path / "out"))
    assert "1.png is damaged" in summary["skipped"][0]
    assert json.loads(json.dumps(summary)) == summary
    assert sorted(os.listdir(tmp_path / "out" / "labels")) == ["0.png", "2.png"]


def test_a_video_that_could_not_be_written_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: OpenCV's writer swallows the error, and frames are missing from the file."""
    written = iter(range(99))

    class Lossy:
        def __init__(self, *arguments: Any) -> None:
            self.writer = writer(*arguments)

        def write(self, image: np.ndarray) -> None:
            if next(written) < 5:
                self.writer.write(image)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.writer, name)

    writer = cv2.VideoWriter
    Lossy.fourcc = staticmethod(writer.fourcc)  # type: ignore[attr-defined]
    monkeypatch.setattr(cv2, "VideoWriter", Lossy)
    with (
        pytest.raises(OutputError, match=r"only 5 of 9 frames could be written; .*out\.incomplete"),
        open_sink(tmp_path / "out.mp4", TWO) as sink,
    ):
        list(Pipeline([frame(i, 48, 64) for i in range(9)], Threshold(), sink=sink))
    assert os.listdir(tmp_path) == ["out.incomplete.mp4"]
    assert len(list(open_frames(tmp_path / "out.incomplete.mp4"))) == 5


def test_outputs_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "no" / "folder", tmp_path / "no" / "clip.mp4", tmp_path / "file"):
        with pytest.raises(OutputError):
            open_sink(out, TWO)
    with pytest.raises(OutputError, match=r"out\.webm: videos of this kind are not written"):
        open_sink(tmp_path / "out.webm", TWO)
    assert os.listdir(tmp_path) == ["file"]
