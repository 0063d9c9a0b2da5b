"""A run's options, and the summary of what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .events import QUIET, Events
from .workspace import Workspace


@dataclass(frozen=True)
class RunOptions:
    """The circumstances in which a run is carried out; none of them belongs to the method."""

    out: Path  # the bundle to write, or the folder of several
    overwrite: bool = False
    device: str = "auto"
    resume: bool = False
    checkpoint_every_s: float = 60.0
    time_budget_s: float | None = None
    began: float | None = None  # `time.monotonic` since when it counts; None: since the run's call
    patience_s: float | None = None  # without a budget: fewer frames prepared, fewer steps
    memory_budget_bytes: int | None = None
    events: Events = QUIET

    @property
    def workspace(self) -> Workspace:
        """The run's own folder, beside ``out``: checkpoints, decoded frames, pseudo-labels."""
        return Workspace.beside(self.out)


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
    start_why: str = ""  # why the result is the start, after too few steps
    micro_batch_changes: Sequence[str] = ()  # to the method, by so small a micro-batch; sentences
    threads: int = 0  # torch's, on a CPU
    waiting: str = ""  # how they wait for one another, see `waiting`
    crowded_s: float = 0.0  # for which other programs wanted the cores
    watch: Mapping[str, Any] | None = None  # what was seen of the frames set aside, if any were
