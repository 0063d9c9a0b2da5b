"""IAPC's loss terms (Cao et al., "Towards Source-free Domain Adaptive Semantic Segmentation via
Importance-aware and Prototype-contrast Learning", arXiv:2306.01598).

Symbols, per pixel: p = softmax of the student's logits, upsampled; p^ = the source teacher's;
p' = softmax of ``prototype_logits``, the reference distribution by the memory model's prototypes
(eq. 10); y^ = argmax p^ (eq. 1); y' = argmax p' (eq. 11); y_t = argmax p. Natural logarithms; every
mean is over all pixels of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends.core import weighted_sums
from .backends.spec import Importance, Inputs, Kernel, Map, Terms
from .backends.taps import upsample_map
from .common import Size, at_least_float32, check_logits, check_pixels, check_same_batch, upsample


def importance_map(teacher_logits: Tensor, kind: Importance, *, of_logits: bool = False) -> Tensor:
    """Importance map: the trust in the teacher's pseudo-label of each pixel.

    With s_1 >= s_2 the two largest entries of p^ (of the logits themselves if ``of_logits``, as the
    authors' code has it; the result can then leave [0, 1], and is 0 where s_1 = 0):

        margin_ratio       w = 1 - s_2 / s_1   (eq. 4)
        none               w = 1               ("RPL" of Table IV)
        first              w = s_1             ("FPL")
        one_minus_second   w = 1 - s_2         ("SPL")

    Args:
        teacher_logits: (B, K, H, W), at pixel resolution.

    Returns:
        (B, H, W), float32 or wider, a constant for autograd.
    """
    z = at_least_float32(teacher_logits.detach())
    if kind == "none":
        return torch.ones_like(z[:, 0])
    scores = z if of_logits else z.softmax(dim=1)
    first, second = scores.topk(2, dim=1).values.unbind(dim=1)
    if kind == "first":
        return first
    if kind == "one_minus_second":
        return 1 - second
    ratio = second / first.where(first != 0, 1)
    return torch.where(first != 0, 1 - ratio, torch.zeros_like(first))


def mean_entropy(logits: Tensor, epsilon: float = 0.0) -> Tensor:
    """L_IM = mean of -sum_c p_c log(p_c + epsilon)  (eq. 6; the authors' code has epsilon = 1e-5).

    Args:
        logits: (B, K, H, W), at pixel resolution.

    Returns:
        Scalar, nats per pixel.
    """
    return _entropy(at_least_float32(logits).log_softmax(dim=1), epsilon)


def _entropy(log_p: Tensor, epsilon: float) -> Tensor:
    p = log_p.exp()
    log_term = log_p if epsilon == 0 else (p + epsilon).log()
    return -(p * log_term).sum(dim=1).mean()


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

        L_IA = mean( w a[y^] CE(p, y^) )                      (eq. 5)   w: `importance_map`
        L_PE = mean( 1[y_t = y'] a'[y'] CE(p, y') )           (eq. 13)
        L_PS = mean( CE(p, y') + CE(p', y_t) )                (eq. 12)
        L_IM = mean entropy of p                              (eq. 6)

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
        prototype_labels: y' where it is not the argmax of the upsampled ``prototype_logits``,
            int64 (B, H, W), each a class that competes in its image.
        labels: y^ where it is not the teacher's own argmax, int64 (B, H, W); 255 is not labelled.
        class_weights: a of each class in L_IA, (K,); ``None`` is 1 (the paper).
        prototype_class_weights: a' of each class in L_PE, (K,).
        agree_with: L_PE's mask: y_t = y' (the paper) or y' = y^ (the authors' code).
        epsilon: of `mean_entropy`.
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
    pixels = (len(logits), *size)
    check_pixels("iapc_terms", pixels, labels=labels, prototype_labels=prototype_labels)
    asks_prototypes = bool(weights.agreement or weights.prototype)
    if asks_prototypes and prototype_logits is None:
        raise ValueError("iapc_terms: prototype_logits are needed where a prototype term counts")
    needs_labels = bool(weights.importance or (weights.agreement and agree_with == "pseudo_label"))
    if kernel != "reference":
        needs_teacher = needs_labels and (importance != "none" or labels is None)
        names = {
            "cross_entropy": ("importance", weights.importance),
            "agreement": ("agreement", weights.agreement),
            "prototype": ("prototype", weights.prototype),
            "entropy": ("entropy", weights.entropy),
        }
        factors = {name: weight / math.prod(pixels) for name, (_, weight) in names.items()}
        sums = weighted_sums(
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
            prototype_logits if asks_prototypes else None,
            kernel=kernel,
            factors=factors,
        )
        return {title: sums[name] for name, (title, weight) in names.items() if weight}
    log_p = upsample(logits, size, align_corners).log_softmax(dim=1)
    terms: dict[str, Tensor] = {}
    if needs_labels:
        teacher = upsample_map(Map.of(teacher_logits), size, align_corners=align_corners).detach()
        labels = teacher.max(dim=1).indices if labels is None else labels
    if weights.importance and labels is not None:
        trust = importance_map(teacher, importance, of_logits=importance_of_logits)
        ce = F.nll_loss(log_p, labels, class_weights, ignore_index=255, reduction="none")
        terms["importance"] = weights.importance * (trust * ce).mean()
    if prototype_logits is not None and asks_prototypes:
        s = upsample(prototype_logits, size, align_corners)
        if present is not None:
            s = s.masked_fill(~present[:, :, None, None], float("-inf"))
        y_prime, y_student = (scores.detach().max(dim=1).indices for scores in (s, log_p))
        y_prime = y_prime if prototype_labels is None else prototype_labels
        ce = F.nll_loss(log_p, y_prime, reduction="none")
        if weights.agreement:
            mask = y_prime == (y_student if agree_with == "student" else labels)
            a = ce if prototype_class_weights is None else ce * prototype_class_weights[y_prime]
            terms["agreement"] = weights.agreement * (mask * a).mean()
        if weights.prototype:
            target = y_student
            if present is not None:
                has_prototype = present.gather(1, y_student.flatten(1)).view_as(y_student)
                target = y_student.where(has_prototype, 255)
            reverse = F.cross_entropy(s, target, ignore_index=255, reduction="none")
            terms["prototype"] = weights.prototype * (ce + reverse).mean()
    if weights.entropy:
        terms["entropy"] = weights.entropy * _entropy(log_p, epsilon)
    return terms
