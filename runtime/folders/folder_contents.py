"""The frames that a folder holds, in time order, and a line on everything else that lies there."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ..errors import FrameError
from ..pictures.media_kinds import (
    IMAGE_SUFFIXES,
    UNREAD_IMAGE_SUFFIXES,
    UNREAD_VIDEO_SUFFIXES,
    VIDEO_SUFFIXES,
)
from ..pictures.natural_order import natural_key
from ..words import counted
from .bag_folders import is_bag_folder, is_bag_name, is_beside
from .donkey_tubs import CATALOG_SUFFIX, MANIFEST, tub_pictures
from .mask_folders import Separation, separate, separate_videos
from .mask_names import says_preview, stem_keys

_SHOWN = 4  # folders or suffixes named in a list before "and n more"
_OF_SYSTEMS = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
    | {"system volume information", "lost+found"}
)


@dataclass(frozen=True)
class FolderContents:
    """Frames of a folder.

    Attributes:
        root: the folder.
        files: its pictures, videos and bags that hold frames, in time order.
        bags: those of them that are bags, files or folders.
        sentence: says how many files were taken and left out; None if it holds nothing else.
        times_ns: of pictures in tubs of Donkey cars, nanoseconds since their drive began.
    """

    root: Path
    files: tuple[Path, ...]
    sentence: str | None
    bags: tuple[Path, ...] = ()
    times_ns: Mapping[Path, int] = field(default_factory=dict)


@dataclass
class _Listing:
    """Visible files below a folder, relative to it, and the folders that could not be opened."""

    pictures: list[PurePath] = field(default_factory=list)
    videos: list[PurePath] = field(default_factory=list)
    bags: list[PurePath] = field(default_factory=list)
    deleted: int = 0  # pictures that a tub says were deleted
    times_ns: dict[PurePath, int] = field(default_factory=dict)  # of pictures in tubs
    unread_pictures: Counter[str] = field(default_factory=Counter)
    unread_videos: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, file: PurePath) -> None:
        """Sort in one file by its suffix."""
        suffix = file.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            self.pictures.append(file)
        elif suffix in VIDEO_SUFFIXES:
            self.videos.append(file)
        elif is_bag_name(file):
            self.bags.append(file)
        elif suffix in UNREAD_IMAGE_SUFFIXES:
            self.unread_pictures[suffix] += 1
        elif suffix in UNREAD_VIDEO_SUFFIXES:
            self.unread_videos[suffix] += 1
        else:
            self.others[suffix or "no suffix"] += 1


def folder_contents(folder: str | Path, *, videos: bool = True) -> FolderContents:
    """The pictures, videos and bags with frames under a folder, searched recursively.

    Label maps and their like are left out, see `mask_folders`; so are previews beside videos:
    pictures named after a video or called thumbnails, or a single picture. Hidden files and those
    that systems leave (``Thumbs.db``, ``__MACOSX``) are not spoken of. Links are followed, each
    folder once.

    Args:
        videos: False takes pictures alone, neither videos nor bags.

    Raises:
        FrameError: the folder does not exist or cannot be opened, or may hold label maps instead of
            pictures, or a video and its frames.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FrameError(f"{root} is not a folder; give a folder of images.")
    listing = _listed(root)
    pictures, previews = listing.pictures, 0
    if videos and listing.videos:
        pictures = _without_previews(pictures, listing.videos)
        previews = len(listing.pictures) - len(pictures)
    has_recordings = videos and bool(listing.videos or listing.bags)
    separation = separate(root, pictures, has_recordings=has_recordings)
    if videos and listing.videos:
        recordings = separate_videos(listing.videos)
        listing.videos = recordings.pictures
        separation.left_out += recordings.left_out
        if len(separation.pictures) == 1:
            separation.pictures, previews = [], previews + 1
        _check_not_extracted(root, separation.pictures, listing.videos)
    recorded = [*listing.videos, *listing.bags] if videos else []
    taken = sorted([*separation.pictures, *recorded], key=natural_key)
    return FolderContents(
        root,
        tuple(root / file for file in taken),
        _sentence(root, listing, separation, previews, videos),
        tuple(root / bag for bag in listing.bags) if videos else (),
        {root / picture: time_ns for picture, time_ns in listing.times_ns.items()},
    )


def _listed(root: Path) -> _Listing:
    listing = _Listing()
    visited: set[str] = set()
    deleted: set[PurePath] = set()

    def failed(error: OSError) -> None:
        if error.filename == str(root):
            raise FrameError(f"{root} cannot be opened: {error.strerror or error}.") from error
        listing.unreadable[os.path.relpath(error.filename, root)] = error.strerror or str(error)

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=failed):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if _is_visible(name))
        here = PurePath(os.path.relpath(folder, root))
        if MANIFEST in files and any(name.endswith(CATALOG_SUFFIX) for name in files):
            tub = tub_pictures(Path(folder))
            deleted |= {here / picture for picture in tub.deleted}
            listing.times_ns |= {here / one: time_ns for one, time_ns in tub.times_ns.items()}
        if is_bag_folder(files):
            listing.bags.append(here)
            subfolders.clear()
            continue
        visible = {name for name in files if _is_visible(name)}
        for name in sorted(visible):
            if is_beside(name, visible):
                listing.others[PurePath(name).suffix.lower()] += 1
            elif _is_special(Path(folder, name)):
                listing.others["pipes and devices"] += 1
            else:
                listing.add(here / name)
    kept = [picture for picture in listing.pictures if picture not in deleted]
    listing.deleted = len(listing.pictures) - len(kept)
    listing.pictures = sorted(kept, key=natural_key)
    return listing


