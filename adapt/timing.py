"""Time that a network takes for a frame, from which it is foreseen what fits a run's time."""

from __future__ import annotations

import torch

from .context import Context
from .dataset import stacked
from .judging.views import evaluating
from .networks import SegmentationNetwork

LONG = 0.01  # of the time that is left: a pass that takes longer is timed once


@torch.no_grad()
def forward_seconds(model: SegmentationNetwork, context: Context) -> float:
    """Seconds that the network takes for a whole frame.

    The shorter of two tries; one alone where it took long, for the first is slow by little then.
    """
    deadline = context.work.deadline
    images = context.normalise(stacked(context.frames, [0]).to(context.device))
    took = []
    with evaluating(model):
        for _ in range(2):
            started = deadline.elapsed_s
            model.forward(images)
            if context.device.type == "cuda":
                torch.cuda.synchronize(context.device)
            took.append(deadline.elapsed_s - started)
            if took[-1] > LONG * deadline.left_s:
                break
    return min(took)
