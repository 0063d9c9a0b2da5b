"""Settings of ATP, which DAS3 and the methods for black boxes share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ..run.config import Scales, Settings
from ..run.renamed_settings import Renamed, RenamedValues, Renames

StageName = Literal["align", "teach", "propagate"]


STAGES: tuple[StageName, ...] = ("align", "teach", "propagate")


class AtpConfig(Settings):
    """ATP's own settings; the fields' defaults are the paper's text ("paper").

    A weight of 0 leaves a term out: the rows of Table 5.
    """

    renamed: ClassVar[Renames] = {
        **{n: Renamed(f"weight_{n}") for n in ("positive", "negative", "easy", "hard", "reco")},
        "share": Renamed("class_share"),
    }
    renamed_values: ClassVar[RenamedValues] = {"variant": {"reference": "authors"}}
    may_be_empty: ClassVar[bool] = False  # whether there is a stage besides these

    variant: Literal["roadshift", "paper", "authors"] = "paper"
    stages: tuple[StageName, ...] = STAGES  # any of them, in this order
    scales: Scales = (1.0,)  # that pseudo-labels are averaged over
    mirror: bool = False  # and over the mirror image of each
    augment_frames: Literal["hard", "all"] = "hard"  # which get the noise of `augment`
    teacher_decay: float = Field(default=0.999, ge=0, le=1)  # of a teacher that is an EMA
    teacher_ramp: bool = False  # and after t steps t / (t + 1) where that is less
    # Align
    align_entropy: float = Field(default=0.002, ge=0)  # alpha (eq. 2)
    align_focus: float = Field(default=3.0, ge=0)  # gamma (eq. 2); 0 is plain entropy
    align_diversity: float = Field(default=1.0, ge=0)  # of eq. 3
    align_sharpness: float = Field(default=3.0, ge=0)  # lambda (eq. 3)
    align_frozen_classifier: bool = True  # the classifier stands still
    diversity_of: Literal["image", "batch"] = "image"  # what p^ is the mean over
    diversity_over_log_classes: bool = False  # eq. 3 is divided by log K
    distribution: Literal["weights", "pixels"] = "weights"  # what p^ is divided by
    detach_sharpness: bool = False  # its weights are constants
    detach_focus: bool = False  # (1 - h)^gamma is a constant
    # Teach
    # stored: of a copy, see `refresh_epochs`; online: of an EMA, for every batch
    teach_labels: Literal["stored", "online", "answers"] = "stored"  # answers: of a black box
    # K of eq. 4: of a class's pixels, the most confident; online labels have no threshold
    class_share: float = Field(default=0.65, gt=0, le=1)
    refresh_epochs: int = Field(default=1, ge=0)  # passes between two labellings; 0: label once
    weight_positive: float = Field(default=1.0, ge=0)  # eq. 5
    weight_negative: float = Field(default=1.0, ge=0)  # eq. 7
    negative_below: float = Field(default=0.05, gt=0, lt=1)  # eq. 6
    negative_jointly: bool = False  # -log(1 - sum_c p_c), in place of eq. 7's sum of logarithms
    # Propagate
    streams: Literal["two", "one"] = "two"  # a step has a batch of easy and one of hard frames
    propagate_teacher: Literal["current", "ema", "frozen"] = "current"  # M' of eq. 10
    easy_ratio: float = Field(default=0.5, gt=0, le=1)  # of the frames, by mean entropy (eq. 9)
    easy_labels_from: Literal["start", "teacher"] = "start"  # of the stage; or M', for every batch
    # of each class's pixels there, the most confident
    easy_labels: float = Field(default=1.0, gt=0, le=1)
    weight_easy: float = Field(default=1.0, ge=0)  # cross-entropy of the easy frames
    weight_hard: float = Field(default=1.0, ge=0)  # consistency of the hard ones (eq. 10)
    propagate_negative: float = Field(default=0.0, ge=0)  # eq. 7, on the frames of both
    # of two hard frames (Table 6), or classes of an easy frame onto a hard one
    mix: Literal["classmix", "cutmix", "none", "easy_onto_hard"] = "classmix"
    target: Literal["frames", "mixed"] = "frames"  # what the hard frames' labels come from
    consistency: Literal["labels", "probabilities"] = "labels"
    # confident_share: a hard frame's pixels weigh the share of those as likely as confident_above
    hard_pixels: Literal["alike", "confident_share"] = "alike"
    confident_above: float = Field(default=0.968, ge=0, le=1)
    weight_reco: float = Field(default=0.0, ge=0)  # regional contrast (Table 6)

    @model_validator(mode="after")
    def _makes_sense(self) -> AtpConfig:
        empty = not self.stages and not self.may_be_empty
        if empty or list(self.stages) != [s for s in STAGES if s in self.stages]:
            raise ValueError(f"stages must be some of {list(STAGES)}, in this order")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError("scales must hold at least one number, all above 0")
        used: Mapping[StageName, tuple[float, ...]] = {
            "align": (self.align_entropy, self.align_diversity),
            "teach": (self.weight_positive, self.weight_negative),
            "propagate": (self.weight_easy, self.weight_hard, self.weight_reco),
        }
        for stage in self.stages:
            if not any(used[stage]):
                raise ValueError(f"every term of {stage} has weight 0; leave it out of stages")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> AtpConfig:
        if self.easy_labels < 1 and self.easy_labels_from == "teacher":
            raise ValueError(
                "easy_labels is a share of stored labels; set easy_labels_from=start, or "
                "easy_labels to 1"
            )
        labels_alone = {
            "mix=easy_onto_hard": self.mix == "easy_onto_hard",
            "hard_pixels=confident_share": self.hard_pixels == "confident_share",
        }
        for setting, chosen in labels_alone.items():
            if chosen and self.consistency != "labels":
                raise ValueError(f"consistency must be labels where {setting}")
        if self.mix == "easy_onto_hard" and self.target == "mixed":
            raise ValueError("target must be frames where mix=easy_onto_hard")
        if self.teach_labels == "answers" and not self.may_be_empty:
            raise ValueError("teach_labels=answers is for the methods of a black box")
        return self
