"""The pictures of a bench, as SVG text: latency distributions, and accuracy against p99."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import output_errors
from .run import Measured

# Okabe and Ito's colours, told apart by colour-blind readers too; lines differ in dashes as well.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 60
_LINE = 18  # pixels of a line of text
_STEPS = 400  # points of a curve at most


def write_plots(measured: Sequence[Measured], folder: Path) -> list[Path]:
    """Write ``latency.svg`` and, where accuracy was measured, ``accuracy.svg``.

    Raises:
        OutputError: the folder cannot be written.
    """
    shown = [m for m in measured if m.row["error"] is None]
    pictures = {"latency.svg": latency_svg(shown)}
    if any(_score(m.row) is not None for m in shown):
        pictures["accuracy.svg"] = accuracy_svg([m.row for m in shown])
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        with output_errors(folder / name):
            (folder / name).write_text(picture, encoding="utf-8")
    return [folder / name for name in pictures]


def latency_svg(measured: Sequence[Measured]) -> str:
    """Share of the queries that were done within a time, one curve a row; a log axis if wide."""
    latencies = [np.sort(m.latencies_ms) for m in measured]
    low, high = min(x[0] for x in latencies), max(x[-1] for x in latencies)
    chart = _Chart(
        "Latency: share of the queries done within a time",
        _Axis("ms", float(low), float(high), logarithmic=high > 5 * low),
        _Axis("percent of the queries", 0.0, 100.0),
    )
    for index, (m, times) in enumerate(zip(measured, latencies, strict=True)):
        ranks = np.unique(np.linspace(0, len(times) - 1, _STEPS).round().astype(int))
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
    chart = _Chart(
        f"{name} against p99 latency: up and to the left is better",
        _Axis("p99, ms", min(times) * 0.9, max(times) * 1.1, max(times) > 5 * min(times)),
        _Axis(f"{name}, percent", min(scores) - margin, min(100.0, max(scores) + margin)),
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


@dataclass(frozen=True)
class _Axis:
    title: str
    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            all_ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
            return [tick for tick in all_ticks if self.low <= tick <= self.high]
        rough = (self.high - self.low) / 6 or 1.0
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step + 1e-9)
        return [step * index for index in range(first, last + 1)]


@dataclass
class _Chart:
    title: str
    x: _Axis
    y: _Axis
    _marks: list[str] = field(default_factory=list)
    _legend: list[str] = field(default_factory=list)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        across = _LEFT + self.x.share(x) * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - self.y.share(y) * (_HEIGHT - _TOP - _BOTTOM)

    def curve(self, points: Sequence[tuple[float, float]], index: int) -> None:
        """Steps through the points, to the right and then up."""
        places = [self._at(*point) for point in points]
        path = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
        path += "".join(f"H{x:.1f}V{y:.1f}" for x, y in places[1:])
        self._marks.append(f'<path d="{path}" fill="none" {_stroke(index)}/>')

    def mark(self, x: float, y: float, index: int) -> None:
        across, down = self._at(x, y)
        colour = _COLOURS[index % len(_COLOURS)]
        self._marks.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="6" fill="{colour}"/>')
        self._marks.append(_text(across + 9, down + 4, str(index + 1), "start"))

    def legend(self, text: str, index: int) -> None:
        y = _HEIGHT + 4 + _LINE * index
        self._legend.append(f'<path d="M{_LEFT} {y}h36" {_stroke(index)}/>')
        self._legend.append(_text(_LEFT + 44, y + 4, f"{index + 1}  {text}", "start"))

    def render(self) -> str:
        """The whole picture."""
        height = _HEIGHT + _LINE * (len(self._legend) // 2) + 10
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
            _text(_LEFT, 22, self.title, "start"),
            _text((_LEFT + right) / 2, bottom + 38, self.x.title, "middle"),
            f'<g transform="translate(18 {(_TOP + bottom) / 2:.0f}) rotate(-90)">'
            f"{_text(0, 0, self.y.title, 'middle')}</g>",
        ]
        for tick in self.x.ticks():
            across = self._at(tick, self.y.low)[0]
            parts.append(f'<path d="M{across:.1f} {_TOP}V{bottom}" stroke="#e1e1e1"/>')
            parts.append(_text(across, bottom + 18, f"{tick:g}", "middle"))
        for tick in self.y.ticks():
            down = self._at(self.x.low, tick)[1]
            parts.append(f'<path d="M{_LEFT} {down:.1f}H{right}" stroke="#e1e1e1"/>')
            parts.append(_text(_LEFT - 8, down + 4, f"{tick:g}", "end"))
        parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#282828"/>')
        return "\n".join([*parts, *self._marks, *self._legend, "</svg>"]) + "\n"


def _stroke(index: int) -> str:
    dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
    return f'stroke="{_COLOURS[index % len(_COLOURS)]}" stroke-width="2" stroke-dasharray="{dash}"'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
