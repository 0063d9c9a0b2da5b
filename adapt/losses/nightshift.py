"""Nightshift's loss: soft labels, balanced by class."""

from __future__ import annotations

from torch import Tensor

from ...runtime.errors import ShapeError
from .common import Size, check_logits, upsample
from .iapc import mean_entropy
from .kernels.core import weighted_sums
from .kernels.spec import Inputs, Kernel, Map, Terms


def nightshift_terms(
    logits: Tensor,
    target: Tensor,
    size: Size,
    *,
    align_corners: bool,
    class_weights: Tensor,
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
        target: q, constant, (B, K, H, W); all zeros where there is no label.
        size: (H, W) of the pixels.
        class_weights: a, (K,).
        weight_entropy: 0 leaves the term out.
        kernel: what computes them; all give the same up to rounding.

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
    # Element by element: a product of matrices would run in half precision under autocast.
    total = (class_weights * target.sum(dim=(0, 2, 3))).sum().clamp(min=1e-12)
    if kernel != "reference":
        factors: dict[str, float | Tensor] = {
            "soft": 1 / total.double(),
            "entropy": weight_entropy / (len(target) * size[0] * size[1]),
        }
        sums = weighted_sums(
            Terms(soft="probabilities", entropy=bool(weight_entropy)),
            logits,
            Inputs(size, align_corners, soft=Map(target), soft_class_weights=class_weights),
            kernel=kernel,
            factors=factors,
        )
        names = ("soft", "entropy") if weight_entropy else ("soft",)
        return {name: sums[name] for name in names}
    z = upsample(logits, size, align_corners)
    w = (class_weights[:, None, None] * target).sum(dim=1)
    ce = -(target * z.log_softmax(dim=1)).sum(dim=1)
    terms = {"soft": (w * ce).sum() / total}
    if weight_entropy:
        terms["entropy"] = weight_entropy * mean_entropy(z)
    return terms
