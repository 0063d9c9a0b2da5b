"""Loss terms of ATP and DAS3 (Wang, Liang and Zhang, "Source Data-free Cross-domain Semantic
Segmentation: Align, Teach and Propagate", arXiv:2106.11653, v2 and v1).

Symbols, per pixel: p = softmax of the student's logits, upsampled; K classes; h = entropy of p
over log K. Natural logarithms; every mean is over all pixels of the batch unless said otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends.core import pixel_sums, weighted_sums
from .backends.spec import Inputs, Kernel, Map, Paste, Share, Terms
from .common import Size, check_logits, check_pixels, count_labels, count_pixels, negentropy


@dataclass(frozen=True)
class AlignWeights:
    """Coefficients and shape of Align's terms; a term of weight 0 is not computed."""

    entropy: float  # alpha of eq. 2
    diversity: float  # of eq. 3
    focus: float  # gamma of eq. 2; 0 is plain entropy
    sharpness: float  # lambda of eq. 3


def align_terms(
    logits: Tensor,
    size: Size,
    *,
    align_corners: bool,
    weights: AlignWeights,
    per_weight: bool = True,
    per_image: bool = False,
    over_log_classes: bool = False,
    detach_weight: bool = False,
    detach_focus: bool = False,
    kernel: Kernel = "reference",
) -> dict[str, Tensor]:
    """Curriculum entropy and diversity.

        L_ent = alpha mean( (1 - h)^gamma h )                    (eq. 2)
        L_div = weight sum_c p^_c log p^_c                       (eq. 3)
        p^    = sum_v w_v p_v / sum_v w_v,   w = exp(-lambda h),  v the pixels of the batch

    Where h > 1 / (gamma + 1), eq. 2 falls as h rises: uncertain pixels are pushed to be more so.

    Args:
        logits: the student's, (B, K, h, w); gradients flow.
        size: (H, W) of the pixels.
        per_weight: divide p^ by the sum of the weights, which makes it a distribution; else by the
            number of pixels, as the authors' code does.
        per_image: L_div is the mean over images of that of each image's own p^, as in the text.
        over_log_classes: divide L_div by log K, as the authors' code does.
        detach_weight: treat w as a constant, as the authors' code does.
        detach_focus: treat (1 - h)^gamma as a constant, so that every pixel's entropy falls.
        kernel: what computes them; all give the same up to rounding.

    Returns:
        ``{"entropy", "diversity"}``, each times its weight, scalars in float32 or wider.

    Raises:
        ShapeError: ``logits`` are not (B, K, h, w).
    """
    check_logits("align_terms", logits)
    if per_image and len(logits) > 1:
        each = [
            align_terms(
                logits[image : image + 1],
                size,
                align_corners=align_corners,
                weights=weights,
                per_weight=per_weight,
                over_log_classes=over_log_classes,
                detach_weight=detach_weight,
                detach_focus=detach_focus,
                kernel=kernel,
            )
            for image in range(len(logits))
        ]
        return {name: torch.stack([one[name] for one in each]).mean() for name in each[0]}
    sums, mass = pixel_sums(
        Terms(
            curriculum=weights.focus if weights.entropy else None,
            detach_focus=detach_focus,
            sharpness=weights.sharpness if weights.diversity else None,
            detach_certainty=detach_weight,
        ),
        logits,
        Inputs(size, align_corners),
        kernel=kernel,
    )
    pixels, terms = count_pixels(logits, size), dict[str, Tensor]()
    if weights.entropy:
        terms["entropy"] = weights.entropy * (sums["curriculum"] / pixels)
    if weights.diversity:
        total = sums["certainty"].detach() if detach_weight else sums["certainty"]
        p_hat = mass / (total if per_weight else pixels)
        scale = math.log(logits.shape[1]) if over_log_classes else 1.0
        terms["diversity"] = weights.diversity / scale * negentropy(p_hat)
    return terms


def teach_terms(
    logits: Tensor,
    labels: Tensor,
    size: Size,
    *,
    align_corners: bool,
    positive: float = 1.0,
    negative: float = 1.0,
    negative_below: float = 0.05,
    negative_jointly: bool = False,
    kernel: Kernel = "reference",
) -> dict[str, Tensor]:
    """Positive and negative pseudo-labels.

        L_ppl = 1/|V| sum_{v in V} CE(p_v, y_v),  V = {v : y_v != 255}               (eq. 5)
        L_npl = mean over pixels of  sum_c 1[p_c < negative_below] -log(1 - p_c)     (eq. 6, 7)
        or      mean over pixels of  -log(1 - sum_c 1[p_c < negative_below] p_c)     (jointly)

    Args:
        logits: the student's, (B, K, h, w); gradients flow.
        labels: pseudo-labels y, int64 (B, H, W); 255 where there is none.
        size: (H, W) of the pixels.
        positive, negative: coefficients of the two; a term of weight 0 is not computed.
        negative_jointly: no class of a pixel below the threshold is its class, as the authors'
            code has it; a pixel all of whose classes are below it counts 0.
        kernel: what computes them; all give the same up to rounding.

    Returns:
        ``{"positive", "negative"}``, scalars in float32 or wider; "positive" is 0 with zero
        gradient where no pixel has a label.

    Raises:
        ShapeError: shapes disagree.
    """
    check_logits("teach_terms", logits)
    check_pixels("teach_terms", (len(logits), *size), labels=labels)
    return weighted_sums(
        Terms(
            cross_entropy=bool(positive),
            negative_below=negative_below if negative else None,
            negative_jointly=negative_jointly,
        ),
        logits,
        Inputs(size, align_corners, labels=labels),
        {
            "positive": Share("cross_entropy", positive, count_labels(labels)),
            "negative": Share("negative", negative, count_pixels(logits, size)),
        },
        kernel=kernel,
    )


