"""LD: label denoising by positive and negative learning (arXiv:2110.06484, ACM MM 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .base import SMALL_DATA, Method, Stage
from .ld_boundary import AuthorsBoundaryStage, BoundaryStage
from .ld_config import LdConfig
from .ld_stages import LdStage

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


def authors_code(share: float, rounds: int, lr: float) -> Mapping[str, Any]:
    """The authors' code with the three settings that its two dates differ in.

    A round is one epoch of Cityscapes' 2,975 images with a schedule of its own.
    """
    return {
        **SOURCE_AS_IT_IS,
        "training": {
            **RECIPE,
            "scale": [1.0, 1.0],
            "scale_values": [0.5, 0.75, 1.0, 1.25, 1.5],
            "lr": lr,
            "steps": rounds * (2975 // 3),
            "schedule_steps": 5000,
            "schedule_restarts": True,
            "repeated_updates": True,
        },
        "ld": {
            "class_share": share,
            "image_share": share,
            "share_growth": 0.05,
            "threshold_of": "any_class",
            "batch_statistics": True,
            "refresh_epochs": 0,
            "rank_draw": "step",
            "rounds": rounds,
            "round_lr_factor": 0.5**0.5,
            "learn_shortcut_norms": True,
        },
    }


class Ld(Method):
    """LD with the paper's recipe, the authors' code's, and ours for small data."""

    name = "ld"
    summary = "class-balanced pseudo-labels, entropy and complementary labels"
    source = "You et al., ACM MM 2021 (arXiv:2110.06484)"
    Config = LdConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {**SOURCE_AS_IT_IS, "training": {**RECIPE, "lr": 1e-3, "steps": 5000}},
        # commit a891699 (July 2021), which gave the paper's numbers
        "reference": authors_code(share=0.2, rounds=5, lr=7.5e-5),
        # commit c2a84af (February 2022)
        "reference-2022": authors_code(share=0.1, rounds=2, lr=1e-4),
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
        if not settings.boundary_stage:
            return rounds
        if settings.boundary == "authors":  # their second run, with the settings of the first
            again = [AuthorsBoundaryStage(settings, number) for number in range(settings.rounds)]
            return [*rounds, *again]
        return [*rounds, BoundaryStage(settings, settings.rounds)]
