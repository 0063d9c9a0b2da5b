"""The rows of a bench on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..runtime.bench.baseline import BaselineComparison
from ..runtime.console.flags import with_flags
from ..runtime.console.terminal import note, say, table

Rows = Sequence[Mapping[str, Any]]

BENCH_COLUMNS = {
    "artefact": "artefact",
    "backend": "backend",
    "precision": "precision",
    "device": "device",
    "size_mib": "size MiB",
    "p50_ms": "p50 ms",
    "p90_ms": "p90 ms",
    "p99_ms": "p99 ms",
    "max_ms": "max ms",
    "fps": "fps",
    "cov": "cov %",
    "missed_percent": "missed %",
    "dropped": "dropped",
    "peak_mib": "peak MiB",
    "gpu_mib": "GPU MiB",
    "energy_mj": "mJ",
    "label_agreement": "agreement %",
    "miou": "mIoU %",
}
# Left out where no row has one; the others say with a dash that they were not measured.
_OPTIONAL = {"size_mib", "missed_percent", "dropped", "gpu_mib", "energy_mj"}
_MACHINE = {
    "source": "said by",
    "name": "processor",
    "clock_mhz": "MHz",
    "clock_min_mhz": "lowest",
    "clock_max_mhz": "of at most",
    "temperature_c": "°C",
    "power_w": "W",
    "throttle": "throttled by",
    "other_cores": "cores of others",
}
_WIDTH = 180  # columns where stdout is no terminal


def bench_table(rows: Rows) -> None:
    """The rows of `bench`, where the time goes, the machine's state, warnings and what is left out.

    Rows of several bundles say whose they are.
    """
    several = len({row.get("bundle") for row in rows}) > 1
    whose = {"bundle": "bundle"} if several else {}
    measured = [row for row in rows if row["error"] is None]
    scenarios = ", ".join(dict.fromkeys(row["scenario"] for row in measured))
    columns = {
        key: title
        for key, title in {**whose, **BENCH_COLUMNS}.items()
        if key not in _OPTIONAL or any(row.get(key) is not None for row in measured)
    }
    table(
        f"Latency, end to end, {scenarios or 'nothing ran'}",
        list(columns.values()),
        [[row.get(key) for key in columns] for row in measured],
        width=_WIDTH,
    )
    stages = list(dict.fromkeys(stage for row in measured for stage in row["stages_ms"]))
    names = [*whose, "artefact", "backend", "device"]
    table(
        "Mean time of each stage, ms",
        [*names, *stages, "end to end"],
        [
            [
                *(row[key] for key in names),
                *(row["stages_ms"].get(stage) for stage in stages),
                row["mean_ms"],
            ]
            for row in measured
        ],
        width=_WIDTH,
    )
    states = {
        key: title
        for key, title in _MACHINE.items()
        if any(row["machine"][key] not in (None, [], {}) for row in measured)
    }
    if states.keys() - {"source", "name", "other_cores"}:
        table(
            "The machine meanwhile",
            [*names, *states.values()],
            [
                [*(row[key] for key in names), *(row["machine"][key] for key in states)]
                for row in measured
            ],
            width=_WIDTH,
        )
    for sentence in (*_warnings(measured), *_left_out(rows)):
        say(sentence)


def print_comparison(comparison: BaselineComparison, *, on_stdout: bool = True) -> None:
    """Before and after of every figure, the rows that only one side has, and what else differs.

    As a table on stdout, or as notes on stderr where stdout is for JSON.
    """
    sentences = [f"not measured any more: {title}" for title in comparison.missing]
    sentences += [f"not in the baseline: {title}" for title in comparison.added]
    sentences += comparison.notes
    if not on_stdout:
        for change in comparison.changes:
            title, figure, before, after, percent, verdict = change.cells()
            note(f"{title}: {figure} {before} then, {after} now ({percent}, {verdict})")
        for sentence in sentences:
            note(sentence)
        return
    table(
        "Against the baseline",
        ["row", "figure", "before", "after", "change", ""],
        [change.cells() for change in comparison.changes],
        width=_WIDTH,
    )
    for sentence in sentences:
        say(sentence)


def _warnings(rows: Rows) -> list[str]:
    """Each sentence once, after the rows that it is about."""
    about: dict[str, list[str]] = {}
    for row in rows:
        for sentence in row["warnings"]:
            about.setdefault(sentence, []).append(
                f"{row['artefact'] or 'a model in memory'} on {row['backend']} {row['device']}"
            )
    everywhere = "every row"
    return [
        f"{everywhere if len(titles) == len(rows) > 1 else ', '.join(titles)}: {sentence}"
        for sentence, titles in about.items()
    ]


def _left_out(rows: Rows) -> list[str]:
    """Each reason once, after what it left out."""
    about: dict[str, list[str]] = {}
    for row in rows:
        if row["error"] is not None:
            what = f"{row['artefact']} on {row['backend']}" if row["artefact"] else row["backend"]
            about.setdefault(row["error"], []).append(f"{what} {row['device']}")
    return [
        f"left out, {', '.join(titles)}: {with_flags(reason)}" for reason, titles in about.items()
    ]
