"""Natural order of names: numbers by value, chapters of one recording together, for any string.

Names are compared piece by piece, runs of digits by their value and the rest without regard to
case. Every key is built of tuples of one shape, so that any two names compare, whatever they hold.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from pathlib import PurePath

_Piece = tuple[int, int, str, str]
_PartKey = tuple[tuple[_Piece, ...], bool, tuple[_Piece, ...], str]

# A number; one of nine digits and more is a time in seconds, and may have decimals.
_NUMBER = re.compile(r"(\d{9,}\.\d+|\d+)")

# GoPro: camera letter, chapter, number of the recording. GH010001, then its next chapter GH020001,
# then the next recording GH010002; older cameras: GOPR0001, then GP010001, GP020001.
_GOPRO = re.compile(
    r"(?<![0-9A-Za-z])(?:GOPR|G[HLPSX](?P<chapter>\d\d|[A-Z]{2}))(?P<recording>\d{4})(?![0-9A-Za-z])",
    re.IGNORECASE | re.ASCII,
)
_CLOCK_OF_12 = re.compile(
    r"(?<!\d)(?P<hour>0?[1-9]|1[0-2])(?P<rest>([.:_-])\d\d\3\d\d)[\s_]?(?P<half>[AP])M(?![A-Za-z])",
    re.IGNORECASE | re.ASCII,
)


def natural_key(path: PurePath) -> tuple[_PartKey, ...]:
    """Sorting key of a file's path: frame_2 before frame_10, clip before clip2.

    Every folder on the way is compared by its whole name, the file by its name without suffix, then
    a file before a folder of the same name, then by suffix, then letter by letter: the order is
    total, and two paths have equal keys only if they are equal.
    """
    *folders, name = path.parts or ("",)
    file = PurePath(name)
    return (
        *((_pieces(folder), True, (), folder) for folder in folders),
        (_pieces(file.stem), False, _pieces(file.suffix), name),
    )


@lru_cache(maxsize=1 << 16)
def _pieces(name: str) -> tuple[_Piece, ...]:
    """Numbers as (0, digits before the point, digits, decimals), text as (1, 0, text, "")."""
    plain = _CLOCK_OF_12.sub(_clock_of_24, _GOPRO.sub(_recording_before_chapter, name))
    pieces: list[_Piece] = []
    for i, piece in enumerate(_NUMBER.split(plain)):
        if i % 2:
            whole, _, decimals = piece.partition(".")
            digits = _ascii_digits(whole).lstrip("0")
            pieces.append((0, len(digits), digits, _ascii_digits(decimals).rstrip("0")))
        elif piece:
            pieces.append((1, 0, piece.casefold(), ""))
    return tuple(pieces)


def _ascii_digits(digits: str) -> str:
    """Decimal digits of any script as 0 to 9; no `int`, which limits their number."""
    return "".join(str(unicodedata.decimal(digit)) for digit in digits)


def _recording_before_chapter(found: re.Match[str]) -> str:
    return f"GOPR{found['recording']}_{found['chapter'] or '00'}"


def _clock_of_24(found: re.Match[str]) -> str:
    hour = int(found["hour"]) % 12 + (12 if found["half"] in "pP" else 0)
    return f"{hour:02d}{found['rest']}"
