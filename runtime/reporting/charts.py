"""Charts of a page, as SVG within it: they scale, print, and follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..ticks import round_step
from .html import rounded, text

_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 34
_SERIES = 6  # colours of the style sheet
_MOST_POINTS = 400  # of a line; more are averaged in groups
_ROW = 30
_MOST_BARS = 28  # of a chart: a sheet of paper
_LONGEST_NAME = 30  # characters beside a bar


def lines(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str
) -> str:
    """Lines over a common axis, with a legend; a series' points are (x, y), x ascending.

    Points that are not finite are left out.
    """
    shown = {name: _thinned(points) for name, points in series.items()}
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return f"<p class='note'>{text(title)}: nothing was recorded.</p>\n"
    every = [point for points in shown.values() for point in points]
    low_x, high_x = min(p[0] for p in every), max(p[0] for p in every)
    ticks = _ticks(min(p[1] for p in every), max(p[1] for p in every))
    low_y, high_y = ticks[0], ticks[-1]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        along = (point[0] - low_x) / ((high_x - low_x) or 1)
        up = (point[1] / 2 - low_y / 2) / ((high_y / 2 - low_y / 2) or 1)  # no difference overflows
        return (
            _LEFT + along * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    grid = "".join(_level(place((low_x, tick))[1], tick) for tick in ticks)
    drawn = "".join(
        f"<path d='M{'L'.join(f'{a:.1f} {b:.1f}' for a, b in map(place, points))}' fill='none' "
        f"stroke='var(--series-{i % _SERIES})' stroke-width='2'"
        f"{_dashes(i)}/>"
        for i, points in enumerate(shown.values())
    )
    axis = (
        f"<text x='{_LEFT}' y='{_HEIGHT - 12}'>{rounded(low_x)}</text>"
        f"<text x='{_WIDTH - _RIGHT}' y='{_HEIGHT - 12}' text-anchor='end'>{rounded(high_x)}</text>"
        f"<text x='{(_LEFT + _WIDTH) / 2}' y='{_HEIGHT - 12}' text-anchor='middle'>{text(x)}</text>"
    )
    ends = "; ".join(
        f"{name} from {rounded(points[0][1])} to {rounded(points[-1][1])}"
        for name, points in shown.items()
    )
    return (
        f"<figure><svg viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}' "
        f"role='img' aria-label='{text(f'{title}: {ends}')}'>{grid}{drawn}{axis}</svg>"
        f"<figcaption><b>{text(title)}.</b> {text(y)}. {_legend(list(shown))}</figcaption>"
        "</figure>\n"
    )


def bars(title: str, rows: Sequence[tuple[str, float]], *, unit: str) -> str:
    """Horizontal bars from 0, in their order; many are several charts, each for a sheet in print.

    What is not finite or negative is left out.
    """
    found = [(name, value) for name, value in rows if math.isfinite(value) and value >= 0]
    if not found:
        return f"<p class='note'>{text(title)}: nothing was measured.</p>\n"
    high = max(value for _, value in found) or 1.0
    parts = [found[i : i + _MOST_BARS] for i in range(0, len(found), _MOST_BARS)]
    titles = [title] if len(parts) == 1 else [f"{title}, part {i + 1}" for i in range(len(parts))]
    return "".join(_bars(name, part, high, unit) for name, part in zip(titles, parts, strict=True))


def _bars(title: str, found: Sequence[tuple[str, float]], high: float, unit: str) -> str:
    """One chart; names are as long as there is room, and whole in the table beside it."""
    height = _ROW * len(found) + 8
    room = _WIDTH - 240 - 110
    drawn = "".join(
        f"<text x='232' y='{_ROW * i + 20}' text-anchor='end'>"
        f"{text(_fitting(name))}</text>"
        f"<rect x='240' y='{_ROW * i + 6}' width='{room * value / high:.1f}' height='18' "
        f"fill='var(--series-0)'/>"
        f"<text x='{246 + room * value / high:.1f}' y='{_ROW * i + 20}'>{rounded(value)} "
        f"{text(unit)}</text>"
        for i, (name, value) in enumerate(found)
    )
    said = "; ".join(f"{name} {rounded(value)} {unit}" for name, value in found)
    return (
        f"<figure><svg viewBox='0 0 {_WIDTH} {height}' width='{_WIDTH}' height='{height}' "
        f"role='img' aria-label='{text(f'{title}: {said}')}'>{drawn}</svg>"
        f"<figcaption><b>{text(title)}.</b></figcaption></figure>\n"
    )


def _fitting(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MOST_POINTS` finite points; groups of neighbours become their means."""
    finite = [(float(a), float(b)) for a, b in points if math.isfinite(a) and math.isfinite(b)]
    size = max(1, math.ceil(len(finite) / _MOST_POINTS))
    groups = [finite[i : i + size] for i in range(0, len(finite), size)]
    return [
        (sum(a / len(group) for a, _ in group), sum(b / len(group) for _, b in group))
        for group in groups
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Round values from at most ``low`` to at least ``high``."""
    span = (high - low) or abs(high) or 1.0
    if not 1e-300 < span < 1e300:  # beyond what can be divided into steps
        return [low, high] if high > low else [low, low + 1.0]
    step = round_step(span / 4)
    first = math.floor(low / step)
    count = max(1, math.ceil(high / step) - first)
    return [(first + i) * step for i in range(count + 1)]


def _level(y: float, value: float) -> str:
    return (
        f"<line x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}' "
        f"stroke='var(--line)'/><text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>"
        f"{value:g}</text>"
    )


def _dashes(index: int) -> str:
    """Told apart without colour, too."""
    return ("", " stroke-dasharray='7 4'", " stroke-dasharray='2 3'")[index % 3]


def _legend(names: Sequence[str]) -> str:
    return " ".join(
        f"<span style='white-space:nowrap'><svg width='30' height='10' aria-hidden='true'>"
        f"<line x1='0' x2='30' y1='5' y2='5' stroke='var(--series-{i % _SERIES})' "
        f"stroke-width='3'{_dashes(i)}/></svg> {text(name)}</span>"
        for i, name in enumerate(names)
    )
