"""Class prototypes: the mean feature of each class, and how alike a pixel is to each of them.

Nothing here knows whether a position is a pixel of an image or a box of a detector.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.common import at_least_float32

Similarity = Literal["cosine", "dot"]
Normalisation = Literal["linear", "softmax"]
LEAST = 1e-6  # of p': its logarithm is finite, and the slope of that at most 1e6 / sum s


def class_sums(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum of the features and number of positions of every class, image by image.

    Args:
        features: (B, D, h, w), floating.
        labels: class of each position, int64 (B, h, w); a value outside [0, K) counts for none.
        num_classes: K.

    Returns:
        sums (B, K, D) and counts (B, K), float32 or wider.
    """
    f = at_least_float32(features).flatten(2)
    valid = (labels >= 0) & (labels < num_classes)
    member = F.one_hot(labels.where(valid, num_classes).flatten(1), num_classes + 1)
    member = member[..., :num_classes].to(f.dtype)  # (B, N, K)
    with torch.autocast(f.device.type, enabled=False):  # a sum of thousands overflows fp16
        return torch.bmm(member.transpose(1, 2), f.transpose(1, 2)), member.sum(dim=1)


def class_prototypes(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean feature of each class, one set an image (IAPC eq. 8-9).

        k_c = sum_i 1[l_i = c] f_i / sum_i 1[l_i = c]

    Args:
        features, labels, num_classes: as in `class_sums`.

    Returns:
        prototypes (B, K, D), zero where a class is absent, and present (B, K), bool.
    """
    sums, counts = class_sums(features, labels, num_classes)
    return sums / counts.clamp(min=1)[..., None], counts > 0


def prototype_logits(
    features: Tensor, prototypes: Tensor, *, similarity: Similarity, temperature: float
) -> Tensor:
    """Similarity of every feature to every prototype (IAPC eq. 10 before its normalisation).

        s_ci = <f_i, k_c> / temperature,  with f_i and k_c of unit length if ``similarity="cosine"``

    A zero prototype has similarity 0 to everything.

    Args:
        features: (B, D, h, w). prototypes: (B, K, D), or (1, K, D) shared by the batch.

    Returns:
        (B, K, h, w), float32 or wider.
    """
    f, k = at_least_float32(features), at_least_float32(prototypes)
    if similarity == "cosine":
        f, k = F.normalize(f, dim=1), F.normalize(k, dim=2)
    k = k.expand(f.shape[0], -1, -1)
    with torch.autocast(f.device.type, enabled=False):
        s = torch.bmm(k, f.flatten(2))
    return s.view(f.shape[0], k.shape[1], *f.shape[2:]) / temperature


def linear_logits(similarity: Tensor) -> Tensor:
    """Logits whose softmax over the classes is the linearly normalised similarity.

        p'_c = s+_c / sum_k s+_k,  s+ = max(s, 0);     logit_c = log max(p'_c, 1e-6)

    Source: IAPC, eq. 10, whose features come from a ReLU, so that no dot product is negative; a
    negative one of other features counts as 0. Where every s+ is 0 all classes are alike. The
    softmax is p' itself where no class is below 1e-6, and else within K 1e-6 of it.

    Args:
        similarity: s, (B, K, h, w).

    Returns:
        (B, K, h, w), float32 or wider.
    """
    s = at_least_float32(similarity).clamp(min=0)
    total = s.sum(dim=1, keepdim=True).clamp(min=torch.finfo(s.dtype).tiny)
    return (s / total).clamp(min=LEAST).log()
