"""ATP: align, teach and propagate (Wang, Liang and Zhang, arXiv:2106.11653v2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from ..data.context import Context
from ..data.dataset import Batch
from ..losses.atp import AlignWeights, align_terms, teach_terms
from ..networks import SegmentationNetwork
from ..pseudo_labels.labeller import Labeller
from ..pseudo_labels.selection import Selection
from ..run.config import Scales, Settings
from .base import SMALL_DATA, Method, ParameterGroup, Stage, all_but_the_classifier
from .propagate import PropagateStage

StageName = Literal["align", "teach", "propagate"]
STAGES: tuple[StageName, ...] = ("align", "teach", "propagate")


class AtpConfig(Settings):
    """ATP's own settings; the fields' defaults are the paper's text ("paper").

    A weight of 0 leaves a term out: the rows of Table 5.
    """

    may_be_empty: ClassVar[bool] = False  # whether there is a stage besides these

    variant: Literal["roadshift", "paper", "reference"] = "paper"
    stages: tuple[StageName, ...] = STAGES  # any of them, in this order
    scales: Scales = (1.0,)  # that pseudo-labels are averaged over
    mirror: bool = False  # and over the mirror image of each
    # Align
    align_entropy: float = Field(default=0.002, ge=0)  # alpha (eq. 2)
    align_focus: float = Field(default=3.0, ge=0)  # gamma (eq. 2); 0 is plain entropy
    align_diversity: float = Field(default=1.0, ge=0)  # of eq. 3
    align_sharpness: float = Field(default=3.0, ge=0)  # lambda (eq. 3)
    distribution: Literal["weights", "pixels"] = "weights"  # what p^ is divided by
    detach_sharpness: bool = False  # its weights are constants
    detach_focus: bool = False  # (1 - h)^gamma is a constant
    # Teach
    # K of eq. 4: of a class's pixels, the most confident
    share: float = Field(default=0.65, gt=0, le=1)
    refresh_epochs: int = Field(default=1, ge=0)  # passes between two labellings; 0: label once
    positive: float = Field(default=1.0, ge=0)  # eq. 5
    negative: float = Field(default=1.0, ge=0)  # eq. 7
    negative_below: float = Field(default=0.05, gt=0, lt=1)  # eq. 6
    # Propagate
    easy_ratio: float = Field(default=0.5, gt=0, le=1)  # of the frames, by mean entropy (eq. 9)
    # of each class's pixels there, the most confident
    easy_labels: float = Field(default=1.0, gt=0, le=1)
    easy: float = Field(default=1.0, ge=0)  # cross-entropy of the easy frames
    hard: float = Field(default=1.0, ge=0)  # consistency of the hard ones (eq. 10)
    mix: Literal["classmix", "cutmix", "none"] = "classmix"  # of two hard frames (Table 6)
    target: Literal["frames", "mixed"] = "frames"  # what the hard frames' labels come from
    consistency: Literal["labels", "probabilities"] = "labels"
    reco: float = Field(default=0.0, ge=0)  # regional contrast (Table 6)

    @model_validator(mode="after")
    def _makes_sense(self) -> AtpConfig:
        empty = not self.stages and not self.may_be_empty
        if empty or list(self.stages) != [s for s in STAGES if s in self.stages]:
            raise ValueError(f"stages must be some of {list(STAGES)}, in this order")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError("scales must hold at least one number, all above 0")
        used: Mapping[StageName, tuple[float, ...]] = {
            "align": (self.align_entropy, self.align_diversity),
            "teach": (self.positive, self.negative),
            "propagate": (self.easy, self.hard, self.reco),
        }
        for stage in self.stages:
            if not any(used[stage]):
                raise ValueError(f"every term of {stage} has weight 0; leave it out of stages")
        return self


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
        y_v   <- argmax of M(x)_v if it is among the ``share`` most confident of its class, else
                 none, over all target frames
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
        self.selection = Selection(self.labeller, settings.share)

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
            positive=settings.positive,
            negative=settings.negative,
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
