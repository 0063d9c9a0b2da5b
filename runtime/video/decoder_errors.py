"""The frames of a video in whose decoding errors were met: a program for a process of its own.

    python -m roadshift.runtime.video.decoder_errors FILE

A decoder that meets damaged bytes repeats or mends parts of the picture and gives it like any
other. OpenCV passes none of FFmpeg's error flags on, but its log, on the process's standard output.
So both standard streams are diverted to a file here, one thread decodes, and what was logged while
a frame was fetched belongs to that frame.

The program ends when its standard input does: whoever started it is gone. Lines on standard input
are numbers of frames, after so many of which it ends. It writes JSON lines: ``{"frames": done}``
now and then, and last one with "errors", `DecoderErrors`, or with "why", a reason why the file
cannot be checked.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG_LEVEL = 32  # AV_LOG_INFO: the level of "concealing ... errors"
ENVIRONMENT = {"OPENCV_FFMPEG_DEBUG": "1", "OPENCV_FFMPEG_LOGLEVEL": str(LOG_LEVEL)}
"""What has to be set before OpenCV opens its first video."""

_ERROR_LEVEL = 16  # AV_LOG_ERROR; fatal and panic are lower
_HEADER = re.compile(r"\[OPENCV:FFMPEG:(-?\d+)\] ")
# Bookkeeping that encoders and cutters get wrong in pictures that are whole.
_NO_DAMAGE = re.compile(r"mmco|number of reference frames|short term buffer|\bSEI\b")
_EVERY_S = 0.5  # between two lines on how far it is
_TRIES = 32  # as many as whoever reads the video makes (`video_file`)


@dataclass(frozen=True)
class _Fetched:
    """Frames fetched from a decoder.

    Attributes:
        times_ms: of each.
        faulty: packet and frame numbers, as if every packet gave one frame at once, of the steps
            in which errors were logged, with the number of failures before.
    """

    times_ms: Sequence[float]
    faulty: Sequence[tuple[int, int]]


class _Messages:
    """Log of FFmpeg: standard output and standard error of this process, diverted to a file."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        self._library = ctypes.CDLL(None)  # the C library's, which holds text back

    def new(self) -> str:
        """Everything since the last call."""
        self._library.fflush(None)
        size = os.fstat(1).st_size
        if not size:
            return ""
        text = os.pread(1, size, 0)
        os.ftruncate(1, 0)
        os.lseek(1, 0, os.SEEK_SET)
        return text.decode(errors="replace")

    def has_new_error(self) -> bool:
        """Tell whether an error has been logged since the last call."""
        return any(map(is_error, self.new().splitlines()))


def is_error(line: str) -> bool:
    """Tell whether a line of FFmpeg's log, as OpenCV writes it, says that a picture is damaged."""
    header = _HEADER.match(line)
    if header is None or _NO_DAMAGE.search(line):
        return False
    return int(header[1]) <= _ERROR_LEVEL or line[header.end() :].startswith("concealing")


