"""A street at random: its cross-section, what lines it and who uses it."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from . import buildings, figures, vehicles
from .canvas import UP, Canvas, Face, Points, Spot, Surface, box, ellipse
from .materials import Rng, Texture, palette, pick, shade

ROAD, SIDEWALK, TERRAIN = 0, 1, 9
_FAR, _LANE = 100.0, 3.4  # metres: the street's end, a lane's width
_LAWNS, _EARTHS = palette("42 50 20, 50 50 24"), palette("56 46 32, 48 52 24")
_PAVINGS = palette("66 64 62, 70 62 56")
_KINDS = {"car": vehicles.car, "truck": vehicles.truck, "bus": vehicles.bus, "train": vehicles.tram}
_BORDERS = {"fence": buildings.fence, "wall": buildings.wall, "hedge": buildings.hedge}


def build_street(canvas: Canvas, rng: Rng) -> None:
    """Draw a random street; the same numbers are drawn from ``rng`` whatever the camera."""
    street = _Street(canvas, rng)
    features = rng.permutation(("truck", "bus", "train", "motorcycle", "bicycle"))[:3].tolist()
    street.paint_ground()
    street.paint_marks(tracks="train" in features)
    buildings.skyline(canvas, rng)
    for side in (street.left, street.right):
        street.draw_border(side)
    for side in (street.left, street.right):
        street.plan_furniture(side)
    street.plan_signals_and_people()
    street.plan_features(features)
    for *_, draw in sorted(street.planned, key=lambda item: item[:2]):
        draw()


class _Side:
    """One side of the street, outwards from the road; distances from the lane's axis, metres."""

    def __init__(self, rng: Rng, sign: float, lanes: float) -> None:
        self.sign, self.parking = sign, rng.random() < 0.6
        self.kerb = lanes + (2.4 if self.parking else 0.0)
        self.verge = self.kerb + rng.uniform(1.8, 3.4)  # end of the sidewalk
        green = 0.0 if rng.random() < 0.25 else rng.uniform(1.8, 5.0)
        self.line = self.verge + green  # of the buildings


