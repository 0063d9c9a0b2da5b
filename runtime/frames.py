"""Frames from folders, image files and videos, in time order; a bad one is reported and skipped.

Importing this module quiets FFmpeg's own messages about damaged videos (set
``OPENCV_FFMPEG_LOGLEVEL`` to bring them back): what is lost is reported here by file and count.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .addresses import is_live, without_password
from .errors import FrameError
from .file_names import library_path
from .folder_contents import folder_contents, list_images
from .images import Image, read_image, write_image
from .label_pairs import find_labels, labelled_pairs
from .media_kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Frame",
    "FrameSource",
    "find_labels",
    "labelled_pairs",
    "list_images",
    "open_frames",
    "read_image",
    "without_password",
    "write_image",
]

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read at the first video

_LONGEST_NAME = 160  # bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        name: unique within its source and safe as a file name; no suffix.
        timestamp_ns: time since the start of its video; 0 for an image file, which does not say.
    """

    image: Image
    name: str
    timestamp_ns: int


@dataclass(frozen=True, slots=True)
class _File:
    """One file of a source.

    ``name`` is its frame's name, or the start of its frames' names; ``frames`` is the number
    promised: 1 for an image, the header's count for a video, None where that does not say.
    """

    path: Path
    name: str
    is_video: bool
    frames: int | None


class FrameSource:
    """Frames of one or several sources, iterable again and again; made by `open_frames`.

    Attributes:
        skipped: one sentence for each damaged file or cut video met so far, without repeats.
        length: frames promised by file names and video headers, before damaged ones are skipped;
            None where a video's header does not say.
    """

    def __init__(self, title: str, files: Sequence[_File], on_skip: Callable[[str], None]) -> None:
        self._title = title
        self._files = files
        self._on_skip = on_skip
        self.skipped: list[str] = []
        known = [file.frames for file in files if file.frames is not None]
        self.length = sum(known) if len(known) == len(files) else None

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError(f"the number of frames in {self._title} is not known")
        return self.length

    @property
    def stills(self) -> tuple[tuple[Path, str], ...] | None:
        """The image files and their frames' names, in order; None if there is a video."""
        if any(file.is_video for file in self._files):
            return None
        return tuple((file.path, file.name) for file in self._files)

    def only(self, indices: Sequence[int]) -> FrameSource:
        """Some of the files, under the names that they have among all."""
        return FrameSource(self._title, [self._files[i] for i in indices], self._on_skip)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the good frames in order; report the others to ``on_skip`` and go on.

        Raises:
            FrameError: the end is reached and not one frame was good.
        """
        good = 0
        losses = []
        for file in self._files:
            for read in _read_video(file) if file.is_video else _read_still(file):
                if isinstance(read, Frame):
                    good += 1
                    yield read
                    continue
                losses.append(read)
                if (good or len(self._files) > 1) and read not in self.skipped:
                    self.skipped.append(read)
                    self._on_skip(read)
        if len(self._files) == 1 and not good:
            raise FrameError(losses[0])
        if not good:
            raise FrameError(
                f"None of the {len(self._files)} files of {self._title} can be read; "
                f"the first: {losses[0]}"
            )


def log_skip(sentence: str) -> None:
    """Log the sentence on files that are left out, unless another place is given."""
    logging.getLogger("roadshift").warning("Skipped: %s", sentence)


def open_frames(
    source: str | Path | Sequence[str | Path], *, on_skip: Callable[[str], None] = log_skip
) -> FrameSource:
    """Open a folder, a video, an image, or several of them one after the other.

    A folder gives its images and videos, without label maps and previews (see `folder_contents`);
    files given themselves are read whatever they hold. A frame is named after its image file, or
    after its video and its number; names that would collide are prefixed with their source's name
    and folders, and long ones are shortened.

    Args:
        source: what to read; several sources are chained.
        on_skip: called with one sentence for each damaged file or cut video, and at once with one
            for each folder that holds more than its frames.

    Raises:
        FrameError: a source does not exist, holds no frames, or is of a kind not read here.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    if not sources:
        raise FrameError("No frames: give at least one folder, image or video file.")
    found = [(path, root) for one in sources for path, root in _expand(one, on_skip)]
    first = ", ".join(str(one) for one in sources[:3])
    more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    return FrameSource(first + more, _named(found), on_skip)


