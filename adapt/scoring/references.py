"""The incumbent with other statistics of batch norm: what a candidate is held against.

An incumbent's own statistics are of another world; those of a few frames of one street are a poor
estimate of all but its light; a mixture is better than either on most roads. And a candidate that
was made from the incumbent has statistics of its own: the incumbent that wears them differs from it
by what was learnt alone, however far the road is from what the incumbent knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..networks import SegmentationNetwork
from ..networks.mixed_statistics import (
    Statistics,
    mix_statistics,
    running_statistics,
    target_statistics,
)
from ..networks.modes import evaluating
from ..networks.normalisation import carries_statistics
from ..run.events import QUIET, Events
from .statistics_share import PASSES, score, weighted_mean

SHARES = (0.0, 0.35, 0.7, 1.0)  # that the opinion's is looked for among
FRAMES = 4  # that it is found on, evenly spaced: scores of few frames are much alike
# A smaller share is hardly a second opinion: it says what the incumbent says.
LEAST_SHARE = 0.35
HALF = 0.5  # the share where the time is over before one was found
OWN, MIXED, WORN = "own", "mixed", "worn"


class References:
    """A network whose statistics are others while it is asked, and its own at all other times.

    Where batch norm does not carry the network, see `carries_statistics`, there are no others.

    Args:
        incumbent: left as it was.
        candidate: whose statistics it wears, where their layers are alike.

    Attributes:
        share: of the frames' statistics in the mixture; None where there is none.
    """

    def __init__(self, incumbent: SegmentationNetwork, candidate: SegmentationNetwork) -> None:
        self._network = incumbent
        carries = carries_statistics(incumbent)
        self._own: Statistics = running_statistics(incumbent) if carries else {}
        self._target: Statistics = {}
        self._worn = _transferred(self._own, running_statistics(candidate)) if carries else {}
        self.share: float | None = None

    @property
    def names(self) -> list[str]:
        """Names of the references besides the incumbent's own answer: of `MIXED` and `WORN`."""
        return [MIXED] * (self.share is not None) + [WORN] * bool(self._worn)

    def look(
        self,
        batches: Iterator[Tensor],
        few: Sequence[Tensor],
        events: Events = QUIET,
        due: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the statistics of the frames, and find the share that suits.

        Args:
            batches: all frames as network inputs, each (B, 3, H, W).
            few: some of them, each (1, 3, H, W), that the share is found on.
            events: asked before each share is tried whether to stop.
            due: whether the time is over.

        Raises:
            RunInterrupted: a signal came.
        """
        if self._own:
            self._target = target_statistics(self._network, batches)
        if self._target:
            self.share = self._found(few, events, due)

    @contextmanager
    def wearing(self, name: str) -> Iterator[None]:
        """The network as the reference of that name, and with its own statistics afterwards."""
        target, share = (self._worn, 1.0) if name == WORN else (self._target, self.share or 0.0)
        with self._with(target, share):
            yield

    def _found(self, few: Sequence[Tensor], events: Events, due: Callable[[], bool]) -> float:
        scores = []
        for share in SHARES:
            events.stop_if_requested()
            if due():
                return HALF
            with self._with(self._target, share), evaluating(self._network), torch.no_grad():
                scores.append(score(self._network, few))
        return max(LEAST_SHARE, weighted_mean(SHARES, scores))

    @contextmanager
    def _with(self, target: Statistics, share: float) -> Iterator[None]:
        mix_statistics(self._own, target, share)
        try:
            yield
        finally:
            mix_statistics(self._own, target, 0.0)


def _transferred(own: Statistics, others: Statistics) -> Statistics:
    """The ``others`` for the layers of ``own``, in their order; empty where they do not fit."""
    if len(own) != len(others):
        return {}
    pairs = list(zip(own.items(), others.values(), strict=True))
    if any(mine.mean.shape != theirs.mean.shape for (_, mine), theirs in pairs):
        return {}
    return {layer: theirs for (layer, _), theirs in pairs}


def passes_of_share(frames: int) -> int:
    """Passes of one frame that it takes to find the share, given so many frames."""
    return PASSES * len(SHARES) * min(FRAMES, frames)
