"""LD's settings."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ..losses.ld import Complementary, MeanOver
from ..pseudo_labels.thresholds import ThresholdOf
from ..run.config import Scales, Settings
from ..run.renamed_settings import Renamed, Renames


class LdConfig(Settings):
    """LD's own settings; the fields' defaults are the paper's text ("paper")."""

    renamed: ClassVar[Renames] = {
        "share": Renamed("class_share"),
        "passes": Renamed("threshold_of"),
    }

    variant: Literal["roadshift", "paper", "reference", "reference-2022"] = "paper"
    weight_selected: float = Field(default=1.0, ge=0)  # L_sce, selected pseudo-labels (eq. 3)
    weight_entropy: float = Field(default=1.0, ge=0)  # L_ent, entropy (eq. 4)
    weight_negative: float = Field(default=1.0, ge=0)  # L_neg, complementary labels (eq. 6)
    # the pixels that L_sce is divided by; eq. 3 gives no divisor, see `ld_terms`
    selected_mean_over: MeanOver = "selected"
    # Selection
    # alpha (eq. 2): of each class's pixels, the most sure
    class_share: float = Field(default=0.2, gt=0, le=1)
    # and of each frame's pixels; 0: by class alone
    image_share: float = Field(default=0.0, ge=0, le=1)
    share_growth: float = Field(default=0.0, ge=0, le=1)  # added to both from round to round
    threshold_of: ThresholdOf = "predicted"  # whose threshold a pixel must reach
    class_balance: Literal["none", "sqrt_inverse"] = "none"  # of L_sce, see `ClassBalance`
    # Labelling
    scales: Scales = (1.0,)  # that pseudo-labels are averaged over
    mirror: bool = False  # and over the mirror image of each
    batch_statistics: bool = False  # batch norm with each frame's own statistics
    refresh_epochs: int = Field(default=1, ge=0)  # passes between two labellings; 0: once a round
    # Negative learning
    complementary: Complementary = "ranked"  # see `complementary_ranks`
    rank_draw: Literal["pixel", "step"] = "pixel"  # a rank K for each pixel, or one a forward pass
    rank_spread: int = Field(default=3, ge=0)  # epsilon (Algorithm 1)
    # Rounds
    rounds: int = Field(default=1, ge=1, le=1000)
    # of the learning rate, from round to round
    round_lr_factor: float = Field(default=1.0, gt=0, le=1)
    # DeepLabV2's: scales and shifts of batch norm on the shortcuts learn, as in the authors' code
    learn_shortcut_norms: bool = False
    # Boundary stage (LDBE)
    boundary_stage: bool = False
    boundary: Literal["outline", "authors"] = "outline"  # ours, or that of the LDBE code
    # outline: of each class's pixels that have a label there
    boundary_share: float = Field(default=1.0, gt=0, le=1)
    boundary_weight: float = Field(default=2.0, ge=1)  # outline: of a pixel near a class boundary
    boundary_width: int = Field(default=3, ge=1, le=1000)  # outline: how near, in pixels
    boundary_ema: float = Field(default=0.99, ge=0, lt=1)  # authors: decay of the labelling model
    # authors: a pixel is confident from here on; an image counts by its share of such pixels
    boundary_confident_from: float = Field(default=0.97, ge=0, le=1)

    @model_validator(mode="after")
    def _makes_sense(self) -> LdConfig:
        if not (self.weight_selected or self.weight_entropy or self.weight_negative):
            raise ValueError(
                "one of weight_selected, weight_entropy and weight_negative must be above 0"
            )
        if not self.scales or min(self.scales) <= 0:
            raise ValueError("scales must hold at least one number, all above 0")
        return self
