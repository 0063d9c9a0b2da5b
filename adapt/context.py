"""What surrounds a stage while it learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..runtime.errors import RunInterrupted
from .config import RunConfig
from .dataset import Crop, FrameSet, whole_frames
from .inputs import Normalise
from .losses.kernels.spec import Kernel, Window


@dataclass(frozen=True)
class Context:
    """What surrounds a stage: the frames, the machine and the run's settings."""

    frames: FrameSet
    normalise: Normalise
    device: torch.device
    workdir: Path  # for what a stage computes once over the frames; survives a resume
    config: RunConfig
    crop_size: tuple[int, int]  # (height, width) of the batches' images
    losses: Kernel = "reference"  # what computes them
    held: FrameSet | None = None  # set aside to judge on: nothing may learn from them
    classes: tuple[str, ...] = ()  # their names, where someone is to read them
    stop_requested: Callable[[], bool] = lambda: False
    note: Callable[[str], None] = lambda _: None

    def whole_frames(self) -> Iterator[Tensor]:
        """All frames in order, clean, normalised, (B, 3, H, W), ``bn_batch_size`` at a time.

        The last batch may hold one frame more, which would be alone otherwise.

        Raises:
            RunInterrupted: a signal came.
        """
        for images in whole_frames(self.frames, self.config.bn_batch_size):
            self.stop_if_requested()
            yield self.normalise(images.to(self.device))

    def windows(self, crops: Sequence[Crop]) -> list[Window]:
        """Where the batches' images lie in maps of whole frames."""
        height, width = self.crop_size
        windows = []
        for crop in crops:
            down, across = height / crop.height, width / crop.width  # the zoom
            windows.append(
                Window(
                    self.frames.height * down,
                    self.frames.width * across,
                    crop.top * down,
                    crop.left * across,
                    crop.flip,
                )
            )
        return windows

    def stop_if_requested(self) -> None:
        """For work over all frames before or after the steps, which a resume does again.

        Raises:
            RunInterrupted: a signal came.
        """
        if self.stop_requested():
            raise RunInterrupted("Stopped; the same command with --resume goes on from there.")
