"""People, two-wheelers and street furniture: flat shapes, upright, facing the camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .canvas import Canvas, Face, Floats, Surface
from .domains import Colour
from .solids import Patch, Points, accent, box, ellipse, pick, shade
from .textures import Texture

POLE, LIGHT, SIGN, PERSON, RIDER, MOTORCYCLE, BICYCLE = 5, 6, 7, 11, 12, 17, 18
Part = tuple[Points, Colour] | Patch

# fmt: off
_DARK, _RUBBER, _STEEL = (0.12, 0.12, 0.13), (0.08, 0.08, 0.085), (0.6, 0.61, 0.63)
_SKINS: Sequence[Colour] = ((0.88, 0.7, 0.58), (0.72, 0.52, 0.38), (0.45, 0.3, 0.22))
_HAIRS: Sequence[Colour] = ((0.12, 0.09, 0.07), (0.35, 0.24, 0.14), (0.6, 0.5, 0.36))
_COATS: Sequence[Colour] = (
    (0.15, 0.17, 0.24), (0.6, 0.14, 0.14), (0.85, 0.83, 0.78), (0.22, 0.4, 0.6),
    (0.75, 0.6, 0.2), (0.3, 0.42, 0.26), (0.5, 0.3, 0.5), (0.35, 0.35, 0.36),
)
_TROUSERS: Sequence[Colour] = (
    (0.14, 0.16, 0.24), (0.2, 0.2, 0.21), (0.42, 0.38, 0.32), (0.26, 0.34, 0.5),
)
_PAINTED: Sequence[Colour] = ((0.5, 0.51, 0.52), (0.3, 0.31, 0.32), (0.24, 0.32, 0.28))
# fmt: on
_LENSES: Sequence[tuple[Colour, Colour]] = (  # red, amber and green, by day and as they glow
    ((0.95, 0.12, 0.08), (1.6, 0.1, 0.05)),
    ((0.95, 0.7, 0.1), (1.4, 0.8, 0.1)),
    ((0.1, 0.85, 0.5), (0.1, 1.4, 0.8)),
)
_BICYCLE_FRAME: Sequence[Points] = (
    ((-0.54, 0.36), (-0.12, 0.3), (0.4, 0.82), (-0.22, 0.78), (-0.54, 0.36)),
    ((-0.12, 0.3), (-0.27, 0.92)),
    ((0.54, 0.36), (0.38, 0.98), (0.5, 1.04)),
)


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place in the street for flat shapes, (across, up) in metres, with their scales."""

    canvas: Canvas
    x: float
    z: float
    across: float = 1.0
    up: float = 1.0
    lift: float = 0.0  # metres above the road

    def upright(self, shape: Points) -> Floats:
        """The shape's corners in the street, (N, 3)."""
        points = [(self.x + a * self.across, self.lift + b * self.up, self.z) for a, b in shape]
        return np.array(points)

    def draw(self, label: int, parts: Sequence[Part], texture: Texture = Texture.FLAT) -> None:
        if self.canvas.sees(self.x, self.z, 2.0):
            patches = [Patch(*part) for part in parts]
            looks = [Surface(label, patch.colour, texture, patch.glow) for patch in patches]
            shapes = (self.upright(patch.corners) for patch in patches)
            self.canvas.draw([*map(Face, shapes, looks)])

    def stand(self, radius: float, height: float) -> None:
        self.canvas.stand(self.x, self.z - 0.15, self.z + 0.15, 2.0 * radius, height)