def _expand(source: str | Path, note: Callable[[str], None]) -> list[tuple[Path, Path]]:
    """(file, root) for every file of one source; root is the source itself."""
    path = Path(source)
    shown = without_password(str(source))
    if is_live(source):
        raise FrameError(
            f"{shown} is a live stream, and this needs frames that can be "
            "read again; record it first, for example with "
            "`ffmpeg -i URL_OR_DEVICE -t 60 clip.mp4`."
        )
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
        is_bag = is_folder and (path / "metadata.yaml").is_file()
    except OSError as error:  # a name that is too long, a folder above that is closed
        raise FrameError(f"{source} cannot be opened: {error.strerror or error}.") from error
    contents = folder_contents(path) if is_folder else None
    is_bag = is_bag and contents is not None and not contents.files
    if is_bag or path.suffix.lower() in {".mcap", ".bag", ".db3"}:
        raise FrameError(
            f"{source} is a ROS bag, and this version reads folders, images and video files; "
            "export its camera topic to images first, for example with "
            "`ros2 run image_view image_saver` while the bag plays."
        )
    if contents is not None:
        if not contents.files:
            holds = f" ({contents.sentence.rstrip('.')})" if contents.sentence else ""
            raise FrameError(f"{source} is a folder without images or videos{holds}; give another.")
        if contents.sentence:
            note(contents.sentence)
        return [(file, path) for file in contents.files]
    if not is_file:
        number = " (a camera of this machine is written camera:0)" if shown.isdecimal() else ""
        raise FrameError(
            f"{shown} does not exist; give a folder, an image or a video file{number}."
        )
    if path.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise FrameError(
            f"{source} is of a kind that is not read here; give a folder, an image "
            f"({' '.join(sorted(IMAGE_SUFFIXES))}) or a video ({' '.join(sorted(VIDEO_SUFFIXES))})."
        )
    return [(path, path)]


def _named(found: Sequence[tuple[Path, Path]]) -> list[_File]:
    """Give each (file, root) a name: its stem, or a longer name wherever two would be equal."""
    stems = Counter(safe_name(path.stem) for path, _ in found)
    # A frame of clip.mp4 would be named like a picture clip_000007.
    numbered = {re.sub(r"_\d{6,}$", "", stem) for stem in stems if re.search(r"_\d{6,}$", stem)}
    taken: set[str] = set()
    files = []
    for path, root in found:
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        name = safe_name(path.stem)
        if stems[name] > 1:
            inner = path.relative_to(root).parts[:-1]
            source = root.resolve().parent.name if path == root else root.resolve().name
            name = safe_name("_".join((source, *inner, path.stem)))
        unique, number = name, 2
        while unique in taken or (is_video and unique in numbered):
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        files.append(_File(path, unique, is_video, _frame_count(path) if is_video else 1))
    return files


def safe_name(name: str) -> str:
    """A name that is safe as a file name, as close to ``name`` as can be.

    At most 160 bytes of UTF-8: a frame's number, a suffix and the ending of an unfinished file are
    still to come, and file systems end at 255. A longer one is cut, and ends in a hash of it all.
    """
    safe = re.sub(r"[^\w.\-]+", "_", name)
    if len(safe.encode()) <= _LONGEST_NAME:
        return safe
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:12]
    start = safe.encode()[: _LONGEST_NAME - len(digest) - 1].decode(errors="ignore")
    return f"{start}_{digest}"


def _read_still(file: _File) -> Iterator[Frame | str]:
    """The frame of an image file, or a sentence that says what is wrong with the file."""
    try:
        yield Frame(read_image(file.path), file.name, 0)
    except FrameError as error:
        yield str(error)


def _read_video(file: _File) -> Iterator[Frame | str]:
    """The frames of a video, then a sentence if it ended before its header's count."""
    frames = 0
    with library_path(file.path) as path:
        capture = cv2.VideoCapture(path)
    try:
        while True:
            good, image = capture.read()
            if not good:
                break
            timestamp_ns = max(round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6), 0)
            rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            yield Frame(rgb, f"{file.name}_{frames:06d}", timestamp_ns)
            frames += 1
    finally:
        capture.release()
    # A Matroska header gives a duration, from which the count is estimated: one frame of slack.
    slack = 1 if file.path.suffix.lower() in {".mkv", ".webm"} else 0
    if frames == 0:
        yield (
            f"{file.path} has no frame that can be decoded: it is damaged or its recording was not "
            f"finished; try to repair it with `ffmpeg -i {file.path.name} -c copy repaired.mp4`."
        )
    elif file.frames is not None and frames + slack < file.frames:
        yield (
            f"{file.path} ends early: {frames} of {file.frames} frames were read, "
            "the rest is missing or damaged."
        )


def _frame_count(path: Path) -> int | None:
    """Frames promised by a video's header; None where it does not say, 0 where it cannot open."""
    with library_path(path) as opened:
        capture = cv2.VideoCapture(opened)
    try:
        if not capture.isOpened():
            return 0
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return count if count > 0 else None
    finally:
        capture.release()
