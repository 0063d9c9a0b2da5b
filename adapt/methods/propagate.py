"""Propagate, the third stage of ATP and DAS3 (arXiv:2106.11653): from easy frames to hard ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...runtime.errors import NetworkError
from ..data.context import Context
from ..data.dataset import Batch, stacked
from ..data.mixing import classmix_masks, cutmix_masks, paste
from ..losses.atp import regional_contrast, soft_cross_entropy
from ..losses.backends.labels import pixel_argmax
from ..losses.backends.spec import Map, Paste
from ..losses.baselines import entropy_terms, pseudo_label_terms
from ..losses.common import upsample
from ..networks import SegmentationNetwork
from ..networks.batch_norm import fold_batch_norm
from ..networks.ema import frozen_copy
from ..networks.modes import evaluating
from ..pseudo_labels.hard_labels import label_frames, label_identity, selected
from ..run.checksums import read_or_redo, write_json_with_checksum
from .base import ParameterGroup, Stage

if TYPE_CHECKING:
    from .atp_config import AtpConfig

REPRESENTATION = 256  # channels of ReCo's projection
ENTROPIES = 0.3  # of the time to prepare the stage, at most


@dataclass(frozen=True)
class _Target:
    """Target distribution of images: the softmax of logits, and where images were mixed."""

    logits: Map
    mix: Paste | None = None


class PropagateStage(Stage):
    """From the frames that the model finds easy to those that it finds hard.

    M'         <- a copy of f
    easy, hard <- the easy_ratio of the frames of lowest mean entropy under M', and the rest
    for each batch:
        y      <- argmax M' on the easy frames
        y_mix  <- argmax M' on the hard frames, mixed as the frames are     (target="frames", ATP)
                  or argmax f on the mixed frames                           (target="mixed", DAS3)
        f      <- f - lr d/df [ CE(f(x~ easy), y) + CE(f(mix of two x~ hard), y_mix) ]
    """

    name = "propagate"

    def __init__(self, settings: AtpConfig) -> None:
        self.settings = settings
        self.mixes = settings.mix != "none"

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        settings, self.context = self.settings, context
        self.model = model.train()
        self.teacher = fold_batch_norm(frozen_copy(model))
        self.projection: nn.Sequential | None = None
        if settings.weight_reco:
            self.projection = self._new_projection()
        with context.work.deadline.part(ENTROPIES):
            entropies = self._entropies()
        self.labels = label_frames(self.teacher, context, settings.scales, mirror=settings.mirror)
        self.easy = self._easy_frames(entropies)
        histograms = self.labels.histograms(model.num_classes, sorted(self.easy))
        self.thresholds = histograms.thresholds(settings.easy_labels)

    @torch.no_grad()
    def _entropies(self) -> dict[int, float]:
        """Mean entropy of each frame under the teacher, nats; kept in the work folder."""
        context = self.context
        path = context.workspace.of_teacher(
            "entropies", label_identity(self.teacher, context.frames, []), ".json"
        )
        known = {int(frame): value for frame, value in read_or_redo(path, context.note).items()}
        size = (context.frames.height, context.frames.width)

        def measure(frame: int) -> None:
            clean = context.normalise(stacked(context.frames, [frame]).to(context.device))
            entropy = entropy_terms(
                self.teacher(clean).logits,
                size,
                align_corners=self.teacher.align_corners,
                kernel=context.losses,
            )
            known[frame] = float(entropy["entropy"])

        context.prepare("finding easy frames", known.__contains__, measure)
        finite = {str(frame): value for frame, value in known.items() if math.isfinite(value)}
        write_json_with_checksum(path, finite)
        return known

    def _easy_frames(self, entropies: Mapping[int, float]) -> set[int]:
        """Numbers of the frames of lowest mean entropy, at least one (eq. 9)."""
        frames = self.context.prepared.of(len(self.context.frames))
        count = max(1, math.floor(self.settings.easy_ratio * len(frames)))
        return set(sorted(frames, key=entropies.__getitem__)[:count])

    def _new_projection(self) -> nn.Sequential:
        """ReCo's head on the features; it serves this stage alone."""
        device = self.context.device
        size = (1, *self.context.crop_size, 3)  # one that the network takes
        probe = self.context.normalise(torch.zeros(size, dtype=torch.uint8, device=device))
        channels = _features(self.teacher(probe).features).shape[1]
        head = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, REPRESENTATION, 1)
        )
        return head.to(device)

    def parameter_groups(self, model: SegmentationNetwork, factor: float) -> list[ParameterGroup]:
        groups = super().parameter_groups(model, factor)
        if self.projection is not None:
            groups.append(ParameterGroup("projection", list(self.projection.parameters()), factor))
        return groups

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        settings, size = self.settings, self.context.crop_size
        is_easy = torch.tensor([f in self.easy for f in batch.frames], device=batch.clean.device)
        easy = selected(*self.labels.crops(batch, self.context), self.thresholds)
        easy = easy.masked_fill(~is_easy[:, None, None], 255)
        images, target = self._mixed(batch, ~is_easy)
        output = self.model(self.context.normalise(images))
        how: dict[str, Any] = {
            "align_corners": self.model.align_corners,
            "kernel": self.context.losses,
        }
        terms: dict[str, Tensor] = {}
        if settings.weight_easy:
            terms["easy"] = pseudo_label_terms(
                output.logits, easy, size, pseudo_label=settings.weight_easy, **how
            )["pseudo_label"]
        if settings.weight_hard:
            if is_easy.all():
                loss = 0.0 * output.logits.sum()
            elif settings.consistency == "probabilities":
                loss = soft_cross_entropy(
                    output.logits[~is_easy], target.logits, size, paste=target.mix, **how
                )
            else:
                labels = self._labels(target)
                loss = pseudo_label_terms(output.logits[~is_easy], labels, size, **how)[
                    "pseudo_label"
                ]
            terms["hard"] = settings.weight_hard * loss
        if self.projection is not None:
            labels = easy.clone()
            labels[~is_easy] = self._labels(target)
            representation = self.projection(_features(output.features))
            grid = representation.shape[2:]
            nearest = nn.functional.interpolate(labels[:, None].float(), grid, mode="nearest")
            sure = upsample(output.logits.detach(), grid, self.model.align_corners).softmax(dim=1)
            terms["contrast"] = settings.weight_reco * regional_contrast(
                representation, nearest[:, 0].long(), sure.max(dim=1).values
            )
        return terms

    @torch.no_grad()
    def _mixed(self, batch: Batch, is_hard: Tensor) -> tuple[Tensor, _Target]:
        """The student's images, hard frames mixed with one another, and what is true of these.

        Returns:
            uint8 (B, H, W, 3); and the target of the hard frames.
        """
        clean, augmented = batch.clean[is_hard], batch.augmented[is_hard]
        if not len(clean):
            none = torch.zeros(0, self.model.num_classes, 1, 1, device=clean.device)
            return batch.augmented, _Target(Map(none))
        target = _Target(self._predict(self.teacher, clean))
        if self.settings.mix != "none":
            labels = self._labels(target)
            masks = (classmix_masks if self.settings.mix == "classmix" else cutmix_masks)(labels)
            under = torch.arange(len(clean), device=clean.device).roll(1)
            clean = paste(masks, clean, clean[under])
            augmented = paste(masks, augmented, augmented[under])
            target = _Target(target.logits, Paste(masks, under))
        if self.settings.target == "mixed":
            with evaluating(self.model):  # its statistics are the student's own business
                target = _Target(self._predict(self.model, clean))
        images = batch.augmented.clone()
        images[is_hard] = augmented
        return images, target

    def _predict(self, network: SegmentationNetwork, images: Tensor) -> Map:
        """Logits of uint8 images."""
        return Map(network(self.context.normalise(images)).logits)

    def _labels(self, target: _Target) -> Tensor:
        """The likeliest class of each pixel, int64 (hard frames, H, W)."""
        size, align_corners = self.context.crop_size, self.model.align_corners
        labels = pixel_argmax(target.logits, size, align_corners=align_corners)
        mix = target.mix
        return labels if mix is None else paste(mix.over, labels, labels[mix.under])

    def state(self) -> dict[str, Tensor]:
        return {} if self.projection is None else dict(self.projection.state_dict())

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        if self.projection is not None:
            self.projection.load_state_dict(tensors)


def _features(features: Tensor | None) -> Tensor:
    if features is None:
        raise NetworkError(
            "Regional contrast needs features, and the network returns none: return (logits, "
            "features), or set weight_reco to 0."
        )
    return features
