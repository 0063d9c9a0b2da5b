"""GStreamer pipelines, ``gst:PIPELINE``, and a Jetson's CSI cameras through one, ``csi:0``.

OpenCV runs them where it was built with GStreamer. The pip package never is.
"""

from __future__ import annotations

import re
import threading
from fractions import Fraction
from typing import Any

import cv2

from ..errors import FrameError
from ..words import shortened
from .capture import Capture
from .live_registry import Connect, device_and_settings, shown, width_and_height

# What a pipeline ends in: OpenCV's order of colours, and of pictures that wait the newest alone.
SINK = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"

_STARTS_WITHIN_S = 30.0
_APPSINK = re.compile(r"(^|!)\s*appsink(\s|$)")
_MOST_SENSORS = 15  # more than a board has connectors for
_WRITTEN = {
    "size": r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}",
    "fps": r"[1-9][0-9]{0,2}(\.[0-9]{1,3})?",
}


def open_pipeline(address: str) -> Connect:
    """Pipelines as ``gst:`` and what ``gst-launch-1.0`` takes, without its sink.

    One without an ``appsink`` gets `SINK` at its end; one that has an ``appsink`` is run as it is.

    Raises:
        FrameError: the pipeline is empty or ends in another sink, or this OpenCV has no GStreamer.
    """
    return _connecting(address, pipeline_of(address))


def open_csi(address: str) -> Connect:
    """CSI cameras of a Jetson as ``csi:`` and a number, with what to ask of it behind a "?".

    Raises:
        FrameError: the address is written in another way, or this OpenCV has no GStreamer.
    """
    return _connecting(address, csi_pipeline(address))


def pipeline_of(address: str) -> str:
    """The pipeline that OpenCV is given for a ``gst:`` address.

    Raises:
        FrameError: it is empty, or ends in a sink that gives OpenCV nothing.
    """
    pipeline = address.removeprefix("gst:").strip().removesuffix("!").strip()
    last = (pipeline.rpartition("!")[2].split() or [""])[0]
    if not pipeline:
        raise FrameError(
            f"{shown(address)}: no pipeline after the colon; write one as gst-launch-1.0 takes it, "
            'such as "gst:v4l2src device=/dev/video0".'
        )
    if _APPSINK.search(pipeline):
        return pipeline
    if last.endswith("sink"):
        raise FrameError(
            f"{shown(address)}: the pipeline ends in {shortened(last)}, which keeps its pictures; "
            "leave the sink out, so that an appsink is added."
        )
    return f"{pipeline} ! {SINK}"


def csi_pipeline(address: str) -> str:
    """The pipeline of a ``csi:`` address; the camera's own size and rate where none is asked for.

    Source: NVIDIA, "Accelerated GStreamer", Jetson Linux Developer Guide: nvarguscamerasrc gives
    NV12 in memory of the GPU, and nvvidconv brings it to the CPU as BGRx.

    Raises:
        FrameError: the address is written in another way.
    """
    sensor, asked = device_and_settings(
        address,
        r"[0-9]{1,2}",
        _WRITTEN,
        "write csi:0, and if wanted ?size=1280x720&fps=30 after it, or one of these two",
    )
    if int(sensor) > _MOST_SENSORS:
        raise FrameError(f"csi:{sensor}: CSI cameras have numbers from 0 to {_MOST_SENSORS}.")
    caps = ["video/x-raw(memory:NVMM)"]
    if "size" in asked:
        width, height = width_and_height(asked["size"])
        caps += [f"width={width}", f"height={height}"]
    if "fps" in asked:
        rate = Fraction(asked["fps"])
        caps.append(f"framerate={rate.numerator}/{rate.denominator}")
    source = f"nvarguscamerasrc sensor-id={int(sensor)}"
    return f"{source} ! {','.join(caps)} ! nvvidconv ! video/x-raw,format=BGRx ! {SINK}"


def _started(pipeline: str, title: str) -> Any:
    """The running pipeline, a ``cv2.VideoCapture``, opened or not.

    OpenCV waits without end for a pipeline that cannot start, such as one whose first element is
    not installed; the thread that waits is left behind.

    Raises:
        FrameError: it has not started in time.
    """
    captures: list[Any] = []
    opening = threading.Thread(
        target=lambda: captures.append(cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)), daemon=True
    )
    opening.start()
    opening.join(_STARTS_WITHIN_S)
    if not captures:
        raise FrameError(
            f"{title} has not started within {_STARTS_WITHIN_S:g} s; see that its camera is there, "
            "and with gst-launch-1.0 that its elements are installed."
        )
    return captures[0]


def _connecting(address: str, pipeline: str) -> Connect:
    """Connect by way of OpenCV, if it can at all."""
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):  # built in, or a plugin beside it
        raise FrameError(
            f"{shown(address)} is read through GStreamer, and this OpenCV ({cv2.__version__}) was "
            "built without it, as the pip package always is; build one that has it, as "
            "docs/jetson.md says, or give a stream or camera:0."
        )

    def connect() -> Capture:
        capture = Capture(_started(pipeline, shown(address)), shown(address))
        if capture.frames > 0:  # it has an end, after which it would begin again and again
            capture.close()
            raise FrameError(
                f"{shown(address)} plays a recording, and is no live source; give the file."
            )
        return capture

    return connect
