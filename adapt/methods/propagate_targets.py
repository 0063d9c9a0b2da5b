"""Targets of Propagate's hard frames: how they are mixed, and what is true of each pixel then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.mixing import classmix_masks, cutmix_masks, paste
from ..losses.atp import soft_cross_entropy
from ..losses.backends.labels import confident_argmax, pixel_argmax
from ..losses.backends.spec import Kernel, Map, Paste
from ..losses.baselines import pseudo_label_terms
from ..losses.common import Size

if TYPE_CHECKING:
    from .atp_config import AtpConfig

Predict = Callable[[Tensor], Map]  # of uint8 (B, H, W, 3)


@dataclass(frozen=True)
class EasyFrames:
    """The easy rows of a batch, as the student sees them, and their labels."""

    images: Tensor  # uint8 (B, H, W, 3)
    labels: Tensor  # int64 (B, H, W)


@dataclass(frozen=True)
class HardTarget:
    """Target distribution of images: the softmax of logits, and where images were mixed."""

    logits: Map
    labels: Tensor  # the likeliest class of each pixel, int64 (B, H, W)
    mix: Paste | None = None
    weights: Tensor | None = None  # of the pixels, (B, H, W); None: 1

    def loss(
        self, logits: Tensor, consistency: str, size: Size, *, align_corners: bool, kernel: Kernel
    ) -> Tensor:
        """Eq. 10: cross-entropy of ``logits`` with the labels, or with the distribution itself."""
        if consistency == "probabilities":
            return soft_cross_entropy(
                logits,
                self.logits,
                size,
                paste=self.mix,
                align_corners=align_corners,
                kernel=kernel,
            )
        return pseudo_label_terms(
            logits,
            self.labels,
            size,
            pixel_weights=self.weights,
            align_corners=align_corners,
            kernel=kernel,
        )["pseudo_label"]


class HardFrames:
    """Maker of the mixed images of hard frames and of the targets that they are held to.

    Args:
        settings: the method's.
        teacher: M'.
        student: f, in evaluation mode, without a gradient.
        size: (H, W) of the pixels.
        align_corners: the network's.
    """

    def __init__(
        self,
        settings: AtpConfig,
        teacher: Predict,
        student: Predict,
        size: Size,
        *,
        align_corners: bool,
    ) -> None:
        self.settings, self.teacher, self.student = settings, teacher, student
        self.size, self.align_corners = size, align_corners

    @torch.no_grad()
    def mixed(
        self, clean: Tensor, augmented: Tensor, easy: EasyFrames
    ) -> tuple[Tensor, HardTarget]:
        """The student's images of hard frames, and their target; randomly drawn by torch.

        Args:
            clean, augmented: of the hard frames, uint8 (B, H, W, 3), B > 0.
            easy: of the same forward pass.
        """
        settings = self.settings
        logits = self.teacher(clean)
        labels, weights = self._labels(logits), self._weights(logits)
        if settings.mix == "easy_onto_hard":
            images, labels, weights = _easy_onto_hard(augmented, labels, weights, easy)
            return images, HardTarget(logits, labels, weights=weights)
        mix: Paste | None = None
        if settings.mix != "none":
            masks = (classmix_masks if settings.mix == "classmix" else cutmix_masks)(labels)
            mix = Paste(masks, torch.arange(len(clean), device=clean.device).roll(1))
            clean, augmented, labels = (
                paste(masks, of, of[mix.under]) for of in (clean, augmented, labels)
            )
        if settings.target == "mixed":
            logits, mix = self.student(clean), None
            labels, weights = self._labels(logits), self._weights(logits)
        return augmented, HardTarget(logits, labels, mix, weights)

    def _labels(self, logits: Map) -> Tensor:
        return pixel_argmax(logits, self.size, align_corners=self.align_corners)

    def _weights(self, logits: Map) -> Tensor | None:
        """Share of the pixels whose class is likely enough, at every pixel; None: all weigh 1."""
        if self.settings.hard_pixels == "alike":
            return None
        _, confidence = confident_argmax(logits, self.size, align_corners=self.align_corners)
        share = (confidence >= self.settings.confident_above).to(confidence.dtype).mean()
        return share.expand(confidence.shape).clone()


def _easy_onto_hard(
    hard: Tensor, labels: Tensor, weights: Tensor | None, easy: EasyFrames
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Half of the classes of an easy frame pasted onto each hard one; pasted pixels weigh 1.

    The easy frames are taken in turn; where a forward pass has none, nothing is pasted.
    """
    if not len(easy.images):
        return hard, labels, weights
    over = torch.arange(len(hard), device=hard.device) % len(easy.images)
    easy_labels = easy.labels[over]
    masks = classmix_masks(easy_labels)
    if weights is not None:
        weights = weights.masked_fill(masks, 1.0)
    return paste(masks, easy.images[over], hard), paste(masks, easy_labels, labels), weights
