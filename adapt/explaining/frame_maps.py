"""Maps of one frame that the methods learn from, computed from a model's answer without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.errors import EngineError
from ...runtime.frames.images import Image
from ...runtime.frames.preprocess import fit_frame
from ..losses.backends.labels import argmax_on_grid
from ..losses.backends.reference import importance_map, normalised_pixel_entropy
from ..losses.common import Size, at_least_float32, upsample
from ..methods.atp_config import AtpConfig
from ..models.inputs import Normalise
from ..networks import Output
from ..networks.modes import evaluating
from ..pseudo_labels.prototypes import class_prototypes, prototype_logits
from ..pseudo_labels.thresholds import confidence_bins
from ..scoring.views import ScoredModel

Floats = NDArray[np.float32]
NEGATIVE_BELOW = AtpConfig().negative_below  # ATP eq. 6
POSITIVE_SHARE = AtpConfig().class_share  # K of ATP eq. 4


@dataclass(frozen=True)
class PrototypeMaps:
    """Likeness of a frame's features to the prototypes of its classes (IAPC eq. 8 to 11).

    Attributes:
        similarity: cosine of each feature and each prototype, (K, h, w), at the features' grid.
        present: the classes that have a prototype in this frame, bool (K,).
        labels: y', the class of the likest prototype, uint8 (H, W).
    """

    similarity: Floats
    present: NDArray[np.bool_]
    labels: Image


@dataclass(frozen=True)
class ModelMaps:
    """Maps of one model for one frame, each (H, W), in memory of the CPU.

    Attributes:
        labels: class of the largest probability, uint8.
        bins: `confidence_bins` of that probability, uint16.
        first, second: the two largest probabilities.
        importance: 1 - second / first (IAPC eq. 4).
        entropy: of the probabilities over log K, from 0 to 1.
        negatives: number of classes whose probability is below `NEGATIVE_BELOW` (ATP eq. 6), uint8.
        complementary: the class at `complementary_rank` (LD Algorithm 1), uint8.
        prototypes: None where the network gives no features.
    """

    labels: Image
    bins: NDArray[np.uint16]
    first: Floats
    second: Floats
    importance: Floats
    entropy: Floats
    negatives: Image
    complementary: Image
    prototypes: PrototypeMaps | None


def complementary_rank(num_classes: int) -> int:
    """Middle of the ranks that LD draws complementary labels from: floor(K/2), at least 2."""
    return max(2, num_classes // 2)


@torch.no_grad()
def answer(model: ScoredModel, frame: Image, device: torch.device) -> Output:
    """The network's answer to a frame of any size, in evaluation mode.

    Raises:
        EngineError: a score is not finite.
    """
    spec = model.spec
    fitted = np.ascontiguousarray(fit_frame(frame, spec.width, spec.height))
    images = Normalise(spec).to(device)(torch.from_numpy(fitted)[None].to(device))
    with evaluating(model.network):
        output: Output = model.network(images)
    maps = [m for m in output if m is not None]
    if not all(bool(m.isfinite().all()) for m in maps):
        raise EngineError("a score of the model is not a finite number")
    return output


@torch.no_grad()
def maps_of(output: Output, size: Size, *, align_corners: bool) -> ModelMaps:
    """The maps of an answer for one frame.

    Args:
        output: logits (1, K, h, w), and features or None.
        size: (H, W) of the maps.
    """
    z = upsample(output.logits, size, align_corners)
    log_p = z.log_softmax(dim=1)
    p = log_p.exp()
    top = p.topk(2, dim=1)
    rank = complementary_rank(z.shape[1])
    return ModelMaps(
        labels=_bytes(top.indices[0, 0]),
        bins=confidence_bins(top.values[0, 0]).cpu().numpy().astype(np.uint16),
        first=_floats(top.values[0, 0]),
        second=_floats(top.values[0, 1]),
        importance=_floats(importance_map(z, "margin_ratio")[0]),
        entropy=_floats(normalised_pixel_entropy(log_p)[0]),
        negatives=_bytes((p < NEGATIVE_BELOW).sum(dim=1)[0]),
        complementary=_bytes(z.topk(rank, dim=1).indices[0, rank - 1]),
        prototypes=_prototype_maps(output, size, align_corners),
    )


def _prototype_maps(output: Output, size: Size, align_corners: bool) -> PrototypeMaps | None:
    if output.features is None:
        return None
    labels = labels_of_features(output, size, align_corners=align_corners)
    prototypes, present = class_prototypes(output.features, labels, output.logits.shape[1])
    s = prototype_logits(output.features, prototypes, similarity="cosine", temperature=1.0)
    competing = upsample(s, size, align_corners).masked_fill(
        ~present[:, :, None, None], float("-inf")
    )
    return PrototypeMaps(
        _floats(s[0]), present[0].cpu().numpy(), _bytes(competing.max(dim=1).indices[0])
    )


def labels_of_features(output: Output, size: Size, *, align_corners: bool) -> Tensor:
    """The predicted class at each position of the features, int64 (1, h', w')."""
    assert output.features is not None
    grid = (output.features.shape[2], output.features.shape[3])
    return argmax_on_grid(output.logits, size, grid, align_corners=align_corners)


@torch.no_grad()
def ranks_in(output: Output, labels: Image, *, align_corners: bool) -> NDArray[np.int64]:
    """Rank of each pixel's label among the classes as an answer orders them, from 1, (H, W).

    Args:
        output: logits (1, K, h, w).
        labels: classes, uint8 (H, W), of another model.
    """
    z = upsample(at_least_float32(output.logits), labels.shape, align_corners)
    chosen = torch.from_numpy(labels.astype(np.int64)).to(z.device)[None, None]
    ranks: NDArray[np.int64] = 1 + (z > z.gather(1, chosen)).sum(dim=1)[0].cpu().numpy()
    return ranks


def _floats(values: Tensor) -> Floats:
    return values.cpu().numpy().astype(np.float32)


def _bytes(values: Tensor) -> Image:
    numbers: NDArray[Any] = values.cpu().numpy()
    return numbers.astype(np.uint8)
