"""Features of a frame and how unsure a network is of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..losses.common import at_least_float32
from ..models.inputs import Normalise
from ..networks import SegmentationNetwork
from ..scoring.scores import normalised_entropy

LEAST_AREA = 0.002  # share of the pixels from which on a class counts
_OF_CLASSES = 0.5  # weight of the classes' shares beside the features
_MOST_CHANNELS = 16  # of the features in ``content``; more are projected


@dataclass(frozen=True)
class Informativeness:
    """Facts about a frame that its choice rests on.

    Attributes:
        vector: what it shows, (D,) float32; the distance of two says how different they are.
        uncertainty: entropy of the pixels, normalised to 0 to 1, as the mean over the classes that
            the network sees, so that the road does not outvote a pedestrian.
        unsure: uncertain area of each class, (K,) float32, 0 to 1: the mean over the pixels of the
            class's probability times the pixel's entropy. A class that nowhere wins has some, too.
        content: what it is unsure of, (K * D,) float32: for each class the mean over the pixels of
            the features, weighted as in ``unsure``. The less it is unsure of, the nearer to zero.
    """

    vector: NDArray[np.float32]
    uncertainty: float
    unsure: NDArray[np.float32]
    content: NDArray[np.float32]


@torch.no_grad()
def informativeness(
    network: SegmentationNetwork, normalise: Normalise, images: Tensor
) -> list[Informativeness]:
    """Facts about frames at the network's input size, uint8 RGB (B, H, W, 3)."""
    output = network(normalise(images))
    p = at_least_float32(output.logits).softmax(dim=1)
    entropy, labels = normalised_entropy(p), p.argmax(dim=1)
    seen = output.logits if output.features is None else output.features
    pooled = F.adaptive_avg_pool2d(at_least_float32(seen), (2, 2)).flatten(1)
    shares = F.one_hot(labels, p.shape[1]).float().mean(dim=(1, 2))
    vectors = torch.cat([F.normalize(pooled, dim=1), _OF_CLASSES * shares.sqrt()], dim=1)
    weight = p * entropy[:, None]
    unsure = weight.mean(dim=(2, 3)).float().cpu().numpy()
    content = _content(weight, seen).cpu().numpy().astype(np.float32)
    return [
        Informativeness(
            vector,
            _over_classes(entropy[row], labels[row], p.shape[1]),
            unsure[row],
            content[row],
        )
        for row, vector in enumerate(vectors.cpu().numpy().astype(np.float32))
    ]


def _content(weight: Tensor, seen: Tensor) -> Tensor:
    """Means of the features, (B, D, h', w'), with the weights of each class, (B, K, h, w).

    Many channels are projected at random, always the same way, which keeps distances nearly
    (Johnson and Lindenstrauss, 1984).
    """
    features, channels = at_least_float32(seen), seen.shape[1]
    if channels > _MOST_CHANNELS:
        drawn = np.random.default_rng(0).normal(size=(_MOST_CHANNELS, channels))
        projection = torch.from_numpy(drawn / _MOST_CHANNELS**0.5).to(features)
        features = torch.einsum("bdhw,ed->behw", features, projection)
    if features.shape[2:] != weight.shape[2:]:
        weight = F.adaptive_avg_pool2d(weight, (features.shape[2], features.shape[3]))
    pixels = weight.shape[2] * weight.shape[3]
    return torch.einsum("bkhw,bdhw->bkd", weight, features).flatten(1) / pixels


def _over_classes(entropy: Tensor, labels: Tensor, classes: int) -> float:
    """Mean over the classes with enough area of the mean entropy of their pixels."""
    area = torch.bincount(labels.flatten(), minlength=classes)
    total = torch.bincount(labels.flatten(), weights=entropy.flatten(), minlength=classes)
    counted = area >= max(1, LEAST_AREA * labels.numel())
    return float((total[counted] / area[counted]).mean())
