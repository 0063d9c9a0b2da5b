"""A bootstrap over frames that needs no frame twice: Poisson weights, drawn as frames come."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

REPLICATES = 400


class BootstrapWeights:
    """Weights of frame after frame: row 0 counts each once, the others resample.

    In a bootstrap of many frames, how often a frame is drawn tends to Poisson(1), independent of
    the others: so each replicate's sums grow frame by frame and memory does not. The same frame has
    the same weights for every model, which makes differences between models paired.

    Source: Hanley and MacGibbon, "Creating non-parametric bootstrap samples using Poisson
    frequencies", 2006.
    """

    def __init__(self, seed: int = 0, replicates: int = REPLICATES) -> None:
        self._rng = np.random.default_rng(seed)
        self.rows = 1 + replicates

    def draw(self, frames: int) -> Tensor:
        """Draw the weights of the next ``frames`` frames, float64 (R, frames)."""
        drawn = self._rng.poisson(1.0, (self.rows - 1, frames))
        return torch.from_numpy(np.vstack([np.ones((1, frames)), drawn]).astype(np.float64))


class BootstrapSums:
    """Weighted sums over frames by name, each (R, ...), in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, weights: Tensor, **values: Tensor) -> None:
        """Add ``values``, each (B, ...), of frames with ``weights`` (R, B)."""
        for name, value in values.items():
            more = torch.einsum("rb,b...->r...", weights, value.double().cpu())
            self._sums[name] = self._sums[name] + more if name in self._sums else more

    def __contains__(self, name: str) -> bool:
        return name in self._sums

    def __getitem__(self, name: str) -> Tensor:
        return self._sums[name]


def interval(values: Tensor) -> tuple[float, float]:
    """The middle 95 % of the known replicates (rows 1 and on) of ``values``, (R,)."""
    known = values[1:][values[1:].isfinite()]
    if not len(known):
        return math.nan, math.nan
    level = 0.95
    low, high = np.quantile(known.numpy(), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
