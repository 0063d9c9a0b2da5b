"""Names that something does not take: of outputs, before any work, and of inputs, by a way around.

A file system takes names of so many bytes; many libraries take UTF-8 alone, and some crash at a
name in another encoding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .addresses import is_url, without_password
from .errors import OutputError

STAGED = ".{}.tmp-xxxxxxxx"  # the longest name that a folder has while it is being written
_USUAL_NAME_MAX, _USUAL_PATH_MAX = 255, 4096  # bytes; of Linux' usual file systems
_ROOM_INSIDE = 128  # bytes of the longest path below an output folder


def check_name(
    path: str | Path, pattern: str = "{}", *, inside: bool = False, by_library: bool = False
) -> None:
    """Refuse a name for an output that its file system, or what writes it, does not take.

    Args:
        path: the output; its folder may be missing.
        pattern: the longest name that is made from the output's own meanwhile, see `STAGED`.
        inside: files are made below it.
        by_library: it is written by a library that takes UTF-8 alone, wherever it lies.

    Raises:
        OutputError: by how many bytes it is too long, that it is no UTF-8, or that it is a URL.
    """
    path = Path(path)
    if is_url(path):
        raise OutputError(
            f"{without_password(str(path))}: is an address, and results are written to files; give "
            "a file or a folder."
        )
    if by_library and not is_utf8(os.path.abspath(path)):
        raise OutputError(
            f"{path}: a name in the path to it holds bytes that are no UTF-8, which libraries that "
            "write there do not take; choose another folder or name."
        )
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


def beside(path: Path, pattern: str) -> Path:
    """The path in an output's folder whose name is ``pattern`` with the output's own, "{}.run".

    Raises:
        OutputError: the output has no name: it is ".", or the root.
    """
    if not path.name:
        raise OutputError(f"{path}: has no name of its own; choose another name.")
    return path.with_name(pattern.replace("{}", path.name))


def is_utf8(name: str) -> bool:
    """Tell whether a name from the file system or the command line was UTF-8 there."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


@contextmanager
def library_path(path: str | Path) -> Iterator[str]:
    """A path by which a library can open an existing file: its own, or one of its descriptor.

    Its own is absolute: FFmpeg takes a relative ``12:30.mp4`` for an address.

    What was opened within the body stays open after it.

    Raises:
        OSError: the file cannot be opened.
    """
    if is_utf8(str(path)):
        yield os.path.abspath(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _limits(folder: Path) -> tuple[int, int]:
    """Bytes of the longest name in a folder and of the longest path."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX")
    except OSError:  # the folder is missing, which is said elsewhere
        return _USUAL_NAME_MAX, _USUAL_PATH_MAX


def _start(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}..."
