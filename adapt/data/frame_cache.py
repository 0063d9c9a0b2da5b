"""The frames of a run, decoded once into its folder: ``frames.rgb``, described by ``frames.json``.

Both are verified when a resumed run takes them up: the index by its checksum, the pixels by their
SHA-256, which the index has.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FrameError, OutputError, arg
from ...runtime.frames import Frame
from ...runtime.frames.preprocess import fit_frame
from ...runtime.words import counted
from ..run.checksums import (
    LONG_WORK_BYTES,
    DamagedError,
    file_hash,
    read_json_with_checksum,
    write_json_with_checksum,
)
from ..run.workspace import Workspace


class DecodedFrames(NamedTuple):
    """Names of the frames in a run's folder, and their stamps; None where not all have one."""

    names: list[str]
    stamps_ns: list[int] | None


def read_cache(
    folder: Path, wanted: Mapping[str, Any], note: Callable[[str], None] = lambda _: None
) -> DecodedFrames | None:
    """The frames that were decoded for what is ``wanted``; None if others were, or none.

    Raises:
        FrameError: they are damaged.
    """
    index, pixels = Workspace(folder).frame_index, Workspace(folder).frame_pixels
    if not index.exists():
        return None
    try:
        stored = read_json_with_checksum(index)
        if {key: stored[key] for key in wanted} != dict(wanted):
            return None
        names, content = list(map(str, stored["names"])), stored["content"]
        stamps = stored.get("stamps_ns")
        found = DecodedFrames(names, None if stamps is None else list(map(int, stamps)))
    except OSError as error:
        raise _damaged(index, error.strerror or str(error)) from error
    except (DamagedError, KeyError, TypeError) as error:
        raise _damaged(index, str(error)) from error
    try:
        size = pixels.stat().st_size
        if size >= LONG_WORK_BYTES:
            note(f"checking {size / 2**30:.1f} GiB of decoded frames")
        if file_hash(pixels) != content:
            raise _damaged(pixels, "its content and its SHA-256 differ")
    except OSError as error:
        raise _damaged(pixels, error.strerror or str(error)) from error
    return found


def write_cache(
    folder: Path,
    wanted: Mapping[str, Any],
    frames: Iterator[Frame],
    width: int,
    height: int,
    left_out: Callable[[], Container[str]] = tuple,
) -> DecodedFrames:
    """Decode ``frames``, fitted to ``width`` x ``height``, into ``folder``.

    Args:
        wanted: what they were decoded for, as JSON has it; `read_cache` compares it.
        left_out: gives, once all are decoded, the names of those that turned out to be unfit.

    Raises:
        FrameError: there is none, or none that is fit.
        OutputError: the disk cannot hold them.
    """
    index, path = Workspace(folder).frame_index, Workspace(folder).frame_pixels
    index.unlink(missing_ok=True)  # what it describes is about to be overwritten
    names, stamps, digest = list[str](), list[int](), hashlib.sha256()
    try:
        with path.open("w+b") as file:
            for frame in frames:
                pixels = np.ascontiguousarray(fit_frame(frame.image, width, height)).data
                digest.update(pixels)
                file.write(pixels)
                names.append(frame.name)
                if frame.origin is not None:
                    stamps.append(frame.origin.stamp_ns)
            content, unfit = digest.hexdigest(), left_out()
            fit = [i for i, name in enumerate(names) if name not in unfit]
            if len(fit) < len(names):
                content = _close_up(file, fit, width * height * 3)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(
            f"{folder}: cannot hold the decoded frames ({error.strerror or error}); free some "
            f"space, lower {arg('max_frames')}, or write the output elsewhere."
        ) from error
    if not names:
        raise FrameError("No frame could be read from the sources given.")
    if not fit:
        raise FrameError(
            f"All {counted(len(names), 'frame')} of the sources given were decoded with errors; "
            "give another recording."
        )
    names = [names[i] for i in fit]
    # Of videos no frame has a stamp, and of bags none is unfit: so all have one, or it is None.
    stamped = stamps if len(stamps) == len(names) else None
    record = {**wanted, "names": names, "content": content}
    if stamped is not None:
        record["stamps_ns"] = stamped
    write_json_with_checksum(index, record)
    return DecodedFrames(names, stamped)


def _close_up(file: BinaryIO, kept: Sequence[int], size: int) -> str:
    """Keep some of the frames in a file, each of ``size`` bytes; the SHA-256 of what is left."""
    digest = hashlib.sha256()
    for to, at in enumerate(kept):
        file.seek(at * size)
        pixels = file.read(size)
        digest.update(pixels)
        if to != at:
            file.seek(to * size)
            file.write(pixels)
    file.truncate(len(kept) * size)
    return digest.hexdigest()


def cached_images(
    folder: Path, count: int, width: int, height: int
) -> Callable[[int], NDArray[np.uint8]]:
    """Gives frame number ``i`` of the ``count`` that were decoded, uint8 (height, width, 3) RGB.

    Raises:
        FrameError: there are more or fewer pixels.
    """
    path, shape = Workspace(folder).frame_pixels, (count, height, width, 3)
    if not path.exists() or path.stat().st_size != math.prod(shape):
        raise _damaged(path, "its size is not that of its frames")
    pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
    return lambda i: np.asarray(pixels[i])


def _damaged(path: Path, problem: str) -> FrameError:
    return FrameError(
        f"{path}: {problem}: the decoded frames of this run are damaged; delete {path.parent} and "
        "start again."
    )
