"""IAPC's loss terms (Cao et al., "Towards Source-free Domain Adaptive Semantic Segmentation via
Importance-aware and Prototype-contrast Learning", arXiv:2306.01598).

Symbols, per pixel: p = softmax of the student's logits, upsampled; p^ = the source teacher's;
p' = softmax of ``prototype_logits``, the reference distribution by the memory model's prototypes
(eq. 10); y^ = argmax p^ (eq. 1); y' = argmax p' (eq. 11); y_t = argmax p. Natural logarithms; every
mean is over all pixels of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .backends.core import weighted_sums
from .backends.spec import Importance, Inputs, Kernel, Map, Share, Terms
from .common import Size, check_logits, check_pixels, check_same_batch, count_pixels


@dataclass(frozen=True)
class IapcWeights:
    """Coefficients of the four terms; a term of weight 0 is not computed (Table III)."""

    importance: float  # L_IA
    agreement: float  # L_PE
    prototype: float  # L_PS
    entropy: float  # L_IM


def iapc_terms(
    logits: Tensor,
    teacher_logits: Tensor | Map,
    prototype_logits: Tensor | None,
    present: Tensor | None,
    size: Size,
    *,
    prototype_labels: Tensor | None = None,
    align_corners: bool,
    weights: IapcWeights,
    importance: Importance = "margin_ratio",
    importance_of_logits: bool = False,
    labels: Tensor | None = None,
    class_weights: Tensor | None = None,
    prototype_class_weights: Tensor | None = None,
    agree_with: Literal["student", "pseudo_label"] = "student",
    epsilon: float = 0.0,
    kernel: Kernel = "reference",
) -> dict[str, Tensor]:
    """The weighted terms of IAPC's loss on low-resolution logits.

        L_IA = mean( w a[y^] CE(p, y^) )                      (eq. 5)   w: the trust in y^ (eq. 4)
        L_PE = mean( 1[y_t = y'] a'[y'] CE(p, y') )           (eq. 13)
        L_PS = mean( CE(p, y') + CE(p', y_t) )                (eq. 12)
        L_IM = mean( -sum_c p_c log(p_c + epsilon) )          (eq. 6)

    Args:
        logits: the student's, (B, K, h, w); gradients flow.
        teacher_logits: the source teacher's, (B, K, h', w'), or a map of the frames that the
            images are windows of; constant.
        prototype_logits: logits of p' on the grid of the student's features, (B, K, h'', w''):
            similarities to the prototypes, or what `linear_logits` makes of them; gradients flow
            through CE(p', y_t). ``None`` only if both prototype weights are 0.
        present: (B, K) bool: classes that have a prototype, at least one an image; absent ones get
            p'_c = 0, and a pixel whose y_t is absent has no CE(p', y_t). ``None``: every class
            competes, as in the authors' code, where an absent class has the similarity 0.
        size: (H, W) of the pixels.
        importance, importance_of_logits: what w is, see `backends.reference.importance_map`.
        prototype_labels: y' where it is not the argmax of the upsampled ``prototype_logits``,
            int64 (B, H, W), each a class that competes in its image.
        labels: y^ where it is not the teacher's own argmax, int64 (B, H, W); 255 is not labelled.
        class_weights: a of each class in L_IA, (K,); ``None`` is 1 (the paper).
        prototype_class_weights: a' of each class in L_PE, (K,).
        agree_with: L_PE's mask: y_t = y' (the paper) or y' = y^ (the authors' code).
        epsilon: 0 in the paper; 1e-5 in the authors' code.
        kernel: what computes them; all give the same up to rounding.

    Returns:
        ``{"importance", "agreement", "prototype", "entropy"}``, each times its weight, scalars in
        float32 or wider; without the terms of weight 0.

    Raises:
        ShapeError: shapes disagree.
    """
    check_logits("iapc_terms", logits)
    check_same_batch(
        "iapc_terms",
        logits,
        teacher_logits=Map.of(teacher_logits).values,
        prototype_logits=prototype_logits,
        present=present,
    )
    whole = (len(logits), *size)
    check_pixels("iapc_terms", whole, labels=labels, prototype_labels=prototype_labels)
    asks_prototypes = bool(weights.agreement or weights.prototype)
    if asks_prototypes and prototype_logits is None:
        raise ValueError("iapc_terms: prototype_logits are needed where a prototype term counts")
    needs_labels = bool(weights.importance or (weights.agreement and agree_with == "pseudo_label"))
    needs_teacher = needs_labels and (importance != "none" or labels is None)
    pixels = count_pixels(logits, size)
    return weighted_sums(
        Terms(
            cross_entropy=bool(weights.importance),
            importance=importance,
            importance_of_logits=importance_of_logits,
            entropy=bool(weights.entropy),
            epsilon=epsilon,
            agreement=bool(weights.agreement),
            agree_with=agree_with,
            prototype=bool(weights.prototype),
        ),
        logits,
        Inputs(
            size,
            align_corners,
            teacher=Map.of(teacher_logits) if needs_teacher else None,
            labels=labels if needs_labels else None,
            class_weights=class_weights,
            prototype_class_weights=prototype_class_weights,
            present=present,
            nearest=prototype_labels,
        ),
        {
            "importance": Share("cross_entropy", weights.importance, pixels),
            "agreement": Share("agreement", weights.agreement, pixels),
            "prototype": Share("prototype", weights.prototype, pixels),
            "entropy": Share("entropy", weights.entropy, pixels),
        },
        prototype_logits if asks_prototypes else None,
        kernel=kernel,
    )
