"""Bytes of regular files alone: no pipe that never ends, no device, nothing beyond a size."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from .gentle import in_a_gap

_GAP = 8  # blocks that are hashed in one piece, see `gentle`
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def read_regular_file(path: str | Path, limit: int) -> bytes:
    """The whole content of a regular file of at most ``limit`` bytes.

    A symbolic link is followed. Nothing but a regular file is opened, for opening a pipe waits and
    opening a device may move it.

    Raises:
        OSError: there is no such file or it cannot be read; or it is of another kind, or too large,
            with a ``strerror`` that says so ("is a named pipe, not a regular file").
    """
    check_regular(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        _check_regular(found.st_mode, path)  # exchanged since
        content = file.read(limit + 1) if found.st_size <= limit else b""
    if found.st_size > limit or len(content) > limit:
        size = max(found.st_size, len(content))
        problem = f"has {size:,} bytes, and at most {limit:,} are read"
        raise OSError(errno.EFBIG, problem, str(path))
    return content


def sha256_of_rest(file: BinaryIO) -> str:
    """SHA-256 of what is left of an open file, in hexadecimal, a megabyte in memory at a time."""
    digest = hashlib.sha256()
    for number, block in enumerate(iter(lambda: file.read(1 << 20), b""), 1):
        digest.update(block)
        if number % _GAP == 0:
            in_a_gap()
    return digest.hexdigest()


def check_regular(path: str | Path) -> None:
    """Refuse what is no regular file, without opening it; a symbolic link is followed.

    Raises:
        OSError: there is none, or it is of another kind, with a ``strerror`` that says which.
    """
    _check_regular(os.stat(path).st_mode, path)


def _check_regular(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"is {kind}, not a regular file", str(path))
