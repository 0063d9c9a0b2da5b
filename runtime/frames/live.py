"""Frames as they come: a camera of this machine, or an RTSP or HTTP stream.

A live source has no end of its own. Where it fails it is opened again, each time after a longer
wait, until it has given nothing for a while.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any
from urllib.parse import parse_qsl

import cv2
import numpy as np

from ..addresses import SCHEMES, is_live, normal_address, without_password
from ..errors import FrameError
from ..file_names import is_utf8
from ..words import counted, shortened
from .source import Frame, FrameSource, log_skip, open_frames, safe_name

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0  # before opening again; doubled every time
GIVE_UP_AFTER_S = 60.0
_ANSWER_WITHIN_MS = 5000  # a stream that says nothing for so long has failed
_MOST_CAMERAS = 99  # OpenCV reads the hundreds of a number as the library to open it with


class LiveSource:
    """Frames of one camera or stream, for one iteration; made by `open_live`.

    Attributes:
        title: what it is called in messages and frame names, see `without_password`.
        reconnects: how often it failed and was opened again with success.
        fps: frames a second as the source says, None where it does not.
        length: None: nobody knows how many frames there will be.
    """

    length: None = None

    def __init__(
        self,
        title: str,
        connect: Callable[[], Any],
        *,
        note: Callable[[str], None] = log_skip,
        give_up_after_s: float = GIVE_UP_AFTER_S,
        clock_ns: Callable[[], int] = monotonic_ns,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.title = title
        self.reconnects = 0
        self.fps: float | None = None
        self._connect = connect
        self._note = note
        self._give_up_after_s = give_up_after_s
        self._clock_ns = clock_ns
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until `stop`, with the nanoseconds since the first one as their times.

        Raises:
            FrameError: the source cannot be opened, or gives nothing any more.
        """
        name = safe_name(self.title)
        start_ns = last_ns = None
        count, wait_s = 0, FIRST_WAIT_S
        while not self._stopped.is_set():
            failed = wait_s > FIRST_WAIT_S
            for image in self._connection():
                last_ns = self._clock_ns()
                start_ns = last_ns if start_ns is None else start_ns
                if failed:
                    self.reconnects += 1
                    self._note(f"{self.title} gives frames again.")
                failed, wait_s = False, FIRST_WAIT_S
                yield Frame(image, f"{name}_{count:06d}", last_ns - start_ns)
                count += 1
                if self._stopped.is_set():
                    return
            if last_ns is None:
                raise FrameError(
                    f"{self.title} cannot be opened, or gives no frame; check that it is there, "
                    "that no other program uses it, and that its address is right."
                )
            silent_s = (self._clock_ns() - last_ns) / 1e9
            if silent_s >= self._give_up_after_s:
                raise FrameError(
                    f"{self.title} has given no frame for {silent_s:.0f} s, after {count} before."
                )
            if not failed:
                self._note(
                    f"{self.title} stopped after {counted(count, 'frame')}; opening it again."
                )
            self._wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def stop(self) -> None:
        """End the iteration with the frame that is being read, or at once while it waits."""
        self._stopped.set()

    def _connection(self) -> Iterator[Any]:
        """RGB images of one connection, until it fails."""
        capture = self._connect()
        try:
            if not capture.isOpened():
                return
            self._refuse_recording(capture)
            rate = capture.get(cv2.CAP_PROP_FPS)
            self.fps = rate if 0 < rate < 1000 else None
            while not self._stopped.is_set():
                good, image = capture.read()
                if not good:
                    return
                yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        finally:
            capture.release()

    def _refuse_recording(self, capture: Any) -> None:
        """A file behind a URL comes as fast as the network: no time of its own, and an end."""
        frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if self.title.startswith("http") and frames > 0:
            raise FrameError(
                f"{self.title} is a recording of {counted(round(frames), 'frame')} and no "
                "live stream; download "
                "it and give the file."
            )


