"""White of 16-bit pictures: 65535, or the 4095 of a camera of twelve bits, one for a whole folder.

A dark picture of a 16-bit camera is no brighter than one of twelve bits, so that one picture cannot
tell. Those of a folder that are alike by suffix and by the words of their names for their kind
(`mask_names.marks`) come from one camera: a few of them are looked at when the first picture asks,
and the answer is kept for this process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..folders.mask_names import marks
from ..notes import log_note
from ..pictures.natural_order import natural_key
from ..pictures.white import SIXTEEN_BITS, TWELVE_BITS
from ..spacing import evenly_spaced

_LOOKED_AT = 8


class _PictureSeries(NamedTuple):
    folder: Path
    suffix: str
    marks: tuple[str, ...]


_WHITES: dict[_PictureSeries, int] = {}  # of the folders that this process has read from


def white_in_folder(path: Path, brightest: int, brightest_of: Callable[[Path], int | None]) -> int:
    """White of a picture among those of its folder: 65535 if any is known to need it.

    A picture above 4095 that comes after pictures were taken as twelve bits settles it for those
    that follow, and a line is logged.

    Args:
        path: of the picture; its folder is listed if need be.
        brightest: its largest value.
        brightest_of: largest value of another file of the folder, or None if that is no readable
            16-bit picture; called for at most eight.
    """
    series = _series_of(path.absolute())
    known = _WHITES.get(series)
    if brightest > TWELVE_BITS:
        _WHITES[series] = SIXTEEN_BITS
        if known == TWELVE_BITS:
            log_note(
                f"{path} has values up to {brightest}: the pictures of its folder are taken as 16 "
                f"bits from here on; those before it were taken as twelve, {TWELVE_BITS} as white."
            )
        return SIXTEEN_BITS
    if brightest == 0 or known is not None:
        return known or SIXTEEN_BITS  # black is black in both
    found = (brightest_of(other) for other in _some_of(series))
    is_sixteen = any(value is not None and value > TWELVE_BITS for value in found)
    return _WHITES.setdefault(series, SIXTEEN_BITS if is_sixteen else TWELVE_BITS)


def _series_of(path: Path) -> _PictureSeries:
    return _PictureSeries(path.parent, path.suffix.lower(), marks(path.stem))


def _some_of(series: _PictureSeries) -> list[Path]:
    """Evenly spaced pictures of the series, with its first and last."""
    try:
        files = [file for file in series.folder.iterdir() if _series_of(file) == series]
    except OSError:  # a folder whose files may be read and that may not be listed
        return []
    files.sort(key=natural_key)
    return [files[place] for place in evenly_spaced(len(files), _LOOKED_AT)]