def soft_cross_entropy(
    logits: Tensor,
    target: Tensor | Map,
    size: Size,
    *,
    align_corners: bool,
    paste: Paste | None = None,
    kernel: Kernel = "reference",
) -> Tensor:
    """mean( -sum_c q_c log p_c ), 0 if B = 0.

    Args:
        logits: (B, K, h, w); gradients flow.
        target: q, constant, (B, K, H, W); or a map of logits, of any size, whose softmax at the
            pixels is q.
        size: (H, W) of the pixels.
        paste: the pixels whose q is another image's.
        kernel: what computes it; all give the same up to rounding.

    Returns:
        Scalar in float32 or wider.
    """
    terms, inputs = _soft(target, size, align_corners, paste)
    shares = {"soft": Share("soft", 1 / count_pixels(logits, size))}
    return weighted_sums(terms, logits, inputs, shares, kernel=kernel)["soft"]


def divergence_from(
    logits: Tensor, target: Tensor, size: Size, *, align_corners: bool, kernel: Kernel = "reference"
) -> Tensor:
    """KL(q || p) = 1/|V| sum_{v in V} sum_c q_c (log q_c - log p_c)  (eq. 11), with 0 log 0 = 0.

    Args:
        logits: (B, K, h, w); gradients flow.
        target: q, constant, (B, K, H, W); a pixel whose q is all zeros is not in V.
        size: (H, W) of the pixels.
        kernel: what computes it; all give the same up to rounding.

    Returns:
        Scalar in float32 or wider; 0 with zero gradient where V is empty.
    """
    known = target.sum().clamp(min=1)
    certainty: Tensor = torch.special.xlogy(target, target).sum()
    terms, inputs = _soft(target, size, align_corners)
    sums, _ = pixel_sums(terms, logits, inputs, kernel=kernel, expected={"soft": 1 / known})
    return (certainty + sums["soft"]) / known


def _soft(
    target: Tensor | Map, size: Size, align_corners: bool, paste: Paste | None = None
) -> tuple[Terms, Inputs]:
    """-sum_v sum_c q_c log p_c, with q as `soft_cross_entropy` takes it."""
    terms = Terms(soft="logits" if isinstance(target, Map) else "probabilities")
    return terms, Inputs(size, align_corners, soft=Map.of(target), paste=paste)


def regional_contrast(
    representation: Tensor,
    labels: Tensor,
    confidence: Tensor,
    *,
    queries: int = 256,
    keys: int = 512,
    temperature: float = 0.5,
    easy_above: float = 0.97,
) -> Tensor:
    """ReCo: pixels of a class draw together where the network is unsure, apart from other classes.

        L = mean over classes c that have queries, and over queries r of class c, of
            -log( exp(r . m_c / t) / ( exp(r . m_c / t) + sum_k exp(r . r_k / t) ) )

    with r of unit length, and m_c the direction of its mean over class c, constant; queries drawn
    among the pixels of class c whose confidence is below ``easy_above``; for each query ``keys``
    constant r_k drawn among pixels of the other classes, a class as often as its mean resembles m_c
    (softmax of cosine similarities over t).

    Source: Liu et al., "Bootstrapping semantic segmentation with regional contrast", ICLR 2022
    (arXiv:2104.04465), eq. 1 to 4.

    Args:
        representation: (B, D, h, w); gradients flow through the queries.
        labels: int64 (B, h, w); 255 is no class.
        confidence: (B, h, w), constant.

    Returns:
        Scalar in float32 or wider; 0 with zero gradient with fewer than two classes or no query.
    """
    wide = representation if representation.dtype == torch.float64 else representation.float()
    r = F.normalize(wide, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    labels, confidence = labels.flatten(), confidence.flatten()
    present = torch.unique(labels[labels != 255])
    if len(present) < 2 or not r.isfinite().all():
        return 0.0 * r.sum()  # NaN where r is not finite: the trainer throws the step away
    constant = r.detach()
    members = {int(c): (labels == c).nonzero().squeeze(1) for c in present}
    means = F.normalize(torch.stack([constant[i].mean(dim=0) for i in members.values()]), dim=1)
    losses = []
    for row, rows in enumerate(members.values()):
        hard = rows[confidence[rows] < easy_above]
        if not len(hard):
            continue
        others = [other for other in range(len(present)) if other != row]
        with torch.autocast(r.device.type, enabled=False):
            query = r[_draw(hard, queries)]
            positive, everything = query @ means[row], query @ constant.T
            relation = (means[others] @ means[row] / temperature).softmax(dim=0)
        which = torch.multinomial(relation.cpu(), queries * keys, replacement=True)
        key = torch.empty(len(which), dtype=torch.int64, device=r.device)
        for n, other in enumerate(others):
            chosen = which == n
            pool = list(members.values())[other]
            key[chosen.to(r.device)] = _draw(pool, int(chosen.sum()))
        negative = everything.gather(1, key.view(queries, keys))
        scores = torch.cat([positive[:, None], negative], dim=1) / temperature
        losses.append(-scores.log_softmax(dim=1)[:, 0].mean())
    return torch.stack(losses).mean() if losses else 0.0 * r.sum()


def _draw(pool: Tensor, count: int) -> Tensor:
    """``count`` entries of ``pool``, with replacement."""
    return pool[torch.randint(len(pool), (count,)).to(pool.device)]
