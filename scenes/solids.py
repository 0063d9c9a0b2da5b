"""Vehicles as solids: a side profile swept over a width, with details on its faces."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .canvas import OFF, Canvas, Face, Floats, Normal, Surface
from .domains import Colour
from .textures import Texture

Points = Sequence[tuple[float, float]]
_ACCENTS: Sequence[Colour] = (
    *((0.8, 0.12, 0.1), (0.1, 0.3, 0.7), (0.9, 0.65, 0.1), (0.1, 0.5, 0.3), (0.85, 0.4, 0.1)),
)
_CIRCLE = [(math.cos(turn * math.pi / 6), math.sin(turn * math.pi / 6)) for turn in range(12)]
_UNDERSIDE: Colour = (0.05, 0.05, 0.055)
_PLAIN_FROM = 45.0  # metres; details farther away are left out


class Patch(NamedTuple):
    """A flat detail: corners in metres on the face that carries it, colour, glow at night."""

    corners: Points
    colour: Colour
    glow: Colour = OFF


@dataclass(frozen=True, slots=True)
class Pose:
    """Position of a vehicle's nearest end, (x, z) in metres, and the direction of its front."""

    x: float
    z: float
    heading: str = "away"  # "away", "towards", "left" or "right"
    parked: bool = False  # lamps off

    def place(self, local: Floats, length: float) -> Floats:
        """Local coordinates (..., 3) - right, up, forward from the rear - in the street."""
        across, along, placed = local[..., 0], local[..., 2], local.copy()
        if self.heading == "away":
            placed += (self.x, 0.0, self.z)
        elif self.heading == "towards":
            placed[..., 0], placed[..., 2] = self.x - across, self.z + length - along
        else:
            sign = 1.0 if self.heading == "right" else -1.0
            placed[..., 0] = self.x + sign * (along - 0.5 * length)
            placed[..., 2] = self.z + 1.0 - sign * across
        return placed


@dataclass(frozen=True, slots=True)
class Body:
    """A vehicle or a part of it: a profile swept over a width.

    A profile's points are (along from the vehicle's rear, up), from rear-bottom to front-bottom.
    """

    label: int
    width: float
    profile: Points
    paint: Colour
    side: Sequence[Patch]  # corners (along, up)
    rear: Sequence[Patch]  # corners (across, up)
    front: Sequence[Patch]
    windows: dict[int, Colour] = field(default_factory=dict)  # the profile's edges that are glass
    belt: float = 9.0  # metres; above it the body narrows
    texture: Texture = Texture.METAL

    def draw(self, canvas: Canvas, pose: Pose, length: float) -> None:
        """Draw what the camera sees of this part of a vehicle of that length: faces, details."""
        profile, half = np.array(self.profile), 0.5 * self.width
        (start, low), (stop, high) = profile.min(axis=0), profile.max(axis=0)
        ground = [(-half, 0.0, start), (half, 0.0, start), (half, 0.0, stop), (-half, 0.0, stop)]
        base = pose.place(np.array(ground), length)
        x, _, z = base.mean(axis=0)
        if not canvas.sees(x, z, 0.6 * (stop - start) + 2.0):
            return
        canvas.footprints.append((base[:, [0, 2]], high))
        near = base[np.argsort(base[:, 2], kind="stable")[:2]]
        gap = np.concatenate([near, near[::-1] + np.array([0.0, low + 0.04, 0.0])])
        faces = [Face(gap, Surface(self.label, _UNDERSIDE))]
        right = np.array([(self._half_width(up), up, along) for along, up in self.profile])
        left = right * (-1.0, 1.0, 1.0)
        edges = np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)
        for i, edge, normal in _towards_camera(canvas, pose.place(edges, length)):
            colour = self.windows.get(i, self.paint)
            faces.append(Face(edge, Surface(self.label, colour, self.texture), normal))
        details: list[tuple[Patch, Floats]] = []
        sides = pose.place(np.stack([left[::-1], right]), length)
        for i, ring, normal in _towards_camera(canvas, sides):
            faces.append(Face(ring, Surface(self.label, self.paint, self.texture), normal))
            details += self._side_details(2 * i - 1)
        if pose.heading in ("away", "towards"):
            end, at = (self.rear, start) if pose.heading == "away" else (self.front, stop)
            details += [(p, np.array([(x, up, at) for x, up in p.corners])) for p in end]
        if base[:, 2].min() < _PLAIN_FROM:
            for patch, corners in details:
                glow = OFF if pose.parked else patch.glow
                look = Surface(self.label, patch.colour, glow=glow)
                faces.append(Face(pose.place(corners, length), look))
        canvas.draw(faces)

    def _side_details(self, sign: int) -> Iterator[tuple[Patch, Floats]]:
        """Yield the details of the left (-1) or right (1) side, with their local corners."""
        for patch in self.side:
            half = [self._half_width(up) + 0.01 for _, up in patch.corners]
            corners = [
                (sign * a, up, along) for a, (along, up) in zip(half, patch.corners, strict=True)
            ]
            yield patch, np.array(corners)

    def _half_width(self, up: float) -> float:
        return 0.5 * self.width * (1.0 - 0.3 * max(up - self.belt, 0.0))


def length_of(bodies: Sequence[Body]) -> float:
    """Length of a vehicle of those bodies, metres."""
    return max(along for body in bodies for along, _ in body.profile)


def draw_vehicle(canvas: Canvas, bodies: Sequence[Body], pose: Pose) -> None:
    """Draw a vehicle of one or several bodies, given from rear to front; the farthest first."""
    length = length_of(bodies)
    for body in bodies[::-1] if pose.heading == "away" else bodies:
        body.draw(canvas, pose, length)


def _towards_camera(canvas: Canvas, rings: Floats) -> Iterator[tuple[int, Floats, Normal]]:
    """Those of flat rings of corners, (N, K, 3), that face the camera, the farthest first.

    Yields the index, the corners and the unit normal of each.
    """
    world = canvas.camera.world(rings)
    area = np.cross(world, np.roll(world, -1, axis=1)).sum(axis=1)  # by Newell's method
    towards = (0.0, canvas.camera.above_road, 0.0) - world[:, 0]
    seen = (area * towards).sum(axis=1) > 0.0
    area /= np.maximum(np.sqrt((area * area).sum(axis=1, keepdims=True)), 1e-12)
    for i in np.argsort(-rings[..., 2].mean(axis=1), kind="stable").tolist():
        if seen[i]:
            yield i, rings[i], tuple(area[i].tolist())


def pick(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    """One of the colours, slightly varied."""
    which, tone, *tints = rng.random(5).tolist()
    base, scale = colours[int(which * len(colours))], 0.88 + 0.24 * tone
    varied = (scale * value + 0.07 * (tint - 0.5) for value, tint in zip(base, tints, strict=True))
    red, green, blue = (min(max(value, 0.02), 0.98) for value in varied)
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker or, with a factor above 1, lighter."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def accent(rng: np.random.Generator) -> Colour:
    """A saturated colour: frames, helmets, emblems."""
    return pick(rng, _ACCENTS)


def window_glass(rng: np.random.Generator) -> Colour:
    """The dark bluish grey of a pane."""
    return shade((0.82, 0.95, 1.1), rng.uniform(0.14, 0.34))


def box(left: float, right: float, low: float, high: float) -> Points:
    return ((left, low), (right, low), (right, high), (left, high))


def ellipse(x: float, y: float, across: float, up: float) -> Points:
    """Twelve corners around (x, y)."""
    return [(x + across * cosine, y + up * sine) for cosine, sine in _CIRCLE]
