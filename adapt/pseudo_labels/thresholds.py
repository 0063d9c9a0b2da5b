"""Class-balanced confidence thresholds over a whole target set, in one pass and in fixed memory.

Confidences are counted in bins of equal width in log-odds, which are fine where softmax outputs
crowd: near 1. A threshold is the lower edge of a bin, so it is not above the exact quantile p, and
below it by less than one bin:

    0 <= p - threshold <= p (1 - p) w + O(w^2),   w = (HIGHEST - LOWEST) / BINS = 0.0059

that is at most 0.0015, and at p = 0.99 at most 0.00006. Rounding in float32 adds up to 0.0000003 on
either side.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

ThresholdOf = Literal["predicted", "any_class"]  # whose threshold a pixel has to reach
BINS = 4096
LOWEST, HIGHEST = -8.0, 16.0  # log-odds of the outermost edges: 0.0003 and 0.9999999


def confidence_bins(confidence: Tensor) -> Tensor:
    """The bin of each confidence, int64 in [0, BINS), same shape; NaN is in the lowest.

    What rounding put outside [0, 1] counts as 0 or 1. Computed in float32, whatever comes in, so
    that equal models give equal bins.
    """
    odds = torch.logit(confidence.float().clamp(0, 1)).nan_to_num(nan=LOWEST)
    odds = odds.clamp(LOWEST, HIGHEST)
    return ((odds - LOWEST) * (BINS / (HIGHEST - LOWEST))).long().clamp(max=BINS - 1)


class ConfidenceHistograms:
    """Counts of predictions by class and confidence, K x 4096, however many frames are added."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, BINS, dtype=torch.int64)

    def add(self, labels: Tensor, bins: Tensor) -> None:
        """Count pixels: integer classes in [0, K), or 255 to leave out, and `confidence_bins`."""
        labels, bins = labels.flatten().long().cpu(), bins.flatten().long().cpu()
        valid = labels < self.num_classes
        flat = labels[valid] * BINS + bins[valid]
        self.counts += torch.bincount(flat, minlength=self.counts.numel()).view_as(self.counts)

    def thresholds(self, share: float) -> Tensor:
        """The bin from which on a pixel of each class belongs to the most confident ``share``.

        It is the highest bin that at least max(1, floor(share n_c)) of the n_c pixels of class c
        reach. A class that was never predicted gets ``BINS``, which no pixel reaches.

        Source: LD eq. 2 (arXiv:2110.06484); ATP eq. 4 (arXiv:2106.11653).

        Returns:
            int64 (K,).
        """
        return _thresholds(self.counts, share)

    def threshold_of_all(self, share: float) -> Tensor:
        """The same over the pixels of all classes together, int64 ()."""
        return _thresholds(self.counts.sum(dim=0, keepdim=True), share)[0]


def _thresholds(counts: Tensor, share: float) -> Tensor:
    total = counts.sum(dim=1)
    rank = (total.double() * share).floor().long().clamp(min=1)
    # at_least[c, b] is the number of pixels of class c in bin b or above; it falls with b.
    at_least = counts.flip(1).cumsum(dim=1).flip(1)
    chosen = (at_least >= rank[:, None]).sum(dim=1) - 1
    return torch.where(total > 0, chosen, BINS)
