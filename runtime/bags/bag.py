"""A bag: one file, or the files of a folder of rosbag2, with what lies where in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import FrameError
from ..folders.bag_folders import bag_parts, is_packed
from ..lfs_pointers import IS_LFS_POINTER, is_lfs_pointer
from .bag_file import CDR, BagFile, Channel, Contents, Place
from .chunks import unpacked_message
from .mcap_file import McapFile
from .messages import CAMERA_SCHEMAS, CameraMessage, camera_message
from .packed_parts import PackedFile, unpacked_parts
from .regions import BrokenBagError
from .ros1_file import Ros1File
from .sqlite_file import SqliteFile

_KEPT = 16  # bags whose indices stay in memory


@dataclass(frozen=True, slots=True)
class BagMessage:
    """The place of a camera's message: its file's number, and where it lies there."""

    file: int
    place: Place


@dataclass(frozen=True)
class BagIndex:
    """Contents of a bag, without what its messages say.

    Attributes:
        path: of the bag, a file or a folder.
        parts: its files.
        channels: of each file, by number.
        schemas: name of the type of each topic's messages.
        counts: messages of each topic.
        messages: of each topic with pictures, in the order of the times they were recorded at.
        scanned: files that had no whole index.
        damage: a clause on each file that is damaged, and the file.
    """

    path: Path
    parts: tuple[Path, ...]
    channels: tuple[dict[int, Channel], ...]
    schemas: dict[str, str]
    counts: dict[str, int]
    messages: dict[str, list[BagMessage]]
    scanned: tuple[Path, ...]
    damage: tuple[tuple[Path, str], ...]

    @contextmanager
    def opened(self) -> Iterator[list[BagFile | None]]:
        """The bag's files while they are read; None of one that cannot be opened any more."""
        files = [_open_if_whole(part) for part in self.parts]
        try:
            yield files
        finally:
            for file in filter(None, files):
                file.close()

    def read(self, files: list[BagFile | None], message: BagMessage) -> CameraMessage:
        """A message's fields.

        Raises:
            BrokenBagError: it is damaged, or its file cannot be read.
        """
        file = files[message.file]
        if file is None:
            raise BrokenBagError("its file cannot be opened")
        try:
            data = file.read(message.place)
        except OSError as error:
            raise BrokenBagError(f"its file cannot be read ({error.strerror or error})") from error
        channel = self.channels[message.file][message.place.channel]
        return camera_message(channel, unpacked_message(data) if channel.encoding == CDR else data)


def open_part(path: Path) -> BagFile:
    """One file of a bag, by its content.

    Raises:
        BrokenBagError: it is of no kind of bag.
        OSError: it cannot be opened.
    """
    if is_packed(path):
        (content,) = unpacked_parts([path])
        return PackedFile(content, open_part)
    suffix = path.suffix.lower()
    if suffix == ".mcap":
        return McapFile(path)
    if suffix == ".db3":
        return SqliteFile(path)
    return Ros1File(path)


def read_index(path: Path) -> BagIndex:
    """The index of a bag; kept while its files stay as they are.

    Raises:
        FrameError: it cannot be opened, or is of another kind.
        MissingDependencyError: a package that its chunks need is not installed.
    """
    try:
        parts = tuple(bag_parts(path))
        states = tuple((part.stat().st_size, part.stat().st_mtime_ns) for part in parts)
    except OSError as error:
        raise FrameError(f"{path} cannot be opened: {error.strerror or error}.") from error
    return _read_index(path, parts, states)


@lru_cache(maxsize=_KEPT)
def _read_index(path: Path, parts: tuple[Path, ...], _: tuple[tuple[int, int], ...]) -> BagIndex:
    found = [_contents_of(part, is_alone=len(parts) == 1) for part in parts]
    schemas: dict[str, str] = {}
    counts: Counter[str] = Counter()
    messages: dict[str, list[BagMessage]] = {}
    for number, contents in enumerate(found):
        for key, channel in contents.channels.items():
            schemas.setdefault(channel.topic, channel.schema)
            counts[channel.topic] += contents.counts.get(key, 0)
        for place in contents.places:
            topic = contents.channels[place.channel].topic
            messages.setdefault(topic, []).append(BagMessage(number, place))
    for of_topic in messages.values():
        of_topic.sort(key=lambda message: (message.place.log_ns, message.file))
    of_parts = list(zip(parts, found, strict=True))
    return BagIndex(
        path,
        parts,
        tuple(contents.channels for contents in found),
        schemas,
        dict(counts),
        messages,
        tuple(part for part, contents in of_parts if contents.was_scanned),
        tuple((part, contents.damage) for part, contents in of_parts if contents.damage),
    )


def _contents_of(part: Path, *, is_alone: bool) -> Contents:
    """Contents of one file of a bag; of one among several that is no such file, its damage."""
    try:
        file = open_part(part)
        try:
            return file.contents(CAMERA_SCHEMAS)
        finally:
            file.close()
    except OSError as error:
        raise FrameError(f"{part} cannot be read: {error.strerror or error}.") from error
    except BrokenBagError as error:
        problem = f"it {IS_LFS_POINTER}" if is_lfs_pointer(part) else str(error)
        if is_alone:
            raise FrameError(f"{part} cannot be read as a bag: {problem}.") from error
        return Contents(damage=problem)


def _open_if_whole(part: Path) -> BagFile | None:
    try:
        return open_part(part)
    except (OSError, BrokenBagError):
        return None
