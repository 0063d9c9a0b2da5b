"""Time and memory: how much a run may use, and how much it did."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..runtime.memory import peak_memory_mib, reset_peak_memory

CALIBRATION_STEPS = 5
RESERVE = 0.95  # share of a time budget that steps may plan with; the rest ends the run


class Deadline:
    """A run's clock, across resumes, and how many steps a time budget has room for."""

    def __init__(self, budget_s: float | None) -> None:
        self._budget_s = budget_s
        self.before_s = 0.0  # spent before a resume
        self._start = time.monotonic()
        self._marks: list[tuple[int, float]] = []

    @property
    def elapsed_s(self) -> float:
        """Seconds spent, those before a resume included."""
        return self.before_s + time.monotonic() - self._start

    @property
    def passed(self) -> bool:
        """Whether the budget is spent."""
        return self._budget_s is not None and self.elapsed_s >= self._budget_s * RESERVE

    def steps_per_s(self, done: int) -> float:
        """Rate of the recent steps."""
        now = time.monotonic()
        self._marks.append((done, now))
        self._marks = self._marks[-50:]
        first_done, first = self._marks[0]
        return (done - first_done) / (now - first) if now > first else 0.0

    def plan(self, done: int, planned: int) -> int:
        """``planned`` steps, or the fewer that fit; decided once, after a few steps are timed."""
        if self._budget_s is None or len(self._marks) != CALIBRATION_STEPS:
            return planned
        rate = self.steps_per_s(done)
        left = max(0.0, self._budget_s * RESERVE - self.elapsed_s)
        return min(planned, done + max(1, int(left * rate)))


@dataclass
class Peak:
    """Peak memory of a stretch of work: the GPU's where there is one, else the process's."""

    bytes: int = 0
    exceeded: bool = False  # the allocator ran out

    @property
    def mib(self) -> float:
        """In MiB."""
        return self.bytes / 2**20


_measuring: list[Peak] = []  # blocks that have begun and not ended


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measures the peak of what runs inside it; the value is there when the block ends.

    Blocks may be nested: the mark that an inner one resets is kept for those around it.
    """
    peak = Peak()
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
