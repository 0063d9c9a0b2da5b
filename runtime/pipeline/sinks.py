"""Sinks of results: label maps and overlays in a folder, a video or a bag; for `Pipeline`."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from ..atomic import lock_folder, output_errors
from ..errors import OutputError, Sentence, arg
from ..file_names import check_name
from ..frames.images import write_image
from ..labels import LabelSpace
from ..notes import log_note
from ..pictures.media_kinds import VIDEO_SUFFIXES
from ..video.recording import Recording
from ..words import counted
from .bag_sink import BAG_SUFFIX, BagSink
from .overlay import overlay
from .pacing import STILLS_FPS, rate_of
from .runner import Result

_LONGEST_HOLD_NS = 10 * 10**9  # a longer gap is cut out of the video
_MOST_WAITING, _MOST_WAITING_BYTES = 25, 256 * 2**20  # pictures, before a rate is chosen
_LONGEST_WAITING_S, _LEAST_WAITING = 2.0, 3  # or so many, where they come slowly


class FolderSink:
    """Folder of ``labels/NAME.png``, class indices, and on wish ``overlays/NAME.jpg``.

    Each file appears whole or not at all; files of the same name are replaced, others stay. The
    folder is locked meanwhile, and unfinished files that a dead run left in it are removed.

    Raises:
        OutputError: the folder's parent is missing, or it cannot be written, or the disk is full,
            or another run is writing into it.
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
            self._lock = lock_folder(folder)
            for unfinished in (p for place in self._places() for p in place.glob(".*.part")):
                unfinished.unlink()

    def _places(self) -> list[Path]:
        return [place for place in (self._overlays, self._labels) if place is not None]

    def __call__(self, result: Result) -> None:
        name = result.frame.name
        write_image(self._labels / f"{name}.png", result.labels)
        if self._overlays:
            picture = overlay(result.frame.image, result.labels, self._space)
            write_image(self._overlays / f"{name}.jpg", picture)

    def __enter__(self) -> FolderSink:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Each file is complete; folders in which a failed run left nothing are removed."""
        for folder in (*self._places(), self._labels.parent):
            if error is not None:
                with suppress(OSError):  # not empty
                    folder.rmdir()
        os.close(self._lock)


class VideoSink:
    """Video of overlays or of class colours, which appears complete on a good exit.

    Its size is that of the first frame (the codecs drop the last column or row of an odd size);
    frames of another size are resized to it. Its rate is constant, and each picture is held until
    the next one's time, so that the video keeps time with what it shows: pictures are repeated
    where frames come slowly, and left out where they come faster than the rate. Gaps of more than
    ten seconds are shortened to that. Images, which have no times, and the first frame of each
    further video come one period after the frame before. Without a frame there is no video.

    A run that fails, or a disk that fills up, leaves what was recorded (see `Recording`).

    Args:
        fps: of images.
        rate: of frames that come in time and may be missing: asked for the rate of the video from
            the second frame on; where it is not given, or gives None for the first 25 frames, or
            for those of two seconds, that of their times.
        replace: a video that has appeared meanwhile is replaced.
        note: called with a sentence on what is odd about the video, or left of a failed one.

    Raises:
        OutputError: the folder is missing or cannot be written, another run is writing this video,
            the disk is full, or OpenCV has no encoder for the suffix.
    """

    def __init__(
        self,
        path: Path,
        label_space: LabelSpace,
        *,
        overlays: bool,
        fps: float = STILLS_FPS,
        rate: Callable[[], float | None] | None = None,
        replace: bool = True,
        note: Callable[[str], None] = log_note,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        check_name(path, by_library=True)
        self._recording = Recording(path, replace=replace, note=note)
        self._path = path
        self._space = label_space
        self._overlays = overlays
        self._still_fps = fps
        self._rate = rate
        self._note = note
        self._fps = 0.0  # of the video, once it is open
        self._waiting: list[_Picture] = []  # until the rate is known
        self._clock = clock
        self._began_s = 0.0  # when the first of them came
        self._held: _Picture | None = None  # the last picture
        self._due_ns = 0  # of the last picture, since the video's first
        self._left_out = 0

    def __call__(self, result: Result) -> None:
        if self._overlays:
            pixels = overlay(result.frame.image, result.labels, self._space)
        else:
            pixels = self._space.colourise(result.labels)
        picture = _Picture(pixels, result.frame.timestamp_ns)
        if self._fps:
            self._show(picture)
            return
        if not self._waiting:
            self._began_s = self._clock()
        self._waiting.append(picture)
        if self._has_seen_enough():
            self._open()

    def _has_seen_enough(self) -> bool:
        """Tell whether a rate can be chosen, or has to be."""
        number = len(self._waiting)
        if number < 2:
            return False
        waited_long = self._clock() - self._began_s >= _LONGEST_WAITING_S
        return (
            bool(self._ask())
            or number * self._waiting[0].pixels.nbytes >= _MOST_WAITING_BYTES
            or number == _MOST_WAITING
            or (waited_long and number >= _LEAST_WAITING)
        )

    def _ask(self) -> float | None:
        return None if self._rate is None else self._rate()

    def _open(self) -> None:
        """Choose the rate and write what waits for it."""
        times = [picture.timestamp_ns for picture in self._waiting]
        rate = self._ask() or rate_of(times)
        if rate is None and len(times) > 1:
            self._note(
                Sentence(
                    f"{self._path}: images have no times; they are shown at "
                    f"{self._still_fps:g} a second ({arg('fps')})."
                )
            )
        height, width = self._waiting[0].pixels.shape[:2]
        self._fps = self._recording.open(rate or self._still_fps, (width, height))
        for picture in self._waiting:
            self._show(picture)
        self._waiting = []

    def _show(self, picture: _Picture) -> None:
        """Write a picture at its place in time, after repeating the one before it up to there."""
        if self._held is not None:
            period_ns = round(1e9 / self._fps)
            step_ns = picture.timestamp_ns - self._held.timestamp_ns
            longest_ns = _LONGEST_HOLD_NS + period_ns
            self._due_ns += min(step_ns, longest_ns) if step_ns > 0 else period_ns
            place = round(self._due_ns * 1e-9 * self._fps)
            for _ in range(place - self._recording.written):
                self._recording.write(self._held.pixels)
            if place < self._recording.written:
                self._left_out += 1
                self._held = picture
                return
        self._recording.write(picture.pixels)
        self._held = picture

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if self._waiting:
                self._open()
        except OutputError:
            self._recording.abandon()
            raise
        if error is not None:
            self._recording.abandon()
            return
        self._recording.publish()
        if self._left_out:
            self._note(
                f"{self._path}: {counted(self._left_out, 'frame')} came faster than its "
                f"{self._fps:g} a "
                "second and are left out, so that the others are shown in time."
            )


@dataclass(frozen=True, slots=True)
class _Picture:
    pixels: NDArray[np.uint8]
    timestamp_ns: int


def open_sink(
    out: str | Path,
    label_space: LabelSpace,
    *,
    overlays: bool = False,
    fps: float = STILLS_FPS,
    rate: Callable[[], float | None] | None = None,
    replace: bool = True,
    note: Callable[[str], None] = log_note,
) -> FolderSink | VideoSink | BagSink:
    """A `VideoSink` or a `BagSink` by the suffix of ``out``, a `FolderSink` otherwise.

        with open_sink("labelled", engine.label_space) as sink:
            for result in Pipeline(frames, engine, sink=sink):
                ...

    Args:
        fps, rate, replace, note: see `VideoSink`; a folder has no use for them, a bag none for
            ``rate``.

    Raises:
        OutputError: it cannot be written to, or the suffix is that of a video not written here.
    """
    path = Path(out)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSink(
            path, label_space, overlays=overlays, fps=fps, rate=rate, replace=replace, note=note
        )
    if path.suffix.lower() == BAG_SUFFIX:
        return BagSink(path, label_space, overlays=overlays, fps=fps, replace=replace, note=note)
    return FolderSink(path, label_space, overlays=overlays)
