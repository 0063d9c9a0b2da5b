"""Tiles of a frame: where they lie, the memory they are worked in, and how a map comes to them.

A tile of rows is upsampled by two small matrix products (F.interpolate's taps as matrices), and its
gradient comes back to network resolution by the transposed products.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from .spec import Inputs, Map
from .taps import AxisTaps, map_taps

TILE_BYTES = 1 << 21  # of one (K, rows, W) tensor
MIN_ROWS = 4  # with fewer, the small matrix products take as long as the rest
TILE_BYTES_OF_A_GPU = 1 << 26  # there launches cost more than memory
BLOCK = 256  # columns that one matrix product makes; few cells reach them, so the matrix is small

Where = tuple[int, int, int]  # image, first row, row after the last
Block = tuple[slice, slice, Tensor]


class Room:
    """Memory that tile after tile is worked in: fresh memory would cost as much as the work."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Uninitialised memory of ``shape`` and ``like``'s dtype, the same for the same name."""
        size = math.prod(shape)
        held = self._held.get((name, like.dtype))
        if held is None or held.numel() < size:
            held = self._held[name, like.dtype] = like.new_empty(size)
        return held[:size].view(shape)

    def rank(self, scores: Tensor) -> Tensor:
        """K, ..., 1 for the K rows of ``scores``, (K, 1)."""
        key = ("rank", scores.dtype)
        if key not in self._held:
            first = len(scores)
            self._held[key] = torch.arange(first, 0, -1).to(scores.device, scores.dtype)
        return self._held[key][:, None]


def argmax_of(scores: Tensor, best: Tensor, room: Room) -> Tensor:
    """First of the largest of (K, N), int64 (N,).

    Classes are a strided axis, along which `torch.argmax` is ten times as slow.
    """
    classes = len(scores)
    found = torch.eq(scores, best, out=room("scratch", scores, *scores.shape))
    found.mul_(room.rank(scores))
    return (classes - found.amax(dim=0)).long().clamp_(max=classes - 1)  # NaN: none is equal


def tiles_of(values: Tensor, size: tuple[int, int]) -> list[Where]:
    """Tiles that cover (H, W) pixels of (B, K, h, w) ``values``, in order; as many a thread."""
    on_cpu = values.device.type == "cpu"
    item = 8 if values.dtype == torch.float64 else 4
    row_bytes = values.shape[1] * size[1] * item
    rows = max(MIN_ROWS, (TILE_BYTES if on_cpu else TILE_BYTES_OF_A_GPU) // row_bytes)
    count = math.ceil(size[0] / rows)  # of an image
    threads = torch.get_num_threads() if on_cpu else 1
    if len(values) % threads:
        count = math.ceil(count / threads) * threads
    rows = math.ceil(size[0] / count)
    return [
        (image, start, min(start + rows, size[0]))
        for image in range(len(values))
        for start in range(0, size[0], rows)
    ]


class Upsampled:
    """A map that is upsampled tile by tile, and takes gradients back."""

    def __init__(self, name: str, of: Map, inputs: Inputs, room: Room) -> None:
        values = of.values.detach()
        self.values = values if values.dtype == torch.float64 else values.float()
        self.name, self.room, self.width = name, room, inputs.size[1]
        self.grad: Tensor | None = None
        self.first_image = 0
        size = tuple(self.values.shape[2:])
        self._at_pixels = of.windows is None and size == tuple(inputs.size)
        self._geometry = _geometry(Map(self.values, of.windows), inputs)

    def tile(self, where: Where) -> Tensor:
        """(K, rows * W) of one image, in memory that the next tile takes."""
        image, start, stop = where
        if self._at_pixels:
            here = self.values[image, :, start:stop]
            return self.room(self.name, here, *here.shape).copy_(here).flatten(1)
        cells, down = self._geometry.rows(where)
        made = torch.matmul(down, self.values[image, :, cells]).flatten(0, 1)  # (K rows, w)
        full = self.room(self.name, made, len(made), self.width)
        for columns, reached, matrix in self._geometry.blocks(image):
            torch.mm(made[:, reached], matrix, out=full[:, columns])
        return full.view(-1, (stop - start) * self.width)

    def add_grad(self, where: Where, grad: Tensor) -> None:
        """Add what (K, rows * W) says of the tile to what is known of the map."""
        assert self.grad is not None
        image, start, stop = where
        of_image = self.grad[image - self.first_image]
        if self._at_pixels:
            of_image[:, start:stop] += grad.view(-1, stop - start, self.width)
            return
        cells, down = self._geometry.rows(where)
        full = grad.view(-1, self.width)
        of_cells = full.new_zeros(len(full), self.values.shape[3])
        for columns, reached, matrix in self._geometry.blocks(image):
            of_cells[:, reached].addmm_(full[:, columns], matrix.T)
        of_cells = of_cells.view(-1, stop - start, self.values.shape[3])
        of_image[:, cells] += torch.matmul(down.T, of_cells)

    def take_grads(self, first: int, stop: int) -> None:
        """Make room for the gradient of images ``first`` to ``stop``."""
        self.first_image = first
        self.grad = torch.zeros_like(self.values[first:stop])


class Geometry:
    """How the tiles of a map come from its cells; matrices are made when they are first asked for.

    Threads may share one: at worst two make the same matrix.
    """

    def __init__(self, rows: AxisTaps, columns: AxisTaps, *, same: bool) -> None:
        self._rows, self._columns = rows, columns
        self._same = same  # for all images
        self._rows_of: dict[Where, tuple[slice, Tensor]] = {}
        self._blocks_of: dict[int, list[Block]] = {}

    def rows(self, where: Where) -> tuple[slice, Tensor]:
        """The rows of cells that make the tile's rows of pixels, and how."""
        if self._same:
            where = (0, *where[1:])
        if where not in self._rows_of:
            cells = slice(*self._rows.covered(*where))
            self._rows_of[where] = (cells, self._rows.matrix(*where)[:, cells])
        return self._rows_of[where]

    def blocks(self, image: int) -> list[Block]:
        """Columns of pixels, the columns of cells that make them, and how."""
        image = 0 if self._same else image
        if image not in self._blocks_of:
            width = self._columns.first.shape[1]
            blocks = list[Block]()
            for start in range(0, width, BLOCK):
                where = (image, start, min(start + BLOCK, width))
                reached = slice(*self._columns.covered(*where))
                matrix = self._columns.matrix(*where)[:, reached].T.contiguous()
                blocks.append((slice(*where[1:]), reached, matrix))
            self._blocks_of[image] = blocks
        return self._blocks_of[image]


def _geometry(of: Map, inputs: Inputs) -> Geometry:
    if of.windows is not None:
        return Geometry(*_taps(of, inputs), same=False)
    values = of.values
    key = (
        tuple(values.shape[2:]),
        tuple(inputs.size),
        inputs.align_corners,
        values.dtype,
        values.device,
    )
    return _geometry_of_whole_frames(*key, BLOCK)


@lru_cache(maxsize=32)  # a run has one or two
def _geometry_of_whole_frames(
    cells: tuple[int, ...],
    size: tuple[int, int],
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
    _: int,
) -> Geometry:
    of = Map(torch.empty(1, 1, *cells, dtype=dtype, device=device))
    return Geometry(*_taps(of, Inputs(size, align_corners)), same=True)


def _taps(of: Map, inputs: Inputs) -> tuple[AxisTaps, AxisTaps]:
    return map_taps(of, inputs.size, align_corners=inputs.align_corners, dtype=of.values.dtype)
