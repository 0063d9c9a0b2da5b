"""Files and folders that are bags: ``.bag``, ``.mcap``, ``.db3``, and the folders of rosbag2.

Files of rosbag2 may have been compressed as a whole, ``.db3.zstd``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePath

from ..pictures.media_kinds import BAG_SUFFIXES
from ..pictures.natural_order import natural_key

METADATA = "metadata.yaml"
_PARTS = frozenset({".db3", ".mcap"})  # of a bag of rosbag2
_RELATIVE_PATHS = re.compile(r"^ *relative_file_paths:\s*\n((?: *- .*\n?)+)", re.MULTILINE)
_ENTRY = re.compile(r"^ *- *[\"']?(.+?)[\"']?\s*$", re.MULTILINE)
_PACKED = frozenset({".zstd", ".zst"})  # behind them, of files that were compressed as a whole


def is_bag_name(name: PurePath) -> bool:
    """Tell whether a file of this name is a bag; ``.bag.active`` is one that is being recorded."""
    is_plain = name.suffix.lower() in BAG_SUFFIXES or name.name.lower().endswith(".bag.active")
    return is_plain or is_packed(name)


def is_packed(name: PurePath) -> bool:
    """Tell whether a file is one of a bag of rosbag2 that was compressed as a whole."""
    return name.suffix.lower() in _PACKED and PurePath(name.stem).suffix.lower() in _PARTS


def unpacked_name(name: PurePath) -> str:
    """A file's name without the ending that says that it was compressed as a whole."""
    return name.stem if is_packed(name) else name.name


def is_beside(name: str, names: Collection[str]) -> bool:
    """Tell whether a packed file lies beside its content: a recorder, or a user, was at it."""
    content = unpacked_name(PurePath(name))
    return content != name and content in names


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
    names = {file.name for file in path.iterdir() if _is_part(file)}
    parts = [path / name for name in names if not is_beside(name, names)]
    return sorted(parts, key=natural_key)


def missing_parts(folder: Path) -> list[str]:
    """Files that a folder's ``metadata.yaml`` names and that are not there; none without one.

    Raises:
        OSError: the file cannot be read.
    """
    if not (folder / METADATA).is_file():
        return []
    text = (folder / METADATA).read_text(encoding="utf-8", errors="replace")
    listed = _RELATIVE_PATHS.search(text)
    names = _ENTRY.findall(listed[1]) if listed else []
    return [name for name in names if not (folder / name).exists()]


def _is_part(name: PurePath) -> bool:
    return name.suffix.lower() in _PARTS or is_packed(name)


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
