"""Time that a network takes for a frame, from which it is foreseen what fits a run's time."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..data.context import Context
from ..data.dataset import stacked
from ..networks import SegmentationNetwork
from ..networks.modes import evaluating
from ..run.budget import Deadline

LONG = 1 / 3  # of the time that is left: what takes longer is timed once


@torch.no_grad()
def forward_seconds(model: SegmentationNetwork, context: Context) -> float:
    """Seconds that the network takes for a whole frame, see `seconds_once_warm`."""
    images = context.normalise(stacked(context.frames, [0]).to(context.device))

    def forward() -> None:
        model.forward(images)
        if context.device.type == "cuda":
            torch.cuda.synchronize(context.device)

    with evaluating(model):
        return seconds_once_warm(forward, context.work.deadline)


def seconds_once_warm(act: Callable[[], object], deadline: Deadline) -> float:
    """Seconds that ``act`` takes once what it loads, compiles and allocates at first is there.

    The shorter of two tries: the first may take ten times as long where nothing is cached. One
    alone where it took so long that another would cost more than it could tell.
    """
    took: list[float] = []
    for _ in range(2):
        started = deadline.elapsed_s
        act()
        took.append(deadline.elapsed_s - started)
        if took[-1] > LONG * deadline.left_s:
            break
    return min(took)
