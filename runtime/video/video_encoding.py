"""Pictures into the file of a video, compressed by OpenCV, which reports no failure itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from .avi import AviFile
from .growing_file import GrowingFile
from .matroska import MatroskaFile
from .mp4 import Mp4File
from .salvage import as_fraction
from .video_file import can_read_packets, read_packets

_TOGETHER = 32  # pictures that are compressed, at most, before they are added to a file
_TOGETHER_S = 1.0  # and seconds: FFmpeg holds a group back in memory until it is finished
_QUALITY = 80  # of JPEGs, 0 to 100


class EncoderError(Exception):
    """OpenCV has no encoder for this kind of video here."""


class VideoEncoding(Protocol):
    """A video that grows by one picture, (H, W, 3) uint8 BGR, at a time."""

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Add a picture; an OSError says that the disk has no room for it."""

    def close(self) -> int:
        """Finish the file; the number of pictures in it. OSError: there is no room to do so."""


class JpegVideo:
    """An AVI file of motion JPEG; readable up to the last picture, and made without FFmpeg.

    Args:
        path: an empty file.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        self._descriptor = os.open(path, os.O_RDWR)
        self._file = AviFile(GrowingFile(self._descriptor), size=size, rate=as_fraction(rate))
        self._pictures = 0

    def write(self, picture: NDArray[np.uint8]) -> None:
        compressed, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not compressed:
            raise OSError(errno.EIO, "OpenCV cannot compress a picture")
        self._file.append(data.tobytes())
        self._pictures += 1

    def close(self) -> int:
        try:
            self._file.finish()
        finally:
            os.close(self._descriptor)
        return self._pictures


class FragmentedVideo:
    """A file to which pictures are added in small groups; readable up to the last one.

    OpenCV gives compressed pictures as a file only, so each group is written into one, read back,
    and appended. The first picture is a group, and so is what comes within a second.

    Args:
        container: Matroska, or MP4, which is MOV as well.
        path: an empty file.
        scratch: a Matroska file for one group at a time; it is removed once the group is appended.
    """

    def __init__(
        self,
        container: type[Mp4File] | type[MatroskaFile],
        path: Path,
        scratch: Path,
        rate: float,
        size: tuple[int, int],
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if not can_read_packets():
            raise EncoderError("without FFmpeg, OpenCV gives no compressed pictures")
        self._container = container
        self._scratch = scratch
        self._rate, self._size = rate, size
        self._file: Mp4File | MatroskaFile | None = None
        self._pictures = 0  # in the file
        self._waiting = 0
        self._left_out = False  # a group that could not be appended, which stays in its file
        self._clock = clock
        self._due_s = clock()  # when what waits is to be appended
        self._writer: cv2.VideoWriter | None = _open_writer(scratch, "mp4v", rate, size)
        self._descriptor = os.open(path, os.O_RDWR)

    def write(self, picture: NDArray[np.uint8]) -> None:
        if self._writer is None:
            try:
                self._writer = _open_writer(self._scratch, "mp4v", self._rate, self._size)
            except EncoderError as error:  # it could before
                raise _no_room() from error
        self._writer.write(picture)
        self._waiting += 1
        if (self._waiting == _TOGETHER or self._clock() >= self._due_s) and not self._append():
            raise _no_room()

    def close(self) -> int:
        try:
            self._append()
            if self._file is not None and not self._left_out:
                self._file.finish()
        finally:
            os.close(self._descriptor)
        return self._pictures

    def _append(self) -> bool:
        """Move the group that waits into the file; whether all of it was there."""
        if self._writer is None:
            return True
        self._writer.release()
        self._writer = None
        self._due_s = self._clock() + _TOGETHER_S
        waiting, self._waiting = self._waiting, 0
        group = read_packets(self._scratch)
        pictures = [] if group is None else list(group.pictures)
        self._left_out = True
        if group is not None and pictures and self._file is None:
            self._file = self._container(
                GrowingFile(self._descriptor),
                configuration=group.configuration,
                size=self._size,
                rate=as_fraction(self._rate),
            )
        if self._file is not None:
            self._file.append(pictures)
        self._pictures += len(pictures)
        self._scratch.unlink(missing_ok=True)
        self._left_out = False
        return len(pictures) == waiting


def _no_room() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _open_writer(path: Path, codec: str, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(os.path.abspath(path), cv2.VideoWriter.fourcc(*codec), rate, size)
    if not writer.isOpened():
        raise EncoderError(f"no encoder for {codec}")
    return writer
