"""Bilinear upsampling as taps: which two cells of a low-resolution axis make a pixel, and how much.

The tables reproduce `torch.nn.functional.interpolate`, and also the part of it that a crop of the
frame sees, mirrored or not: so logits of a whole frame, made once, serve every crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common import at_least_float32, upsample
from .spec import Map, Window


@dataclass(frozen=True)
class AxisTaps:
    """Taps of one axis for each image: pixel i is (1 - weight) cells[first] + weight cells[second].

    ``second`` is ``min(first + 1, cells - 1)``.
    """

    first: Tensor  # int32 (B, pixels)
    weight: Tensor  # (B, pixels)
    cells: int

    def matrix(self, image: int, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the interpolation matrix, dense (stop - start, cells)."""
        first = self.first[image, start:stop].long()
        weight = self.weight[image, start:stop]
        rows = torch.arange(len(first), device=first.device)
        dense = weight.new_zeros(len(first), self.cells)
        dense[rows, first] = 1 - weight
        dense[rows, (first + 1).clamp(max=self.cells - 1)] += weight
        return dense

    def covered(self, image: int, start: int, stop: int) -> tuple[int, int]:
        """The cells that pixels ``start`` to ``stop`` touch, as a range."""
        first = self.first[image, start:stop]
        return int(first.min()), min(int(first.max()) + 2, self.cells)


def axis_taps(
    cells: int,
    pixels: int,
    windows: Sequence[tuple[float, float, bool]],
    *,
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> AxisTaps:
    """Taps of ``pixels`` along one axis of ``cells``.

    Args:
        windows: for each image, the pixels of the grid that the cells cover, the number of its
            first pixel, and whether the pixels run backwards.
    """
    firsts, weights = [], []
    for grid, offset, flip in windows:
        at = offset + torch.arange(pixels, dtype=torch.float64)
        if flip:
            at = at.flip(0)
        if align_corners:
            at = at * ((cells - 1) / (grid - 1) if grid > 1 else 0.0)
        else:
            at = ((at + 0.5) * (cells / grid) - 0.5).clamp(min=0)
        first = at.floor().clamp(max=cells - 1)
        firsts.append(first.int())
        weights.append(at - first)
    return AxisTaps(torch.stack(firsts).to(device), torch.stack(weights).to(device, dtype), cells)


def map_taps(
    of: Map, size: tuple[int, int], *, align_corners: bool, dtype: torch.dtype
) -> tuple[AxisTaps, AxisTaps]:
    """Taps of rows and of columns for a map at ``size`` pixels."""
    align_corners = of.aligned(align_corners)
    device = of.values.device
    rows: list[tuple[float, float, bool]] = []
    columns: list[tuple[float, float, bool]] = []
    windows: Sequence[Window | None] = of.windows or [None] * len(of.values)
    for window in windows:
        rows.append((size[0], 0, False) if window is None else (window.height, window.top, False))
        columns.append(
            (size[1], 0, False) if window is None else (window.width, window.left, window.flip)
        )
    height, width = of.values.shape[2:]

    def along(cells: int, pixels: int, windows: list[tuple[float, float, bool]]) -> AxisTaps:
        return axis_taps(
            cells, pixels, windows, align_corners=align_corners, dtype=dtype, device=device
        )

    return along(height, size[0], rows), along(width, size[1], columns)


def upsample_map(of: Map, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """(B, K, H, W), a tensor of the frame's size: what kernels do without."""
    values = at_least_float32(of.values)
    if of.windows is None:
        return upsample(values, size, of.aligned(align_corners))
    rows, columns = map_taps(of, size, align_corners=align_corners, dtype=values.dtype)
    images = []
    for image, value in enumerate(values):
        down, across = rows.matrix(image, 0, size[0]), columns.matrix(image, 0, size[1])
        with torch.autocast(values.device.type, enabled=False):
            images.append(down @ value @ across.T)
    return torch.stack(images)


def mass_of_pixels(
    of: Map, counts: Tensor, size: tuple[int, int], *, align_corners: bool
) -> Tensor:
    """sum_v n_v q_v over the pixels of each image of a map q: (B, K), float32 or wider.

    The sum is linear in the cells: the counts are brought to them, not the map to the pixels.

    Args:
        counts: n, how often each pixel counts, (B, H, W).
    """
    values = at_least_float32(of.values)
    rows, columns = map_taps(of, size, align_corners=align_corners, dtype=values.dtype)
    sums = []
    with torch.autocast(values.device.type, enabled=False):
        for image, (value, count) in enumerate(zip(values, counts, strict=True)):
            down, across = rows.matrix(image, 0, size[0]), columns.matrix(image, 0, size[1])
            of_cells = down.T @ count.to(value.dtype) @ across
            sums.append((value * of_cells).sum(dim=(1, 2)))
    return torch.stack(sums)
