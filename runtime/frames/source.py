"""Frames of folders, image files, videos and bags, in time order; a bad one is reported, skipped.

FFmpeg's own messages about damaged videos are quieted (set ``OPENCV_FFMPEG_LOGLEVEL`` to bring them
back): what is lost is reported here by file and count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from ..bags.bag import read_index
from ..bags.pictures import CameraTopic
from ..errors import FrameError
from ..given import path_of
from ..notes import log_note
from ..video.damage_watch import DamageWatch
from ..video.video_file import LostFrames, count_frames, expected_frames, read_video
from .images import Image, read_frame_image
from .readers import read_recording
from .source_files import BAG, RECORDING, STILL, VIDEO, SourceFile, source_files, with_topic


@dataclass(frozen=True, slots=True)
class Origin:
    """Header of the message that a frame of a bag comes from.

    Attributes:
        topic: such as "/front/image".
        frame_id: the camera's frame of reference.
        stamp_ns: when the picture was taken, in nanoseconds since 1970.
    """

    topic: str
    frame_id: str
    stamp_ns: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        name: unique within its source and safe as a file name; no suffix.
        timestamp_ns: time since the start of its video, or of its drive in a Donkey car's tub; of
            a bag, the stamp of its message; 0 for other image files, which do not say.
        origin: of a bag, the header of its message; else None.
    """

    image: Image
    name: str
    timestamp_ns: int
    origin: Origin | None = None


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
        self, title: str, files: Sequence[SourceFile], on_skip: Callable[[str], None]
    ) -> None:
        self._title = title
        self._files = files
        self._on_skip = on_skip
        self.skipped: list[str] = []
        self.frames_skipped = 0
        self.watch: DamageWatch | None = None
        self._reported: set[tuple[int, str]] = set()  # place of a file, sentence
        self._remarked = False
        self._remarks: set[str] = set()  # on bags
        self._recorded = [file for file in files if file.kind != STILL]
        self._expected: dict[SourceFile, int | None] = {}
        self._counts: dict[SourceFile, int] = {}

    @property
    def length(self) -> int | None:
        """Frames to expect: one an image, and of each video the frames counted, if they were.

        Else the compressed pictures in it; None where a video is too large to look that up. Never
        what a header states, which is often wrong. Of a bag, the messages of its camera.
        """
        total = len(self._files) - len(self._recorded)
        for file in self._recorded:
            frames = self._frames_of(file)
            if frames is None:
                return None
            total += frames
        return total

    def _frames_of(self, file: SourceFile) -> int | None:
        if file.kind == BAG:
            return len(read_index(file.path).messages[file.topic])
        if file in self._counts:
            return self._counts[file]
        if file not in self._expected:
            expected = expected_frames(file.path) if file.kind == VIDEO else None
            self._expected[file] = expected
        return self._expected[file]

    def count(self, go_on: Callable[[], bool] = lambda: True) -> int:
        """Frames that an iteration will give, where no image is damaged: videos are decoded.

        Args:
            go_on: asked before each frame of a video; False ends the counting there.
        """
        total = len(self._files) - len(self._recorded)
        for file in self._recorded:
            found = self._frames_of(file) if file.kind == BAG else self._counts.get(file)
            if found is None:
                found = _count(file, go_on)
                if not go_on():
                    return total + found
                self._counts[file] = found
            total += found
        return total

    def __len__(self) -> int:
        length = self.length
        if length is None:
            raise TypeError(f"the number of frames in {self._title} is not known")
        return length

    @property
    def image_files(self) -> dict[str, Path]:
        """The image files by their frames' names, whatever videos and bags lie beside them."""
        return {file.name: file.path for file in self._files if file.kind == STILL}

    @property
    def stills(self) -> tuple[tuple[Path, str], ...] | None:
        """The image files and their frames' names, in order; None if there is a video or a bag."""
        if self._recorded:
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
        return self._iterate(None)

    def at(self, places: Collection[int]) -> Iterator[Frame]:
        """Yield the frames at some places among all, in order, as iterating does.

        The messages of a bag in between are not read; other frames are, and are left out.
        """
        return self._iterate(places)

    def _iterate(self, places: Collection[int] | None) -> Iterator[Frame]:
        good = passed = 0
        losses = []
        for place, file in enumerate(self._files):
            wanted = _wanted(places, passed)
            for read in self._read(file, wanted):
                if isinstance(read, Frame):
                    good += 1
                    yield read
                    continue
                losses.append(read.sentence)
                if good or len(self._files) > 1:
                    self._report(place, read)
            passed += self._passed(file)
        if len(self._files) == 1 and not good:
            raise FrameError(losses[0])
        if not good:
            raise FrameError(
                f"None of the {len(self._files)} files of {self._title} can be read; "
                f"the first: {losses[0]}"
            )

    def _passed(self, file: SourceFile) -> int:
        """Frames of a file that has been read."""
        return 1 if file.kind == STILL else self._frames_of(file) or 0

    def _read(self, file: SourceFile, wanted: Wanted) -> Iterator[Frame | LostFrames]:
        """The frames of one file that are wanted, and what is lost of it."""
        if file.kind == STILL:
            yield from self._read_still(file, wanted)
        elif file.kind == BAG:
            yield from self._read_bag(file, wanted)
        else:
            read = self._read_video if file.kind == VIDEO else self._read_recording
            frames = 0
            for one in read(file):
                if isinstance(one, LostFrames):
                    yield one
                    continue
                if wanted(frames):
                    yield Frame(one[0], _frame_name(file, frames), one[1])
                frames += 1
            self._counts[file] = frames

    def _read_still(self, file: SourceFile, wanted: Wanted) -> Iterator[Frame | LostFrames]:
        if not wanted(0):
            return
        try:
            yield Frame(read_frame_image(file.path, remark=self._remark), file.name, file.time_ns)
        except FrameError as error:
            yield LostFrames(str(error), 1)

    def _read_video(self, file: SourceFile) -> Iterator[tuple[Image, int] | LostFrames]:
        frames = 0
        for read in read_video(file.path):
            if isinstance(read, LostFrames):
                yield read
                continue
            frames += 1
            if self.watch is not None:
                self.watch.begin(file.path)
                self.watch.reached(file.path, frames)
            yield read.image, read.timestamp_ns

    def _read_recording(self, file: SourceFile) -> Iterator[tuple[Image, int] | LostFrames]:
        """The frames that another's reader gives, and what it says is lost."""
        try:
            yield from read_recording(file.path)
        except FrameError as error:
            yield LostFrames(str(error), 0)

    def _read_bag(self, file: SourceFile, wanted: Wanted) -> Iterator[Frame | LostFrames]:
        camera = CameraTopic(read_index(file.path), file.topic, self._remark_on_bag)
        for read in camera.pictures(wanted):
            if isinstance(read, LostFrames):
                yield read
                continue
            origin = Origin(file.topic, read.frame_id, read.stamp_ns)
            yield Frame(read.image, _frame_name(file, read.number), read.stamp_ns, origin)

    def damaged_names(self) -> set[str]:
        """Names of the frames read so far that `watch` found to be damaged."""
        if self.watch is None:
            return set()
        return {
            _frame_name(file, number)
            for file in self._files
            if file.kind == VIDEO
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
            self._say(sentence)

    def _remark_on_bag(self, sentence: str) -> None:
        """Pass on each remark on a bag once."""
        if sentence not in self._remarks:
            self._remarks.add(sentence)
            self._say(sentence)

    def _say(self, sentence: str) -> None:
        (log_note if self._on_skip is log_skip else self._on_skip)(sentence)


Wanted = Callable[[int], bool]
"""Asked with the number of a frame in its file."""


def _wanted(places: Collection[int] | None, passed: int) -> Wanted:
    """Tells which frames of a file are at ``places``, where ``passed`` frames came before it."""
    if places is None:
        return lambda _: True
    return lambda number: passed + number in places


def _count(file: SourceFile, go_on: Callable[[], bool]) -> int:
    """The pictures of a recording that can be read; a damaged rest is none of them."""
    if file.kind != RECORDING:
        return count_frames(file.path, go_on)
    count = 0
    try:
        for _ in takewhile(lambda _: go_on(), read_recording(file.path)):
            count += 1
    except FrameError:
        pass
    return count


def _frame_name(video: SourceFile, number: int) -> str:
    return f"{video.name}_{number:06d}"


def log_skip(sentence: str) -> None:
    """Log the sentence on files that are left out, unless another place is given."""
    logging.getLogger("roadshift").warning("Skipped: %s", sentence)


def open_frames(
    source: str | Path | Sequence[str | Path],
    *,
    topic: str | None = None,
    on_skip: Callable[[str], None] = log_skip,
) -> FrameSource:
    """Open a folder, a video, a bag, an image, or several of them one after the other.

    A folder gives its images, videos and bags, without label maps and previews (see
    `folder_contents`); files given themselves are read whatever they hold. A frame is named after
    its image file, or after its video or bag and its number; names that would collide are prefixed
    with their source's name and folders, and long ones are shortened.

    Args:
        source: what to read; several sources are chained. A bag's camera may be named behind it,
            ``drive.mcap#/front/image``.
        topic: the camera's, in all bags; needed where a bag has several.
        on_skip: called with one sentence for each damaged file or cut video, with one for the first
            of its images that is odd and was read (see `read_image`), and at once with one for each
            folder that holds more than its frames.

    Raises:
        ConfigError: a source is no path.
        FrameError: a source does not exist, holds no frames, is of a kind not read here, or is a
            bag whose camera is not clear.
        MissingDependencyError: a package that a bag needs is not installed.
        OutputError: a bag that is compressed as a whole does not fit on the disk when unpacked.
    """
    if isinstance(source, (str, Path)) or not isinstance(source, Iterable):
        source = [source]
    sources = list(source)
    for one in sources:
        path_of("source", one)
    if not sources:
        raise FrameError("No frames: give at least one folder, image, video or bag.")
    asked = sources if topic is None else with_topic([str(one) for one in sources], topic)
    first = ", ".join(str(one) for one in sources[:3])
    more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    note = log_note if on_skip is log_skip else on_skip
    return FrameSource(first + more, source_files(asked, note), on_skip)
