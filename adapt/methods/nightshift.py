"""Nightshift: Roadshift's own method for the hundreds of frames that one vehicle collects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..data.context import Context
from ..data.dataset import Batch
from ..data.mixing import classmix_masks, paste
from ..losses.backends.labels import pixel_argmax
from ..losses.backends.spec import Paste
from ..losses.nightshift import nightshift_terms
from ..networks import SegmentationNetwork
from ..networks.batch_norm import fold_batch_norm
from ..networks.ema import frozen_copy
from ..networks.mixed_statistics import reestimate_batch_norm
from ..pseudo_labels.class_balance import sqrt_inverse_weights
from ..pseudo_labels.hard_labels import (
    frame_probabilities,
    label_identity,
    passes_of,
    usable_scales,
)
from ..pseudo_labels.soft_labels import Labels, SoftLabels
from ..run.config import Scales, Settings
from .atp import SMALL_DATA_ALIGN, AlignStage
from .atp_config import AtpConfig
from .base import Method, Stage

STATISTICS = 0.2  # of the time to prepare a round, at most


class NightshiftConfig(Settings):
    """Nightshift's settings, explained in docs/nightshift.md."""

    # Begin with ATP's Align, weighted for small data, in a third of the steps; None: unless some of
    # the statistics are the source's, for which its settings have not been tuned.
    align: bool | None = None
    # each labels the frames with the model it starts from
    rounds: int = Field(default=1, ge=1, le=1000)
    scales: Scales = (1.0, 0.75, 1.25, 1.5)  # that a label is the mean of
    mirror: bool = True  # and of the mirror image of each
    # see `sqrt_inverse_weights`; auto: none where some of the statistics are the source's
    class_balance: Literal["auto", "sqrt_inverse", "none"] = "auto"
    mix: Literal["classmix", "none"] = "classmix"  # each frame of a batch over the one before it
    weight_entropy: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _makes_sense(self) -> NightshiftConfig:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError("scales must hold at least one number, all above 0")
        return self


class NightshiftStage(Stage):
    """One round of distilling what the model says over scales and mirror images into the model.

    before: tone aligned, batch norm's statistics mixed (`tone`, `warm_start`), Align
    M <- a copy of f; its statistics re-estimated on the clean frames, if none are the source's
    q <- mean of softmax M over scales and mirror images, for every whole frame
    a <- class weights from q
    for each batch of whole frames x~ and their q, each pasted by ClassMix over the one before it:
        f <- f - lr d/df  sum_v w_v CE(q_v, softmax f(x~)_v) / sum_v w_v,   w_v = sum_c a_c q_vc
    after: the same of f (`final_bn`)

    A forward pass of one frame (``micro_batch`` 1) has nothing to paste it over.
    """

    share = 2

    def __init__(self, settings: NightshiftConfig, number: int) -> None:
        self.settings = settings
        self.name = "nightshift" if settings.rounds == 1 else f"nightshift {number + 1}"
        self.mixes = settings.mix == "classmix"

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        super().begin(model, context)
        settings = self.settings
        how = [*settings.scales, settings.mirror, context.config.bn_batch_size]
        identity = label_identity(model, context.frames, how)
        folder = context.workspace.of_teacher("soft_labels", identity)
        passes = passes_of(settings.scales, mirror=settings.mirror)
        self.labels = SoftLabels(folder, context, model.num_classes, self._labeller, passes)
        weights = torch.ones(model.num_classes)
        if self._balances:
            weights = sqrt_inverse_weights(self.labels.class_mass())
        self.weights = weights.to(context.device)

    @property
    def _balances(self) -> bool:
        """Tell whether rare classes count more."""
        if self.settings.class_balance == "auto":
            return self.context.statistics_share in (None, 1)
        return self.settings.class_balance == "sqrt_inverse"

    def _labeller(self) -> Callable[[int], Labels]:
        """M, which answers with probabilities (K, H, W)."""
        teacher = frozen_copy(self.model)
        if self.context.statistics_share == 1:  # else they stood still, and fit
            with self.context.work.deadline.part(STATISTICS):
                frames = self.context.whole_frames("the teacher's batch-norm statistics")
                reestimate_batch_norm(teacher, frames, 1.0, self.context.note)
        fold_batch_norm(teacher)
        scales = usable_scales(teacher, self.context, self.settings.scales)

        def label(frame: int) -> Labels:
            p = frame_probabilities(
                teacher, self.context, frame, scales, mirror=self.settings.mirror
            )
            return p.float().cpu().numpy()

        return label

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        images, size, mixed = batch.augmented, self.context.crop_size, None
        target = self.labels.targets(batch)
        if self.settings.mix == "classmix":
            masks = classmix_masks(pixel_argmax(target, size, align_corners=False))
            under = torch.arange(len(images), device=masks.device).roll(1)
            images = paste(masks, images, images[under])
            mixed = Paste(masks, under)
        return nightshift_terms(
            self.model(self.context.normalise(images)).logits,
            target,
            size,
            paste=mixed,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
            class_weights=self.weights,
            weight_entropy=self.settings.weight_entropy,
        )


class Nightshift(Method):
    """Tone, batch norm, Align, and soft labels of its own over scales and mirror images."""

    name = "nightshift"
    summary = "tone, batch norm, Align and distillation of its own multi-scale soft labels"
    source = "Roadshift"
    Config = NightshiftConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "roadshift": {
            "weight_interpolation": 0.7,
            "training": {
                "steps": 300,
                "batch_size": 4,
                "lr": 3e-3,
                "frozen_lr": 1e-3,
                "classifier_lr_factor": 5.0,
            },
        },
    }

    @staticmethod
    def stages(settings: NightshiftConfig) -> Sequence[Stage]:
        stages: list[Stage] = []
        if settings.align is not False:
            stages.append(AlignStage(AtpConfig(**SMALL_DATA_ALIGN)))
            stages[0].when_frozen = settings.align is True
        return [*stages, *(NightshiftStage(settings, number) for number in range(settings.rounds))]
