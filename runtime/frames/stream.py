"""Streams by URL, which FFmpeg reads: RTSP, HTTP and others."""

from __future__ import annotations

import cv2

from ..addresses import without_password
from ..errors import FrameError
from ..words import counted
from .capture import Capture
from .live_registry import Connect

_ANSWER_WITHIN_MS = 5000  # a stream that says nothing for so long has failed
_TIMEOUTS = [
    *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _ANSWER_WITHIN_MS),
    *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, _ANSWER_WITHIN_MS),
]


def open_stream(address: str) -> Connect:
    """The stream of a URL; connecting to a recording behind one is a `FrameError`."""

    def connect() -> Capture:
        capture = Capture(cv2.VideoCapture(address, cv2.CAP_FFMPEG, _TIMEOUTS))
        if address.startswith("http") and capture.frames > 0:
            # It comes as fast as the network: no time of its own, and an end.
            capture.close()
            raise FrameError(
                f"{without_password(address)} is a recording of "
                f"{counted(round(capture.frames), 'frame')} and no live stream; download it and "
                "give the file."
            )
        return capture

    return connect
