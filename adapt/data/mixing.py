"""Mixing images: pixels of one pasted over another, by class or by rectangle.

Masks are drawn from torch's global generator, which the trainer seeds for every step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..losses.common import IGNORED


def classmix_masks(labels: Tensor, *, round_up: bool = True) -> Tensor:
    """The pixels of half of the classes of each image, rounded up, the classes drawn at random.

    Per image, as ATP and DAS3 ask for, not per batch. Source: Olsson et al., "ClassMix", WACV 2021
    (arXiv:2007.07936).

    Args:
        labels: integer (B, H, W); 255 is no class and is never pasted.
        round_up: ``False`` rounds the half down, as the LDBE code does: of one class nothing is
            pasted then.

    Returns:
        bool (B, H, W).
    """
    masks = torch.zeros_like(labels, dtype=torch.bool)
    for image, mask in zip(labels, masks, strict=True):
        present = image.unique()
        present = present[present != IGNORED]
        count = math.ceil(len(present) / 2) if round_up else len(present) // 2
        chosen = present[torch.randperm(len(present))[:count].to(present.device)]
        mask.copy_(torch.isin(image, chosen))
    return masks


def cutmix_masks(labels: Tensor, share: tuple[float, float] = (0.25, 0.5)) -> Tensor:
    """One rectangle an image, of a random shape, with a share of its area drawn from ``share``.

    Source: Yun et al., "CutMix", ICCV 2019 (arXiv:1905.04899), for segmentation as in French et
    al., BMVC 2020 (arXiv:1906.01916).

    Args:
        labels: (B, H, W); its shape and device alone count.

    Returns:
        bool (B, H, W).
    """
    height, width = labels.shape[1:]
    masks = torch.zeros_like(labels, dtype=torch.bool)
    for mask in masks:
        area = float(torch.empty(()).uniform_(*share))
        # Sides r^u and r^(1-u) of the image's, with u in [0, 1], have a product of r.
        exponent = float(torch.rand(()))
        h = max(1, round(height * area**exponent))
        w = max(1, round(width * area ** (1 - exponent)))
        top = int(torch.randint(height - h + 1, ()))
        left = int(torch.randint(width - w + 1, ()))
        mask[top : top + h, left : left + w] = True
    return masks


def paste(masks: Tensor, over: Tensor, under: Tensor) -> Tensor:
    """``over`` where ``masks`` (B, H, W) holds, else ``under``.

    Args:
        over, under: (B, H, W), or (B, H, W, 3) for channels-last images.
    """
    wide = masks if over.ndim == 3 else masks[..., None]
    return torch.where(wide, over, under)
