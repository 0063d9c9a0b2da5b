"""Frames as they come: a camera of this machine, or an RTSP or HTTP stream.

A live source has no end of its own. Where it fails it is opened again, each time after a longer
wait, until it has given nothing for a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from time import monotonic_ns
from typing import Any

from ..addresses import without_password
from ..errors import FrameError
from ..file_names import is_utf8
from ..words import counted
from .live_registry import Connect, is_live, normal_address, opener_of, shown
from .readers import is_picture
from .source import Frame, FrameSource, log_skip, open_frames
from .source_files import safe_name

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0  # before opening again; doubled every time
GIVE_UP_AFTER_S = 60.0


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
        connect: Connect,
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
        """Pictures of one connection, until it fails."""
        connection = self._connect()
        self.fps = getattr(connection, "fps", None) or self.fps
        pictures = iter(connection)
        while not self._stopped.is_set():
            image = next(pictures, None)
            if image is None:
                return
            if not is_picture(image):
                raise FrameError(
                    f"{self.title}: its opener gave {type(image).__name__} where a picture, uint8 "
                    "(H, W, 3) RGB, was wanted."
                )
            yield image


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
            f"{', '.join(map(shown, sources))}: a live source has no end after which "
            "another could begin; give it alone, and start one run for each."
        )
    return open_live(sources[0], note=note)


def open_live(
    source: str, *, note: Callable[[str], None] = log_skip, give_up_after_s: float = GIVE_UP_AFTER_S
) -> LiveSource:
    """Open a camera or a stream when it is iterated over.

        open_live("camera:0")  # the first camera, as it comes
        open_live("camera:/dev/video2?size=1280x720&fps=30&fourcc=MJPG")
        open_live("rtsp://user:password@10.0.0.7/front")
        open_live("csi:0?size=1920x1080&fps=30")  # of a Jetson
        open_live("gst:v4l2src device=/dev/video0 ! image/jpeg ! jpegdec")

    Args:
        source: ``camera:`` and a number or a device, with the size, rate and pixel format to ask
            it for; ``csi:`` and a number; the URL of a stream; ``gst:`` and a GStreamer pipeline
            without its sink; or as `register_live_source` adds. What a camera cannot do it does not
            do: the frames say what came.
        note: called with a sentence when the source fails, and when it is back.
        give_up_after_s: how long to try after the last frame.

    Raises:
        FrameError: the source is written in another way; or from the iteration, see there.
    """
    address = normal_address(source)
    if not is_utf8(address):
        raise FrameError(f"{shown(address)}: an address is UTF-8; write other bytes as %XX.")
    connect = opener_of(address)(address)
    title = without_password(address)
    if "://" not in title:
        title = title.partition("?")[0]  # what a camera is asked for is not what it is called
    return LiveSource(title, connect, note=note, give_up_after_s=give_up_after_s)
