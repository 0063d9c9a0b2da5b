"""A chart as SVG text, a file of its own: axes, step curves, marks and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from ..ticks import round_step

# Okabe and Ito's colours, told apart by colour-blind readers too; lines differ in dashes as well.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 60
_LINE = 18  # pixels of a line of text


@dataclass(frozen=True)
class Axis:
    """A title and the values that it spans."""

    title: str
    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Position of a value on the axis, 0 to 1."""
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
        step = round_step((self.high - self.low) / 6 or 1.0)
        first, last = math.ceil(self.low / step), math.floor(self.high / step + 1e-9)
        return [step * index for index in range(first, last + 1)]


@dataclass
class Chart:
    """Drawn by calling `curve`, `mark` and `legend`; ``index`` picks colour and dashes."""

    title: str
    x: Axis
    y: Axis
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

    def mark(self, x: float, y: float, index: int, *, numbered: bool = True) -> None:
        """A dot, with the number that it has in the legend beside it if ``numbered``."""
        across, down = self._at(x, y)
        colour, radius = _COLOURS[index % len(_COLOURS)], 6 if numbered else 4
        self._marks.append(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{radius}" fill="{colour}"/>'
        )
        if numbered:
            self._marks.append(_text(across + 9, down + 4, str(index + 1), "start"))

    def legend(self, text: str, index: int) -> None:
        """A line below the chart."""
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
