"""Loss terms of the baselines: entropy, information maximisation, pseudo-labels.

Symbols, per pixel: p = softmax of the student's logits, upsampled; p^ = the frozen teacher's;
H(q) = -sum_c q_c log q_c in nats. Every mean is over all pixels of the batch unless said otherwise.
"""

from __future__ import annotations

from torch import Tensor

from .backends.core import pixel_sums, weighted_sums
from .backends.labels import confident_argmax
from .backends.spec import Inputs, Kernel, Map, Share, Terms
from .common import (
    IGNORED,
    Size,
    check_logits,
    check_pixels,
    count_labels,
    count_pixels,
    negentropy,
)


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
    return weighted_sums(
        Terms(entropy=True),
        logits,
        Inputs(size, align_corners),
        {"entropy": Share("entropy", 1.0, count_pixels(logits, size))},
        kernel=kernel,
    )


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
    asked = Terms(entropy=True, sharpness=0.0 if diversity else None)
    sums, mass = pixel_sums(asked, logits, Inputs(size, align_corners), kernel=kernel)
    pixels = count_pixels(logits, size)
    terms = {"entropy": sums["entropy"] / pixels}
    if diversity:
        terms["diversity"] = diversity * negentropy(mass / pixels)
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
    pixel_weights: Tensor | None = None,
    kernel: Kernel = "reference",
) -> dict[str, Tensor]:
    """Cross-entropy with pseudo-labels, and entropy.

        L_pse = pseudo_label / |V| sum_{v in V} -w_v log p_v[y_v],   V = {v : y_v != 255}
        L_ent = entropy mean H(p)

    Source: Lee, "Pseudo-Label", ICML Workshops 2013; Pseudo, Pseudo + EntMin and Pse.+Sel. are the
    baselines of ATP and DAS3 (arXiv:2106.11653).

    Args:
        logits: the student's, (B, K, h, w); gradients flow.
        labels: y, int64 (B, H, W); 255 where there is none.
        size: (H, W) of the pixels.
        pseudo_label, entropy: coefficients; an entropy of weight 0 is not computed.
        pixel_weights: w, constant, (B, H, W); ``None``: 1 everywhere.
        kernel: what computes it; all give the same up to rounding.

    Returns:
        ``{"pseudo_label", "entropy"}``, scalars in float32 or wider; the first is 0 with zero
        gradient where no pixel has a label.

    Raises:
        ShapeError: shapes disagree.
    """
    check_logits("pseudo_label_terms", logits)
    pixels = (len(logits), *size)
    check_pixels("pseudo_label_terms", pixels, labels=labels, pixel_weights=pixel_weights)
    return weighted_sums(
        Terms(cross_entropy=True, entropy=bool(entropy)),
        logits,
        Inputs(size, align_corners, labels=labels, pixel_weights=pixel_weights),
        {
            "pseudo_label": Share("cross_entropy", pseudo_label, count_labels(labels)),
            "entropy": Share("entropy", entropy, count_pixels(logits, size)),
        },
        kernel=kernel,
    )
