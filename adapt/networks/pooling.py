"""Adaptive average pooling that ONNX can express at every size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def average_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``F.adaptive_avg_pool2d(x, size)``.

    ONNX has no adaptive pooling, and its average pooling covers only grids that divide the input.
    Where all cells are equally large they are averages at every position, of which some are picked;
    else the cells' means are two products with matrices, which covers every size.
    """
    rows, columns = (_Cells(a, b) for a, b in zip(x.shape[-2:], size, strict=True))
    if rows.step and columns.step:
        return F.avg_pool2d(x, (rows.length, columns.length), (rows.step, columns.step))
    if rows.length and columns.length:
        everywhere = F.avg_pool2d(x, (rows.length, columns.length), 1)
        first_rows = torch.tensor(rows.first, device=x.device)
        first_columns = torch.tensor(columns.first, device=x.device)
        return everywhere.index_select(2, first_rows).index_select(3, first_columns)
    return product_pool(x, size)


def product_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``F.adaptive_avg_pool2d(x, size)`` as two matrix products, at every size."""
    rows, columns = (_cell_means(a, b, x) for a, b in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ columns.transpose(0, 1)


def _cell_means(positions: int, cells: int, like: Tensor) -> Tensor:
    """(cells, positions) matrix whose row i averages cell i, of ``like``'s type and device."""
    position = torch.arange(positions, device=like.device)
    cell = torch.arange(cells, device=like.device)[:, None]
    first = cell * positions // cells
    stop = ((cell + 1) * positions + cells - 1) // cells
    inside = ((position >= first) & (position < stop)).to(like.dtype)
    return inside / (stop - first).to(like.dtype)


class GlobalMean(nn.Module):
    """The mean of the whole map, (B, D, 1, 1).

    ``nn.AdaptiveAvgPool2d(1)`` says the same, and becomes a gather of every channel in ONNX.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Average x, (B, D, h, w)."""
        return x.mean(dim=(2, 3), keepdim=True)


class _Cells:
    """Cells over one axis: i covers positions floor(i s / n) to ceil((i + 1) s / n) - 1.

    Attributes:
        first: each cell's first position.
        length: positions of each cell; 0 where cells differ.
        step: positions from one cell to the next where none overlap; else 0.
    """

    def __init__(self, positions: int, cells: int) -> None:
        self.first = [i * positions // cells for i in range(cells)]
        lengths = {-(-(i + 1) * positions // cells) - a for i, a in enumerate(self.first)}
        self.length = lengths.pop() if len(lengths) == 1 else 0
        self.step = positions // cells if positions % cells == 0 else 0
