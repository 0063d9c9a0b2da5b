"""A live source, known by its entry point alone: a picture that is ever brighter."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from roadshift import FrameError


def open_card(address: str) -> Callable[[], Iterator[NDArray[np.uint8]]]:
    """``testcard:WIDTHxHEIGHT``."""
    width, _, height = address.removeprefix("testcard:").partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise FrameError(f"{address}: write testcard:96x48.")

    def connect() -> Iterator[NDArray[np.uint8]]:
        for level in range(256):
            yield np.full((int(height), int(width), 3), level, np.uint8)

    return connect
