"""Common parts of the losses: width of the arithmetic, checks, the way from logits to pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...runtime.errors import ShapeError

IGNORED = 255  # the label of a pixel without one
Size = tuple[int, int]  # (height, width), as torch orders them


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or as it is when wider."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_logits(where: str, logits: Tensor) -> None:
    """Raise `ShapeError` unless ``logits`` is a floating (B, K, h, w) with K >= 2."""
    if logits.ndim != 4 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ShapeError(
            f"{where}: logits must be floating (B, K, h, w) with K >= 2, got "
            f"{tuple(logits.shape)} {logits.dtype}; for a single image, add the batch axis."
        )


def check_same_batch(where: str, logits: Tensor, **others: Tensor | None) -> None:
    """Raise `ShapeError` unless every other tensor has the batch size and classes of ``logits``."""
    for name, other in others.items():
        if other is not None and other.shape[:2] != logits.shape[:2]:
            raise ShapeError(
                f"{where}: {name} has batch and classes {tuple(other.shape[:2])}, the logits "
                f"{tuple(logits.shape[:2])}."
            )


def check_pixels(where: str, shape: tuple[int, int, int], **maps: Tensor | None) -> None:
    """Raise `ShapeError` unless every map has the ``shape`` (B, H, W)."""
    for name, value in maps.items():
        if value is not None and tuple(value.shape) != tuple(shape):
            raise ShapeError(
                f"{where}: {name} must be (B, H, W) = {tuple(shape)}, got {tuple(value.shape)}."
            )


def upsample(logits: Tensor, size: Size, align_corners: bool) -> Tensor:
    """(B, K, h, w) logits at (B, K, H, W), bilinear, float32 or wider."""
    z = at_least_float32(logits)
    if tuple(z.shape[2:]) == tuple(size):
        return z
    return F.interpolate(z, size=size, mode="bilinear", align_corners=align_corners)


def count_labels(labels: Tensor) -> Tensor:
    """Count the labels that are not 255, at least 1: an int64 scalar."""
    return (labels != 255).sum().clamp(min=1)


def count_pixels(logits: Tensor, size: Size) -> int:
    """Count the pixels of all images, at least 1."""
    return max(1, len(logits) * size[0] * size[1])


def negentropy(p: Tensor) -> Tensor:
    """sum_c p_c log p_c in nats, with a finite gradient where p is 0."""
    return (p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum()
