"""Tone alignment and nothing else: one gamma on the frames, the source's weights untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..run.config import Settings
from .base import Method, Stage


class ToneOnlyConfig(Settings):
    """Settings of a method that has none of its own."""


class ToneOnly(Method):
    """`align_tone`, which every method starts with by default (``tone = "auto"``), by itself.

    The gamma goes into the bundle's preprocessing; where none helps, the bundle is the source's.
    """

    name = "tone_only"
    summary = "one gamma for all frames, where two label-free scores agree; no gradient"
    source = "Roadshift"
    Config = ToneOnlyConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "roadshift": {
            "tone": "auto",
            "warm_start": "source",
            "final_bn": False,
            "training": {"steps": 0},
        }
    }

    @staticmethod
    def stages(settings: ToneOnlyConfig) -> Sequence[Stage]:  # noqa: ARG004 - nothing to choose
        return []
