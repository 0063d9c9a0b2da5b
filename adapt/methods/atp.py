"""ATP: align, teach and propagate (Wang, Liang and Zhang, arXiv:2106.11653v2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from ..data.context import Context
from ..data.dataset import Batch
from ..losses.atp import AlignWeights, align_terms, teach_terms
from ..networks import SegmentationNetwork
from ..pseudo_labels.stored_answers import StoredAnswers
from .atp_config import AtpConfig, StageName
from .base import SMALL_DATA, Method, ParameterGroup, Stage, all_but_the_classifier
from .propagate import PropagateStage
from .teach_labels import AnswerLabels, OnlineLabels, StoredLabels, TeachLabels

AnswersOf = Callable[[Context, SegmentationNetwork], StoredAnswers]


class AlignStage(Stage):
    """Implicit feature alignment: the classifier, which the source data made, stands still.

    for each batch x:
        p <- softmax f(x),  h <- its normalised entropy
        p^ <- its mean over each image, weighted by exp(-lambda h)
        body <- body - lr d/dbody [ alpha mean((1 - h)^gamma h) + mean sum_c p^_c log p^_c ]
    """

    name = "align"

    def __init__(self, settings: AtpConfig) -> None:
        self.settings = settings
        self.weights = AlignWeights(
            settings.align_entropy,
            settings.align_diversity,
            settings.align_focus,
            settings.align_sharpness,
        )

    def parameter_groups(self, model: SegmentationNetwork, factor: float) -> list[ParameterGroup]:
        if self.settings.align_frozen_classifier:
            return all_but_the_classifier(model)
        return super().parameter_groups(model, factor)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.settings
        return align_terms(
            self.model(self.context.normalise(seen(batch, settings))).logits,
            self.context.crop_size,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
            weights=self.weights,
            per_weight=settings.distribution == "weights",
            per_image=settings.diversity_of == "image",
            over_log_classes=settings.diversity_over_log_classes,
            detach_weight=settings.detach_sharpness,
            detach_focus=settings.detach_focus,
        )


class TeachStage(Stage):
    """Self-training with positive and negative pseudo-labels.

    every refresh_epochs epochs:
        M     <- a copy of f
        y_v   <- argmax of M(x)_v if it is among the ``class_share`` most confident of its class,
                 else none, over all target frames
    for each batch x:
        f     <- f - lr d/df [ CE on the pixels with a label
                               + mean of sum_c 1[p_c < 0.05] -log(1 - p_c) ]

    Args:
        answers: makes those of a black box, where the labels are to be theirs.
    """

    name = "teach"

    def __init__(self, settings: AtpConfig, answers: AnswersOf | None = None) -> None:
        self.settings, self._answers = settings, answers

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        super().begin(model, context)
        self.labels = self._new_labels(model, context)

    def _new_labels(self, model: SegmentationNetwork, context: Context) -> TeachLabels:
        settings = self.settings
        if settings.teach_labels == "online":
            decay, ramp = settings.teacher_decay, settings.teacher_ramp
            return OnlineLabels(model, context, decay, ramp=ramp)
        if settings.teach_labels == "answers":
            assert self._answers is not None  # only a black box's settings can ask for them
            return AnswerLabels(self._answers(context, model), settings.class_share)
        return StoredLabels(
            model,
            context,
            settings.class_share,
            scales=settings.scales,
            epochs=settings.refresh_epochs,
            mirror=settings.mirror,
        )

    def prepare(self) -> None:
        self.labels.prepare()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.settings
        labels = self.labels.of(batch)  # before the student's statistics move
        return teach_terms(
            self.model(self.context.normalise(seen(batch, settings))).logits,
            labels,
            self.context.crop_size,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
            positive=settings.weight_positive,
            negative=settings.weight_negative,
            negative_below=settings.negative_below,
            negative_jointly=settings.negative_jointly,
        )

    def after_step(self) -> None:
        self.labels.after_step()

    def state(self) -> dict[str, Tensor]:
        return self.labels.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.labels.load_state(tensors)


def seen(batch: Batch, settings: AtpConfig) -> Tensor:
    """The student's view of frames that are neither easy nor hard yet."""
    return batch.augmented if settings.augment_frames == "all" else batch.clean


