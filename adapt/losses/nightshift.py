"""Nightshift's loss: soft labels, balanced by class. Plain torch."""

from __future__ import annotations

from torch import Tensor

from ...runtime.errors import ShapeError
from .common import Size, check_logits, upsample
from .iapc import mean_entropy


def nightshift_terms(
    logits: Tensor,
    target: Tensor,
    size: Size,
    *,
    align_corners: bool,
    class_weights: Tensor,
    weight_entropy: float = 0.0,
) -> dict[str, Tensor]:
    """Cross-entropy with soft labels, and entropy.

        L_soft = sum_v w_v CE(q_v, p_v) / sum_v w_v,   w_v = sum_c a_c q_vc
        L_ent  = weight_entropy * mean entropy of p

    with p = softmax of the upsampled logits and CE(q, p) = -sum_c q_c log p_c. The entropy is over
    all pixels.

    Args:
        logits: the student's, (B, K, h, w); gradients flow.
        target: q, constant, (B, K, H, W); all zeros where there is no label.
        size: (H, W) of the pixels.
        class_weights: a, (K,).
        weight_entropy: 0 leaves the term out.

    Returns:
        ``{"soft", "entropy"}``, scalars in float32 or wider; "soft" is 0 with zero gradient where
        no pixel has a label.

    Raises:
        ShapeError: shapes disagree.
    """
    check_logits("nightshift_terms", logits)
    for name, tensor, shape in (
        ("target", target, (*logits.shape[:2], *size)),
        ("class_weights", class_weights, (logits.shape[1],)),
    ):
        if tuple(tensor.shape) != shape:
            raise ShapeError(
                f"nightshift_terms: {name} must be {shape}, as logits of {tuple(logits.shape)} at "
                f"{size[0]}x{size[1]} pixels ask for, got {tuple(tensor.shape)}."
            )
    z = upsample(logits, size, align_corners)
    # Element by element: a product of matrices would run in half precision under autocast.
    w = (class_weights[:, None, None] * target).sum(dim=1)
    ce = -(target * z.log_softmax(dim=1)).sum(dim=1)
    terms = {"soft": (w * ce).sum() / w.sum().clamp(min=1e-12)}
    if weight_entropy:
        terms["entropy"] = weight_entropy * mean_entropy(z)
    return terms