def open_source(
    sources: Sequence[str], *, note: Callable[[str], None] = log_skip
) -> FrameSource | LiveSource:
    """`open_live` of one live source, `open_frames` of anything else.

    Raises:
        FrameError: a live source is among several; or see there.
    """
    if not any(is_live(source) for source in sources):
        return open_frames(sources, on_skip=note)
    if len(sources) > 1:
        raise FrameError(
            f"{', '.join(map(_shown, sources))}: a live source has no end after which "
            "another could begin; give it alone, and start one run for each."
        )
    return open_live(sources[0], note=note)


def open_live(
    source: str,
    *,
    note: Callable[[str], None] = log_skip,
    give_up_after_s: float = GIVE_UP_AFTER_S,
) -> LiveSource:
    """Open a camera or a stream when it is iterated over.

        open_live("camera:0")  # the first camera, as it comes
        open_live("camera:/dev/video2?size=1280x720&fps=30&fourcc=MJPG")
        open_live("rtsp://user:password@10.0.0.7/front")

    Args:
        source: ``camera:`` and a number or a device, with the size, rate and pixel format to ask
            it for; or the URL of a stream. What a camera cannot do it does not do: the frames say
            what came.
        note: called with a sentence when the source fails, and when it is back.
        give_up_after_s: how long to try after the last frame.

    Raises:
        FrameError: the source is written in another way; or from the iteration, see there.
    """
    source = normal_address(source)
    if not is_utf8(source):
        raise FrameError(f"{_shown(source)}: an address is UTF-8; write other bytes as %XX.")
    if source.startswith("camera:"):
        camera = _parse_camera(source)
        return LiveSource(
            f"camera:{camera.device}",
            camera.connect,
            note=note,
            give_up_after_s=give_up_after_s,
        )
    scheme = source.split("://", 1)[0]
    if scheme not in SCHEMES or "://" not in source:
        raise FrameError(
            f"{_shown(source)} is no live source; write camera:0, or a URL that begins "
            f"with {', '.join(SCHEMES)}."
        )
    return LiveSource(
        without_password(source),
        lambda: cv2.VideoCapture(
            source,
            cv2.CAP_FFMPEG,
            [
                *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _ANSWER_WITHIN_MS),
                *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, _ANSWER_WITHIN_MS),
            ],
        ),
        note=note,
        give_up_after_s=give_up_after_s,
    )


def _shown(source: str) -> str:
    """An address as a sentence may repeat it."""
    return shortened(without_password(source))


@dataclass(frozen=True)
class _LocalCamera:
    device: str  # a number, or a path
    settings: tuple[tuple[int, float], ...]  # property of OpenCV, value; in the order to set them

    def connect(self) -> Any:
        capture = cv2.VideoCapture(int(self.device) if self.device.isdecimal() else self.device)
        for prop, value in self.settings:
            capture.set(prop, value)
        return capture


_WRITTEN = {
    "size": r"[1-9][0-9]{0,5}x[1-9][0-9]{0,5}",
    "fps": r"[0-9]{0,5}\.?[0-9]{1,5}",
    "fourcc": r"[A-Za-z0-9_ ]{4}",
}


def _parse_camera(source: str) -> _LocalCamera:
    device, _, query = source.removeprefix("camera:").partition("?")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    if not re.fullmatch(r"[0-9]+|/.+", device) or any(
        key not in _WRITTEN or not re.fullmatch(_WRITTEN[key], value)
        for key, value in asked.items()
    ):
        raise FrameError(
            f"{_shown(source)}: write camera:0 or camera:/dev/video0, and if wanted "
            "?size=1280x720&fps=30&fourcc=MJPG after it, or some of these three."
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
        width, height = map(int, asked["size"].split("x"))
        settings += [(cv2.CAP_PROP_FRAME_WIDTH, width), (cv2.CAP_PROP_FRAME_HEIGHT, height)]
    if "fps" in asked:
        settings.append((cv2.CAP_PROP_FPS, float(asked["fps"])))
    settings.append((cv2.CAP_PROP_BUFFERSIZE, 1))  # the newest frame, where the driver can
    return _LocalCamera(device, tuple(settings))
