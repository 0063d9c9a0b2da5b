"""Readers of recordings that Roadshift does not read itself, by suffix.

A program registers one with `register_frame_reader`. A package that brings one names it in its
metadata; it is imported when a file of that suffix is read:

    [project.entry-points."roadshift.frame_readers"]
    roadlog = "some_package.roadlog:read_frames"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from ..errors import FrameError
from ..installed import installed, installed_names
from ..pictures.media_kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES

ENTRY_POINTS = "roadshift.frame_readers"

Image = NDArray[np.uint8]
FrameReader = Callable[[Path], Iterable[tuple[Image, int]]]
"""Gives the pictures of a file in order: uint8 (H, W, 3) RGB, and nanoseconds since the first."""

Reader = TypeVar("Reader", bound=FrameReader)
_REGISTERED: dict[str, FrameReader] = {}  # by the program that runs


@overload
def register_frame_reader(suffix: str) -> Callable[[Reader], Reader]: ...
@overload
def register_frame_reader(suffix: str, reader: Reader) -> Reader: ...
def register_frame_reader(suffix: str, reader: Reader | None = None) -> Any:
    """Let every command and function read recordings of a kind, also as a decorator.

    Args:
        suffix: of the files, such as ".roadlog", in lower case.
        reader: called with a file's path for each reading of it; gives pairs of a picture, uint8
            (H, W, 3) RGB, and its time in nanoseconds since the first. `FrameError` where the file
            cannot be read, or not to its end: what it gave before counts. Without it this is a
            decorator: ``@register_frame_reader(".roadlog")``.

    Raises:
        FrameError: the suffix is none, or taken, or the reader cannot be called.
    """
    if reader is None:
        return lambda decorated: register_frame_reader(suffix, decorated)
    problem = _problem(suffix, reader)
    if problem:
        raise FrameError(f"A reader of {suffix!r} cannot be registered: {problem}.")
    _REGISTERED[suffix] = reader
    return reader


def _problem(suffix: str, reader: object) -> str | None:
    """The reason why the two cannot be registered; None: they can."""
    if not (isinstance(suffix, str) and re.fullmatch(r"\.[a-z0-9_]+", suffix)):
        return "a suffix is a dot, and letters in lower case, digits and underscores"
    if not callable(reader):
        return f"{reader!r} cannot be called"
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return "Roadshift reads files of that kind itself"
    if _REGISTERED.get(suffix, reader) is not reader:
        return f"{_REGISTERED[suffix]!r} reads them already"
    return None


def is_recording(path: Path) -> bool:
    """Tell whether somebody else's reader reads files of that suffix.

    Never of pictures and videos: looking through installed packages takes milliseconds, and folders
    hold many.
    """
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return False
    return suffix in _REGISTERED or suffix.removeprefix(".") in installed_names(ENTRY_POINTS)


def read_recording(path: Path) -> Iterator[tuple[Image, int]]:
    """The pictures of a recording and their times, by the reader of its suffix, each checked.

    Raises:
        FrameError: there is no such reader, several packages have one, it cannot be imported, or
            what it gives is no picture; or the reader itself raised it.
    """
    for given in _reader_of(path)(path):
        image, timestamp_ns = _checked(path, given)
        yield image, timestamp_ns


def _reader_of(path: Path) -> FrameReader:
    suffix = path.suffix.lower()
    if suffix in _REGISTERED:
        return _REGISTERED[suffix]
    title = f"{path}: its reader"
    reader: FrameReader = installed(ENTRY_POINTS, suffix.removeprefix("."), title, FrameError)
    return reader


def is_picture(image: object) -> bool:
    """Tell whether it is a picture as `Frame` takes one, uint8 (H, W, 3)."""
    return (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size > 0
    )


def _checked(path: Path, given: object) -> tuple[Image, int]:
    """A reader's pair; refused where it is none."""
    if isinstance(given, tuple) and len(given) == 2:
        image, timestamp_ns = given
        if is_picture(image):
            return image, int(timestamp_ns)
    raise FrameError(
        f"{path}: its reader gave {type(given).__name__} where a pair of a picture, uint8 (H, W, "
        "3) RGB, and its nanoseconds was wanted."
    )
