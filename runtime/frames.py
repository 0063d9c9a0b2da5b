"""Frames from folders, image files and videos, in time order; a bad one is reported and skipped.

FFmpeg's own messages about damaged videos are quieted (set ``OPENCV_FFMPEG_LOGLEVEL`` to bring them
back): what is lost is reported here by file and count.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import FrameError
from .images import (
    IMAGE_SUFFIXES,
    Image,
    find_labels,
    labelled_pairs,
    list_files,
    list_images,
    log_remark,
    read_image,
    write_image,
)
from .video_file import Loss, count_frames, expected_frames, read_video

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
    "write_image",
]

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v"})


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
    """One file of a source; ``name`` is its frame's name, or the start of its frames' names."""

    path: Path
    name: str
    is_video: bool


class FrameSource:
    """Frames of one or several sources, iterable again and again; made by `open_frames`.

    Attributes:
        skipped: one sentence for each damaged file or cut video met so far, once however often the
            source is iterated over.
        frames_skipped: frames met so far that are there and cannot be decoded: an image each, and
            those of damaged videos; the missing end of a cut video is none.
    """

    def __init__(self, title: str, files: Sequence[_File], on_skip: Callable[[str], None]) -> None:
        self._title = title
        self._files = files
        self._on_skip = on_skip
        self.skipped: list[str] = []
        self.frames_skipped = 0
        self._reported: set[tuple[int, str]] = set()  # place of a file, sentence
        self._remarked = False
        self._videos = [file.path for file in files if file.is_video]
        self._expected: dict[Path, int | None] = {}
        self._counts: dict[Path, int] = {}

    @property
    def length(self) -> int | None:
        """Frames to expect: one an image, and of each video the frames counted, if they were.

        Else the compressed pictures in it; None where a video is too large to look that up. Never
        what a header states, which is often wrong.
        """
        total = len(self._files) - len(self._videos)
        for path in self._videos:
            frames = self._frames_of(path)
            if frames is None:
                return None
            total += frames
        return total

    def _frames_of(self, path: Path) -> int | None:
        if path in self._counts:
            return self._counts[path]
        if path not in self._expected:
            self._expected[path] = expected_frames(path)
        return self._expected[path]

    def count(self) -> int:
        """Frames that an iteration will give, where no image is damaged: videos are decoded."""
        for path in self._videos:
            if path not in self._counts:
                self._counts[path] = count_frames(path)
        stills = len(self._files) - len(self._videos)
        return stills + sum(self._counts[path] for path in self._videos)

    def __len__(self) -> int:
        length = self.length
        if length is None:
            raise TypeError(f"the number of frames in {self._title} is not known")
        return length

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
        for place, file in enumerate(self._files):
            for read in self._read(file):
                if isinstance(read, Frame):
                    good += 1
                    yield read
                    continue
                losses.append(read.sentence)
                if good or len(self._files) > 1:
                    self._report(place, read)
        if len(self._files) == 1 and not good:
            raise FrameError(losses[0])
        if not good:
            raise FrameError(
                f"None of the {len(self._files)} files of {self._title} can be read; "
                f"the first: {losses[0]}"
            )

    def _read(self, file: _File) -> Iterator[Frame | Loss]:
        """The frames of one file, and what is lost of it."""
        if not file.is_video:
            try:
                yield Frame(read_image(file.path, remark=self._remark), file.name, 0)
            except FrameError as error:
                yield Loss(str(error), 1)
            return
        frames = 0
        for read in read_video(file.path):
            if isinstance(read, Loss):
                yield read
                continue
            yield Frame(read.image, f"{file.name}_{frames:06d}", read.timestamp_ns)
            frames += 1
        self._counts[file.path] = frames

    def _report(self, place: int, loss: Loss) -> None:
        if (place, loss.sentence) in self._reported:
            return
        self._reported.add((place, loss.sentence))
        self.skipped.append(loss.sentence)
        self.frames_skipped += loss.frames
        self._on_skip(loss.sentence)

    def _remark(self, sentence: str) -> None:
        """Pass on the first remark on a file that was read all the same."""
        if not self._remarked:
            self._remarked = True
            (log_remark if self._on_skip is log_skip else self._on_skip)(sentence)


def log_skip(sentence: str) -> None:
    """What happens to the sentence of a frame that is left out, unless another place is given."""
    logging.getLogger("roadshift").warning("Skipped: %s", sentence)


def open_frames(
    source: str | Path | Sequence[str | Path], *, on_skip: Callable[[str], None] = log_skip
) -> FrameSource:
    """Open a folder, a video, an image, or several of them one after the other.

    A folder gives its images (see `list_images`) or, when it has none, its videos. A frame is named
    after its image file, or after its video and its number; names that would collide are prefixed
    with their source's name and folders.

    Args:
        source: what to read; several sources are chained.
        on_skip: called with one sentence for each damaged file or cut video, and with one for the
            first of its images that is odd and was read (see `read_image`).

    Raises:
        FrameError: a source does not exist, holds no frames, or is of a kind not read here.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    if not sources:
        raise FrameError("No frames: give at least one folder, image or video file.")
    found = [(path, root) for one in sources for path, root in _expand(one)]
    return FrameSource(", ".join(str(one) for one in sources), _named(found), on_skip)