def find_errors(path: Path, limit: Callable[[], float], report: Callable[[int], None]) -> object:
    """The last line's content: which frames of a video were decoded with errors.

    Args:
        limit: asked all the time; look at no more frames.
        report: called with the number of frames done.
    """
    import cv2  # here: the environment of this process is set by then

    from ..file_names import library_path

    if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
        return {"why": "this OpenCV has no FFmpeg"}
    messages = _Messages()
    if not _logs(messages):
        return {"why": "this OpenCV does not pass on what FFmpeg logs"}
    with library_path(path) as opened:
        capture = cv2.VideoCapture(opened, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        return {"why": "FFmpeg cannot open it"}
    try:
        if int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG"):
            return {"frames": None, "errors": []}  # checked picture by picture by its reader
        messages.new()  # those of opening are about no frame
        fetched = _fetch(capture, messages, limit, report)
    finally:
        capture.release()
    frames = len(fetched.times_ms)
    found = sorted(_placed(path, fetched)) if fetched.faulty else []
    return {"frames": frames, "errors": [[at, fetched.times_ms[at]] for at in found]}


def _logs(messages: _Messages) -> bool:
    """Tell whether a message arrives: that on a file which is no video."""
    import cv2

    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(b"\0\0\0\x14ftypisom\0\0\0\0isom")
        file.flush()
        cv2.VideoCapture(file.name, cv2.CAP_FFMPEG).release()
    return messages.has_new_error()


def _fetch(
    capture: Any, messages: _Messages, limit: Callable[[], float], report: Callable[[int], None]
) -> _Fetched:
    import cv2

    times_ms, faulty = list[float](), list[tuple[int, int]]()
    failures = in_a_row = 0
    said = time.monotonic()
    while in_a_row < _TRIES and len(times_ms) < limit():
        if not capture.grab():  # its reader says that it is missing
            in_a_row += 1
            messages.new()
            continue
        failures += in_a_row
        in_a_row = 0
        if messages.has_new_error():
            faulty.append((len(times_ms) + failures, failures))
        times_ms.append(capture.get(cv2.CAP_PROP_POS_MSEC))
        if time.monotonic() - said >= _EVERY_S:
            said = time.monotonic()
            report(len(times_ms))
    return _Fetched(times_ms, faulty)


def _placed(path: Path, fetched: _Fetched) -> set[int]:
    """The numbers of the frames, in the order in which they are shown, that errors belong to.

    A decoder is ahead of what it shows where pictures are stored in another order. Errors before
    the first key picture are none of the file's, whose start was cut off, and neither are those in
    the last pictures of a file whose end is missing, which is said elsewhere: the last one is cut,
    and in AVI, which has no times of showing, the decoder may be one ahead unseen.
    """
    from .containers import container_damage

    last = len(fetched.times_ms) - 1
    stored = _packets(path, fetched.faulty[-1][0] + 2 * _TRIES)
    shown, ahead = stored.places(), stored.ahead()
    damage = container_damage(path)
    first = stored.keys.index(True) if True in stored.keys else 0
    is_cut = stored.are_all and damage is not None and damage.is_cut
    end = len(stored.keys) - 2 if is_cut else sys.maxsize
    found = set()
    for step, failures in fetched.faulty:
        packet = step + ahead
        place = shown.get(packet, packet)
        if first <= packet < end and place >= shown.get(first, 0):
            found.add(min(max(place - failures, 0), last))
    return found


@dataclass(frozen=True)
class _FirstPackets:
    """The first compressed pictures of a video, in the order in which they are stored.

    Attributes:
        times_ms: when each is shown.
        keys: tells of each whether it is a key picture.
        delay: pictures that a decoder is said to be ahead; 0 where the file does not say.
        are_all: tells whether there are no more.
    """

    times_ms: Sequence[float]
    keys: Sequence[bool]
    delay: int
    are_all: bool

    def places(self) -> dict[int, int]:
        """The place of each in the order in which they are shown."""
        order = sorted(range(len(self.times_ms)), key=lambda packet: self.times_ms[packet])
        return {packet: place for place, packet in enumerate(order)}

    def ahead(self) -> int:
        """Pictures that a decoder reads before it shows the first one, beside that.

        As many as their order asks for; encoders ask for one or two more in advance, which
        Matroska and transport streams do not say: there a frame's number may be off by one.
        """
        least = max((packet - place for packet, place in self.places().items()), default=0)
        return self.delay if least <= self.delay <= least + 2 else least


def _packets(path: Path, most: int) -> _FirstPackets:
    """At most so many compressed pictures of a video."""
    import cv2

    from ..file_names import library_path

    with library_path(path) as opened:
        capture = cv2.VideoCapture(opened, cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    times_ms, keys, delay, are_all = list[float](), list[bool](), 0, False
    try:
        while len(times_ms) < most:
            are_all = not capture.grab()
            if are_all:
                break
            if not times_ms and hasattr(cv2, "CAP_PROP_DTS_DELAY"):  # of OpenCV 4.11
                delay = int(capture.get(cv2.CAP_PROP_DTS_DELAY))
            times_ms.append(capture.get(cv2.CAP_PROP_POS_MSEC))
            keys.append(bool(capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME)))
    finally:
        capture.release()
    return _FirstPackets(times_ms, keys, delay, are_all)


class _FrameLimit:
    """The number of frames to look at, read from standard input by a thread."""

    def __init__(self) -> None:
        self.frames = float("inf")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self.frames = int(line)
        os._exit(1)  # nobody is left to tell


def main() -> None:
    """Check the file that the command line names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: whoever started this decides
    os.environ.update(ENVIRONMENT)
    if hasattr(os, "nice"):
        os.nice(19)
    answers = os.dup(1)
    limit = _FrameLimit()

    def say(answer: object) -> None:
        os.write(answers, json.dumps(answer).encode() + b"\n")

    if sys.platform == "win32":
        say({"why": "what FFmpeg logs is not within reach on Windows"})
        return
    try:
        say(find_errors(Path(sys.argv[1]), lambda: limit.frames, lambda n: say({"frames": n})))
    except OSError as error:
        say({"why": error.strerror or str(error)})


if __name__ == "__main__":
    main()
