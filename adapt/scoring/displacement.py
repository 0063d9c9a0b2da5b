"""Displacement of labels: a candidate's may lie some pixels beside where the reference's do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PIXELS = (1, 2, 4, 8)  # of the network's input
DIRECTIONS = {"low": (1, 0), "high": (-1, 0), "far right": (0, 1), "far left": (0, -1)}


@dataclass(frozen=True)
class Displacement:
    """Labels that fit the reference better when they are moved back.

    Attributes:
        pixels: of the network's input, by which they are displaced.
        direction: one of `DIRECTIONS`.
        gain: share of all pixels that agree more when they are moved back by so much.
        low: lower end of the gain's 95 % interval.
    """

    pixels: int
    direction: str
    gain: float
    low: float


@dataclass(frozen=True)
class Move:
    """A displacement by ``cells`` (down, right) of the grid, ``pixels`` of the network's input."""

    pixels: int
    direction: str
    cells: tuple[int, int]


def moves(grid: tuple[int, int], size: tuple[int, int]) -> list[Move]:
    """The displacements by 1, 2, 4 and 8 pixels that differ on the grid, one cell at least.

    Args:
        grid: height and width of the label maps.
        size: of the network's input.
    """
    found: dict[tuple[int, int], Move] = {}
    for pixels in PIXELS:
        for direction, (down, right) in DIRECTIONS.items():
            axis = 0 if down else 1
            cells = max(1, round(pixels * grid[axis] / size[axis]))
            if 4 * cells > grid[axis]:
                continue  # of so few cells too little is left to compare
            at = down * cells, right * cells
            shown = max(pixels, round(cells * size[axis] / grid[axis]))
            found.setdefault(at, Move(shown, direction, at))
    return list(found.values())


def agreements(reference: Tensor, candidate: Tensor, tried: list[Move]) -> Tensor:
    """Share of each frame's inner pixels that agree: unmoved, then moved back by each of ``tried``.

    The inner pixels are those that no move takes out of the frame, so that all are of the same.

    Args:
        reference, candidate: labels, (B, h, w).

    Returns:
        (B, 1 + moves).
    """
    margin_y, margin_x = (max((abs(move.cells[a]) for move in tried), default=0) for a in (0, 1))
    height, width = reference.shape[1] - 2 * margin_y, reference.shape[2] - 2 * margin_x
    inner = reference[:, margin_y : margin_y + height, margin_x : margin_x + width]

    def agreement(down: int, right: int) -> Tensor:
        top, left = margin_y + down, margin_x + right
        moved = candidate[:, top : top + height, left : left + width]
        return (moved == inner).double().mean(dim=(1, 2))

    return torch.stack([agreement(0, 0), *(agreement(*move.cells) for move in tried)], dim=1)
