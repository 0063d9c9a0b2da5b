"""The audit file: one JSON object a line, each with the hash of the line before.

It is only ever appended to, and flushed. A line that a power cut left unfinished was never written:
the state holds the record of the last change until its line is whole (see `store`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from ..atomic import flush, output_errors
from ..errors import SlotError
from ..signing.statement import text_of
from ..strict_json import JsonError, parse_json

AUDIT_NAME = "audit.jsonl"
FIRST = "0" * 64  # stands for the line before the first

_LONGEST = 1 << 20  # bytes of a line


@dataclass(frozen=True)
class AuditRecord:
    """One line.

    Attributes:
        number: from 0.
        at: when, UTC.
        event: "created", "installed", "tried", "started", "committed", "rolled back", "swapped",
            "refused", "failed" (a model that gave up while another one serves), "plan built",
            "clock set", "no longer trusted" (a model that serves on, for there is no other).
        details: what belongs to it.
        hash: of the line, which the next one names.
    """

    number: int
    at: str
    event: str
    details: dict[str, Any]
    hash: str


def record_line(document: dict[str, Any]) -> bytes:
    """The line of a record, without its end."""
    return json.dumps(document, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def new_record(
    before: dict[str, Any] | None,
    event: str,
    details: dict[str, Any],
    now: datetime,
    state: str = "",
) -> dict[str, Any]:
    """The record that follows ``before``, or the first.

    Args:
        state: `SlotState.digest` after the change.
    """
    return {
        "n": before["n"] + 1 if before is not None else 0,
        "at": text_of(now),
        "event": event,
        "details": details,
        "state": state,
        "previous": hash_of(record_line(before)) if before is not None else FIRST,
    }


def hash_of(line: bytes) -> str:
    """SHA-256 of a line without its end, in hexadecimal."""
    return hashlib.sha256(line).hexdigest()


def append_missing(folder: Path, record: dict[str, Any]) -> None:
    """Make ``record`` the last line, if a kill kept it from being written.

    Raises:
        SlotError: the file ends with another record than the one before; it was changed or cut.
        OutputError: it cannot be written.
    """
    path = folder / AUDIT_NAME
    line = record_line(record)
    with output_errors(path):
        existed = path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size, last = _end(descriptor)
            if last == line:
                return
            wanted = record["previous"]
            if (hash_of(last) if last is not None else FIRST) != wanted:
                raise SlotError(
                    f"{path}: does not end with the record before number {record['n']}; it was "
                    "changed or cut by someone else. Keep a copy for whoever looks into it, and "
                    "make slots anew."
                )
            os.ftruncate(descriptor, size)  # an unfinished line
            os.lseek(descriptor, size, os.SEEK_SET)
            _write_all(descriptor, line + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not existed:
            flush(folder)


def _end(descriptor: int) -> tuple[int, bytes | None]:
    """Bytes up to the end of the last whole line, and that line; (0, None) where there is none."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - 2 * _LONGEST)
    tail = os.pread(descriptor, size - start, start)
    end = tail.rfind(b"\n")
    if end < 0:
        return start, None
    return start + end + 1, tail[tail.rfind(b"\n", 0, end) + 1 : end]


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def read_audit(folder: Path) -> Iterator[AuditRecord]:
    """The records of an audit file in their order, each checked against the one before.

    An unfinished last line is left out.

    Raises:
        SlotError: the chain is broken, at the line named; or it cannot be read.
    """
    path = folder / AUDIT_NAME
    previous = FIRST
    try:
        with path.open("rb") as file:
            for number in count():
                line = file.readline(_LONGEST + 1)
                if not line.endswith(b"\n"):
                    if len(line) > _LONGEST:
                        raise _broken(path, number)
                    return
                line = line[:-1]
                yield _checked(path, number, line, previous)
                previous = hash_of(line)
    except OSError as error:
        raise SlotError(f"{path}: cannot be read ({error.strerror}).") from error


def _checked(path: Path, number: int, line: bytes, previous: str) -> AuditRecord:
    try:
        document = parse_json(line, unique_keys=True)
        if record_line(document) != line or document["n"] != number:
            raise ValueError(number)
        if document["previous"] != previous:
            raise ValueError(number)
        return AuditRecord(
            number, document["at"], document["event"], document["details"], hash_of(line)
        )
    except (JsonError, KeyError, TypeError, ValueError) as error:
        raise _broken(path, number) from error


def _broken(path: Path, number: int) -> SlotError:
    return SlotError(
        f"{path}: line {number + 1} does not follow from the line before; the file was changed."
    )
