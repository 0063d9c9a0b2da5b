"""Scores of a segmentation model that need no labels, each a small function with its source.

Where a function takes sums over frames, they have a leading axis R, the weightings of the frames
(see `resampling`), and so has its result.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SND_PIXELS = 100  # of each frame
SND_TEMPERATURE = 0.05
CONFIDENT = 0.9  # least probability of a pixel that a model is confident of


def entropy(p: Tensor, dim: int) -> Tensor:
    """H(p) in nats of probabilities along an axis, 0 where they are 0 and 1."""
    nats: Tensor = -torch.special.xlogy(p, p).sum(dim=dim)
    return nats


def normalised_entropy(p: Tensor) -> Tensor:
    """H(p) / log K of every pixel, 0 (certain) to 1 (knows nothing).

    Source: h of ATP, arXiv 2106.11653v2, eq. 2, divided by log K, which keeps 1 - h above 0.

    Args:
        p: probabilities, (B, K, h, w).

    Returns:
        (B, h, w).
    """
    return entropy(p, dim=1) / math.log(p.shape[1])


def soft_neighbourhood_density(p: Tensor, temperature: float = SND_TEMPERATURE) -> Tensor:
    """Mean entropy of each sampled pixel's similarities to the other ones, nats; higher is better.

        F = p / |p|,  S = softmax of the rows of F F^T / t without its diagonal,  mean of H(S_n)

    Source: Saito et al., "Tune it the right way: unsupervised validation of domain adaptation via
    soft neighborhood density", ICCV 2021. It rewards collapse (a constant prediction has its
    maximum), so it is never used alone.

    Args:
        p: probabilities of the same N pixels of each frame, (B, N, K).

    Returns:
        (B,).
    """
    features = F.normalize(p, dim=2)
    similarity = features @ features.transpose(1, 2) / temperature
    own = torch.eye(p.shape[1], dtype=torch.bool, device=p.device)
    s = similarity.masked_fill(own, -torch.inf).softmax(dim=2)
    return entropy(s, dim=2).mean(dim=1)


def information_maximisation(mean_p: Tensor, mean_entropy: Tensor | float) -> Tensor:
    """H(mean of p) - mean of H(p), nats: certain about pixels, undecided about the set.

    Source: Liang et al., "Do we really need to access the source data?" (SHOT), ICML 2020.

    Args:
        mean_p: mean probabilities over pixels and frames, (..., K).
        mean_entropy: mean entropy of the pixels in nats, (...).
    """
    return entropy(mean_p, dim=-1) - mean_entropy


def consistency(intersections: Tensor, unions: Tensor) -> Tensor:
    """Consistency of a model's labels under a change of view: mean IoU of the classes, 0 to 1.

    Source: prediction consistency under a flip or a change of scale, per class as in the IoU, so
    that a class of few pixels counts like any other.

    Args:
        intersections, unions: pixels that both views, or either, give each class, (R, K).
    """
    seen = unions > 0
    iou = torch.where(seen, intersections / unions.clamp(min=1), 0.0)
    return iou.sum(dim=-1) / seen.sum(dim=-1).clamp(min=1)


def histogram_divergence(one: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two distributions of area over classes, nats, 0 to log 2.

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991.

    Args:
        one, other: share of all pixels of each class, (R, K).
    """
    middle = (one + other) / 2
    apart: Tensor = torch.special.xlogy(one, one) + torch.special.xlogy(other, other)
    together: Tensor = 2 * torch.special.xlogy(middle, middle)
    return (apart - together).sum(dim=-1) / 2


def area_lost(before: Tensor, after: Tensor) -> Tensor:
    """Share of its area that each class loses, 0 to 1; 0 for a class that had none.

    Args:
        before, after: share of all pixels of each class, (R, K).
    """
    lost = 1 - after / before.clamp(min=1e-12)
    return torch.where(before > 0, lost.clamp(min=0), 0.0)


class InputMoments:
    """Sum and sum of squares of every channel of a layer's inputs, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """The forward pre-hook."""
        x = inputs[0].detach().double()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        self.count += x.numel() // x.shape[1]
        self.total = self.total + x.sum(dim=axes)
        self.squares = self.squares + x.square().sum(dim=axes)


def batch_norm_divergence(moments: dict[_BatchNorm, InputMoments]) -> float:
    """Divergence of batch-norm layers' inputs from those that the layers were trained on, nats.

        mean over layers and channels of  KL( N(m, s^2) || N(mu, sigma^2) )
        = log(sigma / s) + (s^2 + (m - mu)^2) / (2 sigma^2) - 1/2

    with m, s^2 of the inputs seen and mu, sigma^2 the layer's running statistics. Layers that no
    input reached do not count; without any it is NaN.
    """
    parts = []
    for layer, seen in moments.items():
        if not seen.count or layer.running_mean is None or layer.running_var is None:
            continue
        mean = torch.as_tensor(seen.total) / seen.count
        variance = (torch.as_tensor(seen.squares) / seen.count - mean.square()).clamp(min=1e-12)
        mu, sigma2 = layer.running_mean.double(), layer.running_var.double() + layer.eps
        variance = variance + layer.eps
        kl = 0.5 * ((sigma2 / variance).log() + (variance + (mean - mu).square()) / sigma2 - 1)
        parts.append(kl.mean())
    return float(torch.stack(parts).mean()) if parts else math.nan
