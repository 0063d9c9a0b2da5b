"""Loss terms of LD (You et al., "Domain Adaptive Semantic Segmentation without Source Data", ACM MM
2021, arXiv:2110.06484) and of its boundary stage.

Symbols, per pixel: p = softmax of the student's logits, upsampled; C classes; y = pseudo-label, 255
where none was selected. Natural logarithms; every mean is over all pixels of the batch unless said
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends.core import weighted_sums
from .backends.spec import Inputs, Kernel, Share, Terms
from .common import Size, check_logits, check_pixels, count_labels, count_pixels


def complementary_ranks(
    num_classes: int, shape: tuple[int, ...], spread: int, device: torch.device
) -> Tensor:
    """K = floor(C/2) + a uniform integer in [-spread, spread], moved into [2, C] where outside.

    Source: heuristic complementary label selection (HCLS), Algorithm 1, spread 3.

    Args:
        num_classes: C >= 2.
        shape: (B, H, W), a rank for each pixel, or (), one for all.

    Returns:
        int64 of that shape, from torch's global generator.
    """
    middle = num_classes // 2
    drawn = torch.randint(middle - spread, middle + spread + 1, shape, device=device)
    return drawn.clamp(2, num_classes)


@dataclass(frozen=True)
class LdWeights:
    """Coefficients of the three terms; a term of weight 0 is not computed."""

    selected: float  # L_sce
    entropy: float  # L_ent
    negative: float  # L_neg


def ld_terms(
    logits: Tensor,
    labels: Tensor,
    ranks: Tensor,
    size: Size,
    *,
    align_corners: bool,
    weights: LdWeights,
    class_weights: Tensor | None = None,
    kernel: Kernel = "reference",
) -> dict[str, Tensor]:
    """Positive and negative learning.

        L_sce = 1/|V| sum_{v in V} a[y_v] CE(p_v, y_v),  V = {v : y_v != 255}        (eq. 3)
        L_ent = mean entropy of p                                                    (eq. 4)
        L_neg = mean( -log(1 - p_c) ),  c: the class of the K-th largest p_c         (eq. 6)

    The authors' code holds 1 - p_c above 1e-5; we need not, since K >= 2 makes p_c <= 1/2.

    Args:
        logits: the student's, (B, C, h, w); gradients flow.
        labels: y, int64 (B, H, W).
        ranks: K, int64 in [2, C], (B, H, W), or () for one rank everywhere.
        size: (H, W) of the pixels.
        class_weights: a of each class, (C,); ``None`` is 1 (the paper).
        kernel: what computes them; all give the same up to rounding.

    Returns:
        ``{"selected", "entropy", "negative"}``, each times its weight, scalars in float32 or wider;
        "selected" is 0 with zero gradient where no pixel is selected.

    Raises:
        ShapeError: shapes disagree.
    """
    check_logits("ld_terms", logits)
    per_pixel = {"labels": labels, "ranks": ranks if ranks.ndim else None}
    check_pixels("ld_terms", (len(logits), *size), **per_pixel)
    pixels = count_pixels(logits, size)
    return weighted_sums(
        Terms(
            cross_entropy=bool(weights.selected),
            entropy=bool(weights.entropy),
            negative_rank=bool(weights.negative),
        ),
        logits,
        Inputs(size, align_corners, labels=labels, ranks=ranks, class_weights=class_weights),
        {
            "selected": Share("cross_entropy", weights.selected, count_labels(labels)),
            "entropy": Share("entropy", weights.entropy, pixels),
            "negative": Share("negative", weights.negative, pixels),
        },
        kernel=kernel,
    )


def near_boundary(labels: Tensor, width: int) -> Tensor:
    """The pixels around which two classes meet, bool (B, H, W).

    A pixel is one if the square of 2 ``width`` + 1 pixels a side around it, cut off at the image's
    border, holds two classes; 255 is none.

    Args:
        labels: int64 (B, H, W).
    """

    def highest(values: Tensor) -> Tensor:
        return F.max_pool2d(values.float(), 2 * width + 1, stride=1, padding=width)

    return highest(labels.where(labels != 255, -1)) > -highest(-labels)


def boundary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    size: Size,
    *,
    align_corners: bool,
    boundary_weight: float,
    boundary_width: int,
    kernel: Kernel = "reference",
) -> Tensor:
    """Cross-entropy in which the pixels near class boundaries count more.

        L = sum_{v in V} w_v CE(p_v, y_v) / sum_{v in V} w_v,   V = {v : y_v != 255}

    with w = ``boundary_weight`` >= 1 where `near_boundary` (of ``boundary_width``) holds, else 1.

    Args:
        logits: the student's, (B, C, h, w); gradients flow.
        labels: y, int64 (B, H, W).
        size: (H, W) of the pixels.
        kernel: what computes it; all give the same up to rounding.

    Returns:
        Scalar in float32 or wider; 0 with zero gradient where no pixel is labelled.

    Raises:
        ShapeError: shapes disagree.
    """
    check_logits("boundary_cross_entropy", logits)
    check_pixels("boundary_cross_entropy", (len(logits), *size), labels=labels)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    near = near_boundary(labels, boundary_width)
    weight = torch.ones(labels.shape, dtype=dtype, device=labels.device)
    weight[near] = boundary_weight
    total = (weight * (labels != 255)).sum().clamp(min=1)
    return weighted_sums(
        Terms(cross_entropy=True),
        logits,
        Inputs(size, align_corners, labels=labels, pixel_weights=weight),
        {"boundary": Share("cross_entropy", 1.0, total)},
        kernel=kernel,
    )["boundary"]
