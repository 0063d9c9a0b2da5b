"""Pseudo-labels by a copy of the student that stands still, made anew every so many epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .context import Context
from .ema import frozen_copy
from .networks import SegmentationNetwork
from .pseudo_labels import PseudoLabels, frame_probabilities, label_frames


class Labeller:
    """A frozen copy of a student, and its pseudo-labels of all frames, which lie on disk.

    ``current()`` is to be asked for at every batch: where an epoch of the target frames is over it
    copies the student and labels all frames again. What the labels follow from, the copy's weights
    and a counter, is its state: labels that a resumed run does not find are made again.

    Args:
        student: the network that learns; copied now.
        context: frames and working folder.
        scales: of the images whose predictions are averaged, each with its mirror image.
        epochs: passes over the frames between two copies; 0 never copies again.
        mirror, batch_statistics: see `frame_probabilities`.
    """

    def __init__(
        self,
        student: SegmentationNetwork,
        context: Context,
        scales: Sequence[float],
        epochs: int,
        *,
        mirror: bool = True,
        batch_statistics: bool = False,
    ) -> None:
        self.student, self.context = student, context
        self.scales, self.epochs = tuple(scales), epochs
        self._how = {"mirror": mirror, "batch_statistics": batch_statistics}
        self.network = frozen_copy(student)
        self._seen = torch.zeros((), dtype=torch.int64)  # frames since the last copy
        self._labels: PseudoLabels | None = None

    def current(self) -> PseudoLabels:
        """The labels that hold for the next batch."""
        period = self.epochs * len(self.context.frames)
        if period and int(self._seen) >= period:
            self.network.load_state_dict(self.student.state_dict())
            self._seen.remainder_(period)  # of the epoch that the last batch began
            if self._labels is not None:
                self._labels.remove()
            self._labels = None
        if self._labels is None:
            self._labels = label_frames(self.network, self.context, self.scales, **self._how)
        return self._labels

    def probabilities(self, frame: int) -> Tensor:
        """What the labels of a frame were taken from, (K, H, W)."""
        return frame_probabilities(self.network, self.context, frame, self.scales, **self._how)

    def after_step(self) -> None:
        """Count the frames of the step that is done."""
        self._seen += self.context.config.training.batch_size

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        weights = {f"network.{n}": t for n, t in self.network.state_dict().items()}
        return {"seen": self._seen, **weights}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._seen = tensors["seen"].cpu().clone()
        weights = {n.removeprefix("network."): t for n, t in tensors.items() if n != "seen"}
        self.network.load_state_dict(weights)
        self._labels = None
