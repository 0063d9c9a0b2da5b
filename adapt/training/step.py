"""One optimiser step of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ...runtime.errors import TrainingError
from ...runtime.words import counted
from ..data.dataset import Batch
from ..judging.watch import Watch
from ..run.checkpoint import RunState
from ..run.config import TrainingConfig
from ..run.precision import Precision
from .forward_backward import Passes, is_finite
from .optimisation import learning_rate_factor


def take_step(
    passes: Passes,
    batch: Batch,
    state: RunState,
    training: TrainingConfig,
    precision: Precision,
    watch: Watch,
    note: Callable[[str], None],
) -> tuple[dict[str, float], RunState]:
    """A step on ``batch``; thrown away, with everything put back, if something is not finite.

    Args:
        state: the run's before the step.
        watch: is told the norm of the gradient.
        note: called with a sentence where the step is thrown away.

    Returns:
        The losses by name, and the state with the bad steps counted; `RunState.done` stays.

    Raises:
        TrainingError: too many steps in a row were thrown away.
    """
    optimizer = passes.optimizer
    since = state.stage_start if training.schedule_restarts else 0
    factor = learning_rate_factor(state.done - since, state.planned_steps, training)
    for group in optimizer.param_groups:
        group["lr"] = training.lr * group["factor"] * factor
    with passes.undo_forward() as undo:
        losses, finite = passes.backward(batch, state.done, state.micro_batch, precision)
        norm = precision.unscale_and_clip(optimizer, passes.parameters, training.max_grad_norm)
        if finite and bool(torch.isfinite(norm)):
            watch.add_norm(state.done + 1, float(norm))
            precision.step(optimizer)
            passes.look_again(batch, state.micro_batch, precision)
            passes.stage.after_step()
            state = replace(state, bad_streak=0)
        else:
            undo()
            precision.skip()
            streak, skipped = state.bad_streak + 1, state.skipped_steps + 1
            state = replace(state, bad_streak=streak, skipped_steps=skipped)
            what = _bad(losses)
            note(f"step {state.done + 1} skipped: {what}")
            if streak >= training.max_bad_steps and not precision.still_searching:
                raise TrainingError(
                    f"{counted(streak, 'step')} in a row {'was' if streak == 1 else 'were'} thrown "
                    f"away, the last because of: {what}; "
                    "lower training.lr, set training.amp=off, or look at the frames."
                )
    passes.zero_gradients()
    return losses, state


def _bad(losses: dict[str, float]) -> str:
    """A phrase that names what is not finite."""
    bad = [name for name, value in losses.items() if not is_finite(value)]
    return f"loss not finite ({', '.join(bad)})" if bad else "gradient not finite"
