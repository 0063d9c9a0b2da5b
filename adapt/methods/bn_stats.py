"""BN statistics re-estimated on the target frames, and nothing else: the bar to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..config import Settings
from .base import Method, Stage


class BnStatsConfig(Settings):
    """It has no settings of its own."""


class BnStats(Method):
    """The warm start by itself: `reestimate_batch_norm` over all frames, no step."""

    name = "bn_stats"
    summary = "batch-norm statistics re-estimated on the target frames; no gradient"
    source = "Li et al., 2016 (arXiv:1603.04779)"
    Config = BnStatsConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "roadshift": {"tone": "none", "final_bn": False, "training": {"steps": 0}}
    }

    @staticmethod
    def stages(settings: BnStatsConfig) -> Sequence[Stage]:  # noqa: ARG004 - nothing to choose
        return []
