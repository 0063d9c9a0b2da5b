"""Hashes that tell whether a kept result still belongs to the inputs that it was made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...runtime.folders.bag_folders import bag_parts, is_bag, split_topic
from ...runtime.folders.folder_contents import folder_contents
from ...runtime.frames import open_frames
from ...runtime.spacing import evenly_spaced


def hash_of(document: Any) -> str:
    """SHA-256 of a JSON document, in hexadecimal."""
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def identity_of(files: Iterable[Path]) -> str:
    """A hash of path, size and time of change of each file: cheap however large they are."""
    status = [(str(file.resolve()), file.stat()) for file in files]
    return hash_of([[path, found.st_size, found.st_mtime_ns] for path, found in status])


def learned_from(sources: Sequence[str | Path], limit: int | None) -> list[Path]:
    """The files whose frames a run learns from, ``limit`` of them if they are images.

    Raises:
        FrameError: a source does not exist or holds no frame.
    """
    opened = open_frames([str(source) for source in sources], on_skip=lambda _: None)
    stills = opened.stills
    if stills is not None:
        return [stills[i][0] for i in evenly_spaced(len(stills), limit)]
    return [file for source in sources for file in files_of(Path(split_topic(source)[0]))]


def files_of(source: Path) -> list[Path]:
    """The files that hold the frames of one source: a folder, an image, a video or a bag."""
    if not source.is_dir() or is_bag(source):
        return bag_parts(source)
    return [part for file in folder_contents(source).files for part in bag_parts(file)]