class _Street:
    """A street under construction: what is flat is painted at once, what stands is planned."""

    def __init__(self, canvas: Canvas, rng: Rng) -> None:
        self.canvas, self.rng = canvas, rng
        self.left = _Side(rng, -1.0, 0.5 * _LANE + _LANE)
        self.right = _Side(rng, 1.0, 0.5 * _LANE + (_LANE if rng.random() < 0.25 else 0.0))
        self.planned: list[tuple[bool, float, Callable[[], None]]] = []

    def plan(self, draw: Callable[..., None], x: float, z: float, *more: object) -> None:
        """Have something drawn later: trees before all else, both from far to near."""
        spot = Spot(self.canvas, self.rng, x, z)
        self.planned.append((draw is not buildings.tree, -z, partial(draw, spot, *more)))

    def paint_ground(self) -> None:
        """Lawn, pavement, kerb and asphalt with its patches and manholes."""
        rng, left, right = self.rng, self.left.kerb, self.right.kerb
        grass = Surface(TERRAIN, pick(rng, _LAWNS), Texture.GRASS)
        earth = Surface(TERRAIN, pick(rng, _EARTHS), Texture.GRASS)
        paving = Surface(SIDEWALK, pick(rng, _PAVINGS), Texture.PAVING)
        kerb = Surface(SIDEWALK, (0.74, 0.73, 0.71), Texture.PLASTER)
        grey = rng.uniform(0.3, 0.42)
        asphalt = Surface(ROAD, (grey, grey, 1.02 * grey), Texture.ASPHALT)
        edges = [-self.left.verge, -left - 0.2, -left, right, right + 0.2, self.right.verge]
        self.canvas.ground(edges, [grass, paving, kerb, asphalt, kerb, paving, earth])
        spots = []
        for _ in range(rng.integers(2, 6)):
            x, z = rng.uniform(-left, right - 2.0), rng.uniform(4.0, 30.0)
            patch = Surface(ROAD, shade((grey, grey, grey), rng.uniform(0.7, 0.9)), Texture.ASPHALT)
            spots.append(_flat(box(x, x + rng.uniform(0.6, 2.0), z, 1.3 * z), patch))
        for _ in range(2):
            x, z = rng.uniform(-left + 1.0, right - 1.0), rng.uniform(6.0, 20.0)
            spots.append(_flat(ellipse(x, z, 0.35, 0.35), Surface(ROAD, (0.22, 0.21, 0.2))))
        self.canvas.draw(spots)

    def paint_marks(self, *, tracks: bool) -> None:
        """Lane marks, edge lines, a crossing and the tram's rails."""
        rng, left, right = self.rng, self.left.kerb, self.right.kerb
        paint = Surface(ROAD, (0.86, 0.86, 0.83), Texture.ASPHALT)
        phase, solid = rng.random(), rng.random() < 0.3
        rail, bed = Surface(ROAD, (0.5, 0.48, 0.47)), Surface(ROAD, (0.24, 0.23, 0.23))
        rails = (-_LANE - 0.72, -_LANE + 0.72) if tracks else ()
        # Of each line: place, look, width, where it begins and ends, step and length of dashes
        lines = [(x, *row, 3.0, _FAR, 6.0, 6.0) for x in rails for row in ((bed, 0.2), (rail, 0.1))]
        step, dash = (4.0, 4.0) if solid else (7.0, 3.0)
        lines.append((-0.5 * _LANE, paint, 0.16, 3.0 + phase * step, 80.0, step, dash))
        if right > 1.4 * _LANE:
            lines.append((0.5 * _LANE, paint, 0.16, 3.0 + 7.0 * phase, 80.0, 7.0, 3.0))
        lines += [(x, paint, 0.12, 3.0, 80.0, 7.0, 7.0) for x in (-left + 0.35, right - 0.35)]
        marks = [
            _flat(box(x - 0.5 * width, x + 0.5 * width, z, z + dash), surface)
            for x, surface, width, near, far, step, dash in lines
            for z in np.arange(near, far, step).tolist()
        ]
        if rng.random() < 0.4:
            z = rng.uniform(7.0, 16.0)
            stripes = np.arange(-left + 0.5, right - 0.6, 0.95).tolist()
            marks += [_flat(box(x, x + 0.5, z, z + 3.0), paint) for x in stripes]
            marks.append(_flat(box(-0.5 * _LANE, 0.5 * _LANE, z - 1.6, z - 1.2), paint))
        self.canvas.draw(marks)

    def draw_border(self, side: _Side) -> None:
        """Houses or yards block by block, then walls, fences and hedges in front of them."""
        canvas, rng = self.canvas, self.rng
        lit = rng.uniform(0.1, 0.35)
        ends = [rng.uniform(3.0, 6.0)]
        while ends[-1] < _FAR:
            longer = 1.0 + ends[-1] / 60.0  # the far ones are longer: too small to tell apart
            ends.append(ends[-1] + longer * rng.uniform(9.0, 16.0))
        blocks = [(near, far, rng.random() < 0.25) for near, far in list(pairwise(ends))[::-1]]
        x = side.sign * side.line
        for near, far, yard in blocks:
            buildings.house(canvas, rng, x + 9.0 * side.sign * yard, near, far, lit)
            for z in np.arange(far - 2.0, near, -7.5).tolist() if yard else ():
                buildings.tree(Spot(canvas, rng, x + side.sign * rng.uniform(2.5, 6.0), z))
        for near, far, yard in blocks:
            if side.line > side.verge or yard:
                style = rng.choice([*_BORDERS, "open"], p=[0.4, 0.3, 0.12, 0.18])
                if style != "open":
                    _BORDERS[style](canvas, rng, side.sign * (side.line - 0.3), near, far)

    def plan_furniture(self, side: _Side) -> None:
        """Trees, lamps, signs and posts along one side."""
        rng, x = self.rng, side.sign * (side.kerb + 0.6)
        green = side.line - side.verge
        if green > 1.5:
            for z in _places(rng, 6.0, 65.0, rng.uniform(10.0, 20.0)):
                self.plan(buildings.tree, side.sign * (side.verge + 0.45 * green), z)
        for z in _places(rng, 8.0, 75.0, 26.0):
            self.plan(figures.street_lamp, x, z, -1.6 * side.sign)
        for _ in range(rng.integers(2, 4)):
            self.plan(figures.traffic_sign, x, rng.uniform(6.0, 24.0))
        for _ in range(rng.integers(1, 3)):
            self.plan(figures.pole, x, rng.uniform(7.0, 45.0), rng.uniform(3.0, 8.0))

    def plan_signals_and_people(self) -> None:
        """Traffic lights at one place, or none; people on the sidewalks and some on the road."""
        rng = self.rng
        if rng.random() < 0.8:
            z = rng.uniform(9.0, 22.0)
            for side in (self.right, self.left):
                self.plan(figures.traffic_light, side.sign * (side.kerb + 0.5), z)
            if rng.random() < 0.5:
                x = self.right.kerb + 0.5
                self.plan(figures.traffic_light, x, z + 9.0, -rng.uniform(2.5, 4.0))
        for _ in range(rng.integers(4, 9)):
            side = self.left if rng.random() < 0.5 else self.right
            z = rng.uniform(6.0, 26.0)
            x = side.sign * rng.uniform(side.kerb + 0.5, side.verge - 0.2)
            if rng.random() < 0.15:
                x = rng.uniform(-self.left.kerb, self.right.kerb)
            self.plan(figures.person, x, z)

    def plan_features(self, features: Sequence[str]) -> None:
        """Each of the features once, close enough to be seen well; then the other traffic."""
        rng = self.rng
        ahead, oncoming = rng.uniform(8.0, 16.0), rng.uniform(7.0, 16.0)
        aside = 0.0 if rng.random() < 0.6 else 3.0  # how far to the left a two-wheeler goes
        for kind in features:
            if kind in ("bicycle", "motorcycle"):
                draw = figures.bicycle if kind == "bicycle" else figures.motorcycle
                self.plan(draw, rng.uniform(0.6, 1.6) - aside, rng.uniform(5.5, 11.0), True)
                aside = 3.0 - aside
                if rng.random() < 0.4:
                    side = self.left if rng.random() < 0.5 else self.right
                    self.plan(draw, side.sign * (side.kerb + 0.9), rng.uniform(6.0, 13.0), False)
            elif kind == "train" or rng.random() < 0.5:
                heading = "towards" if rng.random() < 0.7 else "away"
                oncoming += self._vehicle(kind, -_LANE, oncoming, heading)
                oncoming += rng.uniform(3.0, 8.0)
            elif rng.random() < 0.25:
                heading = "left" if rng.random() < 0.5 else "right"
                self._vehicle(kind, rng.uniform(-1.0, 3.0), ahead + 8.0, heading)
                ahead += 14.0
            else:
                ahead += self._vehicle(kind, rng.uniform(-0.3, 0.3), ahead + 2.0, "away")
                ahead += rng.uniform(4.0, 10.0)
        self._plan_cars(ahead, oncoming)

    def _plan_cars(self, ahead: float, oncoming: float) -> None:
        """Cars on both lanes, from those distances on, and parked ones."""
        rng = self.rng
        lanes = (0.0, ahead, 60.0, 20.0, "away"), (-_LANE, oncoming, 65.0, 18.0, "towards")
        for x, z, last, gap, heading in lanes:
            while z < last:
                if rng.random() < 0.6:
                    self._vehicle("car", x + rng.uniform(-0.3, 0.3), z, heading)
                z += rng.uniform(9.0, gap)
        for side, heading in ((self.left, "towards"), (self.right, "away")):
            for z in _places(rng, 4.5, 44.0, 6.2) if side.parking else ():
                if rng.random() < 0.6:
                    self._vehicle("car", side.sign * (side.kerb - 1.15), z, heading, parked=True)

    def _vehicle(self, kind: str, x: float, z: float, heading: str, parked: bool = False) -> float:
        """Plan a vehicle of that kind; returns its length."""
        bodies = _KINDS[kind](self.rng)
        length = max(along for body in bodies for along, _ in body.profile)
        for body in bodies[::-1] if heading == "away" else bodies:  # the farthest first
            self.plan(body.draw, x, z, heading, length, parked)
        return length


def _flat(shape: Points, surface: Surface) -> Face:
    """A shape, (across, ahead) in metres, on the road."""
    return np.array([(x, 0.0, z) for x, z in shape]), surface._replace(normal=UP)


def _places(rng: Rng, first: float, last: float, step: float) -> list[float]:
    """Distances ``step`` apart from somewhere in the first step on."""
    return np.arange(first + step * rng.random(), last, step).tolist()
