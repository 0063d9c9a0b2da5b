"""The time of a run's steps: what one is likely to take, and how many there is time for."""

from __future__ import annotations

from ..data.context import Context
from ..networks import SegmentationNetwork
from ..scoring.timing import LONG, forward_seconds
from .time_allocation import seconds_of_end, seconds_of_publishing, seconds_of_step


class StepClock:
    """The deadline as the steps of a run see it.

    Args:
        model: the student.
        context: of the run, with its deadline.
        patience_s: bounds the steps of a run without a budget, see `Deadline.plan`.
    """

    def __init__(
        self, model: SegmentationNetwork, context: Context, patience_s: float | None
    ) -> None:
        self._model, self._context, self._patience_s = model, context, patience_s
        self._deadline = context.work.deadline
        self._step_s = 0.0  # that the next step is likely to take
        self._began_s = 0.0

    def time_the_network(self) -> None:
        """Time a forward pass, from which it is foreseen what fits.

        One that was timed before, the run's first, may have had caches to fill; it is believed
        where it took so long that another would cost more than it could tell.
        """
        deadline = self._deadline
        if not deadline.bounded or deadline.forward_s > LONG * deadline.left_s:
            return
        with self._context.work.phase("timing a forward pass"):
            seconds = forward_seconds(self._model, self._context)
        deadline.forward_s = min(seconds, deadline.forward_s or seconds)

    def keep_back_the_end(self, statistics: bool) -> None:
        """Keep time for what follows the last step, by what was timed.

        Args:
            statistics: whether batch norm is re-estimated then.
        """
        if not self._deadline.bounded:
            return
        context = self._context
        self._deadline.keep_back(
            seconds_of_end(context, statistics), seconds_of_publishing(context)
        )
        self._step_s = seconds_of_step(self._deadline.forward_s, context)

    def begin_steps(self) -> None:
        """The first step of a stage begins."""
        self._began_s = self._deadline.elapsed_s

    def step_done(self, done: int, planned: int) -> tuple[float, float]:
        """Record that a step brought the run to ``done`` of ``planned``, and the next one begins.

        Returns:
            Steps a second of late, and the seconds that those to come will take.
        """
        rate = self._deadline.steps_per_s(done)
        now = self._deadline.elapsed_s
        self._step_s, self._began_s = now - self._began_s, now
        return rate, (planned - done) / rate if rate else 0.0

    @property
    def has_time(self) -> bool:
        """Tell whether there is time for one more step."""
        return not self._deadline.passed and self._step_s <= self._deadline.left_s

    @property
    def due(self) -> bool:
        """Tell whether the part of the time that has begun last is to end, or leaves no step."""
        return self._deadline.due or self._step_s > self._deadline.left_s

    def planned(self, done: int, before: int) -> int:
        """Steps of the run, of the ``before`` that were planned, now that ``done`` are timed."""
        patience_s = self._patience_s
        planned = self._deadline.plan(done, before, patience_s)
        if planned < before and not self._deadline.bounded:
            assert patience_s is not None
            asked = self._context.config.training.steps
            self._context.note(
                f"{planned} of {before} steps, which is what fits {patience_s / 60:.0f} minutes on "
                f"this machine; for all of them set training.steps={asked}"
            )
        return planned
