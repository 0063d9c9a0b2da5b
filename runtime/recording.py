"""A video that survives its writer: recorded beside its place, and given its name once whole.

While it grows it is ``.NAME.part.mkv`` (``.part.avi`` for AVI), which any player reads up to where
it stops: at most the last quarter of a mebibyte, which the writer holds back, is lost with the
process. Its owner holds a lock on it, so two runs cannot write one video, and what a dead run left
is told apart from what lives. It is kept, as ``NAME.incomplete.mkv``, never removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .atomic import flush, output_error, output_errors
from .errors import OutputError
from .images import log_remark
from .mp4 import write_mp4
from .video_file import count_packets, read_packets

# Suffix of a video -> that of its recording, and the codec.
_RECORDED_AS = {
    ".mp4": (".mkv", "mp4v"),
    ".m4v": (".mkv", "mp4v"),
    ".mov": (".mkv", "mp4v"),
    ".mkv": (".mkv", "mp4v"),
    ".avi": (".avi", "MJPG"),
}
VIDEOS_WRITTEN = tuple(_RECORDED_AS)
_LOOK_EVERY = 16  # pictures, after which the free space is looked at
_LEAST_FREE_BYTES = 1 << 20  # the writer holds back a quarter of that


class Recording:
    """One video while it is written.

    Args:
        path: of the finished video; its suffix chooses the container.
        replace: a file that is there by the end is replaced.
        note: called with a sentence on what is kept of a run that did not end well.

    Raises:
        OutputError: the suffix is not one that is written, the folder is missing or cannot be
            written, or another run is writing this video.
    """

    def __init__(
        self, path: Path, *, replace: bool = True, note: Callable[[str], None] = log_remark
    ) -> None:
        suffix = path.suffix.lower()
        if suffix not in _RECORDED_AS:
            raise OutputError(
                f"{path}: videos of this kind are not written; use {' '.join(VIDEOS_WRITTEN)}."
            )
        self.written = 0  # pictures
        self._path = path
        self._replace = replace
        self._note = note
        self._container, self._codec = _RECORDED_AS[suffix]
        self._part = path.with_name(f".{path.name}.part{self._container}")
        self._finished = path.with_name(f".{path.name}.part{suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._rate = Fraction(1)
        with output_errors(path):
            self._lock = self._claim()

    def open(self, rate: float, size: tuple[int, int]) -> float:
        """Start the video and return its rate: ``rate`` rounded to what its codec can state.

        Args:
            rate: pictures a second.
            size: width and height.

        Raises:
            OutputError: OpenCV has no encoder for this kind of video.
        """
        # MPEG-4 states a rate as a fraction with at most 16 bits.
        rate = round(rate, 3 if rate < 65 else 2 if rate < 650 else 1)
        self._size, self._rate = size, Fraction(rate).limit_denominator(1000)
        self._writer = cv2.VideoWriter(
            os.path.abspath(self._part), cv2.VideoWriter.fourcc(*self._codec), rate, size
        )
        if not self._writer.isOpened():
            raise OutputError(
                f"{self._path}: OpenCV cannot write this kind of video here; "
                f"use another of {' '.join(VIDEOS_WRITTEN)}, or a folder."
            )
        return rate

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Add a picture, (H, W, 3) uint8 RGB; one of another size is resized to the video's.

        Raises:
            OutputError: the disk is full.
        """
        if self._writer is None:
            raise RuntimeError("a Recording is opened before it is written to")
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        if self.written % _LOOK_EVERY == 0:
            self._check_room()
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self.written += 1

    def publish(self) -> None:
        """Finish the video and give it its name; without a picture there is none.

        Raises:
            OutputError: pictures are missing from it, or the disk has no room for the finished
                file; what was recorded is kept.
        """
        self._release()
        try:
            if self.written:
                self._publish()
        except OutputError as error:
            raise self._with_what_is_kept(error) from error
        finally:
            self._let_go()

    def abandon(self) -> None:
        """End without a finished video; what was recorded of it is kept and named in a note."""
        self._release()
        try:
            with output_errors(self._path):
                kept = self._keep() if self.written else None
            if kept is not None:
                self._note(f"{self._path} was not finished; what there is of it is kept as {kept}.")
        finally:
            self._let_go()

    def _publish(self) -> None:
        pictures = count_packets(self._part)
        if pictures < self.written:
            raise OutputError(
                f"{self._path}: only {pictures} of {self.written} frames could be written; "
                "the disk may be full."
            )
        with output_errors(self._path):
            finished = self._part
            if self._path.suffix.lower() != self._container:
                finished = self._finished
                self._put_into_mp4()
            flush(finished)
            self._give_name(finished)

    def _put_into_mp4(self) -> None:
        configuration, pictures = read_packets(self._part)
        with self._finished.open("wb") as file:
            write_mp4(file, pictures, configuration=configuration, size=self._size, rate=self._rate)

    def _give_name(self, finished: Path) -> None:
        if self._replace:
            os.replace(finished, self._path)
            return
        try:
            os.link(finished, self._path)  # fails where the name is taken
            finished.unlink()
        except FileExistsError:
            raise OutputError(
                f"{self._path}: was made by somebody else meanwhile; choose another name."
            ) from None
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            os.replace(finished, self._path)  # a file system without links

    def _with_what_is_kept(self, error: OutputError) -> OutputError:
        try:
            kept = self._keep()
        except OSError as other:
            return OutputError(f"{error} What was recorded is in {self._part} ({other.strerror}).")
        return error if kept is None else OutputError(f"{error} What was recorded is kept: {kept}")

    def _keep(self) -> Path | None:
        """Give what was recorded a visible name; None, and no file, where it has no picture."""
        if not count_packets(self._part):
            self._part.unlink(missing_ok=True)
            return None
        number = 1
        while True:
            ending = f"incomplete{'' if number == 1 else f'-{number}'}{self._container}"
            kept = self._path.with_name(f"{self._path.stem}.{ending}")
            if not kept.exists():
                self._part.rename(kept)
                return kept
            number += 1

    def _claim(self) -> int:
        """The descriptor of the part file, made, empty, and locked.

        Raises:
            OutputError: another run holds the lock.
            OSError: the file cannot be made.
        """
        while True:
            lock = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if self._is_mine(lock):
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def _is_mine(self, lock: int) -> bool:
        """Lock the part file; False where it was a dead run's, or went away meanwhile."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{self._path}: another run is writing this video; wait for it, or choose another "
                "name."
            ) from None
        except OSError:
            pass  # a file system without locks
        try:
            if os.fstat(lock).st_ino != os.stat(self._part).st_ino:
                return False
        except FileNotFoundError:
            return False
        if self._finished != self._part:  # a dead run was putting its recording into it
            self._finished.unlink(missing_ok=True)
        if os.fstat(lock).st_size == 0:
            return True
        kept = self._keep()
        if kept is not None:
            self._note(
                f"an earlier run did not finish {self._path}; what it recorded is kept as {kept}."
            )
        return False

    def _check_room(self) -> None:
        disk = os.statvfs(self._part)
        free = (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail) * disk.f_frsize
        if free < _LEAST_FREE_BYTES:
            raise output_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), self._path)

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _let_go(self) -> None:
        """Remove what is left under hidden names, and the lock with it."""
        for path in (self._part, self._finished):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        os.close(self._lock)
