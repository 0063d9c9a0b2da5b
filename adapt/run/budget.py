"""Time and memory: how much a run may use, and how much it did."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ...runtime.probes.memory import peak_memory_mib, reset_peak_memory
from ...runtime.words import counted

CALIBRATION_STEPS = 5
RESERVE = 0.95  # share of a time budget that steps may plan with; the rest ends the run
MOST_KEPT_BACK = 0.4  # of a time budget, however long its end is said to take
MOST_TO_PUBLISH = 0.2  # of a time budget, of what is kept back


class Deadline:
    """A run's clock, across resumes, and what a time budget leaves for each part of its work.

    The end of a run (final statistics, judging, publishing) has time kept back for it, which
    nothing before may use, and publishing has some of that for itself. Without a budget there is
    time for everything.

    Args:
        budget_s: seconds for the whole run, or None.
        began: `time.monotonic` when the run began; None: now.
        patience_s: without a budget, seconds since the run began that long preparations share.
    """

    def __init__(
        self, budget_s: float | None, began: float | None = None, patience_s: float | None = None
    ) -> None:
        self._budget_s = budget_s
        self._patience_s = patience_s if budget_s is None else None
        self.before_s = 0.0  # spent before a resume
        self._start = time.monotonic() if began is None else began
        self.forward_s = 0.0  # that the network takes for a whole frame; 0 until it is timed
        self.weights_s = 0.0  # that a file of the network's weights takes; 0 until it is timed
        self._kept_back_s = self._publishing_s = 0.0
        self._ending = False
        self._parts: list[float] = []  # when each part that has begun is to end, the inmost last
        self._marks: list[tuple[int, float]] = []

    @property
    def bounded(self) -> bool:
        """Tell whether there is a budget."""
        return self._budget_s is not None

    @property
    def limited(self) -> bool:
        """Tell whether the part that has begun last is to end at some time."""
        return math.isfinite(self.left_s)

    @property
    def name(self) -> str:
        """The bound of the run's time, for notes."""
        if self._patience_s is None:
            return "the time budget"
        return f"the default of {counted(round(self._patience_s / 60), 'minute')}"

    @property
    def elapsed_s(self) -> float:
        """Seconds spent, those before a resume included."""
        return self.before_s + time.monotonic() - self._start

    @property
    def passed(self) -> bool:
        """Tell whether the time is spent that all but the run's end has, or all but publishing."""
        return self.elapsed_s >= self._end_s

    @property
    def due(self) -> bool:
        """Tell whether the part that has begun last is to end now."""
        return self.elapsed_s >= (self._parts[-1] if self._parts else self._end_s)

    @property
    def left_s(self) -> float:
        """Seconds that are left to the part that has begun last, not below 0."""
        return max(0.0, (self._parts[-1] if self._parts else self._end_s) - self.elapsed_s)

    @property
    def _end_s(self) -> float:
        if self._budget_s is None:
            return math.inf
        if self._ending:
            return self._budget_s - self._publishing_s
        return min(self._budget_s * RESERVE, self._budget_s - self._kept_back_s)

    def keep_back(self, seconds: float, publishing_s: float = 0.0) -> None:
        """Leave so much for the end of the run, but at most `MOST_KEPT_BACK` of the budget.

        Args:
            publishing_s: of these, what is left when the result is published; `MOST_TO_PUBLISH` of
                the budget at most.
        """
        budget_s = self._budget_s or 0.0
        self._kept_back_s = min(seconds, MOST_KEPT_BACK * budget_s)
        self._publishing_s = min(publishing_s, MOST_TO_PUBLISH * budget_s)

    def begin_end(self) -> None:
        """The end of the run begins: what was kept back may be used, but not by who publishes."""
        self._ending = True

    @contextmanager
    def part(self, share: float, *, of_patience: float | None = None) -> Iterator[None]:
        """Give what runs inside a share of the seconds that are left to what is around it.

        Args:
            of_patience: the share where patience bounds it, for it grows with the frames.
        """
        seconds = share * self.left_s
        if of_patience is not None and self._patience_s is not None:
            patient_s = of_patience * max(0.0, self._patience_s - self.elapsed_s)
            seconds = min(seconds, patient_s)
        self._parts.append(self.elapsed_s + seconds)
        try:
            yield
        finally:
            self._parts.pop()

    @contextmanager
    def timing_weights(self) -> Iterator[None]:
        """Time a file of the network's weights, written or read; the longest counts."""
        began_s = self.elapsed_s
        yield
        self.weights_s = max(self.weights_s, self.elapsed_s - began_s)

    def has_time_for(self, passes: float) -> bool:
        """Tell whether so many passes of a whole frame fit the rest; yes where none is timed."""
        return passes * self.forward_s <= self.left_s

    def steps_per_s(self, done: int) -> float:
        """Rate of the recent steps."""
        now = time.monotonic()
        self._marks.append((done, now))
        self._marks = self._marks[-50:]
        first_done, first = self._marks[0]
        return (done - first_done) / (now - first) if now > first else 0.0

    def plan(self, done: int, planned: int, patience_s: float | None = None) -> int:
        """``planned`` steps, or the fewer that fit; decided once, after a few steps are timed.

        Args:
            patience_s: without a budget, seconds since the run began at which the steps are to end.
        """
        end_s = patience_s if self._budget_s is None else self._end_s
        if end_s is None or len(self._marks) != CALIBRATION_STEPS:
            return planned
        rate = self.steps_per_s(done)
        return min(planned, done + max(1, int(max(0.0, end_s - self.elapsed_s) * rate)))


class Repeated:
    """Work that is done again and again: whether once more fits in the deadline's part.

    It is expected to take as long as the longest time so far.

    Args:
        deadline: the run's.
        passes: forward passes of a whole frame that the first time is expected to take.
        expected_s: seconds that it is expected to take besides.
    """

    def __init__(self, deadline: Deadline, passes: float = 0.0, expected_s: float = 0.0) -> None:
        self._deadline = deadline
        self._longest_s = passes * deadline.forward_s + expected_s
        self._began_s: float | None = None

    def fits(self) -> bool:
        """Tell whether to do it once more; to be asked before each time, the first one too."""
        now = self._deadline.elapsed_s
        if self._began_s is None:
            fits = self._longest_s <= self._deadline.left_s
            self._longest_s = 0.0
        else:
            self._longest_s = max(self._longest_s, now - self._began_s)
            fits = self._longest_s <= self._deadline.left_s and not self._deadline.due
        self._began_s = now
        return fits


@dataclass
class PeakMemory:
    """Peak memory of a stretch of work: the GPU's where there is one, else the process's."""

    bytes: int = 0
    exceeded: bool = False  # the allocator ran out

    @property
    def mib(self) -> float:
        """The peak in MiB."""
        return self.bytes / 2**20


_measuring: list[PeakMemory] = []  # blocks that have begun and not ended


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measure the peak of what runs inside it; the value is there when the block ends.

    Blocks may be nested: the mark that an inner one resets is kept for those around it.
    """
    peak = PeakMemory()
    _note_mark(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak_memory()
    _measuring.append(peak)
    try:
        yield peak
    finally:
        _note_mark(device)
        _measuring.pop()


def _note_mark(device: torch.device) -> None:
    cuda = device.type == "cuda"
    mark = torch.cuda.max_memory_allocated(device) if cuda else round(peak_memory_mib() * 2**20)
    for peak in _measuring:
        peak.bytes = max(peak.bytes, mark)
