"""Batch norm's statistics in the course of a run: at its start, while it learns, and at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from ...runtime.words import counted
from ..data.context import Context
from ..networks import SegmentationNetwork
from ..networks.batch_norm import batch_norm_layers
from ..networks.mixed_statistics import (
    Statistics,
    mix_statistics,
    reestimate_batch_norm,
    running_statistics,
    target_statistics,
)
from ..networks.normalisation import KEEPS_NONE, why_no_statistics
from ..scoring.statistics_share import StatisticsShare, find_share

STATISTICS = 0.5  # of the warm start's time; finding the share has the rest


class BatchNormStatistics:
    """The statistics of one run's network.

    With ``warm_start = "mixed"`` the share of the target's is found on the frames, unless
    ``statistics_share`` gives it. Where it is less than all, batch norm stands still while the run
    learns: it would drift to the target's own. Where it is all, every batch is normalised with its
    own, as the methods' authors have it, and with ``final_bn`` they are re-estimated on clean
    frames at the end. ``warm_start = "source"`` keeps the source's; without ``final_bn`` the run is
    left to the method, as published.

    Args:
        model: as the source left it, also where a run is resumed.
        context: of the run.
    """

    def __init__(self, model: SegmentationNetwork, context: Context) -> None:
        self.model, self.context = model, context
        self._source = running_statistics(model)
        self._too_few = why_no_statistics(model)
        self.share: StatisticsShare | None = None  # of the target's; None: nothing was re-estimated

    @property
    def why(self) -> str:
        """The reason why the share is what it is, or why there is none."""
        if self.share is not None:
            return self.share.why
        if not self.moves:
            return KEEPS_NONE
        if self.context.config.warm_start == "source":
            return "as the settings say"
        return "no frame was passed through the network in time"

    @property
    def moves(self) -> bool:
        """Tell whether the network keeps running statistics."""
        return bool(self._source)

    @property
    def carries(self) -> bool:
        """Tell whether they carry the network, see `carries_statistics`."""
        return not self._too_few

    @property
    def frozen(self) -> bool:
        """Tell whether the statistics stand still while the run learns."""
        asked = self.context.config.freeze_bn
        if asked is not None:
            return asked
        return self.share is not None and self.share.value < 1

    @property
    def at_the_end(self) -> bool:
        """Tell whether the statistics are re-estimated after the last step."""
        return self.context.config.final_bn and self.moves and not self.frozen

    def warm_start(self) -> None:
        """Mix the statistics of the frames into the model's, and say so."""
        context, config = self.context, self.context.config
        if config.warm_start == "source":
            kept = config.final_bn and self.moves
            self.share = StatisticsShare(0.0, "as the settings say") if kept else None
            return
        if not self.moves:
            context.note(f"no warm start: {KEEPS_NONE}")
            return
        if config.warm_start == "mixed" and config.statistics_share == 0:
            self.share = StatisticsShare(0.0, "as the settings say")
            return
        context.note(
            f"warm start: batch-norm statistics over {counted(len(context.frames), 'frame')}"
            + (f"; {self._too_few}" if self._too_few else "")
        )
        with context.work.deadline.part(STATISTICS):
            counts = list[int]()
            batches = _counted(context.whole_frames("warm start"), counts)
            target = target_statistics(self.model, batches, context.note)
        if not target:
            return
        self.share = self._chosen_share(target, sum(counts))
        if self.share.value < 1:
            context.note(
                f"warm start: {self.share.value:g} of the frames' statistics, the rest the source "
                f"model's ({self.share.why})"
            )
        mix_statistics(self._source, target, self.share.value)

    def _chosen_share(self, target: Statistics, frames: int) -> StatisticsShare:
        config = self.context.config
        if config.warm_start == "target":
            return StatisticsShare(1.0, "as the settings say")
        if config.statistics_share is not None:
            return StatisticsShare(config.statistics_share, "as the settings say")
        return find_share(self.model, self._source, target, self.context, frames)

    def freeze(self) -> None:
        """Let batch norm use its running statistics in training mode, and leave them as they are.

        To be called after a stage has begun, which sets the model's mode.
        """
        if self.frozen:
            for layer in batch_norm_layers(self.model):
                layer.eval()

    def finish(self) -> int:
        """Re-estimate the statistics on clean frames with the share of the start; gives a count."""
        self.context.note("re-estimating batch-norm statistics on clean frames")
        return reestimate_batch_norm(
            self.model,
            self.context.whole_frames("final batch-norm statistics"),
            1.0 if self.share is None else self.share.value,
            self.context.note,
            self._source,
        )


def _counted(batches: Iterable[Tensor], counts: list[int]) -> Iterator[Tensor]:
    """The batches, with the frames of each appended to ``counts``."""
    for images in batches:
        counts.append(len(images))
        yield images
