"""The files that a source of frames stands for, the kind of each, and the names of its frames.

A bag may hold several cameras. Which one is meant is written behind its name, as in
``drive.mcap#/front/image``, or asked for with `with_topic`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..addresses import without_password
from ..bags.bag import read_index
from ..bags.packed_parts import UnpackedPart, unpacked_parts
from ..bags.topics import camera_topic
from ..errors import FrameError, Sentence, arg
from ..folders.bag_folders import (
    METADATA,
    bag_parts,
    is_bag,
    missing_parts,
    split_topic,
    unpacked_name,
)
from ..folders.folder_contents import folder_contents
from ..pictures.media_kinds import BAG_SUFFIXES, IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ..regular_files import check_regular
from .live_registry import is_live
from .readers import is_recording

_LONGEST_NAME = 160  # bytes
_CAMERAS_SHOWN = 4  # topics that a sentence lists
_PARTS_SHOWN = 3
STILL, VIDEO, BAG, RECORDING = "still", "video", "bag", "recording"

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source, or one folder that is a bag.

    Attributes:
        path: of the file.
        root: the source that it was found in, or itself.
        kind: `STILL`, `VIDEO`, `BAG`, or `RECORDING`, which another's reader reads.
        topic: of a bag, that of its camera.
        name: of its frame, or the start of its frames' names.
        time_ns: of a picture whose folder says when it was taken.
        unpacked: contents of a bag's files that were compressed as a whole, kept as long as this.
    """

    path: Path
    root: Path
    kind: str
    topic: str = ""
    name: str = ""
    time_ns: int = 0
    unpacked: tuple[UnpackedPart, ...] = field(default=(), compare=False, repr=False)


def with_topic(sources: Sequence[str], topic: str | None) -> list[str]:
    """Sources whose bags are read at one topic; as they are where it is None.

    Raises:
        FrameError: there is none, one is a live source, or names a topic already.
    """
    if topic is None:
        return list(sources)
    if not sources:
        raise FrameError(f"{arg('topic')} is of bags, and there are no frames; leave it out.")
    for source in sources:
        if is_live(source):
            raise FrameError(
                f"{without_password(source)} is a live source, and {arg('topic')} is of bags; "
                "leave it out."
            )
        if split_topic(source)[1] is not None:
            raise FrameError(
                f"{source} names a topic itself; leave out {arg('topic')}, or what is behind the #."
            )
    return [f"{source}#{topic}" for source in sources]


def source_files(sources: Sequence[str | Path], note: Note) -> list[SourceFile]:
    """The files of sources, one source after the other, each with a name of its own.

    Args:
        note: called with a sentence on each folder that holds more than its frames, and on bags
            without an index.

    Raises:
        FrameError: a source does not exist, holds no frames, is of a kind not read here, or is a
            bag whose camera is not clear.
    """
    return _named([file for source in sources for file in _expand(source, note)])


def _expand(source: str | Path, note: Note) -> list[SourceFile]:
    """The files of one source, without names."""
    if source == "":  # as a path it would be the current folder
        raise FrameError(
            "The empty name is no source of frames (a variable that is not set?); give a folder, "
            "an image, a video or a bag."
        )
    if is_live(source):
        raise FrameError(
            f"{without_password(str(source))} is a live stream, and this needs frames that can be "
            "read again; record it first, for example with "
            "`ffmpeg -i URL_OR_DEVICE -t 60 clip.mp4`."
        )
    written, topic = split_topic(source)
    path = Path(written)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
        is_one_bag = is_bag(path)
    except OSError as error:  # a name that is too long, a folder that is closed
        raise FrameError(f"{written} cannot be opened: {error.strerror or error}.") from error
    if is_folder and not is_one_bag:
        return _in_folder(path, topic, note)
    if is_file and is_recording(path):
        found = SourceFile(path, path, RECORDING)
    elif is_one_bag and (is_folder or is_file):
        return [_bag(path, path, topic, note)]
    else:
        found = SourceFile(path, path, _kind_of_file(written, path, is_file))
    if topic is not None:
        raise FrameError(f"{written} is no bag, and {arg('topic')} is of bags; leave it out.")
    return [found]


def _check_parts(path: Path) -> None:
    """Raise FrameError of a bag's folder that lacks the files that its ``metadata.yaml`` names."""
    try:
        missing = missing_parts(path)
    except OSError:  # what cannot be read names none
        return
    if missing:
        names = ", ".join(missing[:_PARTS_SHOWN])
        more = f" and {len(missing) - _PARTS_SHOWN} more" if len(missing) > _PARTS_SHOWN else ""
        raise FrameError(
            f"{path} is a bag without its files: its {METADATA} names {names}{more}; copy them "
            "there, or give another."
        )


