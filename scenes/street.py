"""A street at random: its cross-section, what lines it and who uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from . import buildings, figures, vehicles
from .canvas import Canvas, Surface
from .solids import Pose, Vehicle, draw_in_line, ellipse, pick
from .textures import Texture

ROAD, SIDEWALK, TERRAIN = 0, 1, 9
_FAR = 100.0  # metres; the street's end
_LANE = 3.4
_UP = (0.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the street, outwards from the road; distances from the lane's axis, metres."""

    sign: float
    kerb: float
    verge: float  # end of the sidewalk
    line: float  # building line
    parking: bool

    def x(self, distance: float) -> float:
        return self.sign * distance


@dataclass(frozen=True, slots=True)
class Item:
    """Something to draw: first by layer (outermost first), then from far to near."""

    layer: int
    z: float
    draw: Callable[[], None]


def build_street(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a random street; the same numbers are drawn from ``rng`` whatever the camera."""
    left = _side(rng, -1.0, 0.5 * _LANE + _LANE)
    right = _side(rng, 1.0, 0.5 * _LANE + (_LANE if rng.random() < 0.25 else 0.0))
    features = [str(name) for name in rng.permutation(_FEATURES)[:3]]
    _paint_ground(canvas, rng, left, right)
    _paint_marks(canvas, rng, left, right, tracks="train" in features)
    buildings.skyline(canvas, rng)
    for side in (left, right):
        _line_street(canvas, rng, side)
    items = _furniture(canvas, rng, left, right)
    items += _people(canvas, rng, left, right)
    items += _traffic(canvas, rng, left, right, features)
    for item in sorted(items, key=lambda item: (item.layer, -item.z)):
        item.draw()


_FEATURES = ("truck", "bus", "train", "motorcycle", "bicycle")
_KINDS: dict[str, Callable[[np.random.Generator], list[Vehicle]]] = {
    "car": vehicles.car,
    "truck": vehicles.truck,
    "bus": vehicles.bus,
    "train": vehicles.tram,
}


def _side(rng: np.random.Generator, sign: float, lanes: float) -> Side:
    parking = bool(rng.random() < 0.6)
    kerb = lanes + (2.4 if parking else 0.0)
    verge = kerb + float(rng.uniform(1.8, 3.4))
    green = 0.0 if rng.random() < 0.25 else float(rng.uniform(1.8, 5.0))
    return Side(sign, kerb, verge, verge + green, parking)


def _paint_ground(canvas: Canvas, rng: np.random.Generator, left: Side, right: Side) -> None:
    grass = Surface(TERRAIN, pick(rng, ((0.42, 0.5, 0.2), (0.5, 0.5, 0.24))), Texture.GRASS)
    earth = Surface(TERRAIN, pick(rng, ((0.56, 0.46, 0.32), (0.48, 0.52, 0.24))), Texture.GRASS)
    paving = Surface(SIDEWALK, pick(rng, ((0.66, 0.64, 0.62), (0.7, 0.62, 0.56))), Texture.PAVING)
    kerb = Surface(SIDEWALK, (0.74, 0.73, 0.71), Texture.PLASTER)
    grey = float(rng.uniform(0.3, 0.42))
    asphalt = Surface(ROAD, (grey, grey, 1.02 * grey), Texture.ASPHALT)
    edges = [-left.verge, -left.kerb - 0.2, -left.kerb, right.kerb, right.kerb + 0.2, right.verge]
    canvas.ground(edges, [grass, paving, kerb, asphalt, kerb, paving, earth])
    repairs: list[_Slab] = []
    for _ in range(int(rng.integers(2, 6))):
        x, z = float(rng.uniform(-left.kerb, right.kerb - 2.0)), float(rng.uniform(4.0, 30.0))
        tone = grey * float(rng.uniform(0.7, 0.9))
        patch = Surface(ROAD, (tone, tone, tone), Texture.ASPHALT)
        repairs.append((x, x + float(rng.uniform(0.6, 2.0)), z, 1.3 * z, patch))
    _lay(canvas, repairs)
    for _ in range(2):
        x, z = float(rng.uniform(-left.kerb + 1.0, right.kerb - 1.0)), float(rng.uniform(6.0, 20.0))
        ring = np.array(ellipse(x, z, 0.35, 0.35))
        lid = np.stack([ring[:, 0], 0 * ring[:, 0], ring[:, 1]], axis=1)
        canvas.polygon(lid, Surface(ROAD, (0.22, 0.21, 0.2)), _UP)


def _paint_marks(
    canvas: Canvas, rng: np.random.Generator, left: Side, right: Side, *, tracks: bool
) -> None:
    """Lane marks, edge lines, a crossing and the tram's rails."""
    paint = Surface(ROAD, (0.86, 0.86, 0.83), Texture.ASPHALT)
    phase, solid = float(rng.random()), bool(rng.random() < 0.3)
    slabs: list[_Slab] = []
    if tracks:
        rail, bed = Surface(ROAD, (0.5, 0.48, 0.47)), Surface(ROAD, (0.24, 0.23, 0.23))
        for x in (-_LANE - 0.72, -_LANE + 0.72):
            slabs += _line(x, 0.2, (3.0, 100.0), (6.0, 6.0), bed)
            slabs += _line(x, 0.1, (3.0, 100.0), (6.0, 6.0), rail)
    dashes = (4.0, 4.0) if solid else (7.0, 3.0)
    slabs += _line(-0.5 * _LANE, 0.16, (3.0 + phase * dashes[0], 80.0), dashes, paint)
    if right.kerb > 1.4 * _LANE:
        slabs += _line(0.5 * _LANE, 0.16, (3.0 + 7.0 * phase, 80.0), (7.0, 3.0), paint)
    for x in (-left.kerb + 0.35, right.kerb - 0.35):
        slabs += _line(x, 0.12, (3.0, 80.0), (7.0, 7.0), paint)
    if rng.random() < 0.4:
        z = float(rng.uniform(7.0, 16.0))
        stripes = np.arange(-left.kerb + 0.5, right.kerb - 0.6, 0.95).tolist()
        slabs += [(x, x + 0.5, z, z + 3.0, paint) for x in stripes]
        slabs.append((-0.5 * _LANE, 0.5 * _LANE, z - 1.6, z - 1.2, paint))
    _lay(canvas, slabs)


_Slab = tuple[float, float, float, float, Surface]  # left, right, near, far


def _line(
    x: float,
    width: float,
    extent: tuple[float, float],
    pattern: tuple[float, float],
    surface: Surface,
) -> list[_Slab]:
    """Dashes along the street: ``pattern`` is their spacing and their length."""
    left, right, (step, dash) = x - 0.5 * width, x + 0.5 * width, pattern
    return [(left, right, z, z + dash, surface) for z in np.arange(*extent, step).tolist()]


def _lay(canvas: Canvas, slabs: Sequence[_Slab]) -> None:
    rows = [
        ((left, 0.0, near), (right, 0.0, near), (right, 0.0, far), (left, 0.0, far))
        for left, right, near, far, _ in slabs
    ]
    counts, surfaces = [4] * len(slabs), [slab[4] for slab in slabs]
    canvas.polygons(np.array(rows).reshape(-1, 3), counts, surfaces, [_UP] * len(slabs))


def _line_street(canvas: Canvas, rng: np.random.Generator, side: Side) -> None:
    """Houses or yards block by block, then walls, fences and hedges in front of them."""
    lit = float(rng.uniform(0.1, 0.35))
    ends = [float(rng.uniform(3.0, 6.0))]
    while ends[-1] < _FAR:
        longer = 1.0 + ends[-1] / 60.0  # the far ones are longer: too small to tell apart
        ends.append(ends[-1] + longer * float(rng.uniform(9.0, 16.0)))
    blocks = list(pairwise(ends))[::-1]
    yards = [bool(rng.random() < 0.25) for _ in blocks]
    for (near, far), yard in zip(blocks, yards, strict=True):
        x = side.x(side.line)
        if not yard:
            buildings.house(canvas, rng, x, near, far, lit)
            continue
        behind = x + side.sign * 9.0
        buildings.house(canvas, rng, behind, near, far, lit)
        for z in np.arange(far - 2.0, near, -7.5):
            buildings.tree(canvas, rng, x + side.sign * float(rng.uniform(2.5, 6.0)), float(z))
    for (near, far), yard in zip(blocks, yards, strict=True):
        if side.line == side.verge and not yard:
            continue
        style = rng.choice(["fence", "wall", "hedge", "open"], p=[0.4, 0.3, 0.12, 0.18])
        draw = {"fence": buildings.fence, "wall": buildings.wall, "hedge": buildings.hedge}
        if style in draw:
            draw[str(style)](canvas, rng, side.x(side.line - 0.3), near, far)


def _furniture(canvas: Canvas, rng: np.random.Generator, left: Side, right: Side) -> list[Item]:
    items = []
    for side in (left, right):
        x = side.x(side.kerb + 0.6)
        green = side.line - side.verge
        if green > 1.5:
            middle = side.x(side.verge + 0.45 * green)
            items += [
                Item(0, z, _later(buildings.tree, canvas, rng, middle, z))
                for z in _places(rng, 6.0, 65.0, float(rng.uniform(10.0, 20.0)))
            ]
        items += [
            Item(1, z, _later(figures.street_lamp, canvas, x, z, -1.6 * side.sign))
            for z in _places(rng, 8.0, 75.0, 26.0)
        ]
        for _ in range(int(rng.integers(2, 4))):
            z = float(rng.uniform(6.0, 24.0))
            items.append(Item(1, z, _later(figures.traffic_sign, canvas, rng, x, z)))
        for _ in range(int(rng.integers(1, 3))):
            z, height = float(rng.uniform(7.0, 45.0)), float(rng.uniform(3.0, 8.0))
            items.append(Item(1, z, _later(figures.pole, canvas, x, z, height)))
    if rng.random() < 0.8:
        z = float(rng.uniform(9.0, 22.0))
        items += [
            Item(1, z, _later(figures.traffic_light, canvas, rng, x, z))
            for x in (right.x(right.kerb + 0.5), left.x(left.kerb + 0.5))
        ]
        if rng.random() < 0.5:
            x, arm = right.x(right.kerb + 0.5), -float(rng.uniform(2.5, 4.0))
            z += 9.0
            items.append(Item(1, z, _later(figures.traffic_light, canvas, rng, x, z, arm)))
    return items


def _people(canvas: Canvas, rng: np.random.Generator, left: Side, right: Side) -> list[Item]:
    items = []
    for _ in range(int(rng.integers(4, 9))):
        side = left if rng.random() < 0.5 else right
        z = float(rng.uniform(6.0, 26.0))
        x = side.x(float(rng.uniform(side.kerb + 0.5, side.verge - 0.2)))
        if rng.random() < 0.15:
            x = float(rng.uniform(-left.kerb, right.kerb))
        items.append(Item(1, z, _later(figures.person, canvas, rng, x, z)))
    return items


def _later(draw: Callable[..., None], *arguments: object, **options: object) -> Callable[[], None]:
    return lambda: draw(*arguments, **options)


def _places(rng: np.random.Generator, first: float, last: float, step: float) -> list[float]:
    """Distances ``step`` apart from somewhere in the first step on."""
    return [float(z) for z in np.arange(first + step * rng.random(), last, step)]


def _traffic(
    canvas: Canvas, rng: np.random.Generator, left: Side, right: Side, features: list[str]
) -> list[Item]:
    """Moving and parked vehicles; each of the features once, close enough to be seen well."""
    items = []

    def put(kind: str, x: float, z: float, heading: str, *, parked: bool = False) -> float:
        parts = [replace(part, parked=parked) for part in _KINDS[kind](rng)]
        pose = Pose(x, z, heading)
        items.append(Item(1, z, _later(draw_in_line, canvas, parts, pose)))
        return sum(part.length for part in parts)

    def two_wheeler(kind: str, x: float, z: float, *, ridden: bool) -> None:
        draw = figures.bicycle if kind == "bicycle" else figures.motorcycle
        items.append(Item(1, z, _later(draw, canvas, rng, x, z, ridden=ridden)))

    ahead, oncoming = float(rng.uniform(8.0, 16.0)), float(rng.uniform(7.0, 16.0))
    to_the_right = bool(rng.random() < 0.6)  # where the first two-wheeler goes
    for kind in features:
        if kind in ("bicycle", "motorcycle"):
            x = float(rng.uniform(0.6, 1.6)) - (0.0 if to_the_right else 3.0)
            to_the_right = not to_the_right
            two_wheeler(kind, x, float(rng.uniform(5.5, 11.0)), ridden=True)
            if rng.random() < 0.4:
                side = left if rng.random() < 0.5 else right
                x = side.x(side.kerb + 0.9)
                two_wheeler(kind, x, float(rng.uniform(6.0, 13.0)), ridden=False)
        elif kind == "train" or rng.random() < 0.5:
            heading = "towards" if rng.random() < 0.7 else "away"
            oncoming += put(kind, -_LANE, oncoming, heading) + float(rng.uniform(3.0, 8.0))
        elif rng.random() < 0.25:
            heading = "left" if rng.random() < 0.5 else "right"
            put(kind, float(rng.uniform(-1.0, 3.0)), ahead + 8.0, heading)
            ahead += 14.0
        else:
            x = float(rng.uniform(-0.3, 0.3))
            ahead += put(kind, x, ahead + 2.0, "away") + float(rng.uniform(4.0, 10.0))
    while ahead < 60.0:
        if rng.random() < 0.6:
            put("car", float(rng.uniform(-0.3, 0.3)), ahead, "away")
        ahead += float(rng.uniform(9.0, 20.0))
    while oncoming < 65.0:
        if rng.random() < 0.6:
            put("car", -_LANE + float(rng.uniform(-0.3, 0.3)), oncoming, "towards")
        oncoming += float(rng.uniform(9.0, 18.0))
    for side, heading in ((left, "towards"), (right, "away")):
        if side.parking:
            for z in _places(rng, 4.5, 44.0, 6.2):
                if rng.random() < 0.6:
                    put("car", side.x(side.kerb - 1.15), z, heading, parked=True)
    return items
