"""A saved table to compare with: for CI, where a slower or a worse artefact must not pass."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.manifest import library_versions
from ..errors import ConfigError, RegressionError, arg
from ..probes.cores import available_cores
from .baseline_file import write_baseline

# The figures that are compared. Of the first a higher one is worse and the tolerance is a share;
# of the second a lower one is worse and the tolerance is in points.
COSTS = ("p50_ms", "p99_ms", "peak_mib", "gpu_mib")
SCORES = ("label_agreement", "miou")
_KEY = ("artefact", "precision", "backend", "device")


@dataclass(frozen=True)
class Change:
    """One figure of one row, then and now."""

    row: str
    figure: str
    before: float
    after: float | None
    allowed: float

    @property
    def worse(self) -> bool:
        """Tell whether the figure is worse than the tolerance allows; one that is gone is."""
        if self.after is None:
            return True
        if self.figure in SCORES:
            return self.before - self.after > self.allowed
        return self.after > self.before * (1 + self.allowed / 100)

    def cells(self) -> list[object]:
        """Cells of a table: row, figure, before, after, change, verdict."""
        change: object = None
        if self.after is not None and self.figure in SCORES:
            change = f"{self.after - self.before:+.2f} points"
        elif self.after is not None and self.before > 0:
            change = f"{100 * (self.after / self.before - 1):+.1f} %"
        verdict = "worse" if self.worse else "ok"
        return [self.row, self.figure, self.before, self.after, change, verdict]


@dataclass(frozen=True)
class BaselineComparison:
    """Result of `compare_baseline`.

    Attributes:
        changes: of every figure of every row of the baseline, in its order.
        missing: rows of the baseline that were not measured now.
        added: rows that the baseline does not have.
        notes: sentences on what else is different: versions, frames, threads.
    """

    changes: list[Change]
    missing: list[str]
    added: list[str]
    notes: list[str]

    @property
    def passed(self) -> bool:
        """Tell whether no figure is worse and no row is missing."""
        return not self.missing and not any(change.worse for change in self.changes)

    def check(self, path: Path) -> None:
        """Raise `RegressionError` where a figure is worse or a row is missing."""
        if self.passed:
            return
        worse = [f"{c.figure} of {c.row}" for c in self.changes if c.worse]
        parts = [f"worse than {path}: {', '.join(worse)}"] if worse else []
        parts += [f"not measured any more: {', '.join(self.missing)}"] if self.missing else []
        raise RegressionError(
            f"{'; '.join(parts)}. If that is meant, save a new baseline with {arg('save')}."
        )


def machine() -> dict[str, Any]:
    """Machine that times depend on and a commit does not change: processor, cores, GPU."""
    from ..probes.linux import LinuxProbe

    return {
        "cpu": LinuxProbe().name,
        "cores": available_cores(),
        "architecture": platform.machine(),
        "gpu": _gpu_name(),
    }


def _gpu_name() -> str | None:
    from ..probes.driver import driver_problem, gpu

    return gpu().name if driver_problem() is None else None


def save_baseline(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the measured rows, the machine and the versions as JSON.

    Raises:
        OutputError: the file cannot be written, or is something else than a baseline.
    """
    write_baseline(path, rows, machine(), library_versions())


def check_comparable(
    baseline: Mapping[str, Any], scenario: str, *, any_machine: bool = False
) -> None:
    """Refuse a baseline whose times say nothing about a run here; to ask before the run.

    Args:
        baseline: see `load_baseline`.
        scenario: of the run, see `row.scenario`.
        any_machine: take another machine's, too.

    Raises:
        ConfigError: it is of another machine or another scenario.
    """
    here, there = machine(), baseline["machine"]
    if here != there and not any_machine:
        raise ConfigError(
            f"The baseline is of another machine ({_describe(there)}; this is {_describe(here)}), "
            "whose times say nothing here; save one on this machine, or give "
            f"{arg('any_machine', True)}."
        )
    others = dict.fromkeys(row["scenario"] for row in baseline["rows"])
    if list(others) != [scenario]:
        raise ConfigError(
            f"The baseline was measured in another way ({', '.join(others) or 'nothing ran'}; this "
            f"run is {scenario}); measure both in the same way."
        )


def compare_baseline(
    baseline: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    tolerance: float,
    max_drop: float,
) -> BaselineComparison:
    """Every figure of the baseline beside what was measured now, rows matched by what they are.

    Args:
        baseline: see `load_baseline`; ask `check_comparable` first.
        rows: see `bench_bundle`.
        tolerance: percent by which times and memory may grow.
        max_drop: points by which label agreement and mIoU may fall.

    Raises:
        ConfigError: the two share no row.
    """
    parts = max(_telling_parts(baseline["rows"]), _telling_parts(rows))
    before = {_title(row, parts): row for row in baseline["rows"]}
    after = {_title(row, parts): row for row in rows if row["error"] is None}
    shared = [title for title in before if title in after]
    if not shared:
        raise ConfigError(
            f"The baseline has no row in common with this run: {', '.join(before) or 'none'} then, "
            f"{', '.join(after) or 'none'} now."
        )
    changes = [
        Change(
            title,
            figure,
            before[title][figure],
            after[title][figure],
            max_drop if figure in SCORES else tolerance,
        )
        for title in shared
        for figure in (*COSTS, *SCORES)
        if _measured(figure, before[title][figure])
    ]
    return BaselineComparison(
        changes,
        [title for title in before if title not in after],
        [title for title in after if title not in before],
        _notes(baseline, before, after, shared),
    )


def _notes(
    baseline: Mapping[str, Any],
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    shared: Sequence[str],
) -> list[str]:
    notes, here = [], machine()
    if here != baseline["machine"]:
        notes.append(
            f"CAUTION: the baseline is of another machine, {_describe(baseline['machine'])}; this "
            f"is {_describe(here)}."
        )
    then, now = baseline["versions"], library_versions()
    changed = [
        f"{name} {then.get(name, '-')} then, {now.get(name, '-')} now"
        for name in dict.fromkeys((*then, *now))
        if then.get(name) != now.get(name)
    ]
    if changed:
        notes.append(f"Other versions: {'; '.join(changed)}.")
    notes += [
        f"{title}: {what} {before[title][what]} then, {after[title][what]} now."
        for what in ("frames", "threads")
        for title in shared
        if before[title][what] != after[title][what]
    ]
    notes += [
        f"{title}: mIoU was measured through another label map then."
        for title in shared
        if before[title].get("label_map") != after[title].get("label_map")
    ]
    return notes


def _measured(figure: str, value: float | None) -> bool:
    """Tell whether a baseline's figure can be compared with; of 0 MiB no share can be allowed."""
    return value is not None and (figure in SCORES or value > 0)


def _telling_parts(rows: Sequence[Mapping[str, Any]]) -> int:
    """Number of last folders that tell the bundles of ``rows`` apart; 0 for one bundle."""
    paths = {Path(row["bundle"]) for row in rows if row.get("bundle")}
    if len(paths) < 2:
        return 0
    count = 1
    while len({_last(path, count) for path in paths}) < len(paths):
        count += 1
    return count


def _last(path: Path, parts: int) -> str:
    return str(Path(*path.parts[-parts:]))


def _title(row: Mapping[str, Any], parts: int) -> str:
    """One-line title of a row, with the last ``parts`` parts of its bundle's path."""
    names = [str(row[key]) for key in _KEY]
    if parts and row.get("bundle"):
        names.insert(0, _last(Path(row["bundle"]), parts))
    return " ".join(names)


def _describe(machine: Mapping[str, Any]) -> str:
    return ", ".join(str(value) for value in machine.values() if value is not None)