def person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Someone standing or walking, 1.55 to 1.9 m tall."""
    k = rng.uniform(1.55, 1.9) / 1.75
    step, turn = rng.uniform(0.03, 0.24), rng.uniform(0.8, 1.15)
    coat, legs = pick(rng, _COATS), pick(rng, _TROUSERS)
    hem = 0.55 if rng.random() < 0.3 else 0.85
    sleeve = 0.18 + 0.4 * step
    parts: list[Part] = [
        (((-0.1, 0.9), (0.05, 0.9), (step + 0.04, 0.03), (step - 0.12, 0.03)), legs),
        (((-0.05, 0.9), (0.12, 0.9), (0.1 - step, 0.03), (-0.06 - step, 0.03)), shade(legs, 0.8)),
        (box(step - 0.12, step + 0.1, 0.0, 0.08), _DARK),
        (box(-0.06 - step, 0.14 - step, 0.0, 0.08), _DARK),
        (((-0.21, 1.45), (0.21, 1.45), (0.2, hem), (-0.2, hem)), coat),
        (((-0.21, 1.44), (-0.1, 1.44), (-sleeve, 0.82), (-sleeve - 0.1, 0.84)), shade(coat, 0.8)),
        (((0.21, 1.44), (0.1, 1.44), (sleeve, 0.82), (sleeve + 0.1, 0.84)), shade(coat, 0.87)),
        (ellipse(0.0, 1.6, 0.12, 0.15), pick(rng, _SKINS)),
        (ellipse(0.0, 1.68, 0.13, 0.09), pick(rng, _HAIRS)),
    ]
    spot = _Spot(canvas, x, z, across=turn * k, up=k)
    spot.draw(PERSON, parts, Texture.CLOTH)
    spot.stand(0.22, 1.7 * k)


def bicycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float, ridden: bool) -> None:
    """A bicycle seen from the side or at an angle, alone or with its rider."""
    spot = _Spot(canvas, x, z, across=rng.uniform(0.5, 1.0) * float(rng.choice([-1.0, 1.0])))
    for wheel in (-0.54, 0.54):
        disc = spot.upright(ellipse(wheel, 0.36, 0.36, 0.36))
        canvas.see_through(disc, BICYCLE)
        for spoke in range(0, 6, 2):
            canvas.stroke(disc[[spoke, spoke + 6]], 0.015, Surface(BICYCLE, _STEEL))
        canvas.stroke(np.concatenate([disc, disc[:1]]), 0.08, Surface(BICYCLE, _RUBBER))
    tube = Surface(BICYCLE, accent(rng), Texture.METAL)
    for line in _BICYCLE_FRAME:
        canvas.stroke(spot.upright(line), 0.08, tube)
    spot.draw(BICYCLE, [(box(-0.4, -0.12, 0.88, 0.97), _DARK)], Texture.CLOTH)
    if ridden:
        _rider(spot, rng, seat=0.97, helmet=rng.random() < 0.5)
    spot.stand(0.5, 1.6 if ridden else 0.9)


def motorcycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float, ridden: bool) -> None:
    """A motorcycle seen from the side or at an angle, alone or with its rider."""
    spot = _Spot(canvas, x, z, across=rng.uniform(0.55, 1.0) * float(rng.choice([-1.0, 1.0])))
    paint = accent(rng)
    tail = ((-1.0, 0.92), (-0.75, 0.66), (0.0, 0.7), (-0.02, 0.82), (-0.55, 0.84))
    parts: list[Part] = [
        *((ellipse(wheel, 0.34, 0.34, 0.34), _RUBBER) for wheel in (-0.72, 0.72)),
        *((ellipse(wheel, 0.34, 0.17, 0.17), _STEEL) for wheel in (-0.72, 0.72)),
        (((-0.75, 0.45), (-0.1, 0.24), (0.35, 0.27), (0.42, 0.64), (-0.4, 0.72)), _DARK),
        (ellipse(0.05, 0.43, 0.26, 0.2), _STEEL),
        (((-0.95, 0.3), (-0.2, 0.28), (-0.2, 0.38), (-1.0, 0.44)), _STEEL),
        (tail, shade(paint, 0.7)),
        (((-0.6, 0.82), (0.02, 0.78), (0.02, 0.9), (-0.55, 0.92)), _DARK),
        (((-0.02, 0.68), (0.42, 0.6), (0.5, 0.98), (0.1, 1.04)), paint),
        (((0.4, 0.75), (0.66, 0.72), (0.74, 0.98), (0.52, 1.27), (0.44, 1.0)), paint),
        (((0.72, 0.34), (0.64, 0.34), (0.5, 1.08), (0.58, 1.08)), _STEEL),
        (((0.42, 0.52), (1.0, 0.68), (0.98, 0.76), (0.46, 0.68)), paint),
    ]
    spot.draw(MOTORCYCLE, parts, Texture.CLOTH)
    lamp = Patch(box(-1.02, -0.88, 0.8, 0.93), (0.7, 0.08, 0.06), (1.1, 0.04, 0.02))
    spot.draw(MOTORCYCLE, [lamp])
    if ridden:
        _rider(spot, rng, seat=0.9, helmet=True)
    spot.stand(0.6, 1.5 if ridden else 1.1)


def pole(
    canvas: Canvas, x: float, z: float, height: float, radius: float = 0.08, arm: float = 0.0
) -> None:
    """A post; with ``arm`` (metres, signed) also a beam at its top over the road."""
    if not canvas.sees(x, z, 1.0 + abs(arm)):
        return
    surface = Surface(POLE, _PAINTED[int(10.0 * height) % len(_PAINTED)], Texture.METAL)
    shape = [*box(-radius, radius, 0.0, height)]
    if arm:
        shape[2:3] = [(radius, height - 0.12), (arm, height - 0.12), (arm, height)]
    spot = _Spot(canvas, x, z)
    canvas.draw([Face(spot.upright(shape), surface)])
    spot.stand(radius, height)


def street_lamp(canvas: Canvas, x: float, z: float, arm: float) -> None:
    """A lamp post, 7 m tall, its lantern ``arm`` metres over the road."""
    pole(canvas, x, z, 7.0, radius=0.09, arm=arm)
    lantern = Patch(box(arm - 0.4, arm + 0.4, 6.75, 6.95), (0.8, 0.78, 0.7), (3.0, 2.0, 0.9))
    _Spot(canvas, x, z).draw(POLE, [lantern])
    canvas.lamps.append((x + arm, z))


def traffic_light(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, arm: float = 0.0
) -> None:
    """A signal with three lenses on a post, or hanging from a beam over the road."""
    state = 0 if rng.random() < 0.5 else 2  # red or green
    pole(canvas, x, z, 5.6 if arm else 3.4, radius=0.1, arm=arm)
    for along, top in ((0.0, 3.5), (arm, 5.7)) if arm else ((0.0, 3.5),):
        parts: list[Part] = [
            (box(along - 0.33, along + 0.33, top - 1.5, top), (0.1, 0.1, 0.1)),
            (box(along - 0.24, along + 0.24, top - 1.4, top - 0.1), (0.17, 0.18, 0.17)),
        ]
        for place, (colour, glow) in enumerate(_LENSES):
            lens = ellipse(along, top - 0.32 - 0.43 * place, 0.17, 0.18)
            lit = Patch(lens, colour, glow)
            parts.append(lit if place == state else (lens, shade(colour, 0.3)))
        _Spot(canvas, x, z).draw(LIGHT, parts)


def traffic_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """One of seven signs on a post, 0.8 to 1.2 m wide."""
    size, up = 0.5 * rng.uniform(0.8, 1.2), rng.uniform(2.3, 2.9)
    red, blue, white = (0.78, 0.08, 0.1), (0.08, 0.28, 0.66), (0.95, 0.95, 0.93)
    yellow, green = (0.95, 0.76, 0.1), (0.06, 0.42, 0.26)
    disc, inner_disc = (ellipse(0, 0, r, r) for r in (1.0, 0.72))
    triangle, inner = (((-r, -0.8 * r), (r, -0.8 * r), (0.0, 0.95 * r)) for r in (1.0, 0.6))
    diamond, inner_diamond = (((0.0, -r), (r, 0.0), (0.0, r), (-r, 0.0)) for r in (1.0, 0.78))
    signs: Sequence[Sequence[Part]] = (
        [(disc, red), (inner_disc, white)],
        [(disc, red), (box(-0.7, 0.7, -0.18, 0.18), white)],
        [(triangle, red), (inner, white)],
        [(disc, blue), (box(-0.14, 0.14, -0.6, 0.6), white)],
        [(box(-0.9, 0.9, -0.9, 0.9), blue), (inner, white)],
        [(diamond, white), (inner_diamond, yellow)],
        [(box(-1.5, 1.5, -0.6, 0.6), green), (box(-1.1, 1.1, -0.14, 0.1), white)],
    )
    pole(canvas, x, z, up + size, radius=0.06)
    _Spot(canvas, x, z, size, size, lift=up).draw(SIGN, signs[int(rng.integers(len(signs)))])


def _rider(spot: _Spot, rng: np.random.Generator, *, seat: float, helmet: bool) -> None:
    coat, legs = pick(rng, _COATS), pick(rng, _TROUSERS)
    head = accent(rng) if helmet else pick(rng, _HAIRS)
    hip = ((-0.34, 0.0), (-0.1, 0.12), (0.32, -0.16), (0.22, -0.32), (-0.2, -0.14))
    back = ((-0.38, -0.06), (0.0, -0.02), (0.26, 0.52), (0.04, 0.62), (-0.24, 0.46))
    parts: list[Part] = [
        (hip, legs),
        (((0.16, -0.3), (0.33, -0.18), (0.17, -0.62), (0.02, -0.62)), shade(legs, 0.85)),
        (box(0.0, 0.26, -0.68, -0.6), _DARK),
        (back, coat),
        (((0.02, 0.54), (0.22, 0.46), (0.52, 0.14), (0.42, 0.05)), shade(coat, 0.85)),
        (ellipse(0.2, 0.73, 0.15, 0.17), pick(rng, _SKINS)),
        (ellipse(0.18, 0.79, 0.17, 0.14), head),
    ]
    across = float(np.copysign(max(abs(spot.across), 0.75), spot.across))
    replace(spot, across=across, lift=seat).draw(RIDER, parts, Texture.CLOTH)
