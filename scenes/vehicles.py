"""Cars, buses, trucks and trams: side profiles swept over a width, with details on their faces."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from .canvas import Canvas, Floats, Normal, Pair, Part, Points, Spot, Surface, box, ellipse
from .materials import ACCENTS, OFF, Colour, Rng, Texture, palette, pick, shade, window_glass

CAR, TRUCK, BUS, TRAIN = 13, 14, 15, 16
_PLAIN_FROM = 45.0  # metres; details farther away are left out
_HEADINGS = {"away": (1, 0), "towards": (-1, 0), "right": (0, 1), "left": (0, -1)}  # cosine, sine
_DARK, _TYRE, _STEEL, _BELOW, _PLATE = palette("13 13 14, 8 8 8.5, 56 57 59, 5 5 5.5, 90 90 84")
_RED = (0.62, 0.06, 0.06), (0.7, 0.03, 0.015)  # of lamps: colour, glow
_WHITE = (0.92, 0.92, 0.88), (1.8, 1.6, 1.25)
_AMBER = (0.95, 0.6, 0.12), (0.9, 0.45, 0.06)


class Body(NamedTuple):
    """A vehicle or a part of it: a profile swept over a width."""

    label: int
    width: float
    profile: Points  # (along from the vehicle's rear, up), from rear-bottom to front-bottom
    paint: Colour
    side: Sequence[Part]  # corners (along, up)
    rear: Sequence[Part] = ()  # corners (across, up)
    front: Sequence[Part] = ()
    glass: Colour = OFF
    windows: Sequence[int] = ()  # the profile's edges that are glass
    belt: float = 9.0  # metres; above it the body narrows
    tyres: float = 0.0  # half of their distance, where an end shows them
    texture: Texture = Texture.METAL

    def draw(self, spot: Spot, heading: str, length: float, parked: bool) -> None:
        """Draw what the camera sees of this part of a vehicle ``length`` metres long."""
        place = partial(_placed, spot, heading, length)
        profile, half = np.array(self.profile), 0.5 * self.width
        (start, low), (stop, high) = profile.min(axis=0), profile.max(axis=0)
        base = place(np.array([(x, 0.0, z) for x, z in box(-half, half, start, stop)]))
        x, _, z = base.mean(axis=0)
        if not spot.canvas.sees(x, z, 0.6 * (stop - start) + 2.0):
            return
        spot.canvas.footprints.append((base[:, [0, 2]], high))
        near = base[np.argsort(base[:, 2], kind="stable")[:2]]
        gap = np.concatenate([near, near[::-1] + np.array([0.0, low + 0.04, 0.0])])
        faces = [(gap, Surface(self.label, _BELOW))]
        right = self._on_side(1.0, self.profile)
        left = right * (-1.0, 1.0, 1.0)
        edges = np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)
        for i, edge, normal in _towards_camera(spot.canvas, place(edges)):
            colour = self.glass if i in self.windows else self.paint
            faces.append((edge, Surface(self.label, colour, self.texture, OFF, normal)))
        details: list[tuple[Part, Floats]] = []
        for i, ring, normal in _towards_camera(spot.canvas, place(np.stack([left[::-1], right]))):
            faces.append((ring, Surface(self.label, self.paint, self.texture, OFF, normal)))
            details += [(part, self._on_side(2 * i - 1, part[0], 0.01)) for part in self.side]
        if heading in ("away", "towards"):
            end, at = (self.rear, start) if heading == "away" else (self.front, stop)
            if end and self.tyres:
                end = [*end, *_pair(0.96 * self.tyres, 0.24, (0.0, 0.34), (_TYRE, OFF))]
            details += [(part, np.array([(x, up, at) for x, up in part[0]])) for part in end]
        for (_, colour, *glow), corners in details if base[:, 2].min() < _PLAIN_FROM else ():
            lit = [] if parked else glow
            faces.append((place(corners), Surface(self.label, colour, Texture.FLAT, *lit)))
        spot.canvas.draw(faces)

    def _on_side(self, sign: float, points: Points, out: float = 0.0) -> Floats:
        """Points of the left (-1) or right (1) side, ``out`` metres before it, as (N, 3)."""
        halves = (0.5 * self.width * (1.0 - 0.3 * max(up - self.belt, 0.0)) for _, up in points)
        placed = zip(halves, points, strict=True)
        return np.array([(sign * (half + out), up, along) for half, (along, up) in placed])


def _placed(spot: Spot, heading: str, length: float, local: Floats) -> Floats:
    """Street coordinates of (right, up, ahead of the rear); the nearest end is at the spot."""
    cosine, sine = _HEADINGS[heading]
    across, along, placed = local[..., 0], local[..., 2], local.copy()
    placed[..., 0] = spot.x + cosine * across + sine * (along - 0.5 * length)
    start = spot.z + abs(sine) + max(-cosine, 0) * length
    placed[..., 2] = start + cosine * along - sine * across
    return placed


def _towards_camera(canvas: Canvas, rings: Floats) -> Iterator[tuple[int, Floats, Normal]]:
    """Index, corners and unit normal of those flat rings that face the camera, from afar on."""
    world = canvas.camera.world(rings)
    area = np.cross(world, np.roll(world, -1, axis=1)).sum(axis=1)  # by Newell's method
    towards = (0.0, canvas.camera.above_road, 0.0) - world[:, 0]
    seen = (area * towards).sum(axis=1) > 0.0
    area /= np.maximum(np.sqrt((area * area).sum(axis=1, keepdims=True)), 1e-12)
    for i in np.argsort(-rings[..., 2].mean(axis=1), kind="stable").tolist():
        if seen[i]:
            yield i, rings[i], tuple(area[i].tolist())


# fmt: off
_SALOON_GLOW = (0.22, 0.19, 0.13)
_CAR_PAINTS = palette("12 12 13, 20 21 23, 45 46 48, 68 69 70, 88 88 87, 62 10 10, 13 20 42, "
                      "20 36 55, 16 30 22, 55 46 34")
_BUS_PAINTS = palette("78 16 14, 92 74 20, 20 50 36, 16 34 62, 86 86 82")
_TRAM_PAINTS = palette("92 90 80, 93 85 40, 85 88 90, 90 90 88")
_TRAM_TRIMS = palette("75 12 12, 20 22 24, 12 42 60, 16 50 28")  # of each paint
_TRUCK_LOADS = palette("90 90 88, 72 74 76, 30 42 56, 66 30 20, 36 42 30, 82 66 36")
# Profiles of a saloon, a hatchback, an off-roader and a van; then their two window edges.
_CAR_BODIES: Sequence[tuple[Points, tuple[int, int]]] = (
    (((0, 0.24), (0, 0.86), (0.1, 1.0), (0.7, 1.02), (1.3, 1.42), (2.5, 1.45), (3.3, 0.98),
      (4.25, 0.82), (4.45, 0.62), (4.45, 0.2)), (3, 5)),
    (((0, 0.24), (0, 0.96), (0.08, 1.02), (0.5, 1.46), (2.4, 1.5), (3.1, 1.02), (3.85, 0.86),
      (4.0, 0.62), (4.0, 0.2)), (2, 4)),
    (((0, 0.3), (0, 1.08), (0.08, 1.14), (0.42, 1.68), (2.9, 1.74), (3.6, 1.16), (4.45, 1.0),
      (4.6, 0.72), (4.6, 0.26)), (2, 4)),
    (((0, 0.26), (0, 1.14), (0.06, 1.2), (0.2, 1.92), (3.5, 1.97), (4.25, 1.2), (4.8, 1.02),
      (4.95, 0.7), (4.95, 0.24)), (2, 4)))


def car(rng: Rng) -> list[Body]:
    """One of four body shapes: saloon, hatchback, off-roader, van."""
    body, (back, screen) = _CAR_BODIES[int(rng.integers(len(_CAR_BODIES)))]
    paint, glass = pick(rng, _CAR_PAINTS), window_glass(rng)
    scale, width = rng.uniform(0.95, 1.06), rng.uniform(1.72, 1.9)
    profile = [(scale * along, scale * up) for along, up in body]
    n, a = profile[-1][0], 0.5 * width  # length and half the width
    cabin = np.array([profile[back], profile[back + 1], profile[screen], profile[screen + 1]])
    side = [(_inset(cabin, 0.06, 0.48), glass), (_inset(cabin, 0.53, 0.93), glass),
            (box(0.03 * n, 0.97 * n, 0.3, 0.42), shade(paint, 0.5)),
            *_wheels(0.19 * n, 0.8 * n, radius=0.34)]
    rear = [*_pair(a, 0.36 * a, (0.66, 0.9), _RED),
            (box(-0.96 * a, 0.96 * a, 0.32, 0.5), shade(paint, 0.6)),
            (box(-0.27, 0.27, 0.53, 0.66), _PLATE)]
    front = [*_pair(a, 0.4 * a, (0.55, 0.74), _WHITE),
             (box(-0.56 * a, 0.56 * a, 0.36, 0.64), _DARK),
             (box(-0.27, 0.27, 0.38, 0.5), _PLATE)]
    windows, belt = (back, screen), scale * min(cabin[0, 1], cabin[3, 1])
    return [Body(CAR, width, profile, paint, side, rear, front, glass, windows, belt, a)]


def bus(rng: Rng) -> list[Body]:
    """A city bus with a row of tall windows and an amber destination sign."""
    paint, glass, n = pick(rng, _BUS_PAINTS), window_glass(rng), rng.uniform(9.5, 12.0)
    profile = ((0, 0.4), (0, 3.0), (0.15, 3.15), (n - 0.2, 3.15), (n, 2.9), (n, 0.35))
    bays = np.arange(0.4, n - 1.9, 1.5).tolist()
    side = [*((box(z, z + 1.34, 1.3, 2.6), glass, _SALOON_GLOW) for z in bays),
            (box(0.0, n, 0.4, 0.66), shade(paint, 0.5)),
            (box(n - 1.5, n - 0.4, 0.5, 2.6), shade(glass, 0.8), _SALOON_GLOW),
            *_wheels(0.24 * n, 0.78 * n, radius=0.5)]
    rear = [(box(-1.0, 1.0, 1.6, 2.7), glass, _SALOON_GLOW),
            (box(-0.9, 0.9, 0.75, 1.3), shade(paint, 0.6)),
            *_pair(1.2, 0.22, (0.8, 1.5), _RED), (box(-0.3, 0.3, 2.78, 3.0), *_AMBER)]
    front = [(box(-1.15, 1.15, 1.05, 2.55), glass, shade(_SALOON_GLOW, 0.4)),
             (box(-0.95, 0.95, 2.64, 2.98), *_AMBER), *_pair(1.15, 0.4, (0.58, 0.85), _WHITE)]
    return [Body(BUS, 2.5, profile, paint, side, rear, front, tyres=1.2)]


def truck(rng: Rng) -> list[Body]:
    """A lorry, rear to front: a windowless box for the load, and the cab."""
    n, top = rng.uniform(5.0, 7.5), rng.uniform(3.2, 3.8)
    load, paint, glass = pick(rng, _TRUCK_LOADS), pick(rng, _CAR_PAINTS), window_glass(rng)
    ribs = np.arange(0.6, n, 1.0).tolist()
    side = [*((box(z, z + 0.07, 1.1, top - 0.1), shade(load, 0.75)) for z in ribs),
            (box(0.25 * n, 0.75 * n, 0.52 * top, 0.76 * top), pick(rng, ACCENTS)),
            (box(0.0, n, 0.75, 1.05), _DARK), *_wheels(0.2 * n, 0.38 * n, radius=0.5)]
    rear = [*((box(x, x + 0.06, 1.1, top - 0.1), shade(load, 0.6)) for x in (-1.1, 0.0, 1.04)),
            (box(-1.2, 1.2, 0.55, 0.76), (0.85, 0.32, 0.26)),
            *_pair(1.2, 0.36, (0.8, 0.98), _RED)]
    profile = [(0.0, 1.0), (0.0, top), (n, top), (n, 1.0)]
    cargo = Body(TRUCK, 2.5, profile, load, side, rear, tyres=1.2, texture=Texture.PLASTER)
    profile = [(n, 0.5), (n, 2.75), (n + 1.7, 2.75), (n + 1.95, 1.6), (n + 2.0, 0.4)]
    side = [(box(n + 0.5, n + 1.6, 1.6, 2.4), glass), *_wheels(n + 1.0, radius=0.5)]
    front = [(box(-0.8, 0.8, 0.75, 1.45), _DARK), *_pair(1.15, 0.38, (0.5, 0.75), _WHITE)]
    return [cargo, Body(TRUCK, 2.4, profile, paint, side, [], front, glass, (2,), tyres=1.2)]


def tram(rng: Rng) -> list[Body]:
    """A long two-tone tram with rounded ends and windows from end to end."""
    which = int(rng.integers(len(_TRAM_PAINTS)))
    paint, trim = _TRAM_PAINTS[which], _TRAM_TRIMS[which]
    n, glass = rng.uniform(18.0, 26.0), window_glass(rng)
    back = [(0.35, 0.2), (0.0, 1.2), (0.5, 3.25), (0.9, 3.45)]
    profile = [*back, *((n - along, up) for along, up in back[::-1])]
    bays, doors = np.arange(1.0, n - 2.4, 1.9).tolist(), shade(glass, 0.7)
    side: list[Part] = [
        (box(0.15, n - 0.15, 0.35, 1.15), trim),
        *((box(z, z + 1.6, 1.5, 2.75), glass, _SALOON_GLOW) for z in bays),
        *((box(z, z + 1.2, 0.5, 2.75), doors, _SALOON_GLOW) for z in bays[2::4]),
        (box(0.4, n - 0.4, 3.0, 3.2), trim)]
    window = ((-1.1, 1.45), (1.1, 1.45), (0.95, 2.7), (-0.95, 2.7))
    end: list[Part] = [
        (window, glass, shade(_SALOON_GLOW, 0.3)), (box(-1.2, 1.2, 0.3, 1.15), trim),
        (box(-0.55, 0.55, 2.82, 3.12), *_AMBER)]
    rear, front = ([*end, *_pair(1.05, 0.3, (0.8, 1.0), look)] for look in (_RED, _WHITE))
    return [Body(TRAIN, 2.5, profile, paint, side, rear, front)]
# fmt: on


def _inset(cabin: Floats, start: float, stop: float) -> Points:
    """Part of the cabin (rear-bottom, rear-top, front-top, front-bottom) between two fractions."""
    along, up = np.array([start, start, stop, stop]), np.array([0.1, 0.84, 0.84, 0.1])
    base = cabin[0] + along[:, None] * (cabin[3] - cabin[0])
    roof = cabin[1] + along[:, None] * (cabin[2] - cabin[1])
    return [(x, y) for x, y in (base + up[:, None] * (roof - base)).tolist()]


def _wheels(*along: float, radius: float) -> list[Part]:
    """Tyres, then their rims."""
    rings = ((_TYRE, radius), (_STEEL, 0.55 * radius))
    return [(ellipse(z, radius, r, r), colour) for colour, r in rings for z in along]


def _pair(half: float, width: float, up: Pair, look: tuple[Colour, Colour]) -> list[Part]:
    """Two boxes at the left and the right edge of an end that reaches from -half to half."""
    return [(box(x, x + width, *up), *look) for x in (-half, half - width)]
