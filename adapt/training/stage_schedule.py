"""The steps of a run, shared by its stages, and checks that something was prepared and learnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ...runtime.errors import ConfigError, TrainingError, arg
from ...runtime.words import counted
from ..methods.base import Stage
from ..run.checkpoint import RunState
from ..run.precision import Precision, PrecisionName
from .time_allocation import LEAST_PREPARED


def end_of_stage(state: RunState, stages: Sequence[Stage]) -> int:
    """Steps of the run when the stage at work ends: the stages left divide the steps left."""
    left = state.planned_steps - state.stage_start
    shares = [stage.share for stage in stages[state.stage :]]
    return state.stage_start + int(left * shares[0] // sum(shares))


def steps_of_those_left(planned: int, before: Sequence[Stage], left: Sequence[Stage]) -> int:
    """Steps of the stages ``left`` of those ``before``, which shared ``planned`` steps."""
    if len(left) == len(before):
        return planned
    share = sum(stage.share for stage in left)
    return planned * share // sum(stage.share for stage in before)


def leave_steps_out(
    state: RunState, before: Sequence[Stage], left: Sequence[Stage], note: Callable[[str], None]
) -> RunState:
    """``state`` of a run whose stages ``before`` are now those ``left``: the others' steps go."""
    left_out = [stage.name for stage in before if stage not in left]
    planned = state.planned_steps
    if not (left_out and planned):
        return state
    steps = steps_of_those_left(planned, before, left)
    note(
        f"{', '.join(left_out)} is left out, for batch norm's statistics stand still, and so "
        f"are its steps: {steps} of {planned} are taken"
    )
    return replace(state, planned_steps=steps)


def enough_prepared(
    stage: str, prepared: int, count: int, time: str, note: Callable[[str], None]
) -> bool:
    """Tell whether a stage learns from the frames that time has prepared it for, and say so.

    Args:
        stage: its name.
        prepared, count: frames, and those of the run.
        time: what bounds it, see `Deadline.name`.
    """
    if prepared < min(LEAST_PREPARED, count):
        note(
            f"{stage} is left out: in its part of {time} {prepared} of "
            f"{counted(count, 'frame')} were prepared"
        )
        return False
    if prepared < count:
        note(
            f"{stage} learns from {prepared} of {counted(count, 'frame')}, evenly spread: for more "
            f"{time} leaves no time to prepare"
        )
    return True


def resumed_precision(name: PrecisionName, device: torch.device, folder: Path) -> Precision:
    """The precision that the run in ``folder`` learns in, on this machine.

    Raises:
        TrainingError: this machine has none of it.
    """
    try:
        return Precision(name, device)
    except ConfigError as error:
        raise TrainingError(
            f"{folder}: this run learns in {name}, as was measured on a GPU; continue it on one, "
            f"or start anew with {arg('overwrite', True)}."
        ) from error


def check_learned(state: RunState) -> None:
    """Refuse a result of steps that were all thrown away, however few.

    Raises:
        TrainingError: nothing was learned.
    """
    done = state.done
    if done and state.skipped_steps == done:
        which = "the only step was" if done == 1 else f"all {done} steps were"
        raise TrainingError(
            f"{which} thrown away, for losses or gradients were not finite, so nothing was "
            "learned and nothing is published; lower training.lr, set training.amp=off, or look "
            "at the frames."
        )