def stages_of(settings: AtpConfig, answers: AnswersOf | None = None) -> Sequence[Stage]:
    """The stages that ``settings`` name; ``answers``: see `TeachStage`."""
    kinds: Mapping[StageName, Callable[[AtpConfig], Stage]] = {
        "align": AlignStage,
        "teach": partial(TeachStage, answers=answers),
        "propagate": PropagateStage,
    }
    return [kinds[name](settings) for name in settings.stages]


# The recipe of both papers. The lengths of the stages are ours, the papers give none in steps; with
# these, Teach's third is 9.9 passes over Cityscapes' 2,975 frames: the papers make at most 10.
RECIPE: Mapping[str, Any] = {
    "tone": "none",
    "warm_start": "source",
    "final_bn": False,
    "training": {
        "steps": 22_000,
        "batch_size": 4,
        "frame_size": [1024, 512],
        "crop_size": [512, 256],
        "lr": 2.5e-4,
    },
    "augment": {"policy": "daformer"},  # of the hard frames; the text gives no strengths
}
# Settings of the code that the authors publish. It is of a later version, on DAFormer, with 64.0
# mIoU for GTA5 to Cityscapes; the papers' figures did not come from it.
AUTHORS_CODE: Mapping[str, Any] = {
    "augment_frames": "all",
    "align_entropy": 0.001,
    "align_focus": 5.0,
    "align_diversity": 1e-4,
    "diversity_of": "batch",
    "diversity_over_log_classes": True,
    "distribution": "pixels",
    "detach_sharpness": True,
    "teacher_ramp": True,
    "teach_labels": "online",
    "negative_below": 0.04,
    "negative_jointly": True,
    "propagate_teacher": "ema",
    "easy_ratio": 0.3,
    "easy_labels_from": "teacher",
    "mix": "easy_onto_hard",
    "target": "frames",
    "hard_pixels": "confident_share",
    "propagate_negative": 1.0,
}
AUTHORS_RECIPE: Mapping[str, Any] = {
    "tone": "none",
    "warm_start": "source",
    "final_bn": False,
    "training": {
        "steps": 40_000,
        "batch_size": 2,
        "frame_size": [1280, 640],
        "crop_size": [640, 640],
        "optimizer": "adamw",
        "lr": 6e-5,
        "weight_decay": 0.01,
        "warmup_steps": 1500,
        "warmup_factor": 1e-6,
        "poly_power": 1.0,
    },
    "augment": {"policy": "daformer"},
}
# An Align of mostly plain entropy: with the paper's weights, diversity nearly alone, it pushes
# every batch towards all classes alike.
SMALL_DATA_ALIGN: Mapping[str, Any] = {
    "augment_frames": "all",
    "align_entropy": 1.0,
    "align_focus": 0.0,
    "align_diversity": 0.1,
    "diversity_of": "batch",
}
# A teacher that cannot drift in the few steps that there are, and steps of the usual size.
SMALL_DATA_PROPAGATE: Mapping[str, Any] = {
    "augment_frames": "all",
    "streams": "one",
    "propagate_teacher": "frozen",
    "easy_labels": 0.65,
}
# And labels that hundreds of frames can be learnt from.
SMALL_DATA_SETTINGS: Mapping[str, Any] = {
    **SMALL_DATA_ALIGN,
    **SMALL_DATA_PROPAGATE,
    "scales": [1.0, 1.25, 0.75],
    "mirror": True,
}


class Atp(Method):
    """ATP with the paper's recipe, that of the authors' later code, and ours for small data."""

    name = "atp"
    summary = "align, teach, propagate: diversity, pseudo-labels, easy frames to hard ones"
    source = "Wang et al. (arXiv:2106.11653v2; a later version is in TPAMI 2024)"
    Config = AtpConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": RECIPE,
        "authors": {**AUTHORS_RECIPE, "atp": AUTHORS_CODE},
        "roadshift": {**SMALL_DATA, "atp": SMALL_DATA_SETTINGS},
    }

    @staticmethod
    def stages(settings: AtpConfig) -> Sequence[Stage]:
        return stages_of(settings)
