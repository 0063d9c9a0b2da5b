"""Nightshift's loss: soft labels, balanced by class."""

from __future__ import annotations

import torch
from torch import Tensor

from ...runtime.errors import ShapeError
from .backends.core import soft_mass, weighted_sums
from .backends.spec import Inputs, Kernel, Map, Paste, Share, Terms
from .common import Size, check_logits, count_pixels


def nightshift_terms(
    logits: Tensor,
    target: Tensor | Map,
    size: Size,
    *,
    align_corners: bool,
    class_weights: Tensor,
    paste: Paste | None = None,
    weight_entropy: float = 0.0,
    kernel: Kernel = "reference",
) -> dict[str, Tensor]:
    """Cross-entropy with soft labels, and entropy.

        L_soft = sum_v w_v CE(q_v, p_v) / sum_v w_v,   w_v = sum_c a_c q_vc
        L_ent  = weight_entropy * mean entropy of p

    with p = softmax of the upsampled logits and CE(q, p) = -sum_c q_c log p_c. The entropy is over
    all pixels.

    Args:
        logits: the student's, (B, K, h, w); gradients flow.
        target: q, constant, (B, K, H, W), all zeros where there is no label; or a map of
            distributions of any size.
        size: (H, W) of the pixels.
        class_weights: a, (K,).
        paste: the pixels whose q is another image's.
        weight_entropy: 0 leaves the term out.
        kernel: what computes them; all give the same up to rounding.

    Returns:
        ``{"soft", "entropy"}``, scalars in float32 or wider; "soft" is 0 with zero gradient where
        no pixel has a label.

    Raises:
        ShapeError: shapes disagree.
    """
    check_logits("nightshift_terms", logits)
    _check_shapes(logits, target, size, class_weights)
    inputs = Inputs(
        size, align_corners, soft=Map.of(target), paste=paste, soft_class_weights=class_weights
    )
    total = (class_weights * soft_mass(inputs, kernel)).sum().clamp(min=1e-12)
    return weighted_sums(
        Terms(soft="probabilities", entropy=bool(weight_entropy)),
        logits,
        inputs,
        {
            "soft": Share("soft", 1.0, total),
            "entropy": Share("entropy", weight_entropy, count_pixels(logits, size)),
        },
        kernel=kernel,
    )


def _check_shapes(logits: Tensor, target: Tensor | Map, size: Size, class_weights: Tensor) -> None:
    """Raise `ShapeError` unless logits, target and class weights belong together."""
    classes = logits.shape[:2]
    shapes = [("class_weights", class_weights.shape, classes[1:])]
    if isinstance(target, Map):
        shapes.append(("target's map", target.values.shape[:2], classes))
    else:
        shapes.append(("target", target.shape, torch.Size((*classes, *size))))
    for name, shape, expected in shapes:
        if shape != expected:
            raise ShapeError(
                f"nightshift_terms: {name} must be {tuple(expected)}, as logits of "
                f"{tuple(logits.shape)} at {size[0]}x{size[1]} pixels ask for, got {tuple(shape)}."
            )
