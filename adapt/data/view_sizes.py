"""Sizes of views at another scale, such that a network that takes its input size takes them too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..networks import SegmentationNetwork

COARSEST = 32  # pixels: the stride of most networks
FACTORS = (2, 2, 2, 2, 2, 3, 5, 7)


def granule(side: int) -> int:
    """The pixels in whose multiples a side may vary: a divisor of it.

    At most `COARSEST`, and a third of the side, or scales near 1 would all be 1. Twos first, for a
    network's stride is a power of two, then 3, 5 and 7, for those that cut the image into patches.
    Of an odd side, which is one more than a multiple, it is that of the multiple.
    """
    rest, step = side - side % 2, 1
    for factor in FACTORS:
        if rest and rest % factor == 0 and step * factor <= min(COARSEST, side / 3):
            rest, step = rest // factor, step * factor
    return step


def scaled_side(side: int, scale: float) -> int:
    """The length nearest to ``scale`` times ``side`` that has the same divisors, see `granule`."""
    if scale == 1:
        return side
    step, odd = granule(side), side % 2
    return odd + step * max(1, round((side * scale - odd) / step))


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """`scaled_side` of both, (height, width)."""
    return scaled_side(height, scale), scaled_side(width, scale)


def takes(network: SegmentationNetwork, images: Tensor, size: tuple[int, int]) -> bool:
    """Tell whether ``network``, in its mode of the moment, answers zeros of that size.

    Args:
        images: of a size that it does take, (B, 3, H, W).
        size: (height, width).

    Raises:
        torch.OutOfMemoryError: the memory does not suffice, which says nothing of the network.
    """
    if size == tuple(images.shape[2:]):
        return True
    try:
        with torch.no_grad():
            network.forward(images.new_zeros((1, images.shape[1], *size)))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a user's network raises: an assertion, a mismatch of shapes
        return False
    return True


def scales_taken(
    network: SegmentationNetwork,
    images: Tensor,
    scales: Sequence[float],
    note: Callable[[str], None] = lambda _: None,
) -> tuple[float, ...]:
    """Those of ``scales`` at which ``network`` answers; 1 where it answers at its own size alone.

    Args:
        network: in evaluation mode.
        images: of its own size, (B, 3, H, W).
        note: called with a sentence where some are left out.
    """
    height, width = images.shape[2:]
    taken = tuple(s for s in scales if takes(network, images, scaled_size(height, width, s)))
    if len(taken) < len(scales):
        left = ", ".join(f"{s:g}" for s in scales if s not in taken)
        note(
            f"the network takes no images of {left} times its size {width}x{height}: predictions "
            "are averaged over the other scales alone"
        )
    return taken or (1.0,)
