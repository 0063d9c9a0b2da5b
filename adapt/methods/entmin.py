"""Entropy minimisation: be certain of every pixel, whatever of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..data.dataset import Batch
from ..losses.baselines import entropy_terms
from ..run.config import Settings
from .base import SMALL_DATA, Method, Stage


class EntminConfig(Settings):
    """Settings of a method that has none of its own."""


class EntminStage(Stage):
    """The only stage of the method.

    for each batch x~:
        p <- softmax f(x~)
        f <- f - lr d/df mean over pixels of H(p)
    """

    name = "entmin"

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return entropy_terms(
            self.model(self.context.normalise(batch.augmented)).logits,
            self.context.crop_size,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
        )


class Entmin(Method):
    """EntMin, the papers' first baseline."""

    name = "entmin"
    summary = "entropy minimisation by all weights"
    source = "Grandvalet and Bengio, NIPS 2004; Vu et al., CVPR 2019 (arXiv:1811.12833)"
    Config = EntminConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"roadshift": SMALL_DATA}

    @staticmethod
    def stages(settings: EntminConfig) -> Sequence[Stage]:  # noqa: ARG004 - nothing to choose
        return [EntminStage()]
