"""Labels at full size from logits at the network's stride, without logits at full size.

Bilinear interpolation gives each pixel a convex combination of the four logits around it, the
corners of its *cell*. Where one class wins at all four corners it wins everywhere between them, so
such a cell is filled. In the others, a class that some winner of a corner beats at all four corners
cannot win anywhere between them; only the rest are interpolated. On driving scenes a sixth to a
third of the cells need that, and two or three classes in each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import ShapeError

MAX_CLASSES = 256  # what uint8 labels can name
LARGEST = np.float32(np.finfo(np.float32).max / 4)  # differences and sums of such stay finite

_Floats = NDArray[np.float32]
_Indices = NDArray[np.intp]


def upsample_argmax(
    logits: NDArray[np.float32], width: int, height: int, align_corners: bool
) -> NDArray[np.uint8]:
    """The class with the highest bilinearly interpolated logit at every pixel.

        labels[y, x] = argmax over k of  sum over the cell's corners of  weight * logits[k, corner]

    with the sampling points of torch's ``interpolate(mode="bilinear")``, for larger and for smaller
    sizes (without antialiasing, as there). Of equal classes the first wins. NaN is the lowest
    logit there is; larger magnitudes than 8.5e37, infinities among them, count as that.

    Args:
        logits: (K, h, w) float32, K from 1 to 256.
        width: of the labels, in pixels.
        height: of the labels, in pixels.
        align_corners: whether the outer logits lie on the centres of the outer pixels, or on the
            centres of areas of ``height / h`` by ``width / w`` pixels.

    Returns:
        Class indices, (height, width) uint8.

    Raises:
        ShapeError: the logits or the size are not as above.
    """
    if logits.dtype != np.float32 or logits.ndim != 3 or logits.size == 0:
        raise ShapeError(
            "upsample_argmax: the logits must be a non-empty float32 (K, h, w) array, "
            f"got {logits.dtype} {logits.shape}."
        )
    if len(logits) > MAX_CLASSES or width < 1 or height < 1:
        raise ShapeError(
            f"upsample_argmax: {len(logits)} classes at {width}x{height} do not fit; "
            f"give at most {MAX_CLASSES} classes and a size of at least 1x1."
        )
    if not (logits.min() >= -LARGEST and logits.max() <= LARGEST):  # NaN fails both
        logits = np.clip(np.nan_to_num(logits, nan=-np.inf), -LARGEST, LARGEST)
    rows = _axis(logits.shape[1], height, align_corners)
    columns = _axis(logits.shape[2], width, align_corners)
    winner = _argmax(logits)
    corners = [
        np.ix_(row, column)
        for row in (rows.first, rows.second)
        for column in (columns.first, columns.second)
    ]
    winners = [winner[corner] for corner in corners]
    labels = winners[0].take(columns.cell, axis=1).take(rows.cell, axis=0)
    mixed = winners[0] != winners[1]
    for other in winners[2:]:
        mixed |= winners[0] != other
    at_row, at_column = np.nonzero(mixed & rows.occupied[:, None] & columns.occupied)
    if len(at_row):
        _fill_mixed(labels, logits, winner, rows, columns, at_row, at_column)
    return labels


@dataclass(frozen=True)
class _UpsamplingAxis:
    """Cells along one axis and the pixels in them; one cell more than logits, at each end one that
    lies between the border and the outermost logit.

    Attributes:
        cell: of each pixel.
        first, second: the logits at the two ends of each cell, the same at the borders.
        occupied: whether any pixel lies in the cell; none does in some when the size shrinks.
        pixels: (P, cells), the pixels of each cell, the last one repeated up to the most there are.
        fraction: (P, cells), how far those are from ``first`` to ``second``, in [0, 1).
    """

    cell: _Indices
    first: _Indices
    second: _Indices
    occupied: NDArray[np.bool_]
    pixels: _Indices
    fraction: _Floats


def sampling(
    logits: int, pixels: int, align_corners: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Along one axis, for each pixel: the logits on its two sides, and how far it is between."""
    lower, fraction = _positions(logits, pixels, align_corners)
    sides = [(lower + side).clip(0, logits - 1).astype(np.int32) for side in (0, 1)]
    return sides[0], sides[1], fraction


def _positions(logits: int, pixels: int, align_corners: bool) -> tuple[_Indices, _Floats]:
    """The logit below each pixel, -1 before the first, and the distance to it in [0, 1)."""
    index = np.arange(pixels)
    if align_corners:
        at = index * ((logits - 1) / (pixels - 1)) if pixels > 1 else np.zeros(1)
    else:
        at = (index + 0.5) * (logits / pixels) - 0.5
    lower = np.floor(at)
    return lower.astype(np.intp), (at - lower).astype(np.float32)


