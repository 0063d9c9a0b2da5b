"""One engine under measurement: what it holds, how long its queries take, what the machine does."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines import Engine
from ..probes.base import Probe
from ..probes.machine_state import MachineMonitor, machine_warnings
from ..probes.memory import (
    give_back_unused,
    peak_memory_mib,
    reset_peak_memory,
    resident_memory_mib,
)
from .frames import BenchFrames
from .loop import Clock, Limit, QueryTimes, camera_loop, closed_loop, warm_up
from .quality import quality
from .row import COLUMNS, time_figures, time_warnings


class EngineMeasurement:
    """Measurement of one engine: opens it, runs it in one or several segments, and makes its row.

    Args:
        frames: cycled through in every segment.
        clock: what time is taken from.
        probe: what the state of the machine is read from; stays open.
        camera_fps: see `camera_loop`; None is a closed loop.
        base_mib: resident memory before any engine; what it is at ``open`` unless given.

    Attributes:
        series: what was timed.
        quality: see `quality.quality`.
    """

    def __init__(
        self,
        frames: BenchFrames,
        clock: Clock,
        probe: Probe,
        camera_fps: float | None = None,
        base_mib: float | None = None,
    ) -> None:
        self._frames, self._clock, self._probe = frames, clock, probe
        self._camera_fps, self._base_mib = camera_fps, base_mib
        self._monitor = MachineMonitor(probe)
        self._engine: Engine | None = None
        self._added_mib = self._held_mib = 0.0
        self._gpu_mib: float | None = None
        self.quality: dict[str, float | None] = {}
        self._warmup, self._settled = 0, True
        self.series = QueryTimes(period=None if camera_fps is None else 1 / camera_fps)

    @property
    def engine(self) -> Engine:
        """The engine under measurement; there once `open` was called."""
        assert self._engine is not None, "open() comes first"
        return self._engine

    def open(
        self,
        opener: Callable[[], Engine],
        warmup: int | None = None,
        labels: Sequence[NDArray[np.uint8]] | None = None,
        reference: Engine | Sequence[NDArray[np.uint8]] | None = None,
    ) -> None:
        """Open the engine, compare its labels and warm it up; see `bench_engine`."""
        gc.collect()
        give_back_unused()
        before = resident_memory_mib()
        gpu_before = self._probe.memory_mib()
        if self._base_mib is None:
            self._base_mib = before
        reset_peak_memory()
        self._engine = opener()
        self.quality = quality(self._engine, self._frames.frames, labels, reference)
        self._warmup, self._settled = warm_up(
            self._engine, self._frames.frames, warmup, self._clock
        )
        self._added_mib = max(0.0, peak_memory_mib() - before)
        self._held_mib = resident_memory_mib() - before
        gpu_after = self._probe.memory_mib()
        if gpu_before is not None and gpu_after is not None:
            self._gpu_mib = gpu_after - gpu_before

    def rewarm(self, queries: int) -> None:
        """Queries that are not counted, after another engine had the caches."""
        self._warmup += warm_up(self.engine, self._frames.frames, queries, self._clock)[0]

    def run(self, limit: Limit) -> None:
        """One segment of timed queries."""
        before = resident_memory_mib()
        reset_peak_memory()
        frames = self._frames.frames
        with _no_garbage_collection(), self._monitor.segment():
            if self._camera_fps is None:
                part = closed_loop(self.engine, frames, limit, self._clock)
            else:
                part = camera_loop(self.engine, frames, self._camera_fps, limit, self._clock)
        self.series.extend(part)
        self._added_mib = max(self._added_mib, self._held_mib + peak_memory_mib() - before)

    def row(self, **figures: Any) -> dict[str, Any]:
        """The row of `bench_engine`, with the figures given in place of its own."""
        engine = self.engine
        times = time_figures(self.series, self._frames.decode_ms)
        machine, energy = self._monitor.summary(), self._monitor.energy_mj
        row = {
            **dict.fromkeys(COLUMNS),
            "artefact": engine.artefact,
            "backend": engine.backend,
            "precision": engine.precision,
            "device": engine.device,
            "threads": engine.describe().get("threads"),
            **times,
            "peak_mib": (self._base_mib or 0.0) + self._added_mib,
            "added_mib": self._added_mib,
            "gpu_mib": self._gpu_mib,
            "energy_mj": None if energy is None else energy / times["queries"],
            **self.quality,
            "frames": self._frames.title,
            "warmup": self._warmup,
            "machine": machine,
            **figures,
        }
        row["warnings"] = [*time_warnings(row, self._settled), *machine_warnings(machine)]
        return row

    def close(self) -> None:
        """Close the engine if one was opened."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a query would be the slowest query."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
