"""Cars, buses, trucks and trams: their measures, paints, windows and lamps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .canvas import OFF, Floats
from .domains import Colour
from .solids import Body, Patch, Points, accent, box, ellipse, pick, shade, window_glass
from .textures import Texture

CAR, TRUCK, BUS, TRAIN = 13, 14, 15, 16

_RED, _RED_GLOW = (0.62, 0.06, 0.06), (0.7, 0.03, 0.015)
_WHITE, _WHITE_GLOW = (0.92, 0.92, 0.88), (1.8, 1.6, 1.25)
_AMBER, _AMBER_GLOW = (0.95, 0.6, 0.12), (0.9, 0.45, 0.06)
_DARK, _RUBBER, _STEEL = (0.13, 0.13, 0.14), (0.08, 0.08, 0.085), (0.56, 0.57, 0.59)
_PLATE, _SALOON_GLOW = (0.9, 0.9, 0.84), (0.22, 0.19, 0.13)

# fmt: off
_CAR_PAINTS: Sequence[Colour] = (
    (0.12, 0.12, 0.13), (0.2, 0.21, 0.23), (0.45, 0.46, 0.48), (0.68, 0.69, 0.7),
    (0.88, 0.88, 0.87), (0.62, 0.1, 0.1), (0.13, 0.2, 0.42), (0.2, 0.36, 0.55),
    (0.16, 0.3, 0.22), (0.55, 0.46, 0.34),
)
_BUS_PAINTS: Sequence[Colour] = (
    (0.78, 0.16, 0.14), (0.92, 0.74, 0.2), (0.2, 0.5, 0.36), (0.16, 0.34, 0.62), (0.86, 0.86, 0.82),
)
_TRAM_PAINTS: Sequence[tuple[Colour, Colour]] = (  # body, trim
    ((0.92, 0.9, 0.8), (0.75, 0.12, 0.12)), ((0.93, 0.85, 0.4), (0.2, 0.22, 0.24)),
    ((0.85, 0.88, 0.9), (0.12, 0.42, 0.6)), ((0.9, 0.9, 0.88), (0.16, 0.5, 0.28)),
)
_TRUCK_LOADS: Sequence[Colour] = (
    (0.9, 0.9, 0.88), (0.72, 0.74, 0.76), (0.3, 0.42, 0.56), (0.66, 0.3, 0.2),
    (0.36, 0.42, 0.3), (0.82, 0.66, 0.36),
)
# Profiles of a saloon, a hatchback, an off-roader and a van; then their two window edges.
_CAR_BODIES: Sequence[tuple[Points, tuple[int, int]]] = (
    (((0, 0.24), (0, 0.86), (0.1, 1.0), (0.7, 1.02), (1.3, 1.42), (2.5, 1.45), (3.3, 0.98),
      (4.25, 0.82), (4.45, 0.62), (4.45, 0.2)), (3, 5)),
    (((0, 0.24), (0, 0.96), (0.08, 1.02), (0.5, 1.46), (2.4, 1.5), (3.1, 1.02), (3.85, 0.86),
      (4.0, 0.62), (4.0, 0.2)), (2, 4)),
    (((0, 0.3), (0, 1.08), (0.08, 1.14), (0.42, 1.68), (2.9, 1.74), (3.6, 1.16), (4.45, 1.0),
      (4.6, 0.72), (4.6, 0.26)), (2, 4)),
    (((0, 0.26), (0, 1.14), (0.06, 1.2), (0.2, 1.92), (3.5, 1.97), (4.25, 1.2), (4.8, 1.02),
      (4.95, 0.7), (4.95, 0.24)), (2, 4)),
)
# fmt: on


def car(rng: np.random.Generator) -> list[Body]:
    """One of four body shapes: saloon, hatchback, off-roader, van."""
    body, (back, screen) = _CAR_BODIES[int(rng.integers(len(_CAR_BODIES)))]
    paint, glass = pick(rng, _CAR_PAINTS), window_glass(rng)
    scale, width = rng.uniform(0.95, 1.06), rng.uniform(1.72, 1.9)
    profile = [(scale * along, scale * up) for along, up in body]
    length, a = profile[-1][0], 0.5 * width
    cabin = np.array([profile[back], profile[back + 1], profile[screen], profile[screen + 1]])
    side = [
        Patch(_inset(cabin, 0.06, 0.48), glass),
        Patch(_inset(cabin, 0.53, 0.93), glass),
        Patch(box(0.03 * length, 0.97 * length, 0.3, 0.42), shade(paint, 0.5)),
        *_wheels(0.19 * length, 0.8 * length, radius=0.34),
    ]
    rear = [
        *_pair(a, 0.36 * a, (0.66, 0.9), _RED, _RED_GLOW),
        Patch(box(-0.96 * a, 0.96 * a, 0.32, 0.5), shade(paint, 0.6)),
        Patch(box(-0.27, 0.27, 0.53, 0.66), _PLATE),
        *_tyres(a),
    ]
    front = [
        *_pair(a, 0.4 * a, (0.55, 0.74), _WHITE, _WHITE_GLOW),
        Patch(box(-0.56 * a, 0.56 * a, 0.36, 0.64), _DARK),
        Patch(box(-0.27, 0.27, 0.38, 0.5), _PLATE),
        *_tyres(a),
    ]
    windows, belt = {back: glass, screen: glass}, scale * min(cabin[0, 1], cabin[3, 1])
    return [Body(CAR, width, profile, paint, side, rear, front, windows, belt)]


def bus(rng: np.random.Generator) -> list[Body]:
    """A city bus with a row of tall windows and an amber destination sign."""
    paint, glass = pick(rng, _BUS_PAINTS), window_glass(rng)
    n = rng.uniform(9.5, 12.0)
    bays = np.arange(0.4, n - 1.9, 1.5).tolist()
    profile = ((0, 0.4), (0, 3.0), (0.15, 3.15), (n - 0.2, 3.15), (n, 2.9), (n, 0.35))
    side = [
        *(Patch(box(z, z + 1.34, 1.3, 2.6), glass, _SALOON_GLOW) for z in bays),
        Patch(box(0.0, n, 0.4, 0.66), shade(paint, 0.5)),
        Patch(box(n - 1.5, n - 0.4, 0.5, 2.6), shade(glass, 0.8), _SALOON_GLOW),
        *_wheels(0.24 * n, 0.78 * n, radius=0.5),
    ]
    rear = [
        Patch(box(-1.0, 1.0, 1.6, 2.7), glass, _SALOON_GLOW),
        Patch(box(-0.9, 0.9, 0.75, 1.3), shade(paint, 0.6)),
        *_pair(1.2, 0.22, (0.8, 1.5), _RED, _RED_GLOW),
        Patch(box(-0.3, 0.3, 2.78, 3.0), _AMBER, _AMBER_GLOW),
        *_tyres(1.2),
    ]
    front = [
        Patch(box(-1.15, 1.15, 1.05, 2.55), glass, shade(_SALOON_GLOW, 0.4)),
        Patch(box(-0.95, 0.95, 2.64, 2.98), _AMBER, _AMBER_GLOW),
        *_pair(1.15, 0.4, (0.58, 0.85), _WHITE, _WHITE_GLOW),
        *_tyres(1.2),
    ]
    return [Body(BUS, 2.5, profile, paint, side, rear, front)]


def truck(rng: np.random.Generator) -> list[Body]:
    """A lorry, rear to front: a windowless box for the load, and the cab."""
    n, top = rng.uniform(5.0, 7.5), rng.uniform(3.2, 3.8)
    load, paint, glass = pick(rng, _TRUCK_LOADS), pick(rng, _CAR_PAINTS), window_glass(rng)
    ribs = np.arange(0.6, n, 1.0).tolist()
    side = [
        *(Patch(box(z, z + 0.07, 1.1, top - 0.1), shade(load, 0.75)) for z in ribs),
        Patch(box(0.25 * n, 0.75 * n, 0.52 * top, 0.76 * top), accent(rng)),
        Patch(box(0.0, n, 0.75, 1.05), _DARK),
        *_wheels(0.2 * n, 0.38 * n, radius=0.5),
    ]
    rear = [
        *(Patch(box(x, x + 0.06, 1.1, top - 0.1), shade(load, 0.6)) for x in (-1.1, 0.0, 1.04)),
        Patch(box(-1.2, 1.2, 0.55, 0.76), (0.85, 0.32, 0.26)),
        *_pair(1.2, 0.36, (0.8, 0.98), _RED, _RED_GLOW),
        *_tyres(1.2),
    ]
    box_profile = ((0, 1.0), (0, top), (n, top), (n, 1.0))
    cargo = Body(TRUCK, 2.5, box_profile, load, side, rear, front=[], texture=Texture.PLASTER)
    cab_profile = ((n, 0.5), (n, 2.75), (n + 1.7, 2.75), (n + 1.95, 1.6), (n + 2.0, 0.4))
    side = [Patch(box(n + 0.5, n + 1.6, 1.6, 2.4), glass), *_wheels(n + 1.0, radius=0.5)]
    front = [
        Patch(box(-0.8, 0.8, 0.75, 1.45), _DARK),
        *_pair(1.15, 0.38, (0.5, 0.75), _WHITE, _WHITE_GLOW),
        *_tyres(1.2),
    ]
    return [cargo, Body(TRUCK, 2.4, cab_profile, paint, side, [], front, windows={2: glass})]


def tram(rng: np.random.Generator) -> list[Body]:
    """A long two-tone tram with rounded ends and windows from end to end."""
    paint, trim = _TRAM_PAINTS[int(rng.integers(len(_TRAM_PAINTS)))]
    n, glass = rng.uniform(18.0, 26.0), window_glass(rng)
    rear_end = [(0.35, 0.2), (0.0, 1.2), (0.5, 3.25), (0.9, 3.45)]
    profile = [*rear_end, *((n - along, up) for along, up in rear_end[::-1])]
    bays, doors = np.arange(1.0, n - 2.4, 1.9).tolist(), shade(glass, 0.7)
    side = [
        Patch(box(0.15, n - 0.15, 0.35, 1.15), trim),
        *(Patch(box(z, z + 1.6, 1.5, 2.75), glass, _SALOON_GLOW) for z in bays),
        *(Patch(box(z, z + 1.2, 0.5, 2.75), doors, _SALOON_GLOW) for z in bays[2::4]),
        Patch(box(0.4, n - 0.4, 3.0, 3.2), trim),
    ]
    window = ((-1.1, 1.45), (1.1, 1.45), (0.95, 2.7), (-0.95, 2.7))
    end = [
        Patch(window, glass, shade(_SALOON_GLOW, 0.3)),
        Patch(box(-1.2, 1.2, 0.3, 1.15), trim),
        Patch(box(-0.55, 0.55, 2.82, 3.12), _AMBER, _AMBER_GLOW),
    ]
    rear = [*end, *_pair(1.05, 0.3, (0.8, 1.0), _RED, _RED_GLOW)]
    front = [*end, *_pair(1.05, 0.3, (0.8, 1.0), _WHITE, _WHITE_GLOW)]
    return [Body(TRAIN, 2.5, profile, paint, side, rear, front)]


def _inset(cabin: Floats, start: float, stop: float) -> Points:
    """Part of the cabin (rear-bottom, rear-top, front-top, front-bottom) between two fractions."""
    rear_bottom, rear_top, front_top, front_bottom = cabin
    ring = []
    for along, up in ((start, 0.1), (start, 0.84), (stop, 0.84), (stop, 0.1)):
        base = rear_bottom + along * (front_bottom - rear_bottom)
        roof = rear_top + along * (front_top - rear_top)
        ring.append(tuple((base + up * (roof - base)).tolist()))
    return ring


def _wheels(*along: float, radius: float) -> list[Patch]:
    tyres = [Patch(ellipse(z, radius, radius, radius), _RUBBER) for z in along]
    return tyres + [Patch(ellipse(z, radius, 0.55 * radius, 0.55 * radius), _STEEL) for z in along]


def _tyres(half: float) -> list[Patch]:
    return _pair(0.96 * half, 0.24, (0.0, 0.34), _RUBBER)


def _pair(
    half: float, width: float, up: tuple[float, float], colour: Colour, glow: Colour = OFF
) -> list[Patch]:
    """Two boxes at the left and the right edge of an end that reaches from -half to half."""
    return [Patch(box(x, x + width, *up), colour, glow) for x in (-half, half - width)]
