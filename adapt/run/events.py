"""Events of long work: what it says, how far it is, and whether it is asked to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ...runtime.arguments import ProgressUpdate
from ...runtime.errors import RunInterrupted, arg


@dataclass(frozen=True)
class Events:
    """Notes, progress and stop requests of long work; made once, where the work is asked for.

    Attributes:
        note: called with a sentence on each thing worth knowing.
        report: called after every step.
        report_phase: called when other work begins and whenever some of it is done.
        stop_requested: asked again and again; True ends the work, see `stop_if_requested`.
        stopped: the sentence of that end; empty: the run goes on from there when it is resumed.
    """

    note: Callable[[str], None] = lambda _: None
    report: Callable[[ProgressUpdate], None] = lambda _: None
    report_phase: Callable[[ProgressUpdate], None] = lambda _: None
    stop_requested: Callable[[], bool] = lambda: False
    stopped: str = ""

    def stop_if_requested(self) -> None:
        """Raise if a stop was requested, in work that a resume does again, or goes on with.

        Raises:
            RunInterrupted: a stop was requested.
        """
        if self.stop_requested():
            raise RunInterrupted(
                self.stopped
                or f"Stopped; the same command with {arg('resume', True)} goes on from there."
            )

    def measuring(self, stage: str) -> Callable[[int, int], None]:
        """Make a function that reports how many frames of all are measured, and may stop there."""
        started = time.monotonic()

        def measured(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            self.report(ProgressUpdate(stage, "frames", done, total, rate, (total - done) / rate))
            self.stop_if_requested()

        return measured


QUIET = Events()  # nobody follows the work, and nobody stops it
