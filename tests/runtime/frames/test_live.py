"""Cameras and streams: how they are named and opened, frames and times, reconnecting, giving up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from roadshift.runtime.errors import FrameError
from roadshift.runtime.frames import Frame, FrameSource, live_registry, open_frames
from roadshift.runtime.frames.capture import Capture
from roadshift.runtime.frames.live import LiveSource, open_live, open_source
from roadshift.runtime.frames.live_registry import LIVE_SOURCES, register_live_source
from roadshift.runtime.installed import load
from roadshift.runtime.pipeline.pacing import Paced


class Camera:
    """A stand-in for OpenCV's capture of a camera: so many grey frames, then nothing."""

    def __init__(self, frames: int, *, opens: bool = True) -> None:
        self.frames = frames
        self.opens = opens
        self.released = False
        self.asked: dict[int, float] = {}

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.opens

    def get(self, prop: int) -> float:
        return {cv2.CAP_PROP_FPS: 30.0}.get(prop, 0.0)

    def set(self, prop: int, value: float) -> bool:
        self.asked[prop] = value
        return True

    def read(self) -> tuple[bool, Any]:
        if self.frames == 0:
            return False, None
        self.frames -= 1
        image = np.zeros((4, 8, 3), np.uint8)
        image[..., 0] = 200  # blue, in OpenCV's order
        return True, image

    def release(self) -> None:
        self.released = True


class World:
    """A clock that only waiting moves, and the cameras that each opening finds."""

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self.now_ns = 7_000_000_000
        self.waits: list[float] = []
        self.notes: list[str] = []
        self.cameras = list(cameras)
        self.opened: list[Camera] = []

    def connect(self) -> Camera:
        self.opened.append(self.cameras.pop(0) if self.cameras else Camera(0, opens=False))
        self.now_ns += 1_000_000
        return self.opened[-1]

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_ns += round(seconds * 1e9)

    def source(self, **settings: Any) -> LiveSource:
        return LiveSource(
            "camera:0",
            lambda: Capture(self.connect()),
            note=self.notes.append,
            clock_ns=lambda: self.now_ns,
            wait=self.wait,
            **settings,
        )


def read(source: LiveSource) -> tuple[list[Frame], str]:
    """The frames, and the sentence with which it ended."""
    frames: list[Frame] = []
    with pytest.raises(FrameError) as error:
        frames.extend(source)
    return frames, str(error.value)


# ---- frames, failures -------------------------------------------------------------------------


def test_frames_are_rgb_with_a_name_and_the_time_since_the_first() -> None:
    world = World([Camera(3)])
    frames = iter(world.source())
    first = next(frames)
    world.now_ns += 40_000_000
    second = next(frames)
    assert (first.name, second.name) == ("camera_0_000000", "camera_0_000001")
    assert (first.timestamp_ns, second.timestamp_ns) == (0, 40_000_000)
    assert first.image[0, 0].tolist() == [0, 0, 200]


def test_after_a_failure_it_is_opened_again_and_counts_on() -> None:
    gone = Camera(0, opens=False)
    world = World([Camera(2), gone, Camera(0), Camera(2)])
    source = world.source(give_up_after_s=30)
    frames, _ = read(source)
    assert [frame.name[-1] for frame in frames] == ["0", "1", "2", "3"]
    assert source.reconnects == 1
    assert world.waits[:3] == [0.5, 1.0, 2.0]
    assert world.waits[3] == 0.5  # a success starts the waits anew
    assert world.notes == [
        "camera:0 stopped after 2 frames; opening it again.",
        "camera:0 gives frames again.",
        "camera:0 stopped after 4 frames; opening it again.",
    ]
    assert all(camera.released for camera in world.opened)


def test_waits_grow_to_a_bound_and_end() -> None:
    world = World([Camera(1)])
    frames, sentence = read(world.source(give_up_after_s=40))
    assert len(frames) == 1
    assert world.waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0][: len(world.waits)]
    assert 40 <= sum(world.waits) + 0.1 < 49
    assert "camera:0 has given no frame for 4" in sentence
    assert "after 1 before" in sentence


@pytest.mark.parametrize("camera", [Camera(0, opens=False), Camera(0)])
def test_what_never_gives_a_frame_is_refused_at_once(camera: Camera) -> None:
    world = World([camera])
    _, sentence = read(world.source())
    assert "camera:0 cannot be opened, or gives no frame" in sentence
    assert world.waits == []
    assert camera.released


def test_stop_ends_it_between_frames_and_while_it_waits() -> None:
    world = World([Camera(10)])
    source = world.source()
    frames = iter(source)
    next(frames)
    source.stop()
    assert list(frames) == []
    assert world.opened[0].released

    notes = threading.Event()
    world = World([Camera(1)])
    waits = LiveSource("x", lambda: Capture(world.connect()), note=lambda _: notes.set())
    thread = threading.Thread(target=lambda: list(waits), daemon=True)
    thread.start()
    assert notes.wait(20)
    waits.stop()
    thread.join(20)
    assert not thread.is_alive()


