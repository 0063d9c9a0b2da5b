"""Tubs of Donkey cars: the pictures whose records their driver deleted.

A tub is a folder of ``images/``, of records in ``catalog_*.catalog``, a JSON object a line, and of
``manifest.json``, whose last line lists the numbers of records that were deleted; their pictures
stay. Source: the tub of version 2 of https://github.com/autorope/donkeycar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from ..regular_files import read_regular_file

MANIFEST, CATALOG_SUFFIX = "manifest.json", ".catalog"
_IMAGES = "images"
_LARGEST = 2**26  # bytes of a manifest or a catalog, which hold a thousand records


def deleted_pictures(folder: Path) -> set[PurePath]:
    """Pictures of deleted records, relative to the tub; none where the folder is no tub."""
    deleted = _deleted(folder)
    if not deleted:
        return set()
    return {
        PurePath(_IMAGES, record["cam/image_array"])
        for catalog in folder.glob(f"catalog_*{CATALOG_SUFFIX}")
        for record in _objects(catalog)
        if record.get("_index") in deleted and isinstance(record.get("cam/image_array"), str)
    }


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
