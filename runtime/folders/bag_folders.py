"""Files and folders that are bags: ``.bag``, ``.mcap``, ``.db3``, and the folders of rosbag2."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

from ..pictures.media_kinds import BAG_SUFFIXES
from ..pictures.natural_order import natural_key

METADATA = "metadata.yaml"
_PARTS = frozenset({".db3", ".mcap"})  # of a bag of rosbag2


def is_bag_name(name: PurePath) -> bool:
    """Tell whether a file of this name is a bag; ``.bag.active`` is one that is being recorded."""
    return name.suffix.lower() in BAG_SUFFIXES or name.name.lower().endswith(".bag.active")


def is_bag_folder(names: Iterable[str]) -> bool:
    """Tell whether a folder with files of these names is a bag of rosbag2."""
    found = set(names)
    return METADATA in found and any(_is_part(PurePath(name)) for name in found)


def bag_parts(path: Path) -> list[Path]:
    """The files of a bag in the order in which they were recorded; of a single file, itself.

    Raises:
        OSError: the folder cannot be listed.
    """
    if not path.is_dir():
        return [path]
    return sorted((file for file in path.iterdir() if _is_part(file)), key=natural_key)


def _is_part(name: PurePath) -> bool:
    suffix = name.suffix.lower()
    return suffix in _PARTS or (suffix == ".zstd" and PurePath(name.stem).suffix.lower() in _PARTS)


def is_bag(path: Path) -> bool:
    """Tell whether a path is a file or a folder that is a bag.

    Raises:
        OSError: it cannot be looked at, or a folder cannot be listed.
    """
    if path.is_dir():
        return (path / METADATA).is_file() and is_bag_folder(file.name for file in path.iterdir())
    return is_bag_name(path)


def split_topic(source: str | Path) -> tuple[str, str | None]:
    """Path and topic of ``drive.mcap#/front/image``; None where no file has what is before a #.

    Names of files may hold that sign themselves.
    """
    text = str(source)
    places = [at for at, letter in enumerate(text) if letter == "#" and 0 < at < len(text) - 1]
    try:
        if not places or Path(text).exists():
            return text, None
        for at in reversed(places):
            if Path(text[:at]).exists():
                return text[:at], text[at + 1 :]
    except OSError:  # a name that is too long
        pass
    return text, None
