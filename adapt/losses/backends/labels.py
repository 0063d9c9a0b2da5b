"""Labels of pixels from logits at network resolution, without a tensor of the frame's size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common import Size, at_least_float32
from .spec import Inputs, Map
from .taps import map_taps
from .tiles import Room, Upsampled, Where, absent_classes, argmax_of, tiles_of
from .workers import in_parallel


def _full_precision(of: Tensor) -> torch.autocast:
    """Switch autocast off: products of matrices with weights would run in half precision."""
    return torch.autocast(of.device.type, enabled=False)


@torch.no_grad()
def pixel_argmax(
    logits: Tensor | Map,
    size: Size,
    *,
    align_corners: bool,
    present: Tensor | None = None,
    confidence: Tensor | None = None,
) -> Tensor:
    """The likeliest class of every pixel.

    Args:
        logits: (B, K, h, w), or a map of frames.
        size: (H, W) of the pixels.
        present: bool (B, K), the classes that compete; ``None``: all.
        confidence: (B, H, W), where its probability goes, see `confident_argmax`.

    Returns:
        int64 (B, H, W), the first of equals.
    """
    of = Map.of(logits)
    labels = torch.empty(len(of.values), *size, dtype=torch.int64, device=of.values.device)

    @torch.no_grad()
    def work(tiles: Sequence[Where]) -> None:
        room = Room()
        z = Upsampled("z", of, Inputs(size, align_corners), room)
        for where in tiles:
            scores = z.tile(where)
            if present is not None:
                scores.index_fill_(0, absent_classes(present, where), float("-inf"))
            best = scores.amax(dim=0)
            where.of(labels).copy_(argmax_of(scores, best, room).view(where.shape))
            if confidence is not None:
                total = scores.sub_(best).exp_().sum(dim=0)
                where.of(confidence).copy_(total.reciprocal_().view(where.shape))

    with _full_precision(labels):
        in_parallel(work, tiles_of(of.values, size), labels.device)
    return labels


def confident_argmax(
    logits: Tensor | Map, size: Size, *, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """`pixel_argmax`, and its probability: float32 or wider, (B, H, W)."""
    values = Map.of(logits).values
    like = at_least_float32(values[:1, :1, :1, :1])
    confidence = like.new_empty(len(values), *size)
    labels = pixel_argmax(logits, size, align_corners=align_corners, confidence=confidence)
    return labels, confidence


@torch.no_grad()
def argmax_of_mean(
    views: Sequence[Map], size: Size, *, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """The likeliest class of every pixel by the mean softmax of several maps, and its probability.

    Args:
        views: logits (1, K, h, w) of any sizes, over the same pixels.
        size: (H, W) of the pixels.

    Returns:
        int64 (H, W), the first of equals; and float32 or wider (H, W).
    """
    like, inputs = views[0].values, Inputs(size, align_corners)
    labels = torch.empty(1, *size, dtype=torch.int64, device=like.device)
    confidence = at_least_float32(like[:1, :1, :1, :1]).new_empty(1, *size)

    @torch.no_grad()
    def work(tiles: Sequence[Where]) -> None:
        room = Room()
        maps = [Upsampled("z", view, inputs, room) for view in views]
        for where in tiles:
            total: Tensor | None = None
            for view in maps:
                scores = view.tile(where)
                p = scores.sub_(scores.amax(dim=0)).exp_()
                p.mul_(p.sum(dim=0).reciprocal_())
                if total is None:
                    total = room("mean", p, *p.shape).copy_(p)
                else:
                    total.add_(p)
            assert total is not None
            best = total.amax(dim=0)
            where.of(labels).copy_(argmax_of(total, best, room).view(where.shape))
            where.of(confidence).copy_((best / len(maps)).view(where.shape))

    with _full_precision(labels):
        in_parallel(work, tiles_of(like, size), labels.device)
    return labels[0], confidence[0]


@torch.no_grad()
def argmax_on_grid(logits: Tensor, size: Size, grid: Size, *, align_corners: bool) -> Tensor:
    """The likeliest class of the pixels that ``F.interpolate(mode="nearest")`` takes for ``grid``.

    Args:
        logits: (B, K, h, w).
        size: (H, W) of the pixels.
        grid: (h', w').

    Returns:
        int64 (B, h', w').
    """
    z = at_least_float32(logits)
    taps = map_taps(Map(z[:1]), size, align_corners=align_corners, dtype=z.dtype)
    down, across = (
        axis.matrix(0, 0, pixels)[_nearest(pixels, cells, z.device)]
        for axis, pixels, cells in zip(taps, size, grid, strict=True)
    )
    with _full_precision(z):
        return torch.matmul(torch.matmul(down, z), across.T).max(dim=1).indices


def labels_from_grid(labels: Tensor, size: Size) -> Tensor:
    """Labels of the cells of a grid, integer (B, h, w), at (H, W) pixels: the nearest cell's."""
    down, across = (
        _nearest(cells, pixels, labels.device)
        for cells, pixels in zip(labels.shape[1:], size, strict=True)
    )
    return labels[:, down[:, None], across]


def _nearest(pixels: int, cells: int, device: torch.device) -> Tensor:
    """The pixels that nearest-neighbour resizing of an axis to ``cells`` takes."""
    numbers = torch.arange(pixels, dtype=torch.float64, device=device)
    return F.interpolate(numbers[None, None], size=cells, mode="nearest")[0, 0].long()
