"""A whole bench: several bundles, a baseline to compare with, and the files it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..errors import ConfigError, arg
from ..printable import printable
from . import check_bundle, check_none_failed, measure_bundle
from .baseline import BaselineComparison, check_comparable, compare_baseline, save_baseline
from .baseline_file import check_can_save, load_baseline
from .plots import check_can_plot, write_plots
from .row import scenario
from .run import Note, Report, TimedRow
from .settings import BenchSettings


@dataclass(frozen=True, kw_only=True)
class BenchFiles:
    """Files that a bench reads and leaves, and how much worse than a baseline it may be.

    Attributes:
        plots: folder for ``latency.svg`` and ``accuracy.svg``.
        save: the baseline to write, unless the rows are worse than ``baseline``.
        baseline: a saved one to compare with.
        tolerance, max_drop: see `compare_baseline`.
        any_machine: compare with another machine's baseline.
    """

    plots: Path | None = None
    save: Path | None = None
    baseline: Path | None = None
    tolerance: float = 10.0
    max_drop: float = 0.1
    any_machine: bool = False


@dataclass(frozen=True)
class BenchResult:
    """The rows of a bench, each with the time of every query, and what a baseline says of them."""

    measured: list[TimedRow]
    comparison: BaselineComparison | None
    baseline: Path | None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, each with its bundle, as JSON values."""
        return [m.row for m in self.measured]

    def check(self) -> None:
        """Refuse rows that are worse than the baseline, or that lack an artefact.

        Raises:
            RegressionError: a figure is worse or a row is missing.
            EngineError: see `check_none_failed`.
        """
        if self.comparison is not None and self.baseline is not None:
            self.comparison.check(self.baseline)
        check_none_failed(self.measured)


def bench_bundles(
    bundles: Iterable[Bundle],
    settings: BenchSettings,
    files: BenchFiles,
    *,
    note: Note = lambda _: None,
    progress: Callable[[], AbstractContextManager[Report]] = lambda: nullcontext(lambda *_: None),
) -> BenchResult:
    """Measure every artefact of several bundles, compare with a baseline, and leave the files.

    What cannot be measured, written or compared is refused before anything is measured.

    Args:
        bundles: all opened, and looked over, before the first is measured.
        note: called with a sentence on what runs and why, and on what was written.
        progress: entered for each bundle; gives what is called with steps done, steps in all, and
            what runs.

    Raises:
        ConfigError, OutputError: the baseline is of another machine or scenario, or a file cannot
            be written.
        RoadshiftError: see `bench_bundle`.
    """
    for name, value in (("tolerance", files.tolerance), ("max_drop", files.max_drop)):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{arg(name)} {value}: write a number from 0 on.")
    baseline = load_baseline(files.baseline) if files.baseline else None
    if baseline is not None:
        check_comparable(baseline, scenario(settings.camera_fps), any_machine=files.any_machine)
    if files.save is not None:
        check_can_save(files.save)
    if files.plots is not None:
        check_can_plot(files.plots)
    measured: list[TimedRow] = []
    opened = list(bundles)
    for bundle in opened:  # before the first is timed, which takes minutes
        check_bundle(bundle, settings)
    for bundle in opened:
        with progress() as report:
            found = measure_bundle(bundle, settings, note=note, report=report)
        name = printable(str(bundle.path))
        measured += [replace(m, row={"bundle": name, **m.row}) for m in found]
    rows = [m.row for m in measured]
    comparison = None
    if baseline is not None:
        comparison = compare_baseline(
            baseline, rows, tolerance=files.tolerance, max_drop=files.max_drop
        )
    if files.plots is not None:  # files before printing, which may fail
        for picture in write_plots(measured, files.plots):
            note(f"wrote {picture}")
    if files.save is not None and (comparison is None or comparison.passed):
        save_baseline(files.save, rows)
        note(f"wrote {files.save}")
    return BenchResult(measured, comparison, files.baseline)
