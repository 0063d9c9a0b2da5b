"""Pictures of one connection that OpenCV holds, for cameras and streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import FrameError


class Capture:
    """RGB pictures of an open ``cv2.VideoCapture``, once, until it gives none; then released.

    Args:
        capture: open or not; its pictures are uint8 (H, W, 3) BGR.
        title: begins the message where they are not, which only a pipeline of one's own can cause.

    Attributes:
        fps: frames a second as the source says, None where it does not.
        frames: how many it says that it has; 0 or less of what is live.
    """

    def __init__(self, capture: Any, title: str = "The source") -> None:
        self._capture = capture
        self._title = title
        self.opened = capture.isOpened()
        rate = capture.get(cv2.CAP_PROP_FPS) if self.opened else 0
        self.fps: float | None = rate if 0 < rate < 1000 else None
        self.frames: float = capture.get(cv2.CAP_PROP_FRAME_COUNT) if self.opened else 0

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        try:
            while self.opened:
                good, image = self._capture.read()
                if not good:
                    return
                if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                    raise FrameError(
                        f"{self._title} gives pictures of shape {image.shape} ({image.dtype}), "
                        "and BGR is wanted; put videoconvert ! video/x-raw,format=BGR before its "
                        "appsink, or leave the appsink out."
                    )
                yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        finally:
            self.close()

    def close(self) -> None:
        """Let the camera or the stream go."""
        self._capture.release()
