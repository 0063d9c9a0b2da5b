"""BN statistics of the target frames mixed into the model's, and nothing else: the bar to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from ...runtime.errors import NetworkError
from ..networks import SegmentationNetwork
from ..networks.batch_norm import batch_norm_layers
from ..networks.normalisation import KEEPS_NONE
from ..run.config import Settings
from .base import Method, Stage


class BnStatsConfig(Settings):
    """Settings of BN statistics: none but the variant."""

    variant: Literal["roadshift", "paper"] = "roadshift"


class BnStats(Method):
    """The warm start by itself, see `RunStatistics`: no step.

    Its "paper" variant replaces the source's statistics with those of the frames, whatever they are
    worth.
    """

    name = "bn_stats"
    summary = "batch-norm statistics mixed with those of the target frames; no gradient"
    source = "Li et al., 2016 (arXiv:1603.04779)"
    Config = BnStatsConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "roadshift": {"tone": "none", "final_bn": False, "training": {"steps": 0}},
        "paper": {
            "tone": "none",
            "warm_start": "target",
            "final_bn": False,
            "training": {"steps": 0},
        },
    }

    @classmethod
    def check(cls, model: SegmentationNetwork) -> None:
        """See `Method.check`: there must be statistics to mix."""
        if not batch_norm_layers(model):
            raise NetworkError(
                f"bn_stats changes batch-norm statistics alone, and {KEEPS_NONE}; choose a method "
                "that takes steps, such as nightshift."
            )

    @staticmethod
    def stages(settings: BnStatsConfig) -> Sequence[Stage]:  # noqa: ARG004 - nothing to choose
        return []
