"""Pseudo-labels by a copy of the student that stands still, made anew every so many epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..data.context import Context
from ..networks import SegmentationNetwork
from ..networks.ema import frozen_copy
from .hard_labels import PseudoLabels, frame_probabilities, label_frames, usable_scales

MOST_OF_THE_REST = 0.5  # of the time that is left, which labelling anew may take


class Labeller:
    """A frozen copy of a student, and its pseudo-labels of all frames, which lie on disk.

    ``current()`` is to be asked for at every batch: where an epoch of the target frames is over it
    copies the student and labels all frames again, unless a time budget leaves too little for that.
    What the labels follow from, the copy's weights and a counter, is its state: labels that a
    resumed run does not find are made again.

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
        self._how = {"mirror": mirror, "batch_statistics": batch_statistics}
        self.network = frozen_copy(student)
        self.scales, self.epochs = tuple(scales), epochs
        self._seen = torch.zeros((), dtype=torch.int64)  # frames since the last copy
        self._labels: PseudoLabels | None = None
        self._taken: tuple[float, ...] = ()  # of the scales, once `probabilities` was asked for
        self._took_s = 0.0  # to label all frames, the last time

    def current(self) -> PseudoLabels:
        """The labels that hold for the next batch."""
        period = self.epochs * len(self.context.prepared.of(len(self.context.frames)))
        if period and int(self._seen) >= period:
            self._seen.remainder_(period)  # of the epoch that the last batch began
            if self._has_time():
                self.network.load_state_dict(self.student.state_dict())
                if self._labels is not None:
                    self._labels.remove()
                self._labels = None
        if self._labels is None:
            deadline = self.context.work.deadline
            started = deadline.elapsed_s
            self._labels = label_frames(self.network, self.context, self.scales, **self._how)
            self._took_s = max(self._took_s, deadline.elapsed_s - started)
        return self._labels

    def _has_time(self) -> bool:
        """Tell whether half of what is left is enough to label all frames once more."""
        left_s = self.context.work.deadline.left_s
        if self._took_s <= MOST_OF_THE_REST * left_s:
            return True
        self.context.note(
            f"the frames keep their labels: labelling takes {self._took_s:.0f} s, and "
            f"{left_s:.0f} s are left to adapt"
        )
        return False

    def probabilities(self, frame: int) -> Tensor:
        """Class probabilities that the labels of a frame were taken from, (K, H, W)."""
        if not self._taken:
            self._taken = usable_scales(self.network, self.context, self.scales)
        return frame_probabilities(self.network, self.context, frame, self._taken, **self._how)

    def after_step(self) -> None:
        """Count the frames of the step that is done."""
        self._seen += self.context.config.training.batch_size

    def state(self) -> dict[str, Tensor]:
        """State for a checkpoint."""
        weights = {f"network.{n}": t for n, t in self.network.state_dict().items()}
        took = {"took_s": torch.tensor(self._took_s)} if self.context.work.deadline.bounded else {}
        return {"seen": self._seen, **took, **weights}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._seen = tensors["seen"].cpu().clone()
        if "took_s" in tensors:
            self._took_s = float(tensors["took_s"])
        named = {n.partition(".")[::2]: t for n, t in tensors.items()}
        self.network.load_state_dict({n: t for (kind, n), t in named.items() if kind == "network"})
        self._labels = None
