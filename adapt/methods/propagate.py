"""Propagate, the third stage of ATP and DAS3 (arXiv:2106.11653): from easy frames to hard ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...runtime.errors import NetworkError
from ..data.context import Context
from ..data.dataset import Batch, stacked
from ..data.streams import Streams
from ..losses.atp import regional_contrast, teach_terms
from ..losses.backends.labels import pixel_argmax
from ..losses.backends.spec import Map
from ..losses.baselines import entropy_terms, pseudo_label_terms
from ..losses.common import IGNORED, upsample
from ..networks import Output, SegmentationNetwork
from ..networks.batch_norm import fold_batch_norm
from ..networks.ema import MovingAverage, frozen_copy
from ..networks.modes import evaluating
from ..pseudo_labels.hard_labels import PseudoLabels, label_frames, label_identity, selected
from ..run.checksums import read_or_redo, write_json_with_checksum
from .base import ParameterGroup, Stage, prefixed, under
from .propagate_targets import EasyFrames, HardFrames, HardTarget

if TYPE_CHECKING:
    from .atp_config import AtpConfig

REPRESENTATION = 256  # channels of ReCo's projection
ENTROPIES = 0.3  # of the time to prepare the stage, at most


class PropagateStage(Stage):
    """From the frames that the model finds easy to those that it finds hard.

    easy, hard <- the easy_ratio of the frames of lowest mean entropy under f, and the rest
    y          <- argmax f on the easy frames, whole and clean
    for each batch of easy frames x, and one of hard frames:
        M'     <- f, without gradient                                (propagate_teacher="current")
        y_mix  <- argmax M' on the hard frames, mixed as the frames are     (target="frames", ATP)
                  or argmax f on the mixed frames                           (target="mixed", DAS3)
        f      <- f - lr d/df [ CE(f(x), y) + CE(f(mix of two noisy hard frames), y_mix) ]
    """

    name = "propagate"

    def __init__(self, settings: AtpConfig) -> None:
        self.settings = settings
        self.mixes = settings.mix != "none"

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        super().begin(model, context)
        settings = self.settings
        start = fold_batch_norm(frozen_copy(model))
        self.teacher: SegmentationNetwork | None = None  # the student itself
        self.average: MovingAverage[SegmentationNetwork] | None = None
        if settings.propagate_teacher == "ema":
            decay, ramp = settings.teacher_decay, settings.teacher_ramp
            self.average = MovingAverage(model, decay, ramp=ramp)
            self.teacher = self.average.model
        elif settings.propagate_teacher == "frozen":
            self.teacher = start
        self.projection: nn.Sequential | None = None
        if settings.weight_reco:
            self.projection = self._new_projection(start)
        with context.work.deadline.part(ENTROPIES):
            entropies = self._entropies(start)
        self.labels: PseudoLabels | None = None
        if settings.easy_labels_from == "start":
            self.labels = label_frames(start, context, settings.scales, mirror=settings.mirror)
        self.easy = self._easy_frames(entropies)
        if len(self.easy) == len(context.prepared.of(len(context.frames))):
            context.note("propagate: every frame counts as easy, so no hard one is learned from")
        if self.labels is not None:
            histograms = self.labels.histograms(model.num_classes, sorted(self.easy))
            self.thresholds = histograms.thresholds(settings.easy_labels)
        self.stream_count = len(self.streams(context.prepared.of(len(context.frames))).frames)
        self.hard_frames = HardFrames(
            settings,
            self._says,
            self._student_says,
            context.crop_size,
            align_corners=model.align_corners,
        )

    def streams(self, frames: Sequence[int]) -> Streams:
        easy = [frame for frame in frames if frame in self.easy]
        hard = [frame for frame in frames if frame not in self.easy]
        if self.settings.streams == "one" or not (easy and hard):
            return Streams((frames,))
        # The hard ones first: M' speaks before the student's statistics move.
        return Streams((hard, easy), in_turn=self.settings.mix == "easy_onto_hard")

    @torch.no_grad()
    def _entropies(self, teacher: SegmentationNetwork) -> dict[int, float]:
        """Mean entropy of each frame under ``teacher``, nats; kept in the work folder."""
        context = self.context
        path = context.workspace.of_teacher(
            "entropies", label_identity(teacher, context.frames, []), ".json"
        )
        known = {int(frame): value for frame, value in read_or_redo(path, context.note).items()}
        size = (context.frames.height, context.frames.width)

        def measure(frame: int) -> None:
            clean = context.normalise(stacked(context.frames, [frame]).to(context.device))
            entropy = entropy_terms(
                teacher(clean).logits,
                size,
                align_corners=teacher.align_corners,
                kernel=context.losses,
            )
            known[frame] = float(entropy["entropy"])

        context.prepare("finding easy frames", known.__contains__, measure)
        finite = {str(frame): value for frame, value in known.items() if math.isfinite(value)}
        write_json_with_checksum(path, finite)
        return known

    def _easy_frames(self, entropies: Mapping[int, float]) -> set[int]:
        """Numbers of the frames of lowest mean entropy, at least one (eq. 9)."""
        frames = self.context.prepared.of(len(self.context.frames))
        count = max(1, math.floor(self.settings.easy_ratio * len(frames)))
        return set(sorted(frames, key=entropies.__getitem__)[:count])

    def _new_projection(self, network: SegmentationNetwork) -> nn.Sequential:
        """ReCo's head on the features; it serves this stage alone."""
        device = self.context.device
        size = (1, *self.context.crop_size, 3)  # one that the network takes
        probe = self.context.normalise(torch.zeros(size, dtype=torch.uint8, device=device))
        channels = _features(network(probe).features).shape[1]
        head = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, REPRESENTATION, 1)
        )
        return head.to(device)

    def parameter_groups(self, model: SegmentationNetwork, factor: float) -> list[ParameterGroup]:
        groups = super().parameter_groups(model, factor)
        if self.projection is not None:
            groups.append(ParameterGroup("projection", list(self.projection.parameters()), factor))
        return groups

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        settings, size = self.settings, self.context.crop_size
        is_easy = torch.tensor([f in self.easy for f in batch.frames], device=batch.clean.device)
        easy = self._easy_labels(batch, is_easy)
        images, target = self._student_images(batch, is_easy, easy)
        output = self.model(self.context.normalise(images))
        how: dict[str, Any] = {
            "align_corners": self.model.align_corners,
            "kernel": self.context.losses,
        }
        of_easy, of_hard = self._shares(is_easy)
        terms: dict[str, Tensor] = {}
        if settings.weight_easy:
            weight = settings.weight_easy * of_easy
            terms["easy"] = pseudo_label_terms(
                output.logits, easy, size, pseudo_label=weight, **how
            )["pseudo_label"]
        if settings.weight_hard:
            loss = 0.0 * output.logits.sum()
            if target is not None:
                hard = output.logits[~is_easy]
                loss = target.loss(hard, settings.consistency, size, **how)
            terms["hard"] = settings.weight_hard * of_hard * loss
        if settings.propagate_negative:  # the mean over easy frames, and that over hard ones
            terms["negative"] = teach_terms(
                output.logits,
                easy,
                size,
                positive=0.0,
                negative=settings.propagate_negative * self.stream_count,
                negative_below=settings.negative_below,
                negative_jointly=settings.negative_jointly,
                **how,
            )["negative"]
        if self.projection is not None:
            labels = easy.clone()
            if target is not None:
                labels[~is_easy] = target.labels
            terms["contrast"] = self._contrast(output, labels)
        return terms

    def _contrast(self, output: Output, labels: Tensor) -> Tensor:
        """ReCo's term, of the features and the labels of all pixels."""
        assert self.projection is not None
        representation = self.projection(_features(output.features))
        grid = representation.shape[2:]
        nearest = nn.functional.interpolate(labels[:, None].float(), grid, mode="nearest")
        sure = upsample(output.logits.detach(), grid, self.model.align_corners).softmax(dim=1)
        return self.settings.weight_reco * regional_contrast(
            representation, nearest[:, 0].long(), sure.max(dim=1).values
        )

    def _shares(self, is_easy: Tensor) -> tuple[float, float]:
        """Factors that make the mean over forward passes of each term that over its own stream.

        A step's gradient is the mean over rows of both streams; a term is one over the rows of its
        own, of which a pass holds more or fewer. With one stream it stays that over all rows.
        """
        easy, rows = int(is_easy.sum()), len(is_easy)
        if self.settings.streams == "one":
            return 1.0, 1.0
        return self.stream_count * easy / rows, self.stream_count * (rows - easy) / rows

    @torch.no_grad()
    def _easy_labels(self, batch: Batch, is_easy: Tensor) -> Tensor:
        """Labels of the easy rows, int64 (B, H, W); 255 for the others."""
        if self.labels is not None:
            labels = selected(*self.labels.crops(batch, self.context), self.thresholds)
            return labels.masked_fill(~is_easy[:, None, None], IGNORED)
        size = self.context.crop_size
        labels = torch.full((len(is_easy), *size), IGNORED, device=is_easy.device)
        if is_easy.any():
            said = self._says(batch.clean[is_easy])
            labels[is_easy] = pixel_argmax(said, size, align_corners=self.model.align_corners)
        return labels

    @torch.no_grad()
    def _student_images(
        self, batch: Batch, is_easy: Tensor, easy: Tensor
    ) -> tuple[Tensor, HardTarget | None]:
        """The student's images, hard frames mixed, and what is true of these; None without any.

        Returns:
            uint8 (B, H, W, 3); and the target of the hard frames.
        """
        images = batch.augmented.clone()
        if self.settings.augment_frames == "hard":
            images[is_easy] = batch.clean[is_easy]
        if is_easy.all():
            return images, None
        images[~is_easy], target = self.hard_frames.mixed(
            batch.clean[~is_easy],
            batch.augmented[~is_easy],
            EasyFrames(images[is_easy], easy[is_easy]),
        )
        return images, target

    @torch.no_grad()
    def _says(self, images: Tensor) -> Map:
        """Logits of M' for uint8 images."""
        if self.teacher is None:
            return self._student_says(images)
        return Map(self.teacher(self.context.normalise(images)).logits)

    @torch.no_grad()
    def _student_says(self, images: Tensor) -> Map:
        with evaluating(self.model):  # its statistics are the student's own business
            return Map(self.model(self.context.normalise(images)).logits)

    def after_step(self) -> None:
        if self.average is not None:
            self.average.follow(self.model)

    def state(self) -> dict[str, Tensor]:
        tensors = {} if self.projection is None else dict(self.projection.state_dict())
        if self.average is not None:
            tensors |= prefixed("teacher", self.average.state())
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        if self.average is not None:
            self.average.load_state(under("teacher", tensors))
        if self.projection is not None:
            of_projection = {n: t for n, t in tensors.items() if not n.startswith("teacher.")}
            self.projection.load_state_dict(of_projection)


def _features(features: Tensor | None) -> Tensor:
    if features is None:
        raise NetworkError(
            "Regional contrast needs features, and the network returns none: return (logits, "
            "features), or set weight_reco to 0."
        )
    return features
