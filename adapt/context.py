"""What surrounds a stage while it learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from .config import RunConfig
from .dataset import FrameSet
from .inputs import Normalise


@dataclass(frozen=True)
class Context:
    """What surrounds a stage: the frames, the machine and the run's settings."""

    frames: FrameSet
    normalise: Normalise
    device: torch.device
    workdir: Path  # for what a stage computes once over the frames; survives a resume
    config: RunConfig
    crop_size: tuple[int, int]  # (height, width) of the batches' images
