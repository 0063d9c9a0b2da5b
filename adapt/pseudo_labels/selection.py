"""Selection of those of a labeller's pseudo-labels that deserve trust."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Batch
from ..losses.common import IGNORED
from .hard_labels import PseudoLabels, passes_of, selected
from .labeller import Labeller
from .thresholds import BINS, ConfidenceHistograms, ThresholdOf, confidence_bins


class Selection:
    """Pseudo-labels of all frames, of which only those that deserve trust are given out.

        delta_c <- the confidence that the top ``class_share`` of the pixels predicted c reach, over
                   all frames
        y_v     <- the predicted class c if p_c >= delta_c            (threshold_of="predicted")
                                      or if p_k >= delta_k for any k  (threshold_of="any_class")
                   and also              if p_c is in the top ``image_share`` of its frame

    A top share holds at least one pixel, a class that was never predicted has no delta, and all
    confidences are compared by their `confidence_bins`. Thresholds follow the labeller's labels.

    Source: LD (arXiv:2110.06484), eq. 2; ``any_class`` and ``image_share``, its authors' code.
    """

    def __init__(
        self,
        labeller: Labeller,
        class_share: float,
        image_share: float = 0.0,
        threshold_of: ThresholdOf = "predicted",
    ) -> None:
        self.labeller, self.threshold_of = labeller, threshold_of
        self.class_share, self.image_share = min(class_share, 1.0), min(image_share, 1.0)
        self._stored: PseudoLabels | None = None

    def prepare(self) -> None:
        """Label and select, where that is due; `labels` does it too."""
        twice = self.threshold_of == "any_class"  # a second look takes as long as the first
        with self.labeller.context.work.deadline.part(0.5 if twice else 1.0):
            stored = self.labeller.current()
        if stored is not self._stored:
            self._find_thresholds(stored)
            self._stored = stored

    def labels(self, batch: Batch) -> Tensor:
        """y of the batch's crops, int64 (B, H, W); 255 where none is selected."""
        self.prepare()
        stored, context = self.labeller.current(), self.labeller.context
        predicted, bins = stored.crops(batch, context)
        if self.threshold_of == "any_class":
            labels, _ = self._passed.crops(batch, context)
        else:
            labels = selected(predicted, bins, self.thresholds)
        if self.image_share:
            needed = self.image_thresholds[list(batch.frames)].to(bins.device)[:, None, None]
            labels = torch.where(bins >= needed, predicted, labels)
        return labels

    def _find_thresholds(self, stored: PseudoLabels) -> None:
        num_classes = self.labeller.network.num_classes
        everything = ConfidenceHistograms(num_classes)
        context = self.labeller.context
        frames = context.prepared.of(len(context.frames))
        of_images = [torch.tensor(BINS)] * len(context.frames)
        for frame in frames:
            histograms = stored.histograms(num_classes, [frame])
            everything.counts += histograms.counts
            of_images[frame] = histograms.threshold_of_all(self.image_share)
        self.thresholds = everything.thresholds(self.class_share)
        self.image_thresholds = torch.stack(of_images)
        if self.threshold_of == "any_class":
            self._passed = self._passed_by_any_class(stored)

    def _passed_by_any_class(self, stored: PseudoLabels) -> PseudoLabels:
        """The labels that pass, 255 elsewhere: a second look at the frames, as it takes all p_k.

        They lie inside the folder of the labels, and are removed with them.
        """
        context, inside = self.labeller.context, stored.path(0).parent
        passed = PseudoLabels(inside / f"any_class-{self.class_share}")
        needed = self.thresholds.to(context.device)[:, None, None]

        def look_again(frame: int) -> None:
            p = self.labeller.probabilities(frame)
            bins = confidence_bins(p)
            passes = (bins >= needed).any(dim=0)
            labels = p.max(dim=0).indices.where(passes, IGNORED).to(torch.uint8)
            highest = bins.amax(dim=0).cpu().numpy().astype(np.uint16)
            passed.write(frame, labels.cpu().numpy(), highest)

        passes = passes_of(self.labeller.scales, mirror=True)
        context.prepare(
            "selecting labels", lambda i: passed.read(i) is not None, look_again, passes
        )
        return passed
