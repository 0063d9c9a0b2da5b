"""ATP: align, teach and propagate (Wang, Liang and Zhang, arXiv:2106.11653v2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..data.context import Context
from ..data.dataset import Batch
from ..losses.atp import AlignWeights, align_terms, teach_terms
from ..networks import SegmentationNetwork
from ..pseudo_labels.labeller import Labeller
from ..pseudo_labels.selection import Selection
from .atp_config import AtpConfig, StageName
from .base import SMALL_DATA, Method, ParameterGroup, Stage, all_but_the_classifier
from .propagate import PropagateStage


class AlignStage(Stage):
    """Implicit feature alignment: the classifier, which the source data made, stands still.

    for each batch x~:
        p <- softmax f(x~),  h <- its normalised entropy,  p^ <- its mean weighted by exp(-lambda h)
        body <- body - lr d/dbody [ alpha mean((1 - h)^gamma h) + sum_c p^_c log p^_c ]
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

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        self.model, self.context = model.train(), context

    def parameter_groups(self, model: SegmentationNetwork, factor: float) -> list[ParameterGroup]:  # noqa: ARG002 - nothing has it
        return all_but_the_classifier(model)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.settings
        return align_terms(
            self.model(self.context.normalise(batch.augmented)).logits,
            self.context.crop_size,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
            weights=self.weights,
            per_weight=settings.distribution == "weights",
            detach_weight=settings.detach_sharpness,
            detach_focus=settings.detach_focus,
        )


class TeachStage(Stage):
    """Self-training with positive and negative pseudo-labels.

    every refresh_epochs epochs:
        M     <- a copy of f
        y_v   <- argmax of M(x)_v if it is among the ``class_share`` most confident of its class,
                 else none, over all target frames
    for each batch x~:
        f     <- f - lr d/df [ CE on the pixels with a label
                               + mean of sum_c 1[p_c < 0.05] -log(1 - p_c) ]
    """

    name = "teach"

    def __init__(self, settings: AtpConfig) -> None:
        self.settings = settings

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        settings = self.settings
        self.model, self.context = model.train(), context
        self.labeller = Labeller(
            model, context, settings.scales, settings.refresh_epochs, mirror=settings.mirror
        )
        self.selection = Selection(self.labeller, settings.class_share)

    def prepare(self) -> None:
        self.selection.prepare()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.settings
        labels = self.selection.labels(batch)  # before the student's statistics move
        return teach_terms(
            self.model(self.context.normalise(batch.augmented)).logits,
            labels,
            self.context.crop_size,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
            positive=settings.weight_positive,
            negative=settings.weight_negative,
            negative_below=settings.negative_below,
        )

    def after_step(self) -> None:
        self.labeller.after_step()

    def state(self) -> dict[str, Tensor]:
        return self.labeller.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.labeller.load_state(tensors)


def stages_of(settings: AtpConfig) -> Sequence[Stage]:
    """The stages that ``settings`` name."""
    kinds: Mapping[StageName, Callable[[AtpConfig], Stage]] = {
        "align": AlignStage,
        "teach": TeachStage,
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
}
# Where the authors' code differs from the paper's text.
AUTHORS_CODE: Mapping[str, Any] = {
    "align_entropy": 0.001,
    "align_focus": 5.0,
    "align_diversity": 1e-4,
    "distribution": "pixels",
    "detach_sharpness": True,
}
# An Align of mostly plain entropy: with the paper's weights, diversity nearly alone, it pushes
# every batch towards all classes alike.
SMALL_DATA_ALIGN: Mapping[str, Any] = {
    "align_entropy": 1.0,
    "align_focus": 0.0,
    "align_diversity": 0.1,
}
# And labels that hundreds of frames can be learnt from.
SMALL_DATA_SETTINGS: Mapping[str, Any] = {
    **SMALL_DATA_ALIGN,
    "scales": [1.0, 1.25, 0.75],
    "mirror": True,
    "easy_labels": 0.65,
}


class Atp(Method):
    """ATP with the paper's recipe, the authors' code's, and ours for small data."""

    name = "atp"
    summary = "align, teach, propagate: diversity, pseudo-labels, easy frames to hard ones"
    source = "Wang et al., 2021 (arXiv:2106.11653v2)"
    Config = AtpConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": RECIPE,
        "reference": {**RECIPE, "atp": AUTHORS_CODE},
        "roadshift": {**SMALL_DATA, "atp": SMALL_DATA_SETTINGS},
    }

    @staticmethod
    def stages(settings: AtpConfig) -> Sequence[Stage]:
        return stages_of(settings)
