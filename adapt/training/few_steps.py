"""Runs that find time for few steps, after which a model is worse than before the first.

The first steps overshoot: at the full rate, on a handful of batches, the loss rises before it
falls. A run that time ends there publishes what it began with, the mixed statistics, and says so.
On which roads that was measured: docs/nightshift.md.
"""

from __future__ import annotations

from ...runtime.errors import Sentence, arg
from ...runtime.words import counted
from ..data.context import Context
from .time_allocation import LEAST_STEPS


class FewSteps:
    """The steps that time leaves a run, where they are too few to learn from.

    Not where the settings ask for as few, which is obeyed; nor where they do not mix statistics
    first: a method as published does not, nor does training, nor a black box's student, whose start
    is worth nothing. Without batch norm the start is the source model.

    Args:
        context: of the run.
    """

    def __init__(self, context: Context) -> None:
        self._mixes = context.config.warm_start == "mixed"
        self._note = context.note
        self.asked = 0  # steps of the run, before time takes any
        self._found: int | None = None

    @property
    def found(self) -> bool:
        """Tell whether there was time for too few."""
        return self._found is not None

    def look(self, steps: int) -> bool:
        """Tell whether ``steps``, all that there is time for, are too few, and remember it."""
        if not self.found and self._mixes and steps < LEAST_STEPS <= self.asked:
            self._found = steps
        return self.found

    @property
    def why(self) -> str:
        """The reason why the result is the start, a clause; "" where it is not."""
        if self._found is None:
            return ""
        return (
            f"there was time for {self._found} of {counted(self.asked, 'step')}, and after fewer "
            f"than {LEAST_STEPS} a model may be worse than before the first"
        )

    def say(self, share: float | None) -> None:
        """Say so, and what to do.

        Args:
            share: of the frames' statistics in the start.
        """
        mixed = f" with {share:g} of the frames' batch-norm statistics" if share else ""
        self._note(
            Sentence(
                f"{self.why}: the result is the source model{mixed}; for more give a longer "
                f"{arg('time_budget_s')}"
            )
        )

    def say_no_step(self, share: float | None) -> None:
        """Say that there was no time for any, where fewer would be obeyed, too."""
        if self.look(0):
            self.say(share)
        else:
            self._note("the time budget was too short for a step: the result is the start")