# ---- names ------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of each `cv2.VideoCapture`; what it gives is the last entry's last item."""
    calls: list[tuple[Any, ...]] = []

    def capture(*arguments: Any) -> Camera:
        calls.append((*arguments, Camera(1)))
        return calls[-1][-1]  # type: ignore[no-any-return]

    monkeypatch.setattr(cv2, "VideoCapture", capture)
    return calls


def test_a_camera_is_asked_for_format_size_and_rate_in_that_order(
    opened: list[tuple[Any, ...]],
) -> None:
    next(iter(open_live("camera:2?size=1280x720&fps=30&fourcc=MJPG")))
    device, camera = opened[0]
    assert device == 2
    assert list(camera.asked.items()) == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 30.0),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]
    next(iter(open_live("camera:/dev/video3")))
    assert opened[1][0] == "/dev/video3"
    assert opened[1][1].asked == {cv2.CAP_PROP_BUFFERSIZE: 1}


@pytest.mark.parametrize(
    "name",
    [
        "camera:",
        "camera:front",
        "camera:0?size=1280",
        "camera:0?size=0x720",
        "camera:0?rate=30",
        "camera:0?fps=fast",
        "camera:0?fourcc=JPEGS",
        "camera:-1",
    ],
)
def test_a_camera_written_in_another_way_is_refused(name: str) -> None:
    with pytest.raises(FrameError, match=r"write camera:0 or camera:/dev/video0.*size=1280x720"):
        open_live(name)


def test_other_schemes_and_several_live_sources_are_refused() -> None:
    with pytest.raises(FrameError, match=r"ftp://x/\*\*\* is no live source"):
        open_live("ftp://x/y")
    with pytest.raises(FrameError, match="give it alone"):
        open_source(["camera:0", "camera:1"])


def test_a_camera_with_a_number_that_none_has_is_refused() -> None:
    for number in ("100", "999999999999", "9" * 5000):
        with pytest.raises(FrameError, match=r"camera:\d{3,30}[^:]*: cameras have .* 0 to 99"):
            open_live(f"camera:{number}")


@pytest.mark.parametrize(
    "name", ["camera:0?size=" + "9" * 5000, "x" * 5000 + "://host", "camera:" + "9" * 5000]
)
def test_an_address_of_any_length_is_refused_in_one_short_sentence(name: str) -> None:
    with pytest.raises(FrameError) as caught:
        open_live(name)
    assert len(str(caught.value)) < 300
    assert "of 5,0" in str(caught.value)


@pytest.mark.parametrize(
    ("written", "asked"),
    [("/dev/video0", "/dev/video0"), ("CAMERA:0", 0), ("Camera:/dev/video3?fps=30", "/dev/video3")],
)
def test_a_device_and_capitals_are_a_camera(
    opened: list[tuple[Any, ...]], written: str, asked: object
) -> None:
    source = open_source([written])
    assert isinstance(source, LiveSource)
    next(iter(source))
    assert opened[0][0] == asked


def test_capitals_of_a_scheme_are_those_that_ffmpeg_knows(opened: list[tuple[Any, ...]]) -> None:
    next(iter(open_source(["RTSP://10.0.0.7/Front"])))
    assert opened[0][0] == "rtsp://10.0.0.7/Front"


def test_a_bare_number_is_told_how_a_camera_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FrameError, match=r"^0 does not exist; .* is written camera:0\)\.$"):
        open_source(["0"])


def test_a_password_is_used_and_never_said(opened: list[tuple[Any, ...]]) -> None:
    url = "rtsp://driver:s3cr@t@10.0.0.7:554/front?x=1"
    source = open_live(url)
    frame = next(iter(source))
    assert opened[0][0] == url
    assert source.title == "rtsp://***@10.0.0.7:554/***"
    assert frame.name == "rtsp_10.0.0.7_554__000000"


@pytest.mark.parametrize("secret", ["driver:s3cret@10.0.0.7/front", "driver@10.0.0.7/?p=s3cret"])
@pytest.mark.parametrize(
    "refused",
    [
        lambda url: open_source([url, "camera:0"]),
        lambda url: open_live(url.replace("rtsp", "gopher")),
        open_frames,
    ],
)
def test_a_password_is_not_said_by_what_refuses_the_url(
    refused: Callable[[str], Any], secret: str
) -> None:
    with pytest.raises(FrameError, match=r"\*\*\*@10\.0\.0\.7") as error:
        refused(f"rtsp://{secret}")
    assert "s3cret" not in str(error.value)
    assert "driver" not in str(error.value)


def test_a_recording_behind_a_url_is_refused(
    opened: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Camera, "get", lambda *_: 300.0)
    with pytest.raises(
        FrameError, match=r"10\.0\.0\.7/\*\*\* is a recording of 300 frames.*download it"
    ):
        next(iter(open_live("http://10.0.0.7/clip.mp4")))
    assert opened[0][-1].released


def test_files_are_opened_as_before(tmp_path: Any) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((4, 8, 3), np.uint8))
    source = open_source([str(tmp_path)])
    assert isinstance(source, FrameSource)
    assert len(source) == 1


# ---- sources that are added -------------------------------------------------------------------


