"""Sources of Teach's positive pseudo-labels: a copy, a moving average, or a black box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ..data.context import Context
from ..data.dataset import Batch
from ..losses.backends.labels import pixel_argmax
from ..losses.common import IGNORED
from ..networks import SegmentationNetwork
from ..networks.ema import MovingAverage
from ..pseudo_labels.hard_labels import selected
from ..pseudo_labels.labeller import Labeller
from ..pseudo_labels.selection import Selection
from ..pseudo_labels.stored_answers import StoredAnswers
from ..pseudo_labels.thresholds import ConfidenceHistograms, confidence_bins


class TeachLabels(Protocol):
    """A source of labels; the first four are called as those of a `Stage`."""

    def prepare(self) -> None:
        """Label and select over the frames, where that is due."""

    def after_step(self) -> None:
        """Follow the student's new weights."""

    def state(self) -> dict[str, Tensor]:
        """State for a checkpoint."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""

    def of(self, batch: Batch) -> Tensor:
        """Labels of the batch's clean crops, int64 (B, H, W); 255 where there is none."""


class StoredLabels:
    """Labels by a copy that stands still: of each class the most confident (eq. 4).

    Args:
        student: the network that learns.
        context: frames and working folder.
        class_share: K of eq. 4.
        labeller: arguments of `Labeller`.
    """

    def __init__(
        self, student: SegmentationNetwork, context: Context, class_share: float, **labeller: Any
    ) -> None:
        self.labeller = Labeller(student, context, **labeller)
        self.selection = Selection(self.labeller, class_share)
        self.prepare, self.of = self.selection.prepare, self.selection.labels
        self.after_step = self.labeller.after_step
        self.state, self.load_state = self.labeller.state, self.labeller.load_state


class OnlineLabels:
    """Labels by a moving average of the student, for every batch anew, with no threshold.

    Source: ATP's authors' code.
    """

    def __init__(
        self, student: SegmentationNetwork, context: Context, decay: float, *, ramp: bool = False
    ) -> None:
        self._student, self._context = student, context
        self.average = MovingAverage(student, decay, ramp=ramp)
        self.state, self.load_state = self.average.state, self.average.load_state

    def prepare(self) -> None:
        """Nothing is due."""

    @torch.no_grad()
    def of(self, batch: Batch) -> Tensor:
        """The likeliest class of every pixel."""
        logits = self.average.model(self._context.normalise(batch.clean)).logits
        size, align_corners = self._context.crop_size, self._student.align_corners
        return pixel_argmax(logits, size, align_corners=align_corners)

    def after_step(self) -> None:
        """Move the average on."""
        self.average.follow(self._student)


class AnswerLabels:
    """Labels by a black box, in all passes; of soft answers the most confident of each class.

    Args:
        answers: of all frames.
        class_share: K of eq. 4.
    """

    def __init__(self, answers: StoredAnswers, class_share: float) -> None:
        self._answers = answers
        histograms = ConfidenceHistograms(answers.num_classes)
        frames = answers.context.prepared.of(len(answers.context.frames))
        for frame in frames:
            labels, bins = _labels_and_bins(answers.whole(frame)[None])
            histograms.add(labels, bins)
        self.thresholds = histograms.thresholds(class_share)

    def prepare(self) -> None:
        """Nothing is due."""

    def of(self, batch: Batch) -> Tensor:
        """The answered class of every pixel, where it reaches its class's threshold."""
        return selected(*_labels_and_bins(self._answers.crops(batch)), self.thresholds)

    def after_step(self) -> None:
        """The answers stay."""

    def state(self) -> dict[str, Tensor]:
        """None: all follows from the answers."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See `state`."""


def _labels_and_bins(q: Tensor) -> tuple[Tensor, Tensor]:
    """Classes and bins of their confidences, each int64 (B, h, w), of distributions (B, K, h, w).

    255 where all of q is 0.
    """
    confidence, labels = q.max(dim=1)
    return labels.masked_fill(confidence == 0, IGNORED), confidence_bins(confidence)
