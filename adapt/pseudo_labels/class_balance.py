"""Class weights that follow the labels of the batches seen so far."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def sqrt_inverse_weights(mass: Tensor) -> Tensor:
    """a_c = clip( sqrt(median(m) / m_c), 0.5, 3 ), the median over the classes that occur.

    A class occurs with more than a ten-thousandth of all: soft labels leave a trace of every class.
    Of an even number of classes the median is the lower of the two in the middle.

    Args:
        mass: m, how much of the frames belongs to each class, (K,), at least 0.

    Returns:
        (K,); 3 for a class that does not occur.
    """
    occurs = mass > 1e-4 * mass.sum()
    median = mass[occurs].median() if bool(occurs.any()) else mass.new_ones(())
    return (median / mass.clamp(min=1e-12)).sqrt().clamp(0.5, 3)


class ClassBalance:
    """Weights of classes from the labels of a batch and of the batches before.

    "rare", as the authors' code balances its cross-entropies; e starts at 1:

        a_c = (7 if n_c < rare_fraction N else 1) * e_c,   e <- 0.9 e + 0.1 (7 if n_c = 0 else 1)

    "sqrt_inverse", gentler; f starts at 1/K:

        a_c = clip( sqrt(median(f) / f_c), 0.5, 3 ),       f <- 0.9 f + 0.1 n_c / N

    with n_c of the batch's N pixels labelled c.
    """

    def __init__(
        self,
        kind: Literal["rare", "sqrt_inverse"],
        num_classes: int,
        rare_fraction: float,
        device: torch.device,
    ) -> None:
        self._kind, self._rare_fraction = kind, rare_fraction
        start = 1.0 if kind == "rare" else 1 / num_classes
        self.average = torch.full((num_classes,), start, device=device)

    def __call__(self, labels: Tensor) -> Tensor:
        """(K,) weights for int64 ``labels``; updates e or f."""
        counts = torch.bincount(labels.flatten(), minlength=256)[: len(self.average)]
        share = counts / labels.numel()
        if self._kind == "sqrt_inverse":
            self.average.lerp_(share, 0.1)
            return sqrt_inverse_weights(self.average)
        seven = torch.full_like(self.average, 7.0)
        self.average.lerp_(torch.where(counts == 0, seven, 1.0), 0.1)
        return torch.where(share < self._rare_fraction, seven, 1.0) * self.average
