"""Loss terms of the baselines: entropy, information maximisation, pseudo-labels.

Symbols, per pixel: p = softmax of the student's logits, upsampled; p^ = the frozen teacher's;
H(q) = -sum_c q_c log q_c in nats. Every mean is over all pixels of the batch unless said otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .backends.core import pixel_sums, weighted_sums
from .backends.labels import confident_argmax
from .backends.spec import Inputs, Kernel, Map, Terms
from .common import (
    IGNORED,
    Size,
    check_logits,
    check_pixels,
    count_labels,
    labelled_cross_entropy,
    upsample,
)
from .iapc import mean_entropy


def entropy_terms(
    logits: Tensor, size: Size, *, align_corners: bool, kernel: Kernel = "reference"
) -> dict[str, Tensor]:
    """L = mean H(p).

    Source: Grandvalet and Bengio, NIPS 2004; Tent, Sec. 3.1 (Wang et al., ICLR 2021). Vu et al.
    (arXiv:1811.12833) divide by log K; here it is in nats, as in IAPC's eq. 6.

    Args:
        logits: the student's, (B, K, h, w); gradients flow.
        size: (H, W) of the pixels.
        kernel: what computes it; all give the same up to rounding.

    Returns:
        ``{"entropy"}``, a scalar in float32 or wider.

    Raises:
        ShapeError: ``logits`` are not (B, K, h, w).
    """
    check_logits("entropy_terms", logits)
    if kernel != "reference":
        mean = 1 / (len(logits) * size[0] * size[1])
        return weighted_sums(
            Terms(entropy=True),
            logits,
            Inputs(size, align_corners),
            kernel=kernel,
            factors={"entropy": mean},
        )
    return {"entropy": mean_entropy(upsample(logits, size, align_corners))}


def information_maximisation_terms(
    logits: Tensor,
    size: Size,
    *,
    align_corners: bool,
    diversity: float = 1.0,
    kernel: Kernel = "reference",
) -> dict[str, Tensor]:
    """Terms that make each pixel certain, and the mean over all pixels undecided.

        L_ent = mean H(p),    L_div = -diversity H(mean p)

    Source: SHOT, Sec. 3.2 (Liang et al., ICML 2020, arXiv:2002.08546). Its authors' code adds 1e-5
    inside the logarithms.

    Args:
        logits: the student's, (B, K, h, w); gradients flow.
        size: (H, W) of the pixels.
        diversity: coefficient of L_div, 1 in the paper; at 0 the term is not computed.
        kernel: what computes it; all give the same up to rounding.

    Returns:
        ``{"entropy", "diversity"}``, scalars in float32 or wider.

    Raises:
        ShapeError: ``logits`` are not (B, K, h, w).
    """
    check_logits("information_maximisation_terms", logits)
    if kernel == "reference":
        z = upsample(logits, size, align_corners)
        terms = {"entropy": mean_entropy(z)}
        mean_p = z.softmax(dim=1).mean(dim=(0, 2, 3)) if diversity else None
    else:
        pixels = len(logits) * size[0] * size[1]
        asked = Terms(entropy=True, sharpness=0.0 if diversity else None)
        sums, mass = pixel_sums(asked, logits, Inputs(size, align_corners), kernel=kernel)
        terms = {"entropy": sums["entropy"] / pixels}
        mean_p = mass / pixels if diversity else None
    if mean_p is not None:
        log_mean_p = mean_p.clamp(min=torch.finfo(mean_p.dtype).tiny).log()  # finite where p is 0
        terms["diversity"] = diversity * (mean_p * log_mean_p).sum()
    return terms


def confident_labels(
    teacher_logits: Tensor | Map, size: Size, *, align_corners: bool, above: float = 0.0
) -> Tensor:
    """y = argmax p^ where max_c p^_c > above, else 255.

    Args:
        teacher_logits: (B, K, h, w), or a map of frames; constant.
        size: (H, W) of the pixels.

    Returns:
        int64 (B, H, W).

    Raises:
        ShapeError: ``teacher_logits`` are not (B, K, h, w).
    """
    check_logits("confident_labels", Map.of(teacher_logits).values)
    labels, confidence = confident_argmax(teacher_logits, size, align_corners=align_corners)
    return labels.masked_fill(confidence <= above, IGNORED)


def pseudo_label_terms(
    logits: Tensor,
    labels: Tensor,
    size: Size,
    *,
    align_corners: bool,
    pseudo_label: float = 1.0,
    entropy: float = 0.0,
    kernel: Kernel = "reference",
) -> dict[str, Tensor]:
    """Cross-entropy with pseudo-labels, and entropy.

        L_pse = pseudo_label / |V| sum_{v in V} -log p_v[y_v],   V = {v : y_v != 255}
        L_ent = entropy mean H(p)

    Source: Lee, "Pseudo-Label", ICML Workshops 2013; Pseudo, Pseudo + EntMin and Pse.+Sel. are the
    baselines of ATP and DAS3 (arXiv:2106.11653).

    Args:
        logits: the student's, (B, K, h, w); gradients flow.
        labels: y, int64 (B, H, W); 255 where there is none.
        size: (H, W) of the pixels.
        pseudo_label, entropy: coefficients; an entropy of weight 0 is not computed.
        kernel: what computes it; all give the same up to rounding.

    Returns:
        ``{"pseudo_label", "entropy"}``, scalars in float32 or wider; the first is 0 with zero
        gradient where no pixel has a label.

    Raises:
        ShapeError: shapes disagree.
    """
    check_logits("pseudo_label_terms", logits)
    check_pixels("pseudo_label_terms", (len(logits), *size), labels=labels)
    if kernel != "reference":
        factors: dict[str, float | Tensor] = {
            "cross_entropy": pseudo_label / count_labels(labels).double(),
            "entropy": entropy / labels.numel(),
        }
        return weighted_sums(
            Terms(cross_entropy=True, entropy=bool(entropy)),
            logits,
            Inputs(size, align_corners, labels=labels),
            kernel=kernel,
            factors=factors,
            titles={"cross_entropy": "pseudo_label"},
        )
    z = upsample(logits, size, align_corners)
    cross_entropy = labelled_cross_entropy(z.log_softmax(dim=1), labels)
    terms = {"pseudo_label": pseudo_label * cross_entropy}
    if entropy:
        terms["entropy"] = entropy * mean_entropy(z)
    return terms
