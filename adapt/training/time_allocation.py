"""Shares of a time budget for the parts of a run, and estimates of how long each will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..data.context import Context
from ..judging.judge import JUDGED_ON, TO_LOAD_THE_INCUMBENT, passes_of
from ..judging.watch import FRAMES
from ..methods import DEFAULT
from ..run.config import read_toml

# Shares of the time that is left, at most.
DECODING = 0.25
TONE = 0.15
WARM_START, WARM_START_OF_PATIENCE = 0.15, 0.4
PREPARATION = 0.5  # of a stage's own time; its steps have the rest
PRECISIONS = 0.1
STATISTICS = 0.5  # of the end; judging has the rest

# Seconds from a run's start to its last step, where nobody said how many there should be: on two
# cores and with the larger networks for embedded use, a run with the gate then ends in ten minutes.
PATIENCE_S = 420.0

LEAST_STEPS = 30  # fewer, of more that were asked for, leave the start as it is
LEAST_PREPARED = 4  # frames; a stage that is prepared for fewer has nothing to learn from

# As often as one file of the network's weights takes.
TO_PUBLISH = 2  # the bundle's is made, hashed, written and flushed
AFTER_THE_LAST_STEP = 1  # the stage's

PASSES_A_STEP = 6  # forward passes that a frame's share of a step takes about as long as


def default_patience_s(
    method: str, device: torch.device, file: Path | None, assignments: Sequence[str]
) -> float | None:
    """`PATIENCE_S` for the default recipe on a CPU with its own number of steps; else None.

    Args:
        file, assignments: the settings; one that says how many steps there are is obeyed.
    """
    given = [entry.partition("=")[0].strip() for entry in assignments]
    in_file = {} if file is None else read_toml(file).get("training", {})
    said = bool({"training", "training.steps"} & set(given)) or "steps" in in_file
    return patience_s(method, device, said)


def patience_s(method: str, device: torch.device, own_steps: bool) -> float | None:
    """`PATIENCE_S` for the default recipe on a CPU, unless a user said how many steps."""
    return None if own_steps or method != DEFAULT or device.type != "cpu" else PATIENCE_S


def seconds_of_end(context: Context, statistics: bool) -> float:
    """Seconds that a run's end takes: the last look, final statistics, judging, publishing.

    By the forward pass and the file of weights that its deadline has timed.

    Args:
        statistics: whether batch norm is re-estimated.
    """
    deadline = context.work.deadline
    passes = len(context.frames) if statistics else 0
    files = AFTER_THE_LAST_STEP + TO_PUBLISH
    if context.held is not None:
        passes += FRAMES + passes_of(min(JUDGED_ON, len(context.held)))
        files += TO_LOAD_THE_INCUMBENT
    return deadline.forward_s * passes + deadline.weights_s * files


def seconds_of_publishing(context: Context) -> float:
    """Seconds that the writing of the result takes, of `seconds_of_end`."""
    return TO_PUBLISH * context.work.deadline.weights_s


def seconds_of_step(forward_s: float, context: Context) -> float:
    """Seconds that a step will take, estimated before one was taken."""
    return forward_s * PASSES_A_STEP * context.config.training.batch_size