def _expand(source: str | Path) -> list[tuple[Path, Path]]:
    """(file, root) for every file of one source; root is the source itself."""
    path = Path(source)
    if re.match(r"camera:|[a-z]+://", str(source)):
        raise FrameError(
            f"{without_password(str(source))} is a live stream, and this needs frames that can be "
            "read again; record it first, for example with "
            "`ffmpeg -i URL_OR_DEVICE -t 60 clip.mp4`."
        )
    is_bag = path.suffix.lower() in {".mcap", ".bag", ".db3"}
    if is_bag or ((path / "metadata.yaml").is_file() and not list_images(path)):
        raise FrameError(
            f"{source} is a ROS bag, and this version reads folders, images and video files; "
            "export its camera topic to images first, for example with "
            "`ros2 run image_view image_saver` while the bag plays."
        )
    if path.is_dir():
        files = list_images(path) or list_files(path, VIDEO_SUFFIXES)
        if not files:
            raise FrameError(f"{source} is a folder without images or videos; give another.")
        return [(file, path) for file in files]
    if not path.is_file():
        raise FrameError(f"{source} does not exist; give a folder, an image or a video file.")
    if path.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise FrameError(
            f"{source} is of a kind that is not read here; give a folder, an image "
            f"({' '.join(sorted(IMAGE_SUFFIXES))}) or a video ({' '.join(sorted(VIDEO_SUFFIXES))})."
        )
    return [(path, path)]


def _named(found: Sequence[tuple[Path, Path]]) -> list[_File]:
    """Give each (file, root) a name: its stem, or a longer name wherever two would be equal."""
    stems = Counter(safe_name(path.stem) for path, _ in found)
    taken: set[str] = set()
    files = []
    for path, root in found:
        name = safe_name(path.stem)
        if stems[name] > 1:
            inner = path.relative_to(root).parts[:-1]
            source = root.resolve().parent.name if path == root else root.resolve().name
            name = safe_name("_".join((source, *inner, path.stem)))
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        files.append(_File(path, unique, is_video))
    return files


def safe_name(name: str) -> str:
    """A name that is safe as a file name, as close to ``name`` as can be."""
    return re.sub(r"[^\w.\-]+", "_", name)


def without_password(url: str) -> str:
    """A URL as it may be shown and stored: no password, and no values in its query."""
    shown = re.sub(r"^(\w[\w+.-]*://[^:/?#@]*)[^/?#]*@", r"\1@", url)
    if "://" not in shown:
        return shown
    address, mark, query = shown.partition("?")
    return address + mark + re.sub(r"=[^&]+", "=***", query)
