"""DAS3: the first version of ATP (Wang, Liang and Zhang, arXiv:2106.11653v1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from .atp import AUTHORS_CODE, AUTHORS_RECIPE, RECIPE, SMALL_DATA_SETTINGS, stages_of
from .atp_config import AtpConfig
from .base import SMALL_DATA, Method, Stage


class Das3Config(AtpConfig):
    """ATP's settings; fewer frames are easy, and hard frames' labels come from their mixture."""

    easy_ratio: float = Field(default=0.3, gt=0, le=1)
    target: Literal["frames", "mixed"] = "mixed"


class Das3(Method):
    """Align and Teach as in `Atp`; Propagate asks the student itself about mixed frames."""

    name = "das3"
    summary = "ATP's first version: consistency of hard frames under ClassMix"
    source = "Wang et al., 2021 (arXiv:2106.11653v1)"
    Config = Das3Config
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {**RECIPE, "augment": {"policy": "none"}},  # with Aug: 51.1 in place of 50.7
        "authors": {**AUTHORS_RECIPE, "das3": AUTHORS_CODE},  # they publish one code, ATP's
        "roadshift": {**SMALL_DATA, "das3": SMALL_DATA_SETTINGS},
    }

    @staticmethod
    def stages(settings: Das3Config) -> Sequence[Stage]:
        return stages_of(settings)
