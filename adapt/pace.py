"""What a time budget gives to each part of a run, and how long the next one will take."""

from __future__ import annotations

import torch

from .context import Context
from .dataset import stacked
from .judging.judge import JUDGED_ON
from .judging.views import evaluating
from .judging.watch import FRAMES
from .networks import SegmentationNetwork

# Shares of the time that is left, at most.
DECODING = 0.25
TONE = 0.15
WARM_START = 0.15
PREPARATION = 0.5  # of a stage's own time; its steps have the rest
PRECISIONS = 0.1
STATISTICS = 0.5  # of the end; judging has the rest

LEAST_PREPARED = 4  # frames; a stage that is prepared for fewer has nothing to learn from

PASSES_A_STEP = 6  # forward passes that a frame's share of a step takes about as long as
PASSES_TO_JUDGE = 8  # of a frame: three views of two models, and the second opinion


@torch.no_grad()
def forward_seconds(model: SegmentationNetwork, context: Context) -> float:
    """How long the network takes for a whole frame, the shorter of two tries, in seconds."""
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
    return min(took)


def seconds_of_end(forward_s: float, context: Context, statistics: bool) -> float:
    """How long a run's end takes: the last look, final statistics, judging.

    Args:
        forward_s: see `forward_seconds`.
        statistics: whether batch norm is re-estimated.
    """
    passes = len(context.frames) if statistics else 0
    if context.held is not None:
        passes += FRAMES + PASSES_TO_JUDGE * min(JUDGED_ON, len(context.held))
    return forward_s * passes


def seconds_of_step(forward_s: float, context: Context) -> float:
    """How long a step will take, before one was taken."""
    return forward_s * PASSES_A_STEP * context.config.training.batch_size
