"""Nightshift's loss: soft labels, balanced by class."""

from __future__ import annotations

import torch
from torch import Tensor

from ...runtime.errors import ShapeError
from .backends.core import weighted_sums
from .backends.spec import Inputs, Kernel, Map, Paste, Terms
from .backends.taps import mass_of_pixels, pasted, upsample_map
from .common import Size, check_logits, upsample
from .iapc import mean_entropy


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
    soft = Map.of(target)
    if kernel == "reference":
        soft = Map(pasted(upsample_map(soft, size, align_corners=align_corners), paste))
        paste = None
    total = (class_weights * _mass(soft, paste, size, align_corners)).sum().clamp(min=1e-12)
    if kernel != "reference":
        factors: dict[str, float | Tensor] = {
            "soft": 1 / total.double(),
            "entropy": weight_entropy / (len(logits) * size[0] * size[1]),
        }
        sums = weighted_sums(
            Terms(soft="probabilities", entropy=bool(weight_entropy)),
            logits,
            Inputs(size, align_corners, soft=soft, paste=paste, soft_class_weights=class_weights),
            kernel=kernel,
            factors=factors,
        )
        names = ("soft", "entropy") if weight_entropy else ("soft",)
        return {name: sums[name] for name in names}
    target = soft.values
    z = upsample(logits, size, align_corners)
    w = (class_weights[:, None, None] * target).sum(dim=1)
    ce = -(target * z.log_softmax(dim=1)).sum(dim=1)
    terms = {"soft": (w * ce).sum() / total}
    if weight_entropy:
        terms["entropy"] = weight_entropy * mean_entropy(z)
    return terms


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


def _mass(soft: Map, paste: Paste | None, size: Size, align_corners: bool) -> Tensor:
    """sum_v q_v over the pixels of all images, (K,)."""
    if paste is None and tuple(soft.values.shape[2:]) == tuple(size) and soft.windows is None:
        # Element by element: a product of matrices would run in half precision under autocast.
        return soft.values.sum(dim=(0, 2, 3))
    counts = torch.ones(len(soft.values), *size, device=soft.values.device)
    if paste is not None:
        counts = paste.over.to(counts.dtype)
        counts.index_add_(0, paste.under, 1 - counts)
    return mass_of_pixels(soft, counts, size, align_corners=align_corners).sum(dim=0)
