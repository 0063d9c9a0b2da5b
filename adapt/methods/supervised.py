"""Training a source model on labelled images, which the adaptation papers begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ...runtime.errors import LabelError, arg
from ...runtime.spacing import evenly_spaced
from ..data.context import Context
from ..data.dataset import Batch
from ..losses.backends.core import weighted_sums
from ..losses.backends.spec import Inputs, Share, Terms
from ..losses.common import upsample
from ..networks import SegmentationNetwork
from ..run.checksums import read_or_redo, write_json_with_checksum
from ..run.config import Settings
from .base import Method, Stage


class SupervisedConfig(Settings):
    """Settings of supervised training."""

    variant: Literal["roadshift", "paper", "finetune"] = "roadshift"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_balance: Literal["none", "sqrt_inverse"] = "sqrt_inverse"  # see `class_weights`


CLASS_COUNT_FRAMES = 500  # class frequencies are counted on at most so many frames


def class_weights(counts: NDArray[np.int64]) -> Tensor:
    """Weights that make rare classes count more.

        a_c = clip( sqrt(median(n) / n_c), 0.5, 3 ),   n_c: pixels labelled c; 3 where n_c = 0

    Args:
        counts: pixels of each class, (K,).

    Returns:
        (K,) float32.

    Raises:
        LabelError: no pixel is labelled.
    """
    if not counts.any():
        raise LabelError(
            "No pixel of the labels belongs to a class of the label space; choose the right "
            f"{arg('label_space')} for them."
        )
    median = np.median(counts[counts > 0])
    weights = np.sqrt(median / np.maximum(counts, 1)).clip(0.5, 3)
    return torch.from_numpy(weights.astype(np.float32))


def class_counts(context: Context, num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class, (K,), on at most 500 frames, evenly spaced, or as time allows.

    Kept in the work folder, so that a resumed run has the same.
    """
    labels, path = context.frames.labels, context.workspace.class_counts
    assert labels is not None  # `train` opens labelled frames only
    kept = read_or_redo(path, context.note)
    if kept:
        return np.array(kept["counts"], np.int64)
    counts = np.zeros(256, np.int64)
    chosen = evenly_spaced(len(context.frames), CLASS_COUNT_FRAMES)
    for i in context.work.over(chosen, "counting the pixels of each class"):
        counts += np.bincount(labels(i).ravel(), minlength=256)
    write_json_with_checksum(path, {"counts": counts[:num_classes].tolist()})
    return counts[:num_classes]


class SupervisedStage(Stage):
    """theta <- theta - lr d/dtheta  sum_v a[y_v] CE(softmax f(x~)_v, y_v) / sum_v a[y_v],

    over the labelled pixels v, with the weights a of `class_weights`, or 1 with ``"none"``.
    """

    name = "supervised"

    def __init__(self, settings: SupervisedConfig) -> None:
        self.settings = settings

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        super().begin(model, context)
        self.weights: Tensor | None = None
        if self.settings.class_balance == "sqrt_inverse":
            counts = class_counts(context, model.num_classes)
            self.weights = class_weights(counts).to(context.device)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.labels is not None  # `train` opens labelled frames only
        logits = self.model(self.context.normalise(batch.augmented)).logits
        size, align_corners = self.context.crop_size, self.model.align_corners
        valid = batch.labels[batch.labels != 255]
        total = valid.new_tensor(len(valid)) if self.weights is None else self.weights[valid].sum()
        total = total.clamp(min=1)
        if self.settings.label_smoothing:
            loss = F.cross_entropy(
                upsample(logits, size, align_corners),
                batch.labels,
                self.weights,
                ignore_index=255,
                reduction="sum",
                label_smoothing=self.settings.label_smoothing,
            )
            return {"cross_entropy": loss / total}
        return weighted_sums(
            Terms(cross_entropy=True),
            logits,
            Inputs(size, align_corners, labels=batch.labels, class_weights=self.weights),
            {"cross_entropy": Share("cross_entropy", 1.0, total)},
            kernel=self.context.losses,
        )


class Supervised(Method):
    """Supervised training for `roadshift train`; it needs labels, so `adapt` does not offer it."""

    name = "supervised"
    summary = "cross-entropy against ground truth"
    source = "AdaptSegNet, Tsai et al., CVPR 2018 (arXiv:1802.10349)"
    Config = SupervisedConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "roadshift": {
            "tone": "none",
            "warm_start": "source",
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
        },
        # SGD, rates, decay and ImageNet's weights (``initial``) are the adaptation papers'. Short
        # side, crop, zoom, batch and plain cross-entropy: LD's published source trainer, whose own
        # rate is 5e-5. Steps and horizon: AdaptSegNet's code, which the papers build on.
        "paper": {
            "tone": "none",
            "warm_start": "source",
            "final_bn": False,
            "augment": {"policy": "none"},
            "training": {
                "steps": 150_000,
                "schedule_steps": 250_000,
                "batch_size": 1,
                "frame_size": [1280, 720],
                "crop_size": [600, 600],
                "scale": [0.5, 1.5],
                "optimizer": "sgd",
                "lr": 2.5e-4,
                "classifier_lr_factor": 10.0,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "poly_power": 0.9,
            },
            "supervised": {"class_balance": "none"},
        },
        # On from a trained model with few labels, which it knows most of: a low rate, no warm-up,
        # statistics that stand still, as tens of frames are too few for others.
        "finetune": {
            "tone": "none",
            "warm_start": "source",
            "freeze_bn": True,
            "final_bn": False,
            "training": {
                "steps": 300,
                "batch_size": 4,
                "optimizer": "adamw",
                "lr": 5e-4,
                "classifier_lr_factor": 1.0,
                "weight_decay": 0.01,
                "scale": [0.75, 1.5],
                "max_grad_norm": 5.0,
            },
        },
    }

    @staticmethod
    def stages(settings: SupervisedConfig) -> Sequence[Stage]:
        return [SupervisedStage(settings)]
