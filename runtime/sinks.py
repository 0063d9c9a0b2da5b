"""Where results go: label maps and overlays in a folder, or a video; for `Pipeline`'s ``sink``."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from .atomic import output_errors
from .errors import OutputError
from .frames import VIDEO_SUFFIXES, Frame, write_image
from .labels import LabelSpace
from .overlay import overlay
from .pipeline import Result

_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
_STILL_FPS = 10.0  # of frames that do not say when they were taken


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
    10 frames a second for images, which have none.

    Raises:
        OutputError: the folder is missing or cannot be written, the disk is full, or OpenCV has no
            encoder for the suffix.
    """

    def __init__(self, path: Path, label_space: LabelSpace, *, overlays: bool) -> None:
        if path.suffix.lower() not in _CODECS:
            raise OutputError(
                f"{path}: videos of this kind are not written; use {' '.join(_CODECS)}."
            )
        self._path = path
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        with output_errors(path):
            self._temporary.touch()
        self._space = label_space
        self._overlays = overlays
        self._writer: cv2.VideoWriter | None = None
        self._first: tuple[Frame, NDArray[np.uint8]] | None = None
        self._size = (0, 0)
        self._written = 0

    def __call__(self, result: Result) -> None:
        if self._overlays:
            picture = overlay(result.frame.image, result.labels, self._space)
        else:
            picture = self._space.colourise(result.labels)
        if self._writer is not None:
            self._write(self._writer, picture)
        elif self._first is None:  # its duration is known with the second frame
            self._first = (result.frame, picture)
        else:
            between = result.frame.timestamp_ns - self._first[0].timestamp_ns
            self._writer = self._open(1e9 / between if between > 0 else _STILL_FPS)
            self._write(self._writer, picture)

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
            if self._writer is None and error is None:
                self._writer = self._open(_STILL_FPS)
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
    out: str | Path, label_space: LabelSpace, *, overlays: bool = False
) -> FolderSink | VideoSink:
    """A `VideoSink` if ``out`` has a video's suffix, a `FolderSink` otherwise.

        with open_sink("labelled", engine.label_space) as sink:
            for result in Pipeline(frames, engine, sink=sink):
                ...

    Raises:
        OutputError: it cannot be written to, or the suffix is that of a video not written here.
    """
    path = Path(out)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSink(path, label_space, overlays=overlays)
    return FolderSink(path, label_space, overlays=overlays)
