"""White of 16-bit pictures: 65535, or the 4095 of a camera of twelve bits."""

from __future__ import annotations

TWELVE_BITS = 4095
SIXTEEN_BITS = 65535


def white_of_one(brightest: int) -> int:
    """White of a picture by itself, whose largest value is ``brightest``."""
    return TWELVE_BITS if 0 < brightest <= TWELVE_BITS else SIXTEEN_BITS
