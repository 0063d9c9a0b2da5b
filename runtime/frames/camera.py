"""Cameras of this machine, by number or device: `camera:0`."""

from __future__ import annotations

import cv2

from ..errors import FrameError
from ..words import shortened
from .capture import Capture
from .live_registry import Connect, device_and_settings, width_and_height

_MOST_CAMERAS = 99  # OpenCV reads the hundreds of a number as the library to open it with
_WRITTEN = {
    "size": r"[1-9][0-9]{0,5}x[1-9][0-9]{0,5}",
    "fps": r"[0-9]{0,5}\.?[0-9]{1,5}",
    "fourcc": r"[A-Za-z0-9_ ]{4}",
}


def open_camera(address: str) -> Connect:
    """Cameras as ``camera:`` and a number or a device, with what to ask of it behind a "?".

    Raises:
        FrameError: the address is written in another way.
    """
    device, settings = _parsed(address)

    def connect() -> Capture:
        capture = cv2.VideoCapture(int(device) if device.isdecimal() else device)
        for prop, value in settings:
            capture.set(prop, value)
        return Capture(capture)

    return connect


def _parsed(address: str) -> tuple[str, list[tuple[int, float]]]:
    """The device, a number or a path, and properties of OpenCV with values, in the order to set."""
    device, asked = device_and_settings(
        address,
        r"[0-9]+|/.+",
        _WRITTEN,
        "write camera:0 or camera:/dev/video0, and if wanted ?size=1280x720&fps=30&fourcc=MJPG "
        "after it, or some of these three",
    )
    if device.isdecimal() and (len(device) > 9 or int(device) > _MOST_CAMERAS):
        raise FrameError(
            f"camera:{shortened(device)}: cameras have numbers from 0 to {_MOST_CAMERAS}; "
            "`ls /dev/video*` shows those of this machine."
        )
    settings: list[tuple[int, float]] = []
    if "fourcc" in asked:  # first: what sizes there are depends on it
        settings.append((cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*asked["fourcc"])))
    if "size" in asked:
        width, height = width_and_height(asked["size"])
        settings += [(cv2.CAP_PROP_FRAME_WIDTH, width), (cv2.CAP_PROP_FRAME_HEIGHT, height)]
    if "fps" in asked:
        settings.append((cv2.CAP_PROP_FPS, float(asked["fps"])))
    settings.append((cv2.CAP_PROP_BUFFERSIZE, 1))  # the newest frame, where the driver can
    return device, settings