@pytest.fixture
def dashcam(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[str], Any]]:
    """Registers ``dashcam:``, each connection of which gives what it is told."""
    monkeypatch.setattr(live_registry, "_REGISTERED", {})

    def register(*pictures: object) -> Callable[[str], Any]:
        @register_live_source("dashcam")
        def open_dashcam(address: str) -> Any:
            if not address.removeprefix("dashcam:").strip("/").isalnum():
                raise FrameError(f"{address}: write dashcam:NUMBER.")
            return lambda: iter(pictures)

        return open_dashcam

    return register


def test_a_registered_source_is_opened_by_its_scheme_and_connected_again(
    dashcam: Callable[..., Any],
) -> None:
    dashcam(np.full((4, 6, 3), 7, np.uint8), np.full((4, 6, 3), 9, np.uint8))
    source = open_source(["DashCam:3"])
    assert isinstance(source, LiveSource)
    assert source.title == "dashcam:3"
    frames = []
    for frame in source:
        frames.append(frame)
        if len(frames) == 3:
            source.stop()
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [7, 9, 7]
    assert [frame.name for frame in frames] == [f"dashcam_3_{i:06d}" for i in range(3)]
    assert (source.reconnects, source.fps) == (1, None)
    with pytest.raises(FrameError, match="write dashcam:NUMBER"):
        open_live("dashcam:?")
    with pytest.raises(FrameError, match="dashcam:3 is a live stream, and this needs frames"):
        open_frames("dashcam:3")
    with pytest.raises(FrameError, match=r"begins with rtsp, .*, dashcam\."):
        open_live("gopher://x")


@pytest.mark.parametrize("given", [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3)), "picture"])
def test_what_is_no_picture_is_refused(dashcam: Callable[..., Any], given: object) -> None:
    dashcam(given)
    with pytest.raises(FrameError, match=r"dashcam:3: its opener gave \w+ where a picture"):
        next(iter(open_live("dashcam:3")))


@pytest.mark.parametrize(
    ("scheme", "opener", "why"),
    [
        ("rtsp", list, "Roadshift opens sources of that scheme itself"),
        ("camera", list, "Roadshift opens sources of that scheme itself"),
        ("dashcam", list, "opens them already"),
        ("gige", 3, "3 cannot be called"),
        ("C", list, "two lower-case letters or more"),
        ("gige:", list, "two lower-case letters or more"),
    ],
)
def test_a_source_that_cannot_be_registered_is_refused(
    dashcam: Callable[..., Any], scheme: str, opener: Any, why: str
) -> None:
    dashcam()
    with pytest.raises(FrameError, match=why):
        register_live_source(scheme, opener)


@pytest.mark.parametrize("scheme", LIVE_SOURCES)
def test_every_source_of_the_registry_is_there(scheme: str) -> None:
    assert callable(load(LIVE_SOURCES[scheme]))


# ---- a true stream ----------------------------------------------------------------------------


@pytest.fixture
def stream() -> Iterator[str]:
    """The URL of a motion JPEG server whose connections break after five frames."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for index in range(5):
                _, jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 50 * index, np.uint8))
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg.tobytes() + b"\r\n")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/front"
        server.shutdown()


def test_an_http_stream_is_read_and_read_again_when_it_breaks(stream: str) -> None:
    source = open_live(stream, note=lambda _: None)
    levels = []
    for frame in source:
        levels.append(round(frame.image.mean()))
        if len(levels) == 8:
            source.stop()
    assert levels == pytest.approx([0, 50, 100, 150, 200, 0, 50, 100], abs=2)
    assert source.reconnects == 1
    assert source.fps


# ---- pace -------------------------------------------------------------------------------------


def paced(times_ms: Sequence[int], reading_s: float = 0.0, **settings: Any) -> list[float]:
    """The time of each frame, in seconds since the first, if reading one takes ``reading_s``."""
    now = 100.0

    def frames() -> Iterator[Frame]:
        nonlocal now
        for index, time in enumerate(times_ms):
            now += reading_s
            yield Frame(np.zeros((1, 1, 3), np.uint8), str(index), time * 1_000_000)

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    source = Paced(frames(), clock=lambda: now, wait=wait, **settings)
    came = [(now, frame.timestamp_ns / 1e9) for frame in source]
    assert all(at - came[0][0] >= due - 1e-6 for at, due in came)  # never early
    return [round(at - came[0][0], 3) for at, _ in came]


def test_frames_come_at_their_times_and_on_from_one_video_to_the_next() -> None:
    assert paced([0, 40, 80, 200]) == [0, 0.04, 0.08, 0.2]
    assert paced([0, 40, 0, 40], fps=20) == [0, 0.04, 0.09, 0.13]


def test_images_come_at_the_rate_given() -> None:
    assert paced([0, 0, 0]) == [0, 0.1, 0.2]
    assert paced([0, 0, 0], fps=4) == [0, 0.25, 0.5]


def test_a_slow_disk_is_not_made_up_for_by_waiting_less_than_nothing() -> None:
    assert paced([0, 40, 80], reading_s=0.1) == [0, 0.1, 0.2]
    assert paced([0, 40, 80], reading_s=0.01) == [0, 0.04, 0.08]
