"""IAPC: importance-aware and prototype-contrast learning (arXiv:2306.01598, IEEE T-IV 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ...runtime.errors import ConfigError, NetworkError
from ..data.context import Context
from ..data.dataset import Batch
from ..losses.backends.labels import argmax_on_grid, pixel_argmax
from ..losses.backends.spec import Importance, Map
from ..losses.common import Size
from ..losses.iapc import IapcWeights, iapc_terms
from ..networks import Output, SegmentationNetwork
from ..networks.batch_norm import batch_norm_layers, fold_batch_norm, folding_view
from ..networks.batch_norm_of_one import allow_lone_values
from ..networks.ema import ema_update, frozen_copy
from ..pseudo_labels.class_balance import ClassBalance
from ..pseudo_labels.hard_labels import PseudoLabels, label_frames
from ..pseudo_labels.logit_cache import LogitCache, open_cache
from ..pseudo_labels.prototypes import Similarity, class_prototypes, class_sums, prototype_logits
from ..run.config import Settings
from ..run.renamed_settings import Renamed, Renames, complement
from ..run.work import OutOfTimeError
from .base import SMALL_DATA, FeatureTap, Method, Stage, prefixed, under


class IapcConfig(Settings):
    """IAPC's own settings; the fields' defaults are the paper's text ("paper")."""

    renamed: ClassVar[Renames] = {
        "memory_smoothing": Renamed("memory_decay", complement, complement, "1 - memory_smoothing"),
    }

    variant: Literal["roadshift", "paper", "reference"] = "paper"
    weight_ia: float = Field(default=0.2, ge=0)  # L_IA, importance-aware pseudo-labels (eq. 5)
    weight_pe: float = Field(default=0.5, ge=0)  # L_PE, agreement of p and p' (eq. 13)
    weight_ps: float = Field(default=0.04, ge=0)  # L_PS, symmetric prototype loss (eq. 12; Table V)
    weight_im: float = Field(default=2.0, ge=0)  # L_IM, entropy (eq. 6)
    importance: Importance = (
        "margin_ratio"  # Table IV: "none" RPL, "first" FPL, "one_minus_second" SPL
    )
    importance_of: Literal["probabilities", "logits"] = "probabilities"
    pseudo_labels: Literal["online", "offline"] = "online"  # offline: once, three scales and flip
    prototypes: Literal["per_image", "static", "momentum"] = "per_image"  # static SP, momentum MUP
    prototype_momentum: float = Field(default=0.99, ge=0, lt=1)
    absent_prototypes: Literal["exclude", "zero"] = "exclude"
    similarity: Similarity = "cosine"
    temperature: float = Field(default=1.0, gt=0)
    feature_layer: str | None = None  # None: the network's own features
    agree_with: Literal["student", "pseudo_label"] = "student"  # L_PE's mask
    class_balance: Literal["none", "rare", "sqrt_inverse"] = "none"  # see `ClassBalance`
    rare_fraction: float = Field(default=4096 / (512 * 256), ge=0, le=1)  # of a batch's pixels
    entropy_epsilon: float = Field(default=0.0, ge=0)
    memory: Literal["ema", "student"] = "ema"  # student: the ablation without EMA
    memory_decay: float = Field(default=0.9999, ge=0, lt=1)  # of the EMA
    memory_mode: Literal["eval", "train"] = "eval"  # train: batch statistics

    @model_validator(mode="after")
    def _learns(self) -> IapcConfig:
        if not (self.weight_ia or self.weight_pe or self.weight_ps or self.weight_im):
            raise ValueError("one of weight_ia, weight_pe, weight_ps and weight_im must be above 0")
        return self


