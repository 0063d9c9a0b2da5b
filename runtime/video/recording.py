"""A video that survives its writer: recorded beside its place, and given its name once whole.

While it grows it is ``.NAME.part`` with its suffix again, a file that players read up to where it
stops. Its owner holds a lock on it, so two runs cannot write one video, and what a dead run left is
told apart from what lives. That is kept, as ``NAME.incomplete`` with its suffix, never removed, and
with it the pictures that were compressed and not yet added to it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..atomic import give_name, output_errors
from ..errors import OutputError
from ..notes import log_note
from ..part_file import PartFile, free_name
from ..pictures.media_kinds import WRITTEN_VIDEO_SUFFIXES
from ..words import counted
from .matroska import MatroskaFile
from .mp4 import Mp4File
from .salvage import Container, add_group, make_readable, rounded_rate
from .video_encoding import EncoderError, FragmentedVideo, JpegVideo, VideoEncoding
from .video_file import can_read_packets, count_packets


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
        self, path: Path, *, replace: bool = True, note: Callable[[str], None] = log_note
    ) -> None:
        suffix = path.suffix.lower()
        if suffix not in WRITTEN_VIDEO_SUFFIXES:
            raise OutputError(
                f"{path}: videos of this kind are not written; "
                f"use {' '.join(WRITTEN_VIDEO_SUFFIXES)}."
            )
        self.written = 0  # pictures
        self._path = path
        self._suffix = suffix
        self._note = note
        self._part = path.with_name(f".{path.name}.part{suffix}")
        self._scratch = path.with_name(f".{path.name}.group.mkv")
        self._container: Container | None = None if suffix == ".avi" else Mp4File
        if suffix == ".mkv":
            self._container = MatroskaFile
        self._encoding: VideoEncoding | None = None
        self._size = (0, 0)
        self._place = PartFile(
            path,
            self._part,
            "video",
            replace=replace,
            keep=self._keep,
            is_left=lambda size: size > 0 or self._scratch.exists(),
            note=note,
        )

    def open(self, rate: float, size: tuple[int, int]) -> float:
        """Start the video and return its rate: ``rate`` rounded to what its codec can state.

        Args:
            rate: pictures a second.
            size: width and height.

        Raises:
            OutputError: OpenCV has no encoder for this kind of video.
        """
        rate = rounded_rate(rate)
        self._size = size
        try:
            if self._container is None:
                self._encoding = JpegVideo(self._part, rate, size)
            else:
                self._encoding = FragmentedVideo(
                    self._container, self._part, self._scratch, rate, size
                )
        except EncoderError as error:
            raise OutputError(
                f"{self._path}: OpenCV cannot write this kind of video here; "
                f"use another of {' '.join(WRITTEN_VIDEO_SUFFIXES)}, or a folder."
            ) from error
        return rate

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Add a picture, (H, W, 3) uint8 RGB; one of another size is resized to the video's.

        Raises:
            OutputError: the disk is full.
        """
        if self._encoding is None:
            raise RuntimeError("a Recording is opened before it is written to")
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        with output_errors(self._path):
            self._encoding.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR).astype(np.uint8))
        self.written += 1

    def publish(self) -> None:
        """Finish the video and give it its name; without a picture there is none.

        Raises:
            OutputError: pictures are missing from it, or its name was taken meanwhile; what was
                recorded is kept.
        """
        try:
            if self._encoding is not None:
                self._publish(self._encoding)
        except OutputError as error:
            raise self._with_what_is_kept(error) from error
        finally:
            self._place.let_go(self._scratch)

    def abandon(self) -> None:
        """End without a finished video; what was recorded of it is kept and named in a note."""
        try:
            if self._encoding is not None:
                with suppress(OSError):  # then without what waited to be written
                    self._encoding.close()
                with output_errors(self._path):
                    kept = self._keep()
                if kept is not None:
                    self._note(
                        f"{self._path} was not finished; what there is of it is kept as {kept}."
                    )
        finally:
            self._place.let_go(self._scratch)

    def _publish(self, encoding: VideoEncoding) -> None:
        with output_errors(self._path):
            pictures = encoding.close()
        if pictures < self.written:
            raise OutputError(
                f"{self._path}: only {pictures} of {counted(self.written, 'frame')} could "
                "be written; "
                "the disk may be full."
            )
        self._place.publish()

    def _with_what_is_kept(self, error: OutputError) -> OutputError:
        with output_errors(self._path):
            kept = self._keep()
        if kept is None:
            return error
        return OutputError(f"{error} What was recorded is kept as {kept}.")

    def _keep(self) -> str | None:
        """Give what was recorded a visible name, which is returned; two where it is two files.

        None, and no file, where it has no picture.
        """
        if self._container is not None and can_read_packets():
            make_readable(self._part)
        end = self._keep_group()
        if can_read_packets() and not count_packets(self._part):
            self._part.unlink(missing_ok=True)
            return end
        kept = free_name(self._path, "incomplete", self._suffix)
        give_name(self._part, kept)
        return str(kept) if end is None else f"{kept}, and its end as {end}"

    def _keep_group(self) -> str | None:
        """Add what a writer compressed last to what it recorded, or name the file it is kept as."""
        if self._container is None or not self._scratch.exists():
            return None
        added = None
        if can_read_packets():
            with suppress(OSError):  # the disk is full: a name needs no room
                added = add_group(self._container, self._part, self._scratch)
        if added is not None:
            self._scratch.unlink()
            return None
        kept = free_name(self._path, "incomplete-end", self._scratch.suffix)
        give_name(self._scratch, kept)
        return str(kept)
