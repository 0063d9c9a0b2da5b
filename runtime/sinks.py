"""Where results go: label maps and overlays in a folder, or a video; for `Pipeline`'s ``sink``."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from .atomic import output_errors
from .errors import OutputError
from .file_names import check_name
from .frames import Frame, write_image
from .labels import LabelSpace
from .media_kinds import WRITTEN_VIDEO_SUFFIXES
from .overlay import overlay
from .pacing import STILLS_FPS
from .pipeline import Result

_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
_LONGEST_HOLD_S = 10.0  # a longer gap is cut out of the video


class FolderSink:
    """Writes ``labels/NAME.png``, class indices, and on wish ``overlays/NAME.jpg``.

    Each file appears whole or not at all; files of the same name are replaced, others stay.

    Raises:
        OutputError: the folder's parent is missing, or it cannot be written, or the disk is full.
    """

    def __init__(self, folder: Path, label_space: LabelSpace, *, overlays: bool) -> None:
        self._space = label_space
        self._labels = folder / "labels"
        self._overlays = folder / "overlays" if overlays else None
        with output_errors(folder):
            folder.mkdir(exist_ok=True)
            self._labels.mkdir(exist_ok=True)
            if self._overlays:
                self._overlays.mkdir(exist_ok=True)

    def __call__(self, result: Result) -> None:
        name = result.frame.name
        write_image(self._labels / f"{name}.png", result.labels)
        if self._overlays:
            picture = overlay(result.frame.image, result.labels, self._space)
            write_image(self._overlays / f"{name}.jpg", picture)

    def __enter__(self) -> FolderSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Each file is complete; folders in which a failed run left nothing are removed."""
        for folder in (self._overlays, self._labels, self._labels.parent):
            if error is not None and folder is not None:
                with suppress(OSError):  # not empty
                    folder.rmdir()


class VideoSink:
    """Writes one video, of overlays or of class colours, which appears complete on a good exit.

    Its size is that of the first frame (the codecs drop the last column or row of an odd size);
    frames of another size are resized to it. Its rate is that of the first two frames' times, or
    ``fps`` for images, which have none. Without a frame there is no video.

    Args:
        fps: of images.
        rate: of frames that come in time and may be missing: asked at the second frame, the rate
            of the video, or None for that of the first two frames. Each picture is then held until
            the next one's time, so that the video keeps time with what it shows; gaps of more than
            ten seconds are shortened to that.

    Raises:
        OutputError: the folder is missing or cannot be written, the disk is full, or OpenCV has no
            encoder for the suffix.
    """

    def __init__(
        self,
        path: Path,
        label_space: LabelSpace,
        *,
        overlays: bool,
        fps: float = STILLS_FPS,
        rate: Callable[[], float | None] | None = None,
    ) -> None:
        if path.suffix.lower() not in _CODECS:
            raise OutputError(
                f"{path}: videos of this kind are not written; use {' '.join(_CODECS)}."
            )
        check_name(path, by_library=True)
        self._path = path
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        with output_errors(path):
            self._temporary.touch()
        self._space = label_space
        self._overlays = overlays
        self._still_fps = fps
        self._rate = rate
        self._fps = 0.0
        self._held: NDArray[np.uint8] = np.zeros((0, 0, 3), np.uint8)  # the last picture
        self._start_ns = 0  # of the video's first picture, moved by what was cut out
        self._writer: cv2.VideoWriter | None = None
        self._first: tuple[Frame, NDArray[np.uint8]] | None = None
        self._size = (0, 0)
        self._written = 0

    def __call__(self, result: Result) -> None:
        if self._overlays:
            picture = overlay(result.frame.image, result.labels, self._space)
        else:
            picture = self._space.colourise(result.labels)
        if self._first is None:  # its duration is known with the second frame
            self._first = (result.frame, picture)
            self._start_ns = result.frame.timestamp_ns
            self._held = picture
            return
        if self._writer is None:
            between = result.frame.timestamp_ns - self._first[0].timestamp_ns
            asked = self._rate() if self._rate is not None else None
            self._fps = asked or (1e9 / between if between > 0 else self._still_fps)
            self._writer = self._open(self._fps)
        if self._rate is None or self._hold(self._writer, result.frame.timestamp_ns):
            self._write(self._writer, picture)
        self._held = picture

    def _hold(self, writer: cv2.VideoWriter, timestamp_ns: int) -> bool:
        """Repeat the last picture until that of this time is due; whether there is room for it."""
        place = round((timestamp_ns - self._start_ns) * 1e-9 * self._fps)
        most = round(_LONGEST_HOLD_S * self._fps)
        missing = place - self._written
        if missing > most:
            self._start_ns += round((missing - most) / self._fps * 1e9)
        for _ in range(min(missing, most)):
            self._write(writer, self._held)
        return missing >= 0

    def _open(self, fps: float) -> cv2.VideoWriter:
        """The writer, with the first picture written."""
        if self._first is None:
            raise OutputError(f"{self._path}: there is no frame to write.")
        picture = self._first[1]
        self._size = (picture.shape[1], picture.shape[0])
        codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
        writer = cv2.VideoWriter(str(self._temporary), codec, fps, self._size)
        if not writer.isOpened():
            raise OutputError(
                f"{self._path}: OpenCV cannot write this kind of video here; "
                f"use another of {' '.join(_CODECS)}, or a folder."
            )
        self._write(writer, picture)
        return writer

    def _write(self, writer: cv2.VideoWriter, picture: NDArray[np.uint8]) -> None:
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._written += 1

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._writer is None and self._first is not None and error is None:
                self._writer = self._open(self._still_fps)
            if self._writer is not None:
                self._writer.release()
                if error is None:
                    self._publish()
        finally:
            self._temporary.unlink(missing_ok=True)

    def _publish(self) -> None:
        """Give the video its name if it is whole: OpenCV's writer reports no failure itself."""
        capture = cv2.VideoCapture(str(self._temporary))
        readable = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if readable < self._written:
            raise OutputError(
                f"{self._path}: only {readable} of {self._written} frames could be written; "
                "the disk may be full."
            )
        with output_errors(self._path):
            os.replace(self._temporary, self._path)


def open_sink(
    out: str | Path,
    label_space: LabelSpace,
    *,
    overlays: bool = False,
    fps: float = STILLS_FPS,
    rate: Callable[[], float | None] | None = None,
) -> FolderSink | VideoSink:
    """A `VideoSink` if ``out`` has a video's suffix, a `FolderSink` otherwise.

        with open_sink("labelled", engine.label_space) as sink:
            for result in Pipeline(frames, engine, sink=sink):
                ...

    Args:
        fps, rate: see `VideoSink`; a folder has no use for them.

    Raises:
        OutputError: it cannot be written to, or the suffix is that of a video not written here.
    """
    path = Path(out)
    if path.suffix.lower() in WRITTEN_VIDEO_SUFFIXES:
        return VideoSink(path, label_space, overlays=overlays, fps=fps, rate=rate)
    return FolderSink(path, label_space, overlays=overlays)
