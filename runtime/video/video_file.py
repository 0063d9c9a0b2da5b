"""Frames of one video file, with their times, and an account of what could not be decoded.

OpenCV ends a video at the first frame that cannot be decoded, and says nothing. Reading on shows
that it was not the end; so every frame that is left out is counted. The frames of motion JPEG are
checked one by one. Of other codecs a frame whose damage the decoder hides (it repeats or mends
parts of the picture) cannot be told from a good one: OpenCV passes none of FFmpeg's error flags on,
in either direction. FFmpeg's log tells ("concealing ... errors"), but a callback for it in Python
waits for Python's lock in the decoder's threads, and whoever drops another capture holds that lock
while it waits for those threads: the process hangs. So a process of its own reads it: see
`damage_watch`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..file_names import library_path
from ..lfs_pointers import IS_LFS_POINTER, is_lfs_pointer
from ..pictures.jpeg import is_cut_or_out_of_step
from ..pictures.picture_size import too_large
from ..words import counted
from .containers import Damage, container_damage, is_matroska, matroska_start_ns

# Where FFmpeg was not silenced, it writes its own messages to the standard error.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read at the first video

_SIDES = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
_TRIES = 32  # reads that may fail, one after the other, before a video has ended
_EVEN = 1.25  # the longest interval between evenly spaced frames, in mean ones
_COUNTED_AHEAD_BYTES = 2**30  # of larger files the length is not looked up


@dataclass(frozen=True, slots=True)
class LostFrames:
    """Frames that a source should have given and did not.

    Attributes:
        sentence: says what is wrong with which file.
        frames: those that are there and cannot be decoded; what was cut off is none.
    """

    sentence: str
    frames: int


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """A picture, (H, W, 3) uint8 RGB, and its time since the start of its video."""

    image: NDArray[np.uint8]
    timestamp_ns: int


def read_video(path: Path) -> Iterator[VideoFrame | LostFrames]:
    """The frames of a video in order, and after them what was lost, if anything was."""
    capture = _open(path)
    try:
        if refusal := _refusal(capture):
            yield LostFrames(f"{path} {refusal}.", 0)
            return
        account = _FrameAccount(
            path,
            _codec(capture),
            capture.get(cv2.CAP_PROP_FRAME_COUNT),
            capture.get(cv2.CAP_PROP_FPS),
        )
        check = _MotionJpegCheck(path) if account.codec == "MJPG" else None
        while (failures := _grab(capture)) is not None:
            account.add_damaged(failures)
            good, image = capture.retrieve()
            if not good or (check and check.is_damaged(capture.get(cv2.CAP_PROP_POS_MSEC))):
                account.add_damaged(1)
                continue
            timestamp_ns = max(round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6), 0)
            account.add_good(timestamp_ns)
            rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            yield VideoFrame(rgb, timestamp_ns)
    finally:
        capture.release()
    yield from account.losses()


@dataclass
class _FrameAccount:
    """The frames read of a video, against its header, to say at the end what is lost."""

    path: Path
    codec: str  # four letters
    stated_frames: float
    stated_fps: float
    frames: int = 0
    damaged: int = 0
    damaged_at_end: int = 0  # of them, those behind the last good frame
    good_before_damage: int = 0
    first_ns: int = 0
    last_ns: int = 0
    longest_ns: int = 0  # between two good frames

    def add_good(self, timestamp_ns: int) -> None:
        self.first_ns = self.first_ns if self.frames else timestamp_ns
        if self.frames:
            self.longest_ns = max(self.longest_ns, timestamp_ns - self.last_ns)
        self.last_ns = timestamp_ns
        self.frames += 1
        self.damaged_at_end = 0

    def add_damaged(self, frames: int) -> None:
        if frames and not self.damaged:
            self.good_before_damage = self.frames
        self.damaged += frames
        self.damaged_at_end += frames

    def losses(self) -> Iterator[LostFrames]:
        try:
            damage = container_damage(self.path)
        except OSError as error:  # a disk that was unplugged ends a video as well
            yield LostFrames(f"{self.path} cannot be read: {error.strerror or error}.", 0)
            return
        if self.frames == 0:
            yield LostFrames(self._nothing_sentence(damage), self.damaged)
            return
        if damage is not None and damage.is_cut:  # through its last picture
            self.damaged -= self.damaged_at_end
        if self.damaged:
            yield LostFrames(
                f"{self.path} is damaged: {self.damaged} of "
                f"{counted(self.frames + self.damaged, 'frame')} "
                "cannot be decoded and are left out, the first of them after "
                f"{self.good_before_damage} good ones.",
                self.damaged,
            )
        if damage is not None:
            yield LostFrames(self._container_sentence(damage), 0)

    def _nothing_sentence(self, damage: Damage | None) -> str:
        if is_lfs_pointer(self.path):
            return f"{self.path} {IS_LFS_POINTER}."
        nothing = f"{self.path} has no frame that can be decoded: "
        name = self.path.name
        if damage is None and expected_frames(self.path):
            codec = f" ({self.codec})" if self.codec.isprintable() and self.codec else ""
            return (
                f"{nothing}this OpenCV may have no decoder for its codec{codec}, or it does not "
                "begin with a whole picture; convert it with "
                f"`ffmpeg -i {name} -c:v libx264 converted.mp4`."
            )
        return (
            f"{nothing}it is damaged or its recording was not finished; try to repair it with "
            f"`ffmpeg -i {name} -c copy repaired.mp4`."
        )

    def _container_sentence(self, damage: Damage) -> str:
        expected = self._expected()
        were = f"{counted(self.frames, 'frame')} {'was' if self.frames == 1 else 'were'}"
        if expected is not None and expected > self.frames:
            were = f"{self.frames} of {expected} frames were"
        if damage.is_cut:
            return f"{self.path} ends early: {were} read, {damage.reason}."
        return (
            f"{self.path} is damaged: {damage.reason}; {were} read, and "
            "what lies behind it may be missing."
        )

    def _expected(self) -> int | None:
        """Frames that a cut file's header tells of.

        That of Matroska states a duration alone, which tells of frames where those read were
        evenly spaced; None otherwise.
        """
        if self.stated_frames <= 0:
            return None
        if not is_matroska(self.path):
            return int(self.stated_frames)
        start_ns = matroska_start_ns(self.path)
        if start_ns is None or self.stated_fps <= 0 or self.frames < 2:
            return None
        interval_ns = (self.last_ns - self.first_ns) / (self.frames - 1)
        if interval_ns <= 0 or self.longest_ns > _EVEN * interval_ns:
            return None
        return round((self.stated_frames / self.stated_fps * 1e9 - start_ns) / interval_ns)


def count_frames(path: Path, go_on: Callable[[], bool] = lambda: True) -> int:
    """Frames that `read_video` gives, counted by decoding all and converting none.

    Damaged ones of motion JPEG, which a decoder does not notice, are counted with the others.

    Args:
        go_on: asked before each frame; False ends the counting.
    """
    capture = _open(path)
    return 0 if _refusal(capture) else _count(capture, go_on)


def expected_frames(path: Path) -> int | None:
    """The number of compressed pictures in a video, which is nearly always that of its frames.

    Found by reading the file without decoding it, so None for one of more than 1 GiB, and where
    OpenCV has no FFmpeg. Some codecs have pictures that are never shown.
    """
    try:
        is_large = path.stat().st_size > _COUNTED_AHEAD_BYTES
    except OSError:
        return None
    if is_large or not can_read_packets():
        return None
    return count_packets(path)


def can_read_packets() -> bool:
    """Tell whether OpenCV has FFmpeg, which alone gives compressed pictures."""
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG))


def count_packets(path: Path) -> int:
    """Compressed pictures in a video; 0 where it cannot be opened, or OpenCV has no FFmpeg."""
    return _count(_open_packets(path))


def _count(capture: Any, go_on: Callable[[], bool] = lambda: True) -> int:
    """Frames that are left in an OpenCV capture, which is then released."""
    frames = 0
    try:
        while capture.isOpened() and go_on() and _grab(capture) is not None:
            frames += 1
    finally:
        capture.release()
    return frames


@dataclass(frozen=True)
class Packets:
    """A video that is read without decoding it.

    Attributes:
        configuration: the decoder's.
        size: width and height.
        rate: pictures a second.
        pictures: compressed, each with whether it is a key picture; to be iterated once.
    """

    configuration: bytes
    size: tuple[int, int]
    rate: float
    pictures: Iterator[tuple[bytes, bool]]


def read_packets(path: Path) -> Packets | None:
    """The compressed pictures of a video; None where it cannot be opened."""
    capture = _open_packets(path)
    if not capture.isOpened():
        capture.release()
        return None
    _, configuration = capture.retrieve(flag=int(capture.get(cv2.CAP_PROP_CODEC_EXTRADATA_INDEX)))

    def pictures() -> Iterator[tuple[bytes, bool]]:
        try:
            while _grab(capture) is not None:
                _, packet = capture.retrieve()
                yield packet.tobytes(), bool(capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))
        finally:
            capture.release()

    width, height = (int(capture.get(side)) for side in _SIDES)
    return Packets(
        b"" if configuration is None else configuration.tobytes(),
        (width, height),
        capture.get(cv2.CAP_PROP_FPS),
        pictures(),
    )


def _open_packets(path: Path) -> Any:
    """An OpenCV capture whose images are the compressed pictures of a file, (1, bytes) uint8."""
    with library_path(path) as opened:
        return cv2.VideoCapture(opened, cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])


def _open(path: Path) -> Any:
    """An OpenCV capture."""
    with library_path(path) as opened:
        return cv2.VideoCapture(opened)


def _codec(capture: Any) -> str:
    """The four letters that name a video's codec; empty where it could not be opened."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    return code.to_bytes(4, "little").decode("latin-1").strip("\0") if code > 0 else ""


