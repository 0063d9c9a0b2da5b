"""The boundary stage of LD, ours and that of the LDBE code (https://github.com/fumyou13/LDBE)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..data.context import Context
from ..data.dataset import Batch
from ..data.mixing import classmix_masks, paste
from ..losses.backends.labels import confident_argmax
from ..losses.common import IGNORED
from ..losses.ld import boundary_cross_entropy, confident_images_cross_entropy
from ..networks import SegmentationNetwork
from ..networks.ema import ema_update, frozen_copy
from ..networks.modes import evaluating
from ..pseudo_labels.selection import Selection
from .base import prefixed, under
from .ld_stages import SelfTraining


class BoundaryStage(SelfTraining):
    """Boundary enhancement: learn the outlines that ClassMix cuts.

    at the start, and every refresh_epochs epochs:
        y       <- labels of a copy of f, boundary_share of each class
    for each batch x~, and each image i of it, with the one after it, j:
        m       <- the pixels of half of the classes of y_i, drawn at random     (ClassMix)
        x', y'  <- x~_i, y_i where m, else x~_j, y_j
        w       <- boundary_weight where two classes of y' meet within boundary_width pixels, else 1
        f       <- f - lr d/df  sum w CE(f(x'), y') / sum w

    Ours, after the stage of LD's authors, which is `AuthorsBoundaryStage`. A forward pass of one
    image (``micro_batch`` 1) has nothing to mix it with and learns from it as it is.
    """

    name = "boundary"
    mixes = True

    def new_selection(self) -> Selection:
        return Selection(self.labeller, self.settings.boundary_share)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        labels = self.selection.labels(batch)  # before the student's statistics move
        masks = classmix_masks(labels)
        mixed = paste(masks, batch.augmented, batch.augmented.roll(-1, dims=0))
        loss = boundary_cross_entropy(
            self.model(self.context.normalise(mixed)).logits,
            paste(masks, labels, labels.roll(-1, dims=0)),
            self.context.crop_size,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
            boundary_weight=self.settings.boundary_weight,
            boundary_width=self.settings.boundary_width,
        )
        return {"boundary": loss}


class AuthorsBoundaryStage(SelfTraining):
    """Boundary enhancement as the LDBE code has it, a round of it.

    at the start: y <- labels of a copy of f, where selected, as in the round of LD of that number
    for each batch x, its augmented view x~, and step t = 0, 1, ...:
        q         <- softmax m(x),  m an average of f
        y', s     <- y and 1 where y is selected, else argmax q and max q
        M         <- the pixels of half of the classes of y'_i, rounded down, drawn at random
        x', y', s <- those of image i where M, else those of the image after it     (ClassMix)
        w_i       <- the share of pixels of image i with s >= boundary_confident_from
        f         <- f - lr d/df  mean over all pixels of  w_i CE(f(x'), y')
        m         <- d m + (1 - d) f,   d = min(1 - 1/(t + 1), boundary_ema)

    Each round begins with an m of its own; the code keeps one. A forward pass of one image
    (``micro_batch`` 1) has nothing to mix it with and learns from it as it is.
    """

    name = "boundary"
    mixes = True

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        super().begin(model, context)
        self.average = frozen_copy(model)
        self.steps = torch.zeros((), dtype=torch.int64)

    def new_selection(self) -> Selection:
        return self.grown_selection()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        labels, confidence = self._targets(batch)
        masks = classmix_masks(labels, round_up=False)
        mixed = paste(masks, batch.augmented, batch.augmented.roll(-1, dims=0))
        loss = confident_images_cross_entropy(
            self.model(self.context.normalise(mixed)).logits,
            paste(masks, labels, labels.roll(-1, dims=0)),
            paste(masks, confidence, confidence.roll(-1, dims=0)),
            self.context.crop_size,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
            confident_from=self.settings.boundary_confident_from,
        )
        return {"boundary": loss}

    @torch.no_grad()
    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """y', int64, and s, each (B, H, W)."""
        chosen = self.selection.labels(batch)
        with evaluating(self.average, own_statistics=self.settings.batch_statistics):
            logits = self.average(self.context.normalise(batch.clean)).logits
        predicted, confidence = confident_argmax(
            logits, self.context.crop_size, align_corners=self.model.align_corners
        )
        is_chosen = chosen != IGNORED
        return torch.where(is_chosen, chosen, predicted), confidence.masked_fill(is_chosen, 1.0)

    def after_step(self) -> None:
        super().after_step()
        decay = min(1 - 1 / (int(self.steps) + 1), self.settings.boundary_ema)
        ema_update(self.average, self.model, decay)
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        average = prefixed("average", self.average.state_dict())
        return {**super().state(), **average, "steps": self.steps}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_state(tensors)
        self.average.load_state_dict(under("average", tensors))
        self.steps = tensors["steps"].cpu().clone()
