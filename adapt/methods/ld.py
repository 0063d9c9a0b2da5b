"""LD: label denoising by positive and negative learning (arXiv:2110.06484, ACM MM 2021)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from ..data.context import Context
from ..data.dataset import Batch
from ..data.mixing import classmix_masks, paste
from ..losses.ld import LdWeights, boundary_cross_entropy, complementary_ranks, ld_terms
from ..networks import SegmentationNetwork
from ..pseudo_labels.class_balance import ClassBalance
from ..pseudo_labels.labeller import Labeller
from ..pseudo_labels.selection import Selection, ThresholdOf
from ..run.config import Scales, Settings
from ..run.renamed_settings import Renamed, Renames
from .base import SMALL_DATA, Method, ParameterGroup, Stage, prefixed, under


class LdConfig(Settings):
    """LD's own settings; the fields' defaults are the paper's text ("paper")."""

    renamed: ClassVar[Renames] = {
        "share": Renamed("class_share"),
        "passes": Renamed("threshold_of"),
    }

    variant: Literal["roadshift", "paper", "reference"] = "paper"
    weight_selected: float = Field(default=1.0, ge=0)  # L_sce, selected pseudo-labels (eq. 3)
    weight_entropy: float = Field(default=1.0, ge=0)  # L_ent, entropy (eq. 4)
    weight_negative: float = Field(default=1.0, ge=0)  # L_neg, complementary labels (eq. 6)
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
    rank_draw: Literal["pixel", "step"] = "pixel"  # a rank K for each pixel, or one a forward pass
    rank_spread: int = Field(default=3, ge=0)  # epsilon (Algorithm 1)
    # Rounds
    rounds: int = Field(default=1, ge=1, le=1000)
    # of the learning rate, from round to round
    round_lr_factor: float = Field(default=1.0, gt=0, le=1)
    # Boundary stage (LDBE)
    boundary_stage: bool = False
    # of each class's pixels that have a label there
    boundary_share: float = Field(default=1.0, gt=0, le=1)
    boundary_weight: float = Field(default=2.0, ge=1)  # of a pixel near a class boundary
    boundary_width: int = Field(default=3, ge=1, le=1000)  # how near, in pixels

    @model_validator(mode="after")
    def _makes_sense(self) -> LdConfig:
        if not (self.weight_selected or self.weight_entropy or self.weight_negative):
            raise ValueError(
                "one of weight_selected, weight_entropy and weight_negative must be above 0"
            )
        if not self.scales or min(self.scales) <= 0:
            raise ValueError("scales must hold at least one number, all above 0")
        return self


class _SelfTraining(Stage):
    """Common part of rounds and boundary stage: a labeller, and a learning rate of its own."""

    def __init__(self, settings: LdConfig, number: int) -> None:
        self.settings, self.number = settings, number

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        settings = self.settings
        self.model, self.context = model.train(), context
        self.labeller = Labeller(
            model,
            context,
            settings.scales,
            settings.refresh_epochs,
            mirror=settings.mirror,
            batch_statistics=settings.batch_statistics,
        )
        self.selection = self.new_selection()

    def prepare(self) -> None:
        self.selection.prepare()

    @abstractmethod
    def new_selection(self) -> Selection:
        """Choose which of the labeller's labels to learn from."""

    def parameter_groups(self, model: SegmentationNetwork, factor: float) -> list[ParameterGroup]:
        slower = self.settings.round_lr_factor**self.number
        groups = super().parameter_groups(model, factor)
        return [replace(group, factor=group.factor * slower) for group in groups]

    def after_step(self) -> None:
        self.labeller.after_step()

    def state(self) -> dict[str, Tensor]:
        return prefixed("labeller", self.labeller.state())

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.labeller.load_state(under("labeller", tensors))


