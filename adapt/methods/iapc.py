"""IAPC: importance-aware and prototype-contrast learning (arXiv:2306.01598, IEEE T-IV 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...runtime.errors import ConfigError, NetworkError
from ..data.context import Context
from ..data.dataset import Batch, Crop, CropCondition
from ..losses.backends.labels import argmax_on_grid, labels_from_grid, pixel_argmax
from ..losses.backends.spec import Map
from ..losses.common import Size
from ..losses.iapc import IapcWeights, iapc_terms
from ..networks import Output, SegmentationNetwork
from ..networks.batch_norm import batch_norm_layers, fold_batch_norm, folding_view
from ..networks.batch_norm_of_one import allow_lone_values
from ..networks.ema import ema_update, frozen_copy
from ..pseudo_labels.class_balance import ClassBalance
from ..pseudo_labels.hard_labels import PseudoLabels, count_classes, label_frames
from ..pseudo_labels.logit_cache import LogitCache, open_cache
from ..pseudo_labels.prototypes import (
    class_prototypes,
    class_sums,
    linear_logits,
    prototype_logits,
)
from ..run.work import OutOfTimeError
from .base import FeatureTap, Method, Stage, prefixed, under
from .iapc_config import PRESETS, IapcConfig


class IapcStage(Stage):
    """The only stage of the method.

    S_s, S_m <- copies of the source model
    for each batch x, noisy view x~:
        y^, w <- labels and importance of S_s(x)                        (eq. 1, 4)
        k     <- class means of S_m's features of x, under S_m's own labels    (eq. 8-9)
        p'    <- <f, k> of S_t's features f of x~, normalised; y' <- argmax p' (eq. 10-11)
        L     <- weight_ia L_IA + weight_pe L_PE + weight_ps L_PS + weight_im L_IM  of S_t(x~)
        S_t   <- S_t - lr dL/dS_t
        S_t   <- S_t, its batch-norm statistics moved by x        (where clean_pass)
        S_m   <- memory_decay S_m + (1 - memory_decay) S_t    (memory="student": a decay of 0)
    """

    name = "iapc"

    def __init__(self, settings: IapcConfig) -> None:
        self.settings = settings
        self.weights = IapcWeights(
            settings.weight_ia, settings.weight_pe, settings.weight_ps, settings.weight_im
        )

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        super().begin(model, context)
        settings = self.settings
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
            self.cache = open_cache(self.teacher, context)
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
            targets = ["label_balance"]
            if settings.agreement_balance == "prototype":
                targets.append("prototype_balance")
            for target in targets:
                self.balances[target] = ClassBalance(
                    kind, model.num_classes, fraction, context.device
                )
        self._sign_is_known = False
        self.labels: PseudoLabels | None = None
        if settings.pseudo_labels == "offline":
            self.labels = label_frames(self.teacher, context, settings.label_scales)
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
        similarity, present = self._similarity(student, batch, clean)
        y_prime = None
        if similarity is not None and settings.prototype_labels == "grid":
            y_prime = _labels_of_cells(similarity, size, present)
        labels = None if self.labels is None else self.labels.crops(batch, self.context)[0]
        balance = agreement_balance = None
        if self.balances:
            y_hat = labels
            if y_hat is None:
                y_hat = self._argmax(teacher_logits, size)
            balance = agreement_balance = self.balances["label_balance"](y_hat)
            if similarity is not None and "prototype_balance" in self.balances:
                nearest = self._argmax(similarity, size, present) if y_prime is None else y_prime
                agreement_balance = self.balances["prototype_balance"](nearest)
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
            prototype_labels=y_prime,
            labels=labels,
            class_weights=balance,
            prototype_class_weights=agreement_balance,
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

    def _similarity(
        self, student: Output, batch: Batch, clean: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Logits of p' on the grid of the student's features, (B, K, h, w), and who competes.

        The latter is (B, K), or ``None`` where all classes do.

        Args:
            clean: the batch's clean images, normalised.
        """
        if not self._uses_prototypes:
            return None, None
        settings = self.settings
        with torch.no_grad():
            prototypes, present = self._prototypes(batch, clean)
        similarity = prototype_logits(
            _features(student),
            prototypes,
            similarity=settings.similarity,
            temperature=settings.temperature,
        )
        if settings.normalise == "linear":
            self._tell_of_signed_features(similarity)
            similarity = linear_logits(similarity)
        if settings.absent_prototypes == "zero":
            return similarity, None
        return similarity, present.expand(len(similarity), -1)

    def _prototypes(self, batch: Batch, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Prototypes (B, K, D), or (1, K, D) for all images, and which there are, (B or 1, K)."""
        settings = self.settings
        if settings.prototypes != "static" and settings.prototype_view == "unscaled":
            clean = self.context.normalise(self.context.unscaled(batch))
        if self.shared_prototypes is None:
            return class_prototypes(*self._memory_features(clean))
        if settings.prototypes == "momentum":
            self._move_shared_prototypes(clean)
        prototypes = self.shared_prototypes[None]
        return prototypes, prototypes.abs().sum(dim=2) > 0

    def _tell_of_signed_features(self, similarity: Tensor) -> None:
        """Say it, looking at the first batch alone, where eq. 10 leaves negative products out."""
        if self._sign_is_known:
            return
        self._sign_is_known = True
        if bool((similarity.detach() < 0).any()):
            self.context.note_once(
                "features and prototypes have negative products, which count as 0 in their linear "
                "normalisation (IAPC, eq. 10, is for features after a ReLU): iapc.feature_layer "
                "names another layer, iapc.normalise=softmax another normalisation"
            )

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

    def crop_condition(self) -> CropCondition | None:
        """More than ``crop_classes`` classes of the stored pseudo-labels in a crop."""
        wanted, of_network = self.settings.crop_classes, self.model.num_classes
        if not wanted or self.labels is None:
            return None
        if wanted >= of_network:
            self.context.note_once(
                f"no crop is drawn again: none holds more than iapc.crop_classes={wanted} of the "
                f"network's {of_network} classes"
            )
            return None
        labels, (height, width) = self.labels, self.context.crop_size

        def of_frame(frame: int) -> Callable[[Crop], bool]:
            classes = labels.classes(frame)
            return lambda crop: count_classes(classes, crop, width, height) > wanted

        return CropCondition(of_frame, self.settings.crop_draws)

    @torch.no_grad()
    def look_again(self, batch: Batch) -> None:
        """Move the student's batch-norm statistics by the clean images, where ``clean_pass``.

        The authors' code passes clean crops through the student in training mode to log a loss.
        """
        if self.settings.clean_pass and any(n.training for n in batch_norm_layers(self.model)):
            self.model(self.context.normalise(batch.clean))

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


def _labels_of_cells(similarity: Tensor, size: Size, present: Tensor | None) -> Tensor:
    """y' (B, H, W): the argmax of each cell, at the pixels nearest to it, as in the authors' code.

    Args:
        similarity: (B, K, h, w). present: (B, K), the classes that compete; ``None``: all.
    """
    scores = similarity.detach()
    if present is not None:
        scores = scores.masked_fill(~present[:, :, None, None], float("-inf"))
    return labels_from_grid(scores.max(dim=1).indices, size)


def _features(output: Output) -> Tensor:
    if output.features is None:
        raise NetworkError(
            "IAPC's prototypes need features, and the network returns none: return (logits, "
            "features), set iapc.feature_layer, or set iapc.weight_pe and iapc.weight_ps to 0."
        )
    return output.features


class Iapc(Method):
    """IAPC with the paper's recipe, the authors' code's, and ours for small data."""

    name = "iapc"
    summary = "importance-weighted pseudo-labels, prototype contrast and entropy"
    source = "Cao et al., IEEE T-IV 2024 (arXiv:2306.01598)"
    Config = IapcConfig
    asks_frozen_teacher = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    @staticmethod
    def stages(settings: IapcConfig) -> Sequence[Stage]:
        return [IapcStage(settings)]