class _MotionJpegCheck:
    """Looks at the compressed pictures beside the decoder, which mends or greys what is damaged.

    A camera whose every picture looks damaged is believed: some leave out what no decoder needs.
    """

    def __init__(self, path: Path) -> None:
        self._packets = _open_packets(path)
        self._time_ms = float("-inf")  # of the current compressed picture
        self._has_seen_whole = False

    def is_damaged(self, time_ms: float) -> bool:
        """Tell whether the picture of this time is; times are asked for in order."""
        while self._time_ms < time_ms - 0.5:
            if not self._packets.isOpened() or _grab(self._packets) is None:
                return False
            self._time_ms = self._packets.get(cv2.CAP_PROP_POS_MSEC)
        if self._time_ms > time_ms + 0.5:
            return False
        _, packet = self._packets.retrieve()
        damaged = is_cut_or_out_of_step(packet.tobytes())
        self._has_seen_whole |= not damaged
        return damaged and self._has_seen_whole


def _refusal(capture: Any) -> str | None:
    return too_large(*(max(int(capture.get(side)), 0) for side in _SIDES))


def _grab(capture: Any) -> int | None:
    """Go to the next frame that can be decoded; the number of those before it that cannot.

    None at the end.
    """
    for failures in range(_TRIES):
        if capture.grab():
            return failures
    return None
