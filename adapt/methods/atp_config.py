"""Settings of ATP, which DAS3 and the methods for black boxes share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ..run.config import Scales, Settings
from ..run.renamed_settings import Renamed, Renames

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
    class_share: float = Field(default=0.65, gt=0, le=1)
    refresh_epochs: int = Field(default=1, ge=0)  # passes between two labellings; 0: label once
    weight_positive: float = Field(default=1.0, ge=0)  # eq. 5
    weight_negative: float = Field(default=1.0, ge=0)  # eq. 7
    negative_below: float = Field(default=0.05, gt=0, lt=1)  # eq. 6
    # Propagate
    easy_ratio: float = Field(default=0.5, gt=0, le=1)  # of the frames, by mean entropy (eq. 9)
    # of each class's pixels there, the most confident
    easy_labels: float = Field(default=1.0, gt=0, le=1)
    weight_easy: float = Field(default=1.0, ge=0)  # cross-entropy of the easy frames
    weight_hard: float = Field(default=1.0, ge=0)  # consistency of the hard ones (eq. 10)
    mix: Literal["classmix", "cutmix", "none"] = "classmix"  # of two hard frames (Table 6)
    target: Literal["frames", "mixed"] = "frames"  # what the hard frames' labels come from
    consistency: Literal["labels", "probabilities"] = "labels"
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