@lru_cache(maxsize=32)
def _axis(logits: int, pixels: int, align_corners: bool) -> _UpsamplingAxis:
    lower, fraction = _positions(logits, pixels, align_corners)
    cell = lower + 1
    ends = np.arange(-1, logits + 1).clip(0, logits - 1)
    counts = np.bincount(cell, minlength=logits + 1)
    start = np.cumsum(counts) - counts
    member = np.minimum(np.arange(counts.max())[:, None], np.maximum(counts - 1, 0))
    members = np.minimum(start + member, pixels - 1)
    return _UpsamplingAxis(cell, ends[:-1], ends[1:], counts > 0, members, fraction[members])


def _argmax(logits: _Floats) -> NDArray[np.uint8]:
    """``logits.argmax(axis=0)``: several times as fast, class by class over whole planes."""
    best = logits[0].copy()
    winner = np.zeros(best.shape, np.uint8)
    for k in range(1, len(logits)):
        _replace(winner, np.uint8(k), logits[k] > best)
        np.maximum(best, logits[k], out=best)
    return winner


def _replace(
    labels: NDArray[np.uint8], k: NDArray[np.uint8] | np.uint8, where: NDArray[np.bool_]
) -> None:
    """``np.copyto(labels, k, where=where)`` without a branch a pixel, at a tenth of the time."""
    change = labels ^ k
    change &= np.negative(where.view(np.uint8))  # 1 becomes 255
    labels ^= change


def _fill_mixed(
    labels: NDArray[np.uint8],
    logits: _Floats,
    winner: NDArray[np.uint8],
    rows: _UpsamplingAxis,
    columns: _UpsamplingAxis,
    at_row: _Indices,
    at_column: _Indices,
) -> None:
    """Write the pixels of the cells at ``(at_row, at_column)`` into ``labels``."""
    width = logits.shape[2]
    corners = [
        row[at_row] * width + column[at_column]
        for row in (rows.first, rows.second)
        for column in (columns.first, columns.second)
    ]
    planes = logits.reshape(len(logits), -1)
    values = [planes.take(corner, axis=1) for corner in corners]  # four of (K, cells)
    possible = _possible(values, [winner.ravel().take(corner) for corner in corners])

    # Cells with the most classes first: those that have a j-th class are then a slice.
    counts = possible.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    counts, at_row, at_column = counts[order], at_row[order], at_column[order]
    classes = np.nonzero(possible.T[order])[1]  # ascending in each cell
    start = np.cumsum(counts) - counts
    flat = [value.ravel() for value in values]
    right = columns.fraction[:, at_column]
    ranks = []  # the j-th class of each cell that has one: its logits along the two rows of corners
    for j in range(int(counts[0])):
        n = int(np.searchsorted(-counts, -j))
        k = classes[start[:n] + j]
        at = k * len(order) + order[:n]
        top_left, top_right, low_left, low_right = (value.take(at) for value in flat)
        top = top_left + right[:, :n] * (top_right - top_left)
        low = low_left + right[:, :n] * (low_right - low_left)
        ranks.append((n, k.astype(np.uint8), top, low - top))
    flat_labels = labels.reshape(-1)
    at_pixel = columns.pixels[:, at_column]
    for down, row in zip(rows.fraction[:, at_row], rows.pixels[:, at_row], strict=True):
        # One row of pixels of each cell at a time: what it takes stays in the processor's cache.
        _, k, top, growth = ranks[0]
        best = down * growth + top
        found = np.broadcast_to(k, best.shape).copy()
        for n, k, top, growth in ranks[1:]:
            score = down[:n] * growth + top
            _replace(found[:, :n], k, score > best[:, :n])
            np.maximum(best[:, :n], score, out=best[:, :n])
        flat_labels[row * labels.shape[1] + at_pixel] = found


def _possible(values: list[_Floats], winners: list[NDArray[np.uint8]]) -> NDArray[np.bool_]:
    """(K, cells): whether no winner of a corner beats the class at all four corners."""
    possible = np.ones(values[0].shape, np.bool_)
    for winner in winners:
        beaten = np.ones(possible.shape, np.bool_)
        for value in values:
            beaten &= value < np.take_along_axis(value, winner[None].astype(np.intp), axis=0)
        possible &= ~beaten
    return possible