def _is_special(file: Path) -> bool:
    """True of pipes and devices, which have no end; a broken link is for its reader to report."""
    try:
        return not stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return False


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.casefold() not in _OF_SYSTEMS


def _without_previews(pictures: Iterable[PurePath], videos: Iterable[PurePath]) -> list[PurePath]:
    """The pictures that are neither the only one named after a video nor called thumbnails."""
    pictures = list(pictures)
    of_videos = {_recording(video) for video in videos}
    folders = {folder for folder, _ in of_videos}
    named = Counter(_recording(picture) for picture in pictures)

    def is_preview(picture: PurePath) -> bool:
        recording = _recording(picture)
        if recording in of_videos and named[recording] == 1:
            return True
        return says_preview(picture.stem) and not folders.isdisjoint(
            (picture.parent, *picture.parent.parents)
        )

    return [picture for picture in pictures if not is_preview(picture)]


def _check_not_extracted(
    root: Path, pictures: Sequence[PurePath], videos: Sequence[PurePath]
) -> None:
    """Raise FrameError where pictures are numbered after a video: its frames would count twice."""
    video_of = {video.with_suffix(""): video for video in videos}
    found: list[tuple[PurePath, PurePath]] = []
    for picture in pictures:
        numbered = re.fullmatch(r"(.+?)[\s_.-]*\d+", picture.stem)
        recording = picture.parent / numbered[1] if numbered else picture.parent
        video = video_of.get(recording) or video_of.get(picture.parent)
        if video is not None:
            found.append((picture, video))
    if len(found) > 1:
        picture, video = found[0]
        raise FrameError(
            f"{root}: {len(found)} pictures such as {root / picture} are named after a video, "
            f"{root / video}, and may be its frames, which would count twice; give the videos or "
            "the pictures alone."
        )


def _recording(file: PurePath) -> tuple[PurePath, tuple[str, ...]]:
    """Folder and name of the recording that a file belongs to: ``clip.mp4``, ``clip.mp4.jpg``."""
    inner = PurePath(file.stem)
    stem = inner.stem if inner.suffix.lower() in VIDEO_SUFFIXES else file.stem
    return file.parent, stem_keys(stem).plain or (stem,)


# ---- the sentence -----------------------------------------------------------------------------


def _sentence(
    root: Path, listing: _Listing, separation: Separation, previews: int, videos: bool
) -> str | None:
    """All that is not read, in one sentence; None if everything is."""
    left: list[str] = []
    if separation.left_out:
        count = sum(separation.left_out.values())
        left.append(
            f"{counted(count, 'label map')} and the like ({_listed_out(separation.left_out)})"
        )
    if previews:
        left.append(f"{counted(previews, 'picture')} beside the videos")
    if listing.deleted:
        left.append(f"{counted(listing.deleted, 'picture')} that the car's driver deleted")
    if not videos:
        left += [
            counted(len(found), kind)
            for found, kind in ((listing.videos, "video"), (listing.bags, "bag"))
            if found
        ]
    for kind, unread in (("picture", listing.unread_pictures), ("video", listing.unread_videos)):
        if unread:
            count = sum(unread.values())
            left.append(f"{counted(count, kind)} of a kind not read here ({_listed_out(unread)})")
    if listing.others:
        count = sum(listing.others.values())
        left.append(f"{counted(count, 'other file')} ({_listed_out(listing.others)})")
    if listing.unreadable:
        shown = [f"{folder}: {reason}" for folder, reason in listing.unreadable.items()]
        more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        count = len(listing.unreadable)
        left.append(
            f"{counted(count, 'folder')} that cannot be opened ({', '.join(shown[:_SHOWN])}{more})"
        )
    taken = []
    if separation.pictures:
        where = _folders(separation.pictures)
        taken.append(
            counted(len(separation.pictures), "picture") + (f" of {where}" if where else "")
        )
    if videos and listing.videos:
        taken.append(counted(len(listing.videos), "video"))
    if videos and listing.bags:
        taken.append(counted(len(listing.bags), "bag"))
    both = len(taken) > 1
    if not left and not separation.remark and not both:
        return None
    said = f"{root}: taken {' and '.join(taken) or 'nothing'}"
    said += ", in the order of their names" if both else ""
    said += f" ({separation.remark})" if separation.remark else ""
    return said + (f"; left out {', '.join(left)}." if left else ".")


def _folders(files: Sequence[PurePath]) -> str:
    """The folders of the files; "" where they lie at the top."""
    found = Counter(f"{file.parent}/" for file in files if file.parent != PurePath())
    return f"{len(found)} folders" if len(found) > _SHOWN else ", ".join(found)


def _listed_out(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name} {count}" for name, count in ordered[:_SHOWN]]
    if len(ordered) > _SHOWN:
        shown.append(f"more kinds {sum(count for _, count in ordered[_SHOWN:])}")
    return ", ".join(shown)
