"""A bar chart, drawn with OpenCV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.ticks import round_step

_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5
_BLUE, _GREY, _RED = (76, 114, 176), (160, 160, 160), (196, 78, 82)
_BLACK, _WHITE = (40, 40, 40), (255, 255, 255)
_ROW, _PLOT, _MARGIN = 34, 560, 16  # pixels: height of a bar's row, width of the axis, rim
_FINER = 2  # drawn so many times as large, then averaged: smooth lines and letters
_FRACTION_BITS = 3  # of a coordinate that OpenCV takes between pixels


@dataclass(frozen=True)
class Bar:
    """One bar; ``value`` None leaves a note in its place. ``deviation`` draws an error bar.

    Without a ``colour`` the first bar of a chart is grey and the others are blue.
    """

    label: str
    value: float | None
    deviation: float | None = None
    note: str = ""
    colour: tuple[int, int, int] | None = None


def bar_chart(bars: Sequence[Bar], title: str, reference: float | None) -> NDArray[np.uint8]:
    """Horizontal bars from 0, in their order, with a dashed line at ``reference`` if it is given.

    Args:
        bars: labels are ASCII, what OpenCV's font has; values are 0 or more.

    Returns:
        RGB, (H, W, 3), uint8.
    """
    left = _MARGIN + max(_width(bar.label) for bar in bars) + 10
    top, bottom = _MARGIN + 30, _MARGIN + 30 + _ROW * len(bars)
    ends = [b.value + (b.deviation or 0.0) for b in bars if b.value is not None]
    high = max([reference or 0.0, *ends])
    step = round_step(high / 5 or 1.0)
    end = max(step, math.ceil(high / step) * step)
    width = left + _PLOT + 130  # room for a figure behind the longest bar
    canvas = np.full(((bottom + 34) * _FINER, width * _FINER, 3), 255, np.uint8)

    def x_of(value: float) -> float:
        return left + _PLOT * value / end

    for i in range(round(end / step) + 1):
        _line(canvas, (x_of(i * step), top), (x_of(i * step), bottom), (225, 225, 225))
        _text(canvas, f"{i * step:g}", (x_of(i * step) - _width(f"{i * step:g}") / 2, bottom + 18))
    figures: list[tuple[str, tuple[float, float], tuple[int, int, int]]] = []
    for i, bar in enumerate(bars):
        middle = top + _ROW * (i + 0.5)
        _text(canvas, bar.label, (left - 10 - _width(bar.label), middle + 5))
        if bar.value is None:
            figures.append((bar.note, (left + 6, middle + 5), _RED))
            continue
        colour = bar.colour or (_BLUE if i else _GREY)
        _box(canvas, (left, middle - 11), (x_of(bar.value), middle + 11), colour)
        text, right = f"{bar.value:.1f}", bar.value
        if bar.deviation is not None:
            low, right = max(0.0, bar.value - bar.deviation), bar.value + bar.deviation
            _line(canvas, (x_of(low), middle), (x_of(right), middle), _BLACK)
            for cap in (low, right):
                _line(canvas, (x_of(cap), middle - 5), (x_of(cap), middle + 5), _BLACK)
            text += f" +/- {bar.deviation:.1f}"
        figures.append((text, (x_of(right) + 8, middle + 5), _BLACK))
    if reference is not None:
        for y in range(top, bottom, 8):
            _line(canvas, (x_of(reference), y), (x_of(reference), min(y + 5, bottom)), _BLACK)
    for text, (x, base), colour in figures:  # last, and on white: lines do not cross them
        _box(canvas, (x - 2, base - 13), (x + _width(text) + 2, base + 3), _WHITE)
        _text(canvas, text, (x, base), colour)
    _line(canvas, (left, top), (left, bottom), _BLACK)
    _text(canvas, title, (_MARGIN, _MARGIN + 12))
    size = (width, canvas.shape[0] // _FINER)
    return np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_AREA), np.uint8)


def _width(text: str) -> int:
    """Pixels of a text as `_text` draws it, which is not half of what it has at half the size."""
    return -(-int(cv2.getTextSize(text, _FONT, _SCALE * _FINER, _FINER)[0][0]) // _FINER)


def _fixed(point: tuple[float, float]) -> tuple[int, int]:
    factor = _FINER << _FRACTION_BITS
    return round(point[0] * factor), round(point[1] * factor)


def _line(
    canvas: NDArray[np.uint8],
    start: tuple[float, float],
    end: tuple[float, float],
    colour: tuple[int, int, int],
) -> None:
    points = _fixed(start), _fixed(end)
    cv2.line(canvas, *points, colour, _FINER, cv2.LINE_AA, _FRACTION_BITS)


def _box(
    canvas: NDArray[np.uint8],
    corner: tuple[float, float],
    other: tuple[float, float],
    colour: tuple[int, int, int],
) -> None:
    corners = _fixed(corner), _fixed(other)
    cv2.rectangle(canvas, *corners, colour, -1, cv2.LINE_AA, _FRACTION_BITS)


def _text(
    canvas: NDArray[np.uint8],
    text: str,
    at: tuple[float, float],
    colour: tuple[int, int, int] = _BLACK,
) -> None:
    where = round(at[0] * _FINER), round(at[1] * _FINER)
    cv2.putText(canvas, text, where, _FONT, _SCALE * _FINER, colour, _FINER, cv2.LINE_AA)
