"""Names of outputs, checked before any work: too long for the file system, with what is added."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import OutputError

STAGED = ".{}.tmp-xxxxxxxx"  # the longest name that a folder has while it is being written
_USUAL_NAME_MAX, _USUAL_PATH_MAX = 255, 4096  # bytes; of Linux' usual file systems
_ROOM_INSIDE = 128  # bytes of the longest path below an output folder


def check_name(path: str | Path, pattern: str = "{}", *, inside: bool = False) -> None:
    """Refuse a name that its file system does not take.

    Args:
        path: the output; its folder may be missing.
        pattern: the longest name that is made from the output's own meanwhile, see `STAGED`.
        inside: files are made below it.

    Raises:
        OutputError: by how many bytes it is too long.
    """
    path = Path(path)
    added = len(os.fsencode(pattern)) - len("{}")
    longest, whole = _limits(path.parent)
    excess = len(os.fsencode(path.name)) + added - longest
    if excess > 0:
        needs = f" and {added} are needed for the names that it has meanwhile" if added else ""
        raise OutputError(
            f"{_start(path.name)}: the name is {excess} bytes too long; this file system takes "
            f"{longest}{needs}; choose a shorter one."
        )
    room = added + (_ROOM_INSIDE if inside else 1)
    excess = len(os.fsencode(os.path.abspath(path))) + room - whole
    if excess > 0:
        raise OutputError(
            f"{_start(str(path))}: the path is {excess} bytes too long; this system takes {whole} "
            f"and {room} are needed for what is written there; choose a shorter one."
        )


def _limits(folder: Path) -> tuple[int, int]:
    """Bytes of the longest name in a folder and of the longest path."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX")
    except OSError:  # the folder is missing, which is said elsewhere
        return _USUAL_NAME_MAX, _USUAL_PATH_MAX


def _start(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}..."
