"""Settings of IAPC, and its presets: the paper's text, the authors' code, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..losses.backends.spec import Importance
from ..pseudo_labels.hard_labels import SCALES
from ..pseudo_labels.prototypes import Normalisation, Similarity
from ..run.config import Scales, Settings
from ..run.renamed_settings import Renamed, Renames, complement
from .base import SMALL_DATA


class IapcConfig(Settings):
    """IAPC's own settings; the fields' defaults are the paper's text ("paper").

    Equations and tables are those of arXiv:2306.01598.
    """

    renamed: ClassVar[Renames] = {
        "memory_smoothing": Renamed("memory_decay", complement, complement, "1 - memory_smoothing"),
    }

    variant: Literal["roadshift", "paper", "reference"] = "paper"
    weight_ia: float = Field(default=0.2, ge=0)  # L_IA, importance-aware pseudo-labels (eq. 5)
    weight_pe: float = Field(default=0.5, ge=0)  # L_PE, agreement of p and p' (eq. 13)
    weight_ps: float = Field(default=0.04, ge=0)  # L_PS (eq. 12); 0.04 by Table V, 0.01 in the text
    weight_im: float = Field(default=2.0, ge=0)  # L_IM, entropy (eq. 6)
    # Pseudo-labels y^ and their importance
    importance: Importance = (
        "margin_ratio"  # Table IV: "none" RPL, "first" FPL, "one_minus_second" SPL
    )
    importance_of: Literal["probabilities", "logits"] = "probabilities"
    pseudo_labels: Literal["online", "offline"] = "online"  # offline: once, several scales and flip
    label_scales: Scales = SCALES  # offline: of the frames
    crop_classes: int = Field(default=0, ge=0)  # a crop holds more of y^; 0: any number
    crop_draws: int = Field(default=10, ge=1, le=1000)  # of a crop's place at most, for their sake
    # Prototypes, and p' and y' by them
    prototypes: Literal["per_image", "static", "momentum"] = "per_image"  # static SP, momentum MUP
    prototype_momentum: float = Field(default=0.99, ge=0, lt=1)
    prototype_view: Literal["crop", "unscaled"] = "crop"  # that the memory model sees
    absent_prototypes: Literal["exclude", "zero"] = "exclude"
    similarity: Similarity = "dot"  # eq. 10
    normalise: Normalisation = "linear"  # eq. 10, see `linear_logits`
    temperature: float = Field(default=1.0, gt=0)  # of the softmax
    prototype_labels: Literal["pixels", "grid"] = "pixels"  # where y' is the argmax; grid: nearest
    feature_layer: str | None = None  # None: the network's own features
    # L_PE's mask, and weights of classes
    agree_with: Literal["student", "pseudo_label"] = "student"
    class_balance: Literal["none", "rare", "sqrt_inverse"] = "none"  # see `ClassBalance`
    rare_fraction: float = Field(default=4096 / (512 * 256), ge=0, le=1)  # of a batch's pixels
    agreement_balance: Literal["prototype", "pseudo_label"] = "prototype"  # L_PE's: by y' or y^
    entropy_epsilon: float = Field(default=0.0, ge=0)
    # Memory model and student
    memory: Literal["ema", "student"] = "ema"  # student: the ablation without EMA
    memory_decay: float = Field(default=0.9999, ge=0, lt=1)  # of the EMA
    memory_mode: Literal["eval", "train"] = "eval"  # train: batch statistics
    clean_pass: bool = False  # after a step, of the student on clean crops: its BN statistics alone

    @model_validator(mode="after")
    def _learns(self) -> IapcConfig:
        if not (self.weight_ia or self.weight_pe or self.weight_ps or self.weight_im):
            raise ValueError("one of weight_ia, weight_pe, weight_ps and weight_im must be above 0")
        return self

    @model_validator(mode="after")
    def _has_scales(self) -> IapcConfig:
        if not self.label_scales or min(self.label_scales) <= 0:
            raise ValueError("label_scales must hold at least one number, all above 0")
        return self

    @model_validator(mode="after")
    def _each_has_an_effect(self) -> IapcConfig:
        if self.normalise == "linear" and self.temperature != 1:
            raise ValueError(
                "temperature is for normalise=softmax: a linear normalisation takes it out again"
            )
        if self.crop_classes and self.pseudo_labels == "online":
            raise ValueError(
                "crop_classes counts the classes of stored pseudo-labels; set "
                "pseudo_labels=offline, or leave crop_classes at 0"
            )
        return self


# Where the authors' code differs from the paper's text, and `roadshift` goes with it. The code is
# that of https://github.com/yihong-97/Source-free-IAPC at commit cefe2d4.
SHARED_WITH_CODE: Mapping[str, Any] = {
    "pseudo_labels": "offline",
    "absent_prototypes": "zero",
    "similarity": "cosine",
    "normalise": "softmax",
    "agree_with": "pseudo_label",
    "entropy_epsilon": 1e-5,
    "memory_mode": "train",
}
AUTHORS_CODE: Mapping[str, Any] = {
    **SHARED_WITH_CODE,
    "importance_of": "logits",
    "label_scales": [0.8, 1.0, 0.6],  # of 1280x640: 1024x512, and 1.25 and 0.75 times that
    "crop_classes": 10,
    "prototype_view": "unscaled",
    "prototype_labels": "grid",
    "class_balance": "rare",
    "agreement_balance": "pseudo_label",
    "clean_pass": True,
}

_PUBLISHED: Mapping[str, Any] = {"tone": "none", "warm_start": "source", "final_bn": False}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # The text's numbers. It gives no length, no horizon, no flip and no rate of the classifier's
    # own, and it names no photometric policy: those are the authors' code's.
    "paper": {
        **_PUBLISHED,
        "training": {
            "steps": 9000,  # of the code
            "schedule_steps": 100_000,  # of the code
            "batch_size": 6,
            "frame_size": [1024, 512],
            "crop_size": [512, 256],
            "flip": True,  # of the code
            "lr": 1e-4,
            "classifier_lr_factor": 10.0,  # of the code
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "poly_power": 0.9,
        },
        "augment": {"policy": "autoaugment"},  # of the code
    },
    "reference": {
        **_PUBLISHED,
        "training": {
            "steps": 9000,
            "schedule_steps": 100_000,
            "warmup_steps": 5000,
            "warmup_replaces_decay": True,
            "nesterov": True,
            "repeated_updates": True,
            "batch_size": 6,
            "frame_size": [1280, 640],
            "crop_size": [512, 256],
            "scale": [0.8, 1.2],
            "lr": 1e-4,
        },
        "augment": {"policy": "autoaugment", "before_crop": True},
        "iapc": AUTHORS_CODE,
    },
    "roadshift": {
        **SMALL_DATA,
        "iapc": {
            **SHARED_WITH_CODE,  # not importance_of: of logits it is unbounded below, a step of -20
            "class_balance": "sqrt_inverse",
            "weight_ia": 1.0,
            "weight_pe": 0.1,
            "weight_im": 0.0,
        },
    },
}
