"""Frames, machine and settings that a stage works with while it learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..black_boxes.base import BlackBox
from ..losses.backends.spec import Kernel, Window
from ..models.inputs import Normalise
from ..run.config import RunConfig
from ..run.events import Events
from ..run.work import PreparedFrames, Work
from ..run.workspace import Workspace
from .dataset import Batch, Crop, in_batches, resize_window, stacked
from .frame_set import FrameSet

LEAST_IN_BATCH = 2  # frames that batch norm's statistics are taken over, however short the time


@dataclass(frozen=True)
class Context:
    """Surroundings of a stage: the frames, the machine and the run's settings."""

    frames: FrameSet
    normalise: Normalise
    device: torch.device
    workdir: Path  # for what a stage computes once over the frames; survives a resume
    config: RunConfig
    crop_size: tuple[int, int]  # (height, width) of the batches' images
    losses: Kernel = "reference"  # what computes them
    held: FrameSet | None = None  # set aside to judge on: nothing may learn from them
    statistics_share: float | None = None  # the target's in the start's; None: not re-estimated
    classes: tuple[str, ...] = ()  # their names, where someone is to read them
    black_box: BlackBox | None = None  # whose answers are learned from, where one is adapted to
    fingerprint: str = ""  # of all that decides the run, apart from the content of its files
    work: Work = field(default_factory=Work)
    prepared: PreparedFrames = field(default_factory=PreparedFrames)  # of the stage at work
    said: set[str] = field(default_factory=set)  # by `note_once`

    @property
    def workspace(self) -> Workspace:
        """The names of what lies in the working folder."""
        return Workspace(self.workdir)

    @property
    def events(self) -> Events:
        """Notes, progress and the question whether to stop."""
        return self.work.events

    def note(self, sentence: str) -> None:
        """Say what is worth knowing."""
        self.events.note(sentence)

    def whole_frames(
        self, title: str = "looking at all frames", *, in_order: bool = False
    ) -> Iterator[Tensor]:
        """All frames, clean, normalised, (B, 3, H, W), ``bn_batch_size`` at a time.

        In order; where a time budget may cut them short, in the order of `Work.over`, and where it
        has no time for one such batch, in smaller ones.

        Args:
            title: of what they are for.
            in_order: in order even so.

        The last batch may hold one frame more, which would be alone otherwise.

        Raises:
            RunInterrupted: a signal came.
        """
        size, deadline = self.config.bn_batch_size, self.work.deadline
        while size > LEAST_IN_BATCH and not deadline.has_time_for(size):
            size = max(LEAST_IN_BATCH, size // 2)
        batches = in_batches(len(self.frames), size)
        for rows in self.work.over(batches, title, unit="batches", in_order=in_order, passes=size):
            yield self.normalise(stacked(self.frames, rows).to(self.device))

    def prepare(
        self,
        title: str,
        there: Callable[[int], bool],
        make: Callable[[int], None],
        passes: float = 1.0,
    ) -> None:
        """Make something for every frame that the stage is prepared for and that lacks it.

        Where time runs out, the stage is prepared for the frames that have it by then; see
        `PreparedFrames`.

        Args:
            title: of what is made.
            there: whether the frame of that number has it.
            make: makes it for the frame of that number.
            passes: forward passes of a whole frame that one is expected to take.

        Raises:
            RunInterrupted: a signal came.
        """
        wanted = self.prepared.of(len(self.frames))
        have = {i for i in wanted if there(i)}
        missing = [i for i in wanted if i not in have]
        if self.prepared.settled:
            for i in missing:  # steps followed from them: time is no reason now
                self.events.stop_if_requested()
                make(i)
            return
        for i in self.work.over(missing, title, passes=passes):
            make(i)
            have.add(i)
        if len(have) < len(wanted):
            self.prepared.chosen = sorted(have)

    def note_once(self, sentence: str) -> None:
        """Give a note once that would be true again and again."""
        if sentence not in self.said:
            self.said.add(sentence)
            self.note(sentence)

    def windows(self, crops: Sequence[Crop]) -> list[Window]:
        """Positions of the crops, as they lie in a batch's images, in maps of whole frames."""
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

    def unscaled(self, batch: Batch) -> Tensor:
        """The batch's clean crops without their zoom, uint8 (B, H, W, 3), see `unscaled_crop`."""
        height, width = self.crop_size
        if all((crop.width, crop.height) == (width, height) for crop in batch.crops):
            return batch.clean
        whole = (self.frames.width, self.frames.height)
        rows = []
        for frame, crop in zip(batch.frames, batch.crops, strict=True):
            window = unscaled_crop(crop, whole, (width, height))
            image = self.frames.image(frame)
            rows.append(resize_window(image, window, width, height, nearest=False))
        return torch.from_numpy(np.stack(rows)).to(self.device)


def unscaled_crop(crop: Crop, whole: tuple[int, int], size: tuple[int, int]) -> Crop:
    """The window of ``size`` at the same place of a frame of size ``whole``, without a zoom.

    The same place: what a window leaves of the frame is shared between its two sides as ``crop``
    shares it, rounded down. Of a crop without a zoom it is that crop.

    Args:
        whole, size: (width, height), the latter at most the former.
    """

    def place(start: int, side: int, of_frame: int, own: int) -> int:
        return start * (of_frame - own) // (of_frame - side) if of_frame > side else 0

    left = place(crop.left, crop.width, whole[0], size[0])
    top = place(crop.top, crop.height, whole[1], size[1])
    return Crop(left, top, *size, crop.flip)
