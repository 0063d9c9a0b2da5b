"""The papers' pseudo-label baselines: Pseudo, Pseudo + EntMin, and Pseudo with selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..data.context import Context
from ..data.dataset import Batch
from ..losses.backends.spec import Map
from ..losses.baselines import confident_labels, pseudo_label_terms
from ..networks import SegmentationNetwork
from ..networks.batch_norm import fold_batch_norm
from ..networks.ema import frozen_copy
from ..pseudo_labels.logit_cache import LogitCache, open_cache
from ..run.config import Settings
from .base import SMALL_DATA, Method, Stage


class PseudoConfig(Settings):
    """The defaults are Pseudo; the other two differ from it by one setting each."""

    weight_pseudo: float = Field(default=1.0, gt=0)  # cross-entropy with the pseudo-labels
    weight_entropy: float = Field(default=0.0, ge=0)  # mean entropy
    min_confidence: float = Field(default=0.0, ge=0, lt=1)  # a label counts above it


class PseudoStage(Stage):
    """Learn what the starting model says, and keep learning it.

    g <- f, frozen
    for each batch x, noisy view x~:
        y <- argmax softmax g(x)  where  max softmax g(x) > min_confidence,  else none
        p <- softmax f(x~)
        f <- f - lr d/df [ weight_pseudo mean over pixels with a label of CE(p, y)
                           + weight_entropy mean over pixels of H(p) ]
    """

    name = "pseudo"

    def __init__(self, settings: PseudoConfig) -> None:
        self.settings = settings

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        super().begin(model, context)
        self.teacher = fold_batch_norm(frozen_copy(model))
        self.cache: LogitCache | None = None
        if context.config.teacher_cache:
            self.cache = open_cache(self.teacher, context)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        normalise, size = self.context.normalise, self.context.crop_size
        align_corners = self.model.align_corners
        teacher_logits: Tensor | Map
        if self.cache is not None:
            teacher_logits = self.cache.maps(batch)
        else:
            with torch.no_grad():
                teacher_logits = self.teacher(normalise(batch.clean)).logits
        return pseudo_label_terms(
            self.model(normalise(batch.augmented)).logits,
            confident_labels(
                teacher_logits,
                size,
                align_corners=align_corners,
                above=self.settings.min_confidence,
            ),
            size,
            align_corners=align_corners,
            kernel=self.context.losses,
            pseudo_label=self.settings.weight_pseudo,
            entropy=self.settings.weight_entropy,
        )


class Pseudo(Method):
    """Pseudo: the starting model's argmax, everywhere."""

    name = "pseudo"
    asks_frozen_teacher = True
    summary = "cross-entropy with the starting model's own labels"
    source = "Lee, ICML Workshops 2013"
    Config = PseudoConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"roadshift": SMALL_DATA}

    @staticmethod
    def stages(settings: PseudoConfig) -> Sequence[Stage]:
        return [PseudoStage(settings)]


class PseudoEntmin(Pseudo):
    """Pseudo + EntMin."""

    name = "pseudo_entmin"
    summary = "cross-entropy with the starting model's own labels, and entropy"
    source = "Lee, ICML Workshops 2013; Grandvalet and Bengio, NIPS 2004"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "roadshift": {**SMALL_DATA, "pseudo_entmin": {"weight_entropy": 1.0}}
    }


class PseudoSelected(Pseudo):
    """Pse.+Sel.: where the starting model is confident."""

    name = "pseudo_selected"
    summary = "cross-entropy with the starting model's labels of confidence above 0.9"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "roadshift": {**SMALL_DATA, "pseudo_selected": {"min_confidence": 0.9}}
    }
