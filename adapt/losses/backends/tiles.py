"""Tiles of a frame: where they lie, the memory they are worked in, and how a map comes to them.

A tile is upsampled by two small matrix products (F.interpolate's taps as matrices), and its
gradient comes back to network resolution by the transposed products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .spec import Inputs, Map
from .taps import AxisTaps, map_taps

TILE_BYTES = 3 << 19  # of one (K, rows, columns) tensor
TILE_BYTES_OF_A_GPU = 1 << 26  # there launches cost more than memory
TILE_WIDTH = 512  # columns; few cells reach them, so that the matrices are small
MIN_ROWS = 4  # with fewer, the small matrix products take as long as the rest


class Where(NamedTuple):
    """Pixels of one image."""

    image: int
    top: int
    bottom: int  # after the last
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def of(self, pixels: Tensor) -> Tensor:
        """View of these pixels in a map (B, ..., H, W): (..., rows, columns)."""
        return pixels[self.image, ..., self.top : self.bottom, self.left : self.right]


class Room:
    """Memory that tile after tile is worked in: fresh memory would cost as much as the work."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}
        self._views: dict[tuple[str, torch.dtype], dict[tuple[int, ...], Tensor]] = {}

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Uninitialised memory of ``shape`` and ``like``'s dtype, the same for the same name."""
        key = (name, like.dtype)
        views = self._views.setdefault(key, {})
        if shape not in views:
            size = math.prod(shape)
            held = self._held.get(key)
            if held is None or held.numel() < size:
                views.clear()  # they would keep the smaller memory
                held = self._held[key] = like.new_empty(size)
            views[shape] = held[:size].view(shape)
        return views[shape]

    def rank(self, scores: Tensor) -> Tensor:
        """K, ..., 1 for the K rows of ``scores``, (K, 1)."""
        key = ("rank", scores.dtype)
        if key not in self._held:
            first = len(scores)
            self._held[key] = torch.arange(first, 0, -1).to(scores.device, scores.dtype)
        return self._held[key][:, None]


def argmax_of(scores: Tensor, best: Tensor, room: Room) -> Tensor:
    """First of the largest of (K, N), int64 (N,).

    Classes are a strided axis, along which `torch.argmax` is several times as slow.
    """
    classes = len(scores)
    found = torch.eq(scores, best, out=room("scratch", scores, *scores.shape))
    found.mul_(room.rank(scores))
    return (classes - found.amax(dim=0)).long().clamp_(max=classes - 1)  # NaN: none is equal


def absent_classes(present: Tensor, where: Where) -> Tensor:
    """Numbers of the classes that bool (B, K) ``present`` lacks in the tile's image, int64.

    For `Tensor.index_fill_`: `Tensor.masked_fill_` is slow on a CPU with a mask of this shape.
    """
    return (~present[where.image]).nonzero()[:, 0]


