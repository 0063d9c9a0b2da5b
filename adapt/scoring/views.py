"""Answers of one model about frames, in three views, and the sums that scores are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.bundle import InputSpec
from ...runtime.frames.preprocess import fit_frame
from ..data.view_sizes import scaled_size, takes
from ..losses.common import at_least_float32, upsample
from ..models.inputs import Normalise
from ..networks import SegmentationNetwork
from ..networks.batch_norm import batch_norm_layers
from ..networks.modes import evaluating
from ..networks.normalisation import carries_statistics
from .scores import InputMoments, batch_norm_divergence, normalised_entropy

ZOOM = 0.75  # of the smaller view, in each axis
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class ScoredModel:
    """A network and what it is fed."""

    network: SegmentationNetwork
    spec: InputSpec


@dataclass(frozen=True)
class ViewPredictions:
    """Answers about a batch: probabilities (B, K, h, w) and labels of three views, (B, h, w)."""

    p: Tensor
    plain: Tensor
    flipped: Tensor
    zoomed: Tensor | None  # None where the network takes its own size alone

    @classmethod
    def of(cls, logits: Tensor, flipped: Tensor, zoomed: Tensor | None) -> ViewPredictions:
        """Answers from the logits of the views, each (B, K, h, w)."""
        return cls(
            logits.softmax(dim=1),
            logits.argmax(dim=1),
            flipped.argmax(dim=1),
            None if zoomed is None else zoomed.argmax(dim=1),
        )

    @property
    def finite(self) -> bool:
        """Tell whether every probability is a number."""
        return bool(self.p.isfinite().all())


class Viewer:
    """Asks a model about frames, and keeps the moments of its batch-norm layers' inputs.

    Everything is at the network's own resolution, ``grid`` if given (the first model's, so that
    two models' pixels are the same ones).
    """

    def __init__(self, model: ScoredModel, device: torch.device) -> None:
        self.model, self._device = model, device
        self._normalise = Normalise(model.spec).to(device)
        carries = carries_statistics(model.network)
        self._layers = batch_norm_layers(model.network) if carries else []
        self._moments = {layer: InputMoments() for layer in self._layers}

    def fitted(self, frame: Image) -> Image:
        """A frame of any size at the size of the network's input."""
        return fit_frame(frame, self.model.spec.width, self.model.spec.height)

    def images(self, frames: list[Image]) -> Tensor:
        """Network inputs of frames of any size, (B, 3, H, W)."""
        fitted = np.stack([self.fitted(frame) for frame in frames])
        images: Tensor = self._normalise(torch.from_numpy(fitted).to(self._device))
        return images

    def takes_zoom(self, images: Tensor) -> bool:
        """Tell whether the network answers the smaller view of images of its own size."""
        with evaluating(self.model.network):
            return takes(self.model.network, images, _zoomed_size(images))

    def say(
        self, images: Tensor, grid: tuple[int, int] | None = None, *, zoom: bool = True
    ) -> ViewPredictions:
        """The model's answer in evaluation mode, with its own statistics.

        Args:
            zoom: ask about the smaller view, too.
        """
        return ViewPredictions.of(*self.views(images, grid, zoom=zoom))

    @torch.no_grad()
    def views(
        self, images: Tensor, grid: tuple[int, int] | None = None, *, zoom: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits of the images, of their mirror images (mirrored back) and of the smaller view.

        The moments of the first are kept.
        """
        with evaluating(self.model.network):
            handles = [
                layer.register_forward_pre_hook(self._moments[layer].add) for layer in self._layers
            ]
            try:
                logits = self._logits(images, grid)
            finally:
                for handle in handles:
                    handle.remove()
            size = logits.shape[2], logits.shape[3]
            flipped = self._logits(images.flip(3), size).flip(3)
            zoomed = None
            if zoom:
                smaller = F.interpolate(images, _zoomed_size(images), mode="area")
                zoomed = self._logits(smaller, size)
        return logits, flipped, zoomed

    @torch.no_grad()
    def probabilities(self, images: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """The plain answer in evaluation mode, (B, K, h, w), at the grid given or its own."""
        with evaluating(self.model.network):
            return self._logits(images, grid).softmax(dim=1)

    def divergence(self) -> float:
        """See `batch_norm_divergence`, over all frames; NaN where batch norm carries too little."""
        return batch_norm_divergence(self._moments)

    def _logits(self, images: Tensor, grid: tuple[int, int] | None) -> Tensor:
        logits = at_least_float32(self.model.network.forward(images).logits)
        if grid is None:
            return logits
        return upsample(logits, grid, self.model.network.align_corners)


def _zoomed_size(images: Tensor) -> tuple[int, int]:
    return scaled_size(images.shape[2], images.shape[3], ZOOM)


def sums_of(said: ViewPredictions) -> Mapping[str, Tensor]:
    """Contribution of each frame to a model's sums, each (B,) or (B, K)."""
    classes = said.p.shape[1]
    values = {
        "entropy": normalised_entropy(said.p).mean(dim=(1, 2)),
        "p": said.p.mean(dim=(2, 3)),
        "area": area(said.plain, classes),
    }
    for view, labels in (("flip", said.flipped), ("zoom", said.zoomed)):
        if labels is None:
            continue
        both, either = overlaps(said.plain, labels, classes)
        values |= {f"{view}_both": both, f"{view}_either": either}
    return values


def area(labels: Tensor, classes: int) -> Tensor:
    """Share of each frame's pixels of each class, (B, K), of labels (B, h, w)."""
    return F.one_hot(labels, classes).double().mean(dim=(1, 2))


def overlaps(one: Tensor, other: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Pixels that both label maps (B, h, w), or either, give each class: two (B, K)."""
    same = torch.where(one == other, one, classes)
    both = F.one_hot(same, classes + 1)[..., :classes].sum(dim=(1, 2)).double()
    counts = F.one_hot(one, classes).sum(dim=(1, 2)) + F.one_hot(other, classes).sum(dim=(1, 2))
    return both, counts.double() - both