def _in_folder(path: Path, topic: str | None, note: Note) -> list[SourceFile]:
    """The files of a folder; with a topic, its bags that hold it."""
    contents = folder_contents(path)
    if not contents.files:
        _check_parts(path)
        holds = f" ({contents.sentence.rstrip('.')})" if contents.sentence else ""
        raise FrameError(f"{path} is a folder without images or videos{holds}; give another.")
    if contents.sentence:
        note(contents.sentence)
    bags = set(contents.bags)
    if topic is not None and not bags:
        raise FrameError(f"{path} holds no bag, and {arg('topic')} is of bags; leave it out.")
    files, refusals = [], []
    for file in contents.files:
        if file not in bags or is_recording(file):
            kind, time_ns = _kind_in_folder(file, bags), contents.times_ns.get(file, 0)
            files.append(SourceFile(file, path, kind, time_ns=time_ns))
            continue
        try:
            files.append(_bag(file, path, topic, note))
        except FrameError as error:  # one bag of many that is damaged, or lacks the topic
            if len(bags) == 1:
                raise
            refusals.append(error)
    if not files:
        raise refusals[0]
    for refusal in refusals:
        note(Sentence(f"left out: {refusal.marked}"))
    _note_cameras(path, files, note)
    return files


def _note_cameras(folder: Path, files: Sequence[SourceFile], note: Note) -> None:
    """Say where the bags of a folder, which are read as one drive, are of several cameras."""
    bags: dict[str, list[str]] = {}
    for file in files:
        if file.kind == BAG:
            bags.setdefault(file.topic, []).append(str(file.path.relative_to(folder)))
    if len(bags) < 2:
        return
    shown = [
        f"{topic} in {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        for topic, names in list(bags.items())[:_CAMERAS_SHOWN]
    ]
    more = f", and {len(bags) - _CAMERAS_SHOWN} more" if len(bags) > _CAMERAS_SHOWN else ""
    note(
        Sentence(
            f"{folder}: the bags have pictures on {len(bags)} topics, which are read one after the "
            f"other as one drive: {', '.join(shown)}{more}; if they are different cameras, choose "
            f"one with {arg('topic')}."
        )
    )


def _kind_in_folder(file: Path, bags: Collection[Path]) -> str:
    """The kind of a file that a folder gives and that is not read as a bag."""
    if file in bags:  # another's reader is registered for its suffix
        return RECORDING
    return STILL if file.suffix.lower() in IMAGE_SUFFIXES else VIDEO


def _bag(path: Path, root: Path, topic: str | None, note: Note) -> SourceFile:
    """A bag, its camera found."""
    try:
        unpacked = unpacked_parts(bag_parts(path), note)
    except OSError as error:
        raise FrameError(f"{path} cannot be read: {error.strerror or error}.") from error
    index = read_index(path)
    camera = camera_topic(index, topic)
    for part in index.scanned:
        note(
            f"{part} has no whole index: it was written without one, or its recording was not "
            "finished. Its messages were found by going through it."
        )
    return SourceFile(path, root, BAG, camera, unpacked=unpacked)


def _kind_of_file(source: str, path: Path, is_file: bool) -> str:
    """The kind of what is no folder and no recording."""
    shown = without_password(source)  # an address that was mistyped comes here, too
    if not is_file:
        number = " (a camera of this machine is written camera:0)" if source.isdecimal() else ""
        raise FrameError(
            f"{shown} {_why_no_file(path)}; give a folder, an image, a video or a bag{number}."
        )
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise FrameError(
            f"{shown} is of a kind that is not read here; give a folder, an image "
            f"({' '.join(sorted(IMAGE_SUFFIXES))}), a video ({' '.join(sorted(VIDEO_SUFFIXES))}) "
            f"or a bag ({' '.join(sorted(BAG_SUFFIXES))})."
        )
    return STILL if suffix in IMAGE_SUFFIXES else VIDEO


def _why_no_file(path: Path) -> str:
    """The predicate of a sentence about what is no regular file."""
    try:
        check_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return str(error.strerror)
    return "cannot be read"  # it was exchanged meanwhile


def _named(found: Sequence[SourceFile]) -> list[SourceFile]:
    """Give each file a name: its stem, or a longer name wherever two would be equal."""
    stems = Counter(safe_name(_stem(file)) for file in found)
    # A frame of clip.mp4 would be named like a picture clip_000007.
    numbered = {re.sub(r"_\d{6,}$", "", stem) for stem in stems if re.search(r"_\d{6,}$", stem)}
    taken: set[str] = set()
    files = []
    for file in found:
        path, root = file.path, file.root
        name = safe_name(_stem(file))
        if stems[name] > 1:
            inner = path.relative_to(root).parts[:-1]
            source = root.resolve().parent.name if path == root else root.resolve().name
            name = safe_name("_".join((source, *inner, _stem(file))))
        unique, number = name, 2
        while unique in taken or (file.kind != STILL and unique in numbered):
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        files.append(replace(file, name=unique))
    return files


def _stem(file: SourceFile) -> str:
    return Path(unpacked_name(file.path)).stem


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
