"""Checksums of a run's files: each carries the SHA-256 of its content, so a flipped bit is found.

A kill leaves every file whole, but disks, copies and editors do not. Such a file is read only
if it is what was written; who reads it decides whether it can be made anew or ends the run.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ...runtime.regular_files import read_regular_file, sha256_of_rest
from ...runtime.strict_json import JsonError, parse_json
from .checkpoint import open_file, write_atomically
from .events import QUIET, Events

CHECKSUM = "sha256"  # key in a JSON file
LARGEST_JSON = 256 << 20  # bytes: names of a million frames
LONG_WORK_BYTES = 2 << 30  # from which reading files is worth a note
_TRAILER = b"\nsha256:"  # and 32 bytes, after the content of a file that is not JSON


class DamagedError(ValueError):
    """A file with a checksum that is not what was written; the message is the reason, a phrase."""


# --- JSON ----------------------------------------------------------------------------------------


def write_json_with_checksum(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record``, a JSON object without NaN, whole and with its checksum.

    Raises:
        OutputError: it cannot be written.
    """
    whole = {**record, CHECKSUM: _checksum_of(record)}
    write_atomically(path, json.dumps(whole, indent=1, allow_nan=False).encode())


def read_json_with_checksum(path: Path) -> dict[str, Any]:
    """The record that `write_json_with_checksum` wrote, without the checksum.

    Raises:
        OSError: it cannot be read.
        DamagedError: it was changed since it was written.
    """
    try:
        record = parse_json(read_regular_file(path, LARGEST_JSON))
    except JsonError as error:
        raise DamagedError(str(error)) from error
    if not isinstance(record, dict):
        raise DamagedError("not a JSON object")
    stored = record.pop(CHECKSUM, None)
    if stored != _checksum_of(record):
        raise DamagedError("its content and its SHA-256 differ" if stored else "it has no SHA-256")
    return record


def read_or_redo(path: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """The record that `write_json_with_checksum` wrote; empty if missing, or damaged and noted.

    For what can be found out anew from the rest of the run.
    """
    if not path.exists():
        return {}
    try:
        return read_json_with_checksum(path)
    except (OSError, DamagedError) as error:
        note(f"{path}: damaged ({error}), so it is made again")
        return {}


def _checksum_of(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# --- any other content ---------------------------------------------------------------------------


def with_checksum(content: bytes) -> bytes:
    """``content`` with its checksum behind it, where decoders of PNG and NPZ do not look."""
    return content + _TRAILER + hashlib.sha256(content).digest()


def without_checksum(data: bytes) -> bytes:
    """The content of which `with_checksum` made ``data``.

    Raises:
        DamagedError: it is not what `with_checksum` made.
    """
    size = len(data) - len(_TRAILER) - 32
    content, trailer = data[: max(size, 0)], data[max(size, 0) :]
    if trailer != _TRAILER + hashlib.sha256(content).digest():
        raise DamagedError("its content and its SHA-256 differ")
    return content


def read_with_checksum(path: Path, note: Callable[[str], None]) -> bytes | None:
    """The content of a file of `with_checksum`; None if missing, or damaged, which is noted."""
    try:
        with open_file(path) as file:
            return without_checksum(file.read())
    except FileNotFoundError:
        return None
    except (OSError, DamagedError) as error:
        note(f"{path}: damaged ({error}), so it is made again")
        return None


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with open_file(path) as file:
        return sha256_of_rest(file)


def content_hash(files: Iterable[Path], events: Events = QUIET) -> str:
    """SHA-256 of the names and bytes of ``files``, in their order, in hexadecimal.

    Args:
        files: of any size; what they hold is read, for sizes and times of change say nothing of it.
        events: told of gigabytes, and how far it is; asked then between two files.

    Raises:
        OSError: one cannot be read.
        RunInterrupted: a signal came.
    """
    paths = list(files)
    sizes = [path.stat().st_size for path in paths]
    total, done, told = sum(sizes), 0, time.monotonic()
    long = total >= LONG_WORK_BYTES
    if long:
        events.note(f"reading {len(paths)} files, {total / 2**30:.1f} GiB, for their SHA-256")
    whole = hashlib.sha256()
    for path, size in zip(paths, sizes, strict=True):
        if long:
            events.stop_if_requested()
        whole.update(json.dumps([path.name, size, file_hash(path)]).encode())
        done += size
        if time.monotonic() - told > 10:
            told = time.monotonic()
            events.note(f"read {done / 2**30:.1f} of {total / 2**30:.1f} GiB")
    return whole.hexdigest()
