"""Frames from folders, image files and videos, in time order; a bad one is reported and skipped.

FFmpeg's own messages about damaged videos are quieted (set ``OPENCV_FFMPEG_LOGLEVEL`` to bring them
back): what is lost is reported here by file and count.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from ..addresses import without_password
from ..errors import FrameError
from ..folders.folder_contents import folder_contents
from ..notes import log_note
from ..pictures.media_kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ..regular_files import check_regular
from ..video.damage_watch import DamageWatch
from ..video.video_file import LostFrames, count_frames, expected_frames, read_video
from .images import Image, read_frame_image
from .live_registry import is_live
from .readers import is_recording, read_recording

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
class _SourceFile:
    """One file of a source; ``name`` is its frame's name, or the start of its frames' names."""

    path: Path
    name: str
    is_video: bool  # or a recording that another's reader reads


class FrameSource:
    """Frames of one or several sources, iterable again and again; made by `open_frames`.

    Attributes:
        skipped: one sentence for each damaged file or cut video met so far, once however often the
            source is iterated over.
        frames_skipped: frames met so far that are there and cannot be decoded: an image each, and
            those of damaged videos; the missing end of a cut video is none.
        watch: looks over the videos whose frames are read, if it is set.
    """

    def __init__(
        self, title: str, files: Sequence[_SourceFile], on_skip: Callable[[str], None]
    ) -> None:
        self._title = title
        self._files = files
        self._on_skip = on_skip
        self.skipped: list[str] = []
        self.frames_skipped = 0
        self.watch: DamageWatch | None = None
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
            self._expected[path] = None if is_recording(path) else expected_frames(path)
        return self._expected[path]

    def count(self, go_on: Callable[[], bool] = lambda: True) -> int:
        """Frames that an iteration will give, where no image is damaged: videos are decoded.

        Args:
            go_on: asked before each frame of a video; False ends the counting there.
        """
        total = len(self._files) - len(self._videos)
        for path in self._videos:
            found = self._counts.get(path)
            if found is None:
                found = _count(path, go_on)
                if not go_on():
                    return total + found
                self._counts[path] = found
            total += found
        return total

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

    def _read(self, file: _SourceFile) -> Iterator[Frame | LostFrames]:
        """The frames of one file, and what is lost of it."""
        if not file.is_video:
            try:
                yield Frame(read_frame_image(file.path, remark=self._remark), file.name, 0)
            except FrameError as error:
                yield LostFrames(str(error), 1)
            return
        if is_recording(file.path):
            yield from self._read_recording(file)
            return
        frames = 0
        for read in read_video(file.path):
            if isinstance(read, LostFrames):
                yield read
                continue
            if self.watch is not None:
                self.watch.begin(file.path)
                self.watch.reached(file.path, frames + 1)
            yield Frame(read.image, _frame_name(file, frames), read.timestamp_ns)
            frames += 1
        self._counts[file.path] = frames

    def _read_recording(self, file: _SourceFile) -> Iterator[Frame | LostFrames]:
        """The frames that another's reader gives, and what it says is lost."""
        frames = 0
        try:
            for image, timestamp_ns in read_recording(file.path):
                yield Frame(image, _frame_name(file, frames), timestamp_ns)
                frames += 1
        except FrameError as error:
            yield LostFrames(str(error), 0)
        self._counts[file.path] = frames

    def damaged_names(self) -> set[str]:
        """Names of the frames read so far that `watch` found to be damaged."""
        if self.watch is None:
            return set()
        return {
            _frame_name(file, number)
            for file in self._files
            if file.is_video
            for number in self.watch.damaged(file.path)
        }

    def _report(self, place: int, loss: LostFrames) -> None:
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
            (log_note if self._on_skip is log_skip else self._on_skip)(sentence)


def _count(path: Path, go_on: Callable[[], bool]) -> int:
    """The pictures of a recording that can be read; a damaged rest is none of them."""
    if not is_recording(path):
        return count_frames(path, go_on)
    count = 0
    try:
        for _ in takewhile(lambda _: go_on(), read_recording(path)):
            count += 1
    except FrameError:
        pass
    return count


def _frame_name(video: _SourceFile, number: int) -> str:
    return f"{video.name}_{number:06d}"


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
        on_skip: called with one sentence for each damaged file or cut video, with one for the first
            of its images that is odd and was read (see `read_image`), and at once with one for each
            folder that holds more than its frames.

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


def _why_no_file(path: Path) -> str:
    """The predicate of a sentence about what is no regular file."""
    try:
        check_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return str(error.strerror)
    return "cannot be read"  # it was exchanged meanwhile


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
    if is_file and is_recording(path):
        return [(path, path)]
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
            f"{shown} {_why_no_file(path)}; give a folder, an image or a video file{number}."
        )
    if path.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise FrameError(
            f"{source} is of a kind that is not read here; give a folder, an image "
            f"({' '.join(sorted(IMAGE_SUFFIXES))}) or a video ({' '.join(sorted(VIDEO_SUFFIXES))})."
        )
    return [(path, path)]


def _named(found: Sequence[tuple[Path, Path]]) -> list[_SourceFile]:
    """Give each (file, root) a name: its stem, or a longer name wherever two would be equal."""
    stems = Counter(safe_name(path.stem) for path, _ in found)
    # A frame of clip.mp4 would be named like a picture clip_000007.
    numbered = {re.sub(r"_\d{6,}$", "", stem) for stem in stems if re.search(r"_\d{6,}$", stem)}
    taken: set[str] = set()
    files = []
    for path, root in found:
        is_video = path.suffix.lower() in VIDEO_SUFFIXES or is_recording(path)
        name = safe_name(path.stem)
        if stems[name] > 1:
            inner = path.relative_to(root).parts[:-1]
            source = root.resolve().parent.name if path == root else root.resolve().name
            name = safe_name("_".join((source, *inner, path.stem)))
        unique, number = name, 2
        while unique in taken or (is_video and unique in numbered):
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        files.append(_SourceFile(path, unique, is_video))
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
