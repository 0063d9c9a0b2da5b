"""Loss terms of LD (You et al., "Domain Adaptive Semantic Segmentation without Source Data", ACM MM
2021, arXiv:2110.06484) and of its boundary stage.

Symbols, per pixel: p = softmax of the student's logits, upsampled; C classes; y = pseudo-label, 255
where none was selected. Natural logarithms; every mean is over all pixels of the batch unless said
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends.core import weighted_sums
from .backends.spec import Inputs, Kernel, Share, Terms
from .common import Size, check_logits, check_pixels, count_labels, count_pixels

Complementary = Literal["ranked", "ranked_below", "random"]
MeanOver = Literal["selected", "all"]


def complementary_ranks(
    num_classes: int,
    shape: tuple[int, ...],
    spread: int,
    device: torch.device,
    rule: Complementary = "ranked",
) -> Tensor:
    """Ranks K of complementary labels: the class of the K-th largest p is the one denied.

        ranked        K = floor(C/2) + a uniform integer in [-spread, spread]   (Algorithm 1)
        ranked_below  K = floor(C/2) + a uniform integer in [-spread, 0]        (Fig. 3d)
        random        K = a uniform integer in [2, C]: any class but the likeliest (Fig. 3d)

    moved into [2, C] where outside.

    Source: heuristic complementary label selection (HCLS) of LD, spread 3.

    Args:
        num_classes: C >= 2.
        shape: (B, H, W), a rank for each pixel, or (), one for all.
        spread: epsilon; "random" has none.

    Returns:
        int64 of that shape, from torch's global generator.
    """
    middle = num_classes // 2
    lowest, highest = {
        "ranked": (middle - spread, middle + spread),
        "ranked_below": (middle - spread, middle),
        "random": (2, num_classes),
    }[rule]
    drawn = torch.randint(lowest, highest + 1, shape, device=device)
    return drawn.clamp(2, num_classes)


def negative_term(
    logits: Tensor,
    ranks: Tensor,
    size: Size,
    *,
    align_corners: bool,
    weight: float,
    kernel: Kernel = "reference",
) -> Tensor:
    """L_neg of `ld_terms` alone, times ``weight``: negative learning beside another method's terms.

    Args:
        logits: the student's, (B, C, h, w); gradients flow.
        ranks: K, int64 in [2, C], (B, H, W), or () for one rank everywhere.
        size: (H, W) of the pixels.
        weight: above 0.
        kernel: what computes it; all give the same up to rounding.

    Returns:
        Scalar in float32 or wider.

    Raises:
        ShapeError: shapes disagree.
    """
    check_logits("negative_term", logits)
    check_pixels("negative_term", (len(logits), *size), ranks=ranks if ranks.ndim else None)
    return weighted_sums(
        Terms(negative_rank=True),
        logits,
        Inputs(size, align_corners, ranks=ranks),
        {"negative": Share("negative", weight, count_pixels(logits, size))},
        kernel=kernel,
    )["negative"]


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
    selected_mean_over: MeanOver = "selected",
    kernel: Kernel = "reference",
) -> dict[str, Tensor]:
    """Positive and negative learning.

        L_sce = 1/N sum_{v in V} a[y_v] CE(p_v, y_v),  V = {v : y_v != 255}          (eq. 3)
        L_ent = mean entropy of p                                                    (eq. 4)
        L_neg = mean( -log(1 - p_c) ),  c: the class of the K-th largest p_c         (eq. 6)

    N = |V|, as the authors' code divides, or the number of all pixels: the text sums eq. 3 over V
    and eq. 4 and 6 over all, and gives no divisor. The first makes L_sce about 1/alpha times
    heavier beside the other two. The authors' code holds 1 - p_c above 1e-5; we need not, since
    K >= 2 makes p_c <= 1/2.

    Args:
        logits: the student's, (B, C, h, w); gradients flow.
        labels: y, int64 (B, H, W).
        ranks: K, int64 in [2, C], (B, H, W), or () for one rank everywhere.
        size: (H, W) of the pixels.
        class_weights: a of each class, (C,); ``None`` is 1 (the paper).
        selected_mean_over: the pixels that N counts.
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
    counted = pixels if selected_mean_over == "all" else count_labels(labels)
    return weighted_sums(
        Terms(
            cross_entropy=bool(weights.selected),
            entropy=bool(weights.entropy),
            negative_rank=bool(weights.negative),
        ),
        logits,
        Inputs(size, align_corners, labels=labels, ranks=ranks, class_weights=class_weights),
        {
            "selected": Share("cross_entropy", weights.selected, counted),
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


def confident_images_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    confidence: Tensor,
    size: Size,
    *,
    align_corners: bool,
    confident_from: float,
    kernel: Kernel = "reference",
) -> Tensor:
    """Cross-entropy in which an image counts by its share of confident pixels.

        L = mean over all pixels of  w_i CE(p_v, y_v),  w_i = share of image i with confidence >= t

    Source: the LDBE code's boundary stage, t = ``confident_from`` = 0.97. It leaves pixels whose
    loss is exactly 0 out of the number that it divides by; here they count.

    Args:
        logits: the student's, (B, C, h, w); gradients flow.
        labels: y, int64 (B, H, W), no 255.
        confidence: of the labels, (B, H, W).
        size: (H, W) of the pixels.
        kernel: what computes it; all give the same up to rounding.

    Returns:
        Scalar in float32 or wider.

    Raises:
        ShapeError: shapes disagree.
    """
    where = "confident_images_cross_entropy"
    check_logits(where, logits)
    check_pixels(where, (len(logits), *size), labels=labels, confidence=confidence)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    share = (confidence >= confident_from).to(dtype).mean(dim=(1, 2))
    weight = share[:, None, None].expand(labels.shape).contiguous()
    return weighted_sums(
        Terms(cross_entropy=True),
        logits,
        Inputs(size, align_corners, labels=labels, pixel_weights=weight),
        {"boundary": Share("cross_entropy", 1.0, count_pixels(logits, size))},
        kernel=kernel,
    )["boundary"]
