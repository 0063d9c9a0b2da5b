"""Git LFS pointers: small texts that stand for files that were not fetched."""

from __future__ import annotations

from pathlib import Path

LFS_START = b"version https://git-lfs.github.com/spec/"
IS_LFS_POINTER = (
    "is a Git LFS pointer, which stands for the file; fetch the file with `git lfs pull`"
)


def is_lfs_pointer(path: Path) -> bool:
    """A file that begins as a pointer; a file that cannot be read does not."""
    try:
        with path.open("rb") as file:
            return file.read(len(LFS_START)) == LFS_START
    except OSError:
        return False
