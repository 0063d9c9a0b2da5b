"""ATP and DAS3 when the source model only answers (Wang et al., arXiv:2106.11653, black box)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator
from torch import Tensor

from ..data.context import Context
from ..data.dataset import Batch
from ..losses.atp import divergence_from
from ..losses.nightshift import nightshift_terms
from ..networks import SegmentationNetwork
from ..pseudo_labels.class_balance import sqrt_inverse_weights
from ..pseudo_labels.stored_answers import StoredAnswers
from ..run.config import Settings, merge
from .atp import RECIPE, SMALL_DATA_PROPAGATE, stages_of
from .atp_config import AtpConfig, StageName
from .base import Method, Stage


class DistilConfig(Settings):
    """Settings of distillation: source of the answers, and steps that learn from them alone."""

    # the black box and its `BoxWiring`, for the record; `roadshift adapt` fills them in
    source: str = ""
    wiring: Mapping[str, JsonValue] = {}
    distil: bool = True  # before the other stages
    # of the run's steps, where Teach and Propagate have 1 each
    distil_share: int = Field(default=2, ge=1)
    class_balance: Literal["sqrt_inverse", "none"] = "none"  # see `sqrt_inverse_weights`
    ask: Literal["once", "four_views"] = "once"  # see `StoredAnswers`


class DistilStage(Stage):
    """Knowledge distillation from answers.

    q <- the source model's answers to all target frames, asked for once
    for each batch x:
        f <- f - lr d/df KL(q || softmax f(x))                                        (eq. 11)
                 (one-hot q where the answers are classes: their cross-entropy)

    With ``class_balance`` Nightshift's cross-entropy with q, in which rare classes count more.
    """

    name = "distil"

    def __init__(self, settings: AtpBlackBoxConfig) -> None:
        self.settings = settings
        self.share = settings.distil_share

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        super().begin(model, context)
        self.answers = _answers(self.settings, context, model)
        self.weights: Tensor | None = None
        if self.settings.class_balance == "sqrt_inverse":
            mass = self.answers.class_mass()
            self.weights = sqrt_inverse_weights(mass).to(context.device)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        noisy = self.settings.augment_frames == "all"
        images = batch.augmented if noisy else batch.clean
        logits = self.model(self.context.normalise(images)).logits
        size, align_corners = self.context.crop_size, self.model.align_corners
        kernel = self.context.losses
        if self.weights is None:
            answers = self.answers.crops(batch)
            divergence = divergence_from(
                logits, answers, size, align_corners=align_corners, kernel=kernel
            )
            return {"divergence": divergence}
        return nightshift_terms(
            logits,
            self.answers.targets(batch),
            size,
            align_corners=align_corners,
            class_weights=self.weights,
            kernel=kernel,
        )


class AtpBlackBoxConfig(AtpConfig, DistilConfig):
    """ATP's settings with a distillation in place of Align."""

    may_be_empty: ClassVar[bool] = True  # distillation alone

    stages: tuple[StageName, ...] = ("teach", "propagate")

    @model_validator(mode="after")
    def _learns_from_answers(self) -> AtpBlackBoxConfig:
        if "align" in self.stages:
            raise ValueError("a black box has no features to align; leave align out of stages")
        teaches = "teach" in self.stages and self.teach_labels == "answers"
        if not (self.distil or teaches):
            raise ValueError(
                "distil is false and no stage learns from the answers; set distil=true, or "
                "teach_labels=answers and a teach among stages"
            )
        return self


class Das3BlackBoxConfig(AtpBlackBoxConfig):
    """DAS3's settings, see `Das3Config`; Teach begins, with the black box's labels."""

    distil: bool = False
    teach_labels: Literal["stored", "online", "answers"] = "answers"
    easy_ratio: float = Field(default=0.3, gt=0, le=1)
    target: Literal["frames", "mixed"] = "mixed"


def _answers(
    settings: AtpBlackBoxConfig, context: Context, model: SegmentationNetwork
) -> StoredAnswers:
    return StoredAnswers(context, model.num_classes, settings.ask)


def _stages(settings: AtpBlackBoxConfig) -> Sequence[Stage]:
    distil = [DistilStage(settings)] if settings.distil else []
    return [*distil, *stages_of(settings, partial(_answers, settings))]


# A student that starts from random weights needs more steps than one that starts from the source
# model, has no statistics to re-estimate before the first of them, and sees its few frames whole
# and without noise: it has trouble enough to fit them. What it then says itself is worse than the
# answers it learnt from, and Teach and Propagate would unlearn rare classes with it.
_SMALL_DATA: Mapping[str, Any] = {
    "augment": {"policy": "none"},
    "tone": "none",
    "warm_start": "source",
    "training": {
        "steps": 1000,
        "batch_size": 4,
        "optimizer": "adamw",
        "lr": 3e-3,
        "classifier_lr_factor": 1.0,
        "weight_decay": 0.01,
        "warmup_steps": 20,
    },
}
_SMALL_DATA_SETTINGS: Mapping[str, Any] = {
    **SMALL_DATA_PROPAGATE,
    "distil": True,
    "ask": "four_views",
    "stages": [],
    "class_balance": "sqrt_inverse",
    "teach_labels": "stored",
}


class AtpBlackBox(Method):
    """Distil, Teach, Propagate, on a student that starts from random weights or `--init`'s."""

    name = "atp_black_box"
    summary = "ATP from a source model's answers alone; the student may be another network"
    source = "Wang et al. (arXiv:2106.11653v2, black box; a later version is in TPAMI 2024)"
    Config = AtpBlackBoxConfig
    black_box = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": RECIPE,
        "roadshift": {**_SMALL_DATA, "atp_black_box": _SMALL_DATA_SETTINGS},
    }

    @staticmethod
    def stages(settings: AtpBlackBoxConfig) -> Sequence[Stage]:
        return _stages(settings)


# Without Aug, as DAS3. Two stages share the steps: Teach's half is 9.9 passes over Cityscapes.
_DAS3_RECIPE: Mapping[str, Any] = merge(
    RECIPE, {"training": {"steps": 14_800}, "augment": {"policy": "none"}}
)


class Das3BlackBox(Method):
    """As `AtpBlackBox`, with DAS3's Propagate; its "paper" variant does not distil."""

    name = "das3_black_box"
    summary = "DAS3 from a source model's answers alone; the student may be another network"
    source = "Wang et al., 2021 (arXiv:2106.11653v1, black box)"
    Config = Das3BlackBoxConfig
    black_box = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": _DAS3_RECIPE,
        "roadshift": {**_SMALL_DATA, "das3_black_box": _SMALL_DATA_SETTINGS},
    }

    @staticmethod
    def stages(settings: Das3BlackBoxConfig) -> Sequence[Stage]:
        return _stages(settings)
