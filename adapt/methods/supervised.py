"""Training a source model on labelled images: eq. 1 of the adaptation papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..config import Settings
from ..context import Context
from ..dataset import Batch
from ..losses.common import upsample
from ..networks import SegmentationNetwork
from .base import Method, Stage


class SupervisedConfig(Settings):
    """Settings of supervised training."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)


class SupervisedStage(Stage):
    """theta <- theta - lr d/dtheta  mean over labelled pixels of CE(softmax f(x~), y)."""

    name = "supervised"

    def __init__(self, settings: SupervisedConfig) -> None:
        self.settings = settings

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        self.model, self.context = model.train(), context

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.labels is not None  # `train` opens labelled frames only
        logits = self.model(self.context.normalise(batch.augmented)).logits
        z = upsample(logits, self.context.crop_size, self.model.align_corners)
        loss = F.cross_entropy(
            z,
            batch.labels,
            ignore_index=255,
            reduction="sum",
            label_smoothing=self.settings.label_smoothing,
        )
        return {"cross_entropy": loss / (batch.labels != 255).sum().clamp(min=1)}


class Supervised(Method):
    """What `roadshift train` runs; it needs labels, so `adapt` does not offer it."""

    name = "supervised"
    summary = "cross-entropy against ground truth"
    source = "eq. 1 of Cao et al. (arXiv:2306.01598)"
    Config = SupervisedConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "roadshift": {
            "warm_start": "none",
            "final_bn": False,
            "training": {
                "steps": 1000,
                "batch_size": 8,
                "optimizer": "adamw",
                "lr": 2e-3,
                "classifier_lr_factor": 1.0,
                "weight_decay": 0.01,
                "warmup_steps": 50,
                "scale": [0.75, 1.5],
                "max_grad_norm": 5.0,
            },
        }
    }

    @staticmethod
    def stages(settings: SupervisedConfig) -> Sequence[Stage]:
        return [SupervisedStage(settings)]