class LdStage(_SelfTraining):
    """A round of positive and negative learning.

    at the start, and every refresh_epochs epochs:
        y     <- labels of a copy of f, where selected       (`Selection`)
    for each batch x~:
        K     <- floor(C/2) + uniform integer in [-rank_spread, rank_spread]     (Algorithm 1)
        p     <- softmax f(x~),  c <- the class of the K-th largest p_c, at every pixel
        L     <- mean CE(p, y) where selected + mean H(p) + mean -log(1 - p_c)     (eq. 7)
        f     <- f - lr round_lr_factor^round dL/df
    """

    name = "ld"

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        super().begin(model, context)
        settings = self.settings
        self.weights = LdWeights(
            settings.weight_selected, settings.weight_entropy, settings.weight_negative
        )
        self.balance: ClassBalance | None = None
        if settings.class_balance == "sqrt_inverse":
            self.balance = ClassBalance("sqrt_inverse", model.num_classes, 0.0, context.device)

    def new_selection(self) -> Selection:
        settings, grown = self.settings, self.number * self.settings.share_growth
        image_share = settings.image_share + grown if settings.image_share else 0.0
        return Selection(
            self.labeller, settings.class_share + grown, image_share, settings.threshold_of
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        settings, num_classes = self.settings, self.model.num_classes
        labels = self.selection.labels(batch)  # before the student's statistics move
        logits = self.model(self.context.normalise(batch.augmented)).logits
        shape = labels.shape if settings.rank_draw == "pixel" else ()
        ranks = complementary_ranks(num_classes, shape, settings.rank_spread, labels.device)
        return ld_terms(
            logits,
            labels,
            ranks,
            self.context.crop_size,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
            weights=self.weights,
            class_weights=None if self.balance is None else self.balance(labels),
        )

    def touched(self) -> list[Tensor]:
        return [] if self.balance is None else [self.balance.average]

    def state(self) -> dict[str, Tensor]:
        balance = {} if self.balance is None else {"balance": self.balance.average}
        return {**super().state(), **balance}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_state(tensors)
        if self.balance is not None:
            self.balance.average.copy_(tensors["balance"])


class BoundaryStage(_SelfTraining):
    """Boundary enhancement: learn the outlines that ClassMix cuts.

    at the start, and every refresh_epochs epochs:
        y       <- labels of a copy of f, boundary_share of each class
    for each batch x~, and each image i of it, with the one after it, j:
        m       <- the pixels of half of the classes of y_i, drawn at random     (ClassMix)
        x', y'  <- x~_i, y_i where m, else x~_j, y_j
        w       <- boundary_weight where two classes of y' meet within boundary_width pixels, else 1
        f       <- f - lr d/df  sum w CE(f(x'), y') / sum w

    Source: the LDBE code of LD's authors, simplified: theirs takes labels from an EMA of f, weighs
    images by their share of confident pixels and pixels not at all. A forward pass of one image
    (``micro_batch`` 1) has nothing to mix it with and learns from it as it is.
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


# The recipe of the paper for Cityscapes: short side 720, crops of 600, no photometric noise.
RECIPE: Mapping[str, Any] = {
    "batch_size": 3,
    "frame_size": [1440, 720],
    "crop_size": [600, 600],
    "scale": [0.5, 1.5],
}
SOURCE_AS_IT_IS: Mapping[str, Any] = {
    "tone": "none",
    "warm_start": "source",
    "final_bn": False,
    "augment": {"policy": "none"},
}


class Ld(Method):
    """LD with the paper's recipe, the authors' code's, and ours for small data."""

    name = "ld"
    summary = "class-balanced pseudo-labels, entropy and complementary labels"
    source = "You et al., ACM MM 2021 (arXiv:2110.06484)"
    Config = LdConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {**SOURCE_AS_IT_IS, "training": {**RECIPE, "lr": 1e-3, "steps": 5000}},
        "reference": {
            **SOURCE_AS_IT_IS,
            "training": {**RECIPE, "lr": 1e-4, "steps": 1982, "schedule_steps": 5000},
            "ld": {
                "class_share": 0.1,
                "image_share": 0.1,
                "share_growth": 0.05,
                "threshold_of": "any_class",
                "batch_statistics": True,
                "refresh_epochs": 0,
                "rank_draw": "step",
                "rounds": 2,
                "round_lr_factor": 0.5**0.5,
            },
        },
        "roadshift": {
            **SMALL_DATA,
            "ld": {
                "weight_entropy": 0.1,
                "class_share": 0.6,
                "class_balance": "sqrt_inverse",
                "scales": [1.0, 1.25, 0.75],
                "mirror": True,
                "refresh_epochs": 0,
            },
        },
    }

    @staticmethod
    def stages(settings: LdConfig) -> Sequence[Stage]:
        rounds: list[Stage] = [LdStage(settings, number) for number in range(settings.rounds)]
        boundary = [BoundaryStage(settings, settings.rounds)] if settings.boundary_stage else []
        return [*rounds, *boundary]