def tiles_of(values: Tensor, size: tuple[int, int]) -> list[Where]:
    """Tiles that cover (H, W) pixels of (B, K, h, w) ``values``, in order; as many a thread."""
    on_cpu = values.device.type == "cpu"
    across = math.ceil(size[1] / TILE_WIDTH)
    columns = math.ceil(size[1] / across)
    row_bytes = values.shape[1] * columns * (8 if values.dtype == torch.float64 else 4)
    rows = max(MIN_ROWS, (TILE_BYTES if on_cpu else TILE_BYTES_OF_A_GPU) // row_bytes)
    down = math.ceil(size[0] / rows)
    threads = torch.get_num_threads() if on_cpu else 1
    if len(values) * across % threads:
        down = math.ceil(down / threads) * threads
    rows = math.ceil(size[0] / down)
    return [
        Where(image, top, min(top + rows, size[0]), left, min(left + columns, size[1]))
        for image in range(len(values))
        for top in range(0, size[0], rows)
        for left in range(0, size[1], columns)
    ]


@dataclass(frozen=True)
class Gradient:
    """Gradient of a part of a map: of some images, or of some rows of one."""

    values: Tensor  # (images, K, rows, w)
    image: int  # the first
    row: int  # of cells, the first

    def add_to(self, whole: Tensor) -> None:
        """Add the gradient to its part of (B, K, h, w)."""
        images, _, rows, _ = self.values.shape
        whole[self.image : self.image + images, :, self.row : self.row + rows] += self.values


class Upsampled:
    """A map that is upsampled tile by tile, and takes gradients back."""

    def __init__(self, name: str, of: Map, inputs: Inputs, room: Room) -> None:
        values = of.values.detach()
        self.values = values if values.dtype == torch.float64 else values.float()
        self.name, self.room = name, room
        self.grad: Gradient | None = None
        size = tuple(self.values.shape[2:])
        self._at_pixels = of.windows is None and size == tuple(inputs.size)
        self._geometry = _geometry(replace(of, values=self.values), inputs)

    def tile(self, where: Where) -> Tensor:
        """(K, rows * columns) of one image, in memory that the next tile takes."""
        classes, (rows, columns) = self.values.shape[1], where.shape
        full = self.room(self.name, self.values, classes, rows, columns)
        if self._at_pixels:
            return full.copy_(where.of(self.values)).flatten(1)
        reached, down, across = self._geometry(where)
        cells = self.values[where.image][reached]
        made = self.room("half-way", cells, classes, cells.shape[1], columns)
        torch.mm(cells.flatten(0, 1), across, out=made.view(-1, columns))
        torch.bmm(down.expand(classes, -1, -1), made, out=full)
        return full.flatten(1)

    def add_grad(self, where: Where, grad: Tensor) -> None:
        """Add what (K, rows * columns) says of the tile to what is known of the map."""
        assert self.grad is not None
        of_image = self.grad.values[where.image - self.grad.image]
        grad = grad.view(-1, *where.shape)
        if self._at_pixels:
            rows = slice(where.top - self.grad.row, where.bottom - self.grad.row)
            of_image[:, rows, where.left : where.right] += grad
            return
        (classes, reached, columns), down, across = self._geometry(where)
        rows = slice(reached.start - self.grad.row, reached.stop - self.grad.row)
        made = self.room("half-way", grad, len(grad), down.shape[1], grad.shape[2])
        torch.bmm(down.T.expand(len(grad), -1, -1), grad, out=made)
        of_cells = torch.mm(made.flatten(0, 1), across.T)
        of_image[classes, rows, columns] += of_cells.view(*made.shape[:2], -1)

    def take_grads(self, tiles: Sequence[Where]) -> None:
        """Make room for the gradient of neighbouring ``tiles``, in order."""
        first, last = tiles[0], tiles[-1]
        rows = slice(0, self.values.shape[2])
        if first.image == last.image:
            rows = slice(first.top, last.bottom)
            if not self._at_pixels:
                starts, stops = (self._geometry(where)[0][1] for where in (first, last))
                rows = slice(starts.start, stops.stop)
        like = self.values[first.image : last.image + 1, :, rows]
        self.grad = Gradient(torch.zeros_like(like), first.image, rows.start)


class Geometry:
    """Interpolation of tiles from the cells of a map; matrices are made when first asked for.

    Threads may share one: at worst two make the same matrix.
    """

    def __init__(self, rows: AxisTaps, columns: AxisTaps, *, same: bool) -> None:
        self._axes = (rows, columns)
        self._same = same  # for all images
        self._known: dict[tuple[int, int, int, int], tuple[slice, Tensor]] = {}

    def __call__(self, where: Where) -> tuple[tuple[slice, slice, slice], Tensor, Tensor]:
        """The cells (all classes, some rows, some columns) that make the tile, and how.

        A tile of a class is ``down @ cells @ across``.
        """
        image = 0 if self._same else where.image
        rows, down = self._along(0, image, where.top, where.bottom)
        columns, across = self._along(1, image, where.left, where.right)
        return (slice(None), rows, columns), down, across.T

    def _along(self, axis: int, image: int, start: int, stop: int) -> tuple[slice, Tensor]:
        """Cells that make the pixels ``start`` to ``stop``, and their weights, (pixels, cells)."""
        key = (axis, image, start, stop)
        if key not in self._known:
            taps = self._axes[axis]
            cells = slice(*taps.covered(*key[1:]))
            self._known[key] = (cells, taps.matrix(*key[1:])[:, cells].contiguous())
        return self._known[key]


def _geometry(of: Map, inputs: Inputs) -> Geometry:
    if of.windows is not None:
        return Geometry(*_taps(of, inputs), same=False)
    values = of.values
    cells = (values.shape[2], values.shape[3])
    align_corners = of.aligned(inputs.align_corners)
    return _of_whole_frames(cells, inputs.size, align_corners, values.dtype, values.device)


@lru_cache(maxsize=32)  # a run has one or two
def _of_whole_frames(
    cells: tuple[int, int],
    size: tuple[int, int],
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Geometry:
    of = Map(torch.empty(1, 1, *cells, dtype=dtype, device=device))
    return Geometry(*_taps(of, Inputs(size, align_corners)), same=True)


def _taps(of: Map, inputs: Inputs) -> tuple[AxisTaps, AxisTaps]:
    return map_taps(of, inputs.size, align_corners=inputs.align_corners, dtype=of.values.dtype)
