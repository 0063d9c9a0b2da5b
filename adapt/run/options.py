"""A run's options, its progress, and the summary of what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...runtime.errors import RunInterrupted, arg


@dataclass(frozen=True)
class Progress:
    """One step, as a progress display wants it."""

    stage: str
    step: int  # steps done in the whole run
    steps: int
    steps_per_s: float
    eta_s: float
    losses: dict[str, float]


@dataclass(frozen=True)
class Phase:
    """A stretch of work other than steps, as a progress display wants it."""

    title: str
    unit: str
    done: int
    total: int | None  # None where it is not known
    rate: float  # units a second; 0 before anything is timed
    left_s: float | None  # None where it is not known


def stop_if(requested: Callable[[], bool]) -> None:
    """Raise if a stop was requested, in work that a resume does again, or goes on with.

    Raises:
        RunInterrupted: a stop was requested.
    """
    if requested():
        raise RunInterrupted(
            f"Stopped; the same command with {arg('resume', True)} goes on from there."
        )


@dataclass(frozen=True)
class RunOptions:
    """The circumstances in which a run is carried out; none of them belongs to the method."""

    fingerprint: str
    resume: bool = False
    checkpoint_every_s: float = 60.0
    time_budget_s: float | None = None
    began: float | None = None  # `time.monotonic` since when it counts; None: since the run's call
    patience_s: float | None = None  # without a budget: fewer steps where all would end later
    memory_budget_bytes: int | None = None
    report: Callable[[Progress], None] = lambda _: None
    report_phase: Callable[[Phase], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None
    stop_requested: Callable[[], bool] = lambda: False

    def stop_if_requested(self) -> None:
        """See `stop_if`."""
        stop_if(self.stop_requested)


@dataclass(frozen=True)
class RunSummary:
    """The summary of a run; goes into the bundle's manifest."""

    steps: int
    skipped_steps: int
    seconds: float
    peak_memory_mib: float
    micro_batch: int
    precision: str
    precision_measured: Mapping[str, Mapping[str, float | None]] | None  # None: not by measuring
    losses: str  # what computed them
    batch_norm_layers: int
    statistics_share: float | None = None  # the target's in batch norm's; None: not re-estimated
    statistics_why: str = ""
    micro_batch_changes: Sequence[str] = ()  # to the method, by so small a micro-batch; sentences
    threads: int = 0  # torch's, on a CPU
    waiting: str = ""  # how they wait for one another, see `waiting`
    crowded_s: float = 0.0  # for which other programs wanted the cores
    watch: Mapping[str, Any] | None = None  # what was seen of the frames set aside, if any were
