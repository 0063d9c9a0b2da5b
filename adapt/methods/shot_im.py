"""SHOT's information maximisation, without its pseudo-labels (arXiv:2002.08546)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from ..data.dataset import Batch
from ..losses.baselines import information_maximisation_terms
from ..networks import SegmentationNetwork
from ..run.config import Settings
from .base import SMALL_DATA, Method, ParameterGroup, Stage, all_but_the_classifier


class ShotImConfig(Settings):
    """The default is the paper's."""

    # of the mean prediction's entropy; 0: without
    weight_diversity: float = Field(default=1.0, ge=0)


class ShotImStage(Stage):
    """The classifier is the source hypothesis, and stands still; the body learns to fit it.

    for each batch x~:
        p    <- softmax f(x~),  p^ <- mean of p over the pixels
        body <- body - lr d/dbody [ mean over pixels of H(p) - weight_diversity H(p^) ]
    """

    name = "shot_im"

    def __init__(self, settings: ShotImConfig) -> None:
        self.settings = settings

    def parameter_groups(self, model: SegmentationNetwork, factor: float) -> list[ParameterGroup]:  # noqa: ARG002 - nothing has it
        return all_but_the_classifier(model)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return information_maximisation_terms(
            self.model(self.context.normalise(batch.augmented)).logits,
            self.context.crop_size,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
            diversity=self.settings.weight_diversity,
        )


class ShotIm(Method):
    """SHOT-IM, with our small-data schedule."""

    name = "shot_im"
    summary = "information maximisation with the classifier frozen"
    source = "SHOT, Liang et al., ICML 2020 (arXiv:2002.08546)"
    Config = ShotImConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"roadshift": SMALL_DATA}

    @staticmethod
    def stages(settings: ShotImConfig) -> Sequence[Stage]:
        return [ShotImStage(settings)]
