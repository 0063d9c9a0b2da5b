"""Tubs of Donkey cars: when their pictures were taken, and those whose records were deleted.

A tub is a folder of ``images/``, of records in ``catalog_*.catalog``, a JSON object a line, and of
``manifest.json``, whose last line lists the numbers of records that were deleted; their pictures
stay. A record has the time of its picture, and the session, which is a drive. Source: the tub of
version 2 of https://github.com/autorope/donkeycar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..regular_files import read_regular_file

MANIFEST, CATALOG_SUFFIX = "manifest.json", ".catalog"
_IMAGES = "images"
_LATEST_MS = 2**43  # since 1970; nanoseconds of more fit no 64 bits
_LARGEST = 2**26  # bytes of a manifest or a catalog, which hold a thousand records


@dataclass(frozen=True)
class TubPictures:
    """The records of a tub, by their pictures, relative to it.

    Attributes:
        deleted: pictures of records that the driver deleted.
        times_ns: nanoseconds since the first record of the picture's session; a picture whose
            record has no time is not in it.
    """

    deleted: frozenset[PurePath]
    times_ns: Mapping[PurePath, int]


def tub_pictures(folder: Path) -> TubPictures:
    """The pictures of a tub; none where the folder is no tub."""
    numbers, deleted = _deleted(folder), set[PurePath]()
    taken_ms: dict[PurePath, tuple[str, int]] = {}
    for catalog in folder.glob(f"catalog_*{CATALOG_SUFFIX}"):
        for record in _objects(catalog):
            name, number = record.get("cam/image_array"), record.get("_index")
            if not isinstance(name, str):
                continue
            picture = PurePath(_IMAGES, name)
            if isinstance(number, int) and number in numbers:
                deleted.add(picture)
            time_ms = record.get("_timestamp_ms")
            if type(time_ms) is int and 0 <= time_ms < _LATEST_MS:
                taken_ms[picture] = str(record.get("_session_id")), time_ms
    first_ms: dict[str, int] = {}
    for session, time_ms in taken_ms.values():
        first_ms[session] = min(time_ms, first_ms.get(session, time_ms))
    times_ns = {
        picture: (time_ms - first_ms[session]) * 1_000_000
        for picture, (session, time_ms) in taken_ms.items()
    }
    return TubPictures(frozenset(deleted), times_ns)


def _deleted(folder: Path) -> set[int]:
    for described in _objects(folder / MANIFEST):
        numbers = described.get("deleted_indexes")
        if isinstance(numbers, list) and "paths" in described:
            return {number for number in numbers if isinstance(number, int)}
    return set()


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects among a file's lines; a line that is cut is none."""
    try:
        lines = read_regular_file(path, _LARGEST).splitlines()
    except OSError:
        return
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
