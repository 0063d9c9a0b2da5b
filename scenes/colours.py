"""Colours of things: palettes, and picks from them that vary a little."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Rng = np.random.Generator
Colour = tuple[float, float, float]  # red, green, blue
OFF: Colour = (0.0, 0.0, 0.0)  # glow of what does not shine


def palette(percents: str) -> list[Colour]:
    """Colours from their red, green and blue in percent, such as ``"82 80 76, 30 30 33"``."""
    rows = ([float(value) / 100 for value in row.split()] for row in percents.split(","))
    return [(red, green, blue) for red, green, blue in rows]


ACCENTS = palette("80 12 10, 10 30 70, 90 65 10, 10 50 30, 85 40 10")  # frames, helmets, emblems


def pick(rng: Rng, colours: Sequence[Colour]) -> Colour:
    """One of the colours, slightly varied."""
    which, tone, *tints = rng.random(5).tolist()
    base, scale = colours[int(which * len(colours))], 0.88 + 0.24 * tone
    varied = (scale * value + 0.07 * (tint - 0.5) for value, tint in zip(base, tints, strict=True))
    red, green, blue = (min(max(value, 0.02), 0.98) for value in varied)
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker or, with a factor above 1, lighter."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def window_glass(rng: Rng) -> Colour:
    """The dark bluish grey of a pane."""
    return shade((0.82, 0.95, 1.1), rng.uniform(0.14, 0.34))
