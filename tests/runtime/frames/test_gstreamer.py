"""GStreamer pipelines and CSI cameras: what OpenCV is given, what is shown, where it cannot be."""

from __future__ import annotations

import threading
from typing import Any

import cv2
import numpy as np
import pytest
from roadshift.runtime.addresses import hiding, is_live, without_password
from roadshift.runtime.errors import FrameError
from roadshift.runtime.frames import gstreamer
from roadshift.runtime.frames.gstreamer import SINK, csi_pipeline, pipeline_of
from roadshift.runtime.frames.live import open_live

SECRET = "gst:rtspsrc location=rtsp://me:hunter22@10.0.0.7/front user-pw=hunter22 ! rtph264depay"


class Pipeline:
    """A stand-in for OpenCV's capture of a running pipeline: one picture again and again."""

    def __init__(self, image: np.ndarray[Any, Any], length: int = -1) -> None:
        self.image = image
        self.length = length
        self.released = False
        self.asked: tuple[Any, ...] = ()

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def get(self, prop: int) -> float:
        return {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_FRAME_COUNT: self.length}.get(prop, 0.0)

    def read(self) -> tuple[bool, Any]:
        return True, self.image

    def release(self) -> None:
        self.released = True


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A running pipeline, in an OpenCV that has GStreamer."""
    pipeline = Pipeline(np.full((4, 8, 3), (200, 0, 0), np.uint8))  # blue, in OpenCV's order

    def capture(*asked: Any) -> Pipeline:
        pipeline.asked = asked
        return pipeline

    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda api: api == cv2.CAP_GSTREAMER)
    monkeypatch.setattr(cv2, "VideoCapture", capture)
    return pipeline


@pytest.mark.parametrize(
    ("address", "given"),
    [
        ("gst:videotestsrc", f"videotestsrc ! {SINK}"),
        ("gst: v4l2src ! image/jpeg ! jpegdec ! ", f"v4l2src ! image/jpeg ! jpegdec ! {SINK}"),
        ("gst:videotestsrc ! appsink", "videotestsrc ! appsink"),
        ("gst:a ! tee name=t t. ! b ! appsink drop=1", "a ! tee name=t t. ! b ! appsink drop=1"),
        ("gst:filesrc location=appsink.mp4", f"filesrc location=appsink.mp4 ! {SINK}"),
    ],
)
def test_a_pipeline_without_an_appsink_gets_one(address: str, given: str) -> None:
    assert pipeline_of(address) == given


@pytest.mark.parametrize("address", ["gst:", "gst:  ", "gst: ! "])
def test_an_empty_pipeline_is_refused(address: str) -> None:
    with pytest.raises(FrameError, match=r"no pipeline after the colon; .*gst-launch"):
        open_live(address)


def test_another_sink_at_the_end_is_refused() -> None:
    with pytest.raises(FrameError, match=r"^gst:videotestsrc: .* ends in autovideosink, which"):
        open_live("gst:videotestsrc ! autovideosink sync=false")


@pytest.mark.parametrize(
    ("address", "caps"),
    [
        ("csi:0", "video/x-raw(memory:NVMM)"),
        ("csi:1?size=1920x1080", "video/x-raw(memory:NVMM),width=1920,height=1080"),
        ("csi:0?fps=29.97", "video/x-raw(memory:NVMM),framerate=2997/100"),
        (
            "csi:0?size=1280x720&fps=30",
            "video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1",
        ),
    ],
)
def test_a_csi_camera_is_the_pipeline_of_nvidias_guide(address: str, caps: str) -> None:
    assert csi_pipeline(address) == (
        f"nvarguscamerasrc sensor-id={address[4]} ! {caps} ! nvvidconv "
        f"! video/x-raw,format=BGRx ! {SINK}"
    )


@pytest.mark.parametrize(
    "address",
    [
        *("csi:", "csi:front", "csi:-1", "csi:0?size=1280", "csi:0?fps=0", "csi:0?fourcc=MJPG"),
        *("csi:0?size=8x8 ! filesink location=x", "csi:0 ! fakesink", "csi:1000"),
    ],
)
def test_a_csi_camera_written_in_another_way_is_refused(address: str) -> None:
    with pytest.raises(FrameError, match=r"write csi:0, .*size=1280x720&fps=30"):
        open_live(address)


def test_a_csi_camera_with_a_number_that_none_has_is_refused() -> None:
    with pytest.raises(FrameError, match=r"csi:16: CSI cameras have numbers from 0 to 15"):
        open_live("csi:16")


def test_frames_come_as_rgb_under_the_name_of_the_first_element(pipeline: Pipeline) -> None:
    source = open_live("GST:videotestsrc ! video/x-raw,width=8,height=4")
    frames = iter(source)
    frame = next(frames)
    given = f"videotestsrc ! video/x-raw,width=8,height=4 ! {SINK}"
    assert pipeline.asked == (given, cv2.CAP_GSTREAMER)
    assert frame.image[0, 0].tolist() == [0, 0, 200]
    assert (source.title, frame.name, source.fps) == (
        "gst:videotestsrc",
        "gst_videotestsrc_000000",
        30.0,
    )


def test_a_csi_camera_is_opened_by_gstreamer(pipeline: Pipeline) -> None:
    source = open_live("csi:0?size=1280x720&fps=30")
    assert next(iter(source)).name == "csi_0_000000"
    assert pipeline.asked == (csi_pipeline("csi:0?size=1280x720&fps=30"), cv2.CAP_GSTREAMER)


@pytest.mark.parametrize(
    "image", [np.zeros((6, 8), np.uint8), np.zeros((4, 8, 2), np.uint8), np.zeros((4, 8), "u2")]
)
def test_pictures_in_another_format_are_refused_with_what_to_add(
    pipeline: Pipeline, image: np.ndarray[Any, Any]
) -> None:
    pipeline.image = image
    with pytest.raises(FrameError, match=r"gst:videotestsrc gives pictures of shape .*format=BGR"):
        next(iter(open_live("gst:videotestsrc ! appsink")))
    assert pipeline.released


def test_a_pipeline_that_plays_a_recording_is_no_live_source(pipeline: Pipeline) -> None:
    pipeline.length = 250
    with pytest.raises(FrameError, match=r"gst:filesrc plays a recording.*give the file"):
        next(iter(open_live("gst:filesrc location=a.mp4 ! decodebin")))


def test_a_pipeline_that_never_starts_is_given_up(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: release.wait() and pipeline)
    monkeypatch.setattr(gstreamer, "_STARTS_WITHIN_S", 0.05)
    with pytest.raises(FrameError, match=r"^gst:nosuchsrc has not started within 0\.05 s; .*gst-"):
        next(iter(open_live("gst:nosuchsrc")))
    release.set()


@pytest.mark.parametrize("address", ["csi:0", "gst:videotestsrc"])
def test_an_opencv_without_gstreamer_is_told_where_to_get_one(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: False)
    with pytest.raises(FrameError, match=rf"^{address} .* without it, .* docs/jetson\.md"):
        open_live(address)


def test_of_a_pipeline_only_the_first_element_is_shown() -> None:
    assert is_live(SECRET)
    assert without_password(SECRET) == "gst:rtspsrc"
    assert hiding([SECRET])(f"cannot open {SECRET}") == "cannot open gst:rtspsrc"
    with pytest.raises(FrameError) as error:
        open_live(SECRET + " ! fakesink")
    assert "hunter22" not in str(error.value)
