"""The pictures of a bench, as SVG text: latency distributions, and accuracy against p99."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import output_errors, write_whole
from ..errors import OutputError
from ..file_names import check_name
from ..printable import printable
from ..spacing import evenly_spaced
from .chart import Axis, Chart
from .run import TimedRow

_STEPS = 400  # points of a curve at most
_PICTURES = ("latency.svg", "accuracy.svg")
_MARK = "<!-- drawn by roadshift bench -->"


def check_can_plot(folder: Path) -> None:
    """Refuse a folder for pictures before a long run.

    Raises:
        OutputError: it cannot be made or written, or holds another program's pictures.
    """
    check_name(folder, inside=True)
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in _PICTURES:
            _check_ours(folder / name)


def _check_ours(picture: Path) -> None:
    """Refuse to replace a picture that `write_plots` did not draw."""
    if not picture.exists():
        return
    text = picture.read_text(encoding="utf-8", errors="replace") if picture.is_file() else ""
    if not text.rstrip().endswith(_MARK):
        raise OutputError(
            f"{picture}: exists and was not drawn by this command, so it is never overwritten; "
            "choose another folder."
        )


def write_plots(measured: Sequence[TimedRow], folder: Path) -> list[Path]:
    """Write ``latency.svg`` and, where accuracy was measured, ``accuracy.svg``.

    Raises:
        OutputError: see `check_can_plot`.
    """
    shown = [m for m in measured if m.row["error"] is None]
    pictures = {"latency.svg": latency_svg(shown)}
    if any(_score(m.row) is not None for m in shown):
        pictures["accuracy.svg"] = accuracy_svg([m.row for m in shown])
    check_can_plot(folder)
    for name, picture in pictures.items():
        write_whole(folder / name, f"{printable(picture)}\n{_MARK}\n".encode())
    return [folder / name for name in pictures]


def latency_svg(measured: Sequence[TimedRow]) -> str:
    """Share of the queries that were done within a time, one curve a row; a log axis if wide."""
    latencies = [np.sort(m.latencies_ms) for m in measured]
    low, high = min(x[0] for x in latencies), max(x[-1] for x in latencies)
    chart = Chart(
        "Latency: share of the queries done within a time",
        Axis("ms", float(low), float(high), logarithmic=high > 5 * low),
        Axis("percent of the queries", 0.0, 100.0),
    )
    for index, (m, times) in enumerate(zip(measured, latencies, strict=True)):
        ranks = evenly_spaced(len(times), _STEPS)
        points = [(float(times[i]), 100 * (i + 1) / len(times)) for i in ranks]
        chart.curve([(points[0][0], 0.0), *points], index)
        chart.legend(
            f"{_title(m.row)}: p50 {m.row['p50_ms']:.1f}, p99 {m.row['p99_ms']:.1f}", index
        )
    return chart.render()


def accuracy_svg(rows: Sequence[dict[str, Any]]) -> str:
    """mIoU, or label agreement where there are no labels, against p99, a mark a row."""
    scored = [(row, _score(row)) for row in rows]
    points = [(row, score) for row, score in scored if score is not None]
    times = [row["p99_ms"] for row, _ in points]
    scores = [score for _, score in points]
    name = "mIoU" if any(row["miou"] is not None for row, _ in points) else "label agreement"
    margin = max(0.5, 0.1 * (max(scores) - min(scores)))
    chart = Chart(
        f"{name} against p99 latency: up and to the left is better",
        Axis("p99, ms", min(times) * 0.9, max(times) * 1.1, max(times) > 5 * min(times)),
        Axis(f"{name}, percent", min(scores) - margin, min(100.0, max(scores) + margin)),
    )
    for index, (row, score) in enumerate(points):
        chart.mark(row["p99_ms"], score, index)
        chart.legend(f"{_title(row)}: {score:.2f} % at {row['p99_ms']:.1f} ms", index)
    return chart.render()


def _score(row: dict[str, Any]) -> float | None:
    score: float | None = row["label_agreement"] if row["miou"] is None else row["miou"]
    return score


def _title(row: dict[str, Any]) -> str:
    whose = f"{Path(row['bundle']).name} " if row.get("bundle") else ""
    return f"{whose}{row['artefact']} {row['precision']}, {row['backend']} {row['device']}"