class IapcStage(Stage):
    """The only stage of the method.

    S_s, S_m <- copies of the source model
    for each batch x, noisy view x~:
        y^, w <- labels and importance of S_s(x)
        k     <- class means of S_m's features of x, under S_m's own labels
        L     <- weight_ia L_IA + weight_pe L_PE + weight_ps L_PS + weight_im L_IM  of S_t(x~)
        S_t   <- S_t - lr dL/dS_t
        S_m   <- memory_decay S_m + (1 - memory_decay) S_t    (memory="student": a decay of 0)
    """

    name = "iapc"

    def __init__(self, settings: IapcConfig) -> None:
        self.settings = settings
        self.weights = IapcWeights(
            settings.weight_ia, settings.weight_pe, settings.weight_ps, settings.weight_im
        )

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        settings, self.context = self.settings, context
        self.model = model.train()
        layer = settings.feature_layer
        if layer is None and settings.variant == "reference":
            layer = model.reference_feature_layer
        if layer is not None and context.config.training.compile:
            raise ConfigError(
                f"training.compile: features of the layer {layer} cannot be read from a compiled "
                "network; leave training.compile or iapc.feature_layer out."
            )
        self.student = FeatureTap(model, layer)
        self.teacher = fold_batch_norm(frozen_copy(model))
        self.cache: LogitCache | None = None
        if context.config.teacher_cache:
            self.cache = open_cache("teacher", self.teacher, context)
        self.memory_model = frozen_copy(model)
        if settings.memory_mode == "train":
            for norm in batch_norm_layers(self.memory_model):
                norm.train()
        watched = self.memory_model if layer is not None else folding_view(self.memory_model)
        allow_lone_values(watched, context.note)
        self.memory = FeatureTap(watched, layer)
        self.balances: dict[str, ClassBalance] = {}
        if settings.class_balance != "none":
            kind, fraction = settings.class_balance, settings.rare_fraction
            for target in ("label_balance", "prototype_balance"):
                self.balances[target] = ClassBalance(
                    kind, model.num_classes, fraction, context.device
                )
        self.labels: PseudoLabels | None = None
        if settings.pseudo_labels == "offline":
            self.labels = label_frames(self.teacher, context)
        self.shared_prototypes: Tensor | None = None
        if self._uses_prototypes and settings.prototypes != "per_image":
            self.shared_prototypes = self._prototypes_of_all_frames()

    @property
    def _uses_prototypes(self) -> bool:
        return bool(self.weights.agreement or self.weights.prototype)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.settings
        clean = self.context.normalise(batch.clean)
        size = (clean.shape[2], clean.shape[3])
        student = self.student(self.context.normalise(batch.augmented))
        teacher_logits = self._teacher_logits(batch, clean)
        similarity, present = self._similarity(student, clean)
        labels = None if self.labels is None else self.labels.crops(batch, self.context)[0]
        balance = prototype_balance = None
        if self.balances:
            y_hat = labels
            if y_hat is None:
                y_hat = self._argmax(teacher_logits, size)
            balance = self.balances["label_balance"](y_hat)
            if similarity is not None:
                y_prime = self._argmax(similarity, size, present)
                prototype_balance = self.balances["prototype_balance"](y_prime)
        return iapc_terms(
            student.logits,
            teacher_logits,
            similarity,
            present,
            size,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
            weights=self.weights,
            importance=settings.importance,
            importance_of_logits=settings.importance_of == "logits",
            labels=labels,
            class_weights=balance,
            prototype_class_weights=prototype_balance,
            agree_with=settings.agree_with,
            epsilon=settings.entropy_epsilon,
        )

    @torch.no_grad()
    def _teacher_logits(self, batch: Batch, clean: Tensor) -> Tensor | Map:
        if self.cache is not None:
            return self.cache.maps(batch)
        output: Output = self.teacher(clean)
        return output.logits

    def _argmax(self, logits: Tensor | Map, size: Size, present: Tensor | None = None) -> Tensor:
        align_corners = self.model.align_corners
        return pixel_argmax(logits, size, align_corners=align_corners, present=present)

    def _similarity(self, student: Output, clean: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Similarity logits of the student's features, (B, K, h, w), and which classes compete.

        The latter is (B, K), or ``None`` where all do.
        """
        if not self._uses_prototypes:
            return None, None
        settings = self.settings
        with torch.no_grad():
            if self.shared_prototypes is None:
                prototypes, present = class_prototypes(*self._memory_features(clean))
            else:
                if settings.prototypes == "momentum":
                    self._move_shared_prototypes(clean)
                prototypes = self.shared_prototypes[None]
                present = prototypes.abs().sum(dim=2) > 0
        similarity = prototype_logits(
            _features(student),
            prototypes,
            similarity=settings.similarity,
            temperature=settings.temperature,
        )
        if settings.absent_prototypes == "zero":
            return similarity, None
        return similarity, present.expand(len(similarity), -1)

    def _memory_features(self, clean: Tensor) -> tuple[Tensor, Tensor, int]:
        """Features (B, D, h, w), labels on their grid, and K.

        Labels are taken at pixel resolution and picked by nearest neighbour, as the authors' code
        does: an argmax of coarse logits would miss thin classes.
        """
        output = self.memory(clean)
        features = _features(output)
        size, grid = ((images.shape[2], images.shape[3]) for images in (clean, features))
        labels = argmax_on_grid(output.logits, size, grid, align_corners=self.model.align_corners)
        return features, labels, self.model.num_classes

    def _move_shared_prototypes(self, clean: Tensor) -> None:
        assert self.shared_prototypes is not None
        sums, counts = class_sums(*self._memory_features(clean))
        seen, total = counts.sum(dim=0), sums.sum(dim=0)
        mean = total / seen.clamp(min=1)[:, None]
        moved = torch.lerp(mean, self.shared_prototypes, self.settings.prototype_momentum)
        self.shared_prototypes.copy_(torch.where(seen[:, None] > 0, moved, self.shared_prototypes))

    @torch.no_grad()
    def _prototypes_of_all_frames(self) -> Tensor:
        """(K, D): class means over all target frames, from the source model."""
        sums, counts = torch.zeros(()), torch.zeros(())
        for clean in self.context.whole_frames("class prototypes of all frames"):
            batch_sums, batch_counts = class_sums(*self._memory_features(clean))
            sums, counts = sums + batch_sums.sum(dim=0), counts + batch_counts.sum(dim=0)
        if not sums.ndim:
            raise OutOfTimeError
        return sums / counts.clamp(min=1)[:, None]

    def after_step(self) -> None:
        decay = self.settings.memory_decay if self.settings.memory == "ema" else 0.0
        ema_update(self.memory_model, self.model, decay)

    def touched(self) -> list[Tensor]:
        balances = [balance.average for balance in self.balances.values()]
        shared = [] if self.shared_prototypes is None else [self.shared_prototypes]
        return [*self.memory_model.buffers(), *balances, *shared]

    def state(self) -> dict[str, Tensor]:
        tensors = prefixed("memory", self.memory_model.state_dict())
        tensors.update({name: balance.average for name, balance in self.balances.items()})
        if self.shared_prototypes is not None:
            tensors["shared_prototypes"] = self.shared_prototypes
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.memory_model.load_state_dict(under("memory", tensors))
        for name, balance in self.balances.items():
            balance.average.copy_(tensors[name])
        if self.shared_prototypes is not None:
            self.shared_prototypes.copy_(tensors["shared_prototypes"])


def _features(output: Output) -> Tensor:
    if output.features is None:
        raise NetworkError(
            "IAPC's prototypes need features, and the network returns none: return (logits, "
            "features), set iapc.feature_layer, or set iapc.weight_pe and iapc.weight_ps to 0."
        )
    return output.features


# Where the authors' code differs from the paper's text.
AUTHORS_CODE: Mapping[str, Any] = {
    "importance_of": "logits",
    "pseudo_labels": "offline",
    "absent_prototypes": "zero",
    "agree_with": "pseudo_label",
    "class_balance": "rare",
    "entropy_epsilon": 1e-5,
    "memory_mode": "train",
}


class Iapc(Method):
    """IAPC with the paper's recipe, the authors' code's, and ours for small data."""

    name = "iapc"
    summary = "importance-weighted pseudo-labels, prototype contrast and entropy"
    source = "Cao et al., IEEE T-IV 2024 (arXiv:2306.01598)"
    Config = IapcConfig
    asks_frozen_teacher = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "tone": "none",
            "warm_start": "source",
            "final_bn": False,
            "training": {
                "steps": 9000,
                "schedule_steps": 100_000,
                "batch_size": 6,
                "frame_size": [1024, 512],
                "crop_size": [512, 256],
                "lr": 1e-4,
            },
            "augment": {"policy": "autoaugment"},
        },
        "reference": {
            "tone": "none",
            "warm_start": "source",
            "final_bn": False,
            "training": {
                "steps": 9000,
                "schedule_steps": 100_000,
                "warmup_steps": 5000,
                "nesterov": True,
                "batch_size": 6,
                "frame_size": [1280, 640],
                "crop_size": [512, 256],
                "scale": [0.8, 1.2],
                "lr": 1e-4,
            },
            "augment": {"policy": "autoaugment"},
            "iapc": AUTHORS_CODE,
        },
        "roadshift": {
            **SMALL_DATA,
            "iapc": {
                **AUTHORS_CODE,
                "importance_of": "probabilities",  # of logits it is unbounded below: a step of -20
                "class_balance": "sqrt_inverse",
                "weight_ia": 1.0,
                "weight_pe": 0.1,
                "weight_im": 0.0,
            },
        },
    }

    @staticmethod
    def stages(settings: IapcConfig) -> Sequence[Stage]:
        return [IapcStage(settings)]
