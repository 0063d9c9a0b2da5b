"""Run-length encodings of masks: plain counts, and Label Studio's bit stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

_SIZES = (3, 4, 8, 16)  # bits that the length of a run may have
_CHANNELS = 4  # of each pixel, red to alpha
_WORD = 8  # bits of a channel


def run_lengths(pixels: Mask) -> list[int]:
    """Lengths of the runs of a flat mask, of False first; the first is 0 where it begins True."""
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate([[0], changes, [len(pixels)]])
    lengths = [int(n) for n in np.diff(edges)]
    return [0, *lengths] if len(pixels) and pixels[0] else lengths


def brush_bytes(mask: Mask) -> list[int]:
    """A mask, (H, W), as the bytes of a Label Studio brush: RGBA pixels, 255 where it is True.

    A bit stream: the number of values (32 bits), the bits of a value less one (5), the four sizes
    that a length may have, each less one (4 each); then runs, each a 1, the number of its size (2),
    its length less one, and its value. Source: rle-pack of thi.ng/umbrella.
    """
    bits = [f"{mask.size * _CHANNELS:032b}{_WORD - 1:05b}"]
    bits += [f"{size - 1:04b}" for size in _SIZES]
    value = 0
    for pixels in run_lengths(mask.ravel()):
        left = pixels * _CHANNELS
        while left:
            run = min(left, 1 << _SIZES[-1])
            which = next(i for i, size in enumerate(_SIZES) if run <= 1 << size)
            bits.append(f"1{which:02b}{run - 1:0{_SIZES[which]}b}{value:0{_WORD}b}")
            left -= run
        value = 255 - value
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))
