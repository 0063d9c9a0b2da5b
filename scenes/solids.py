"""Vehicles as solids: a side profile swept over a width, with details on its faces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .canvas import FACING, Canvas, Floats, Surface
from .domains import Colour
from .textures import Texture

Points = Sequence[tuple[float, float]]
OFF: Colour = (0.0, 0.0, 0.0)
_ACCENTS: Sequence[Colour] = (
    *((0.8, 0.12, 0.1), (0.1, 0.3, 0.7), (0.9, 0.65, 0.1), (0.1, 0.5, 0.3), (0.85, 0.4, 0.1)),
)
_CIRCLE = [(math.cos(turn * math.pi / 6), math.sin(turn * math.pi / 6)) for turn in range(12)]
_UNDERSIDE: Colour = (0.05, 0.05, 0.055)
_PLAIN_FROM = 45.0  # metres; details farther away are left out


class Patch(NamedTuple):
    """A detail on a face of a vehicle: corners in metres on that face, colour, glow at night."""

    corners: Points
    colour: Colour
    glow: Colour = OFF


@dataclass(frozen=True, slots=True)
class Pose:
    """Position of a vehicle's nearest end, (x, z) in metres, and the direction of its front."""

    x: float
    z: float
    heading: str = "away"  # "away", "towards", "left" or "right"

    def place(self, local: Floats, length: float) -> Floats:
        """Local coordinates (..., 3) - right, up, forward from the rear - in the street."""
        across, along = local[..., 0], local[..., 2]
        placed = local.copy()
        if self.heading == "away":
            placed[..., 0] = self.x + across
            placed[..., 2] = self.z + along
        elif self.heading == "towards":
            placed[..., 0] = self.x - across
            placed[..., 2] = self.z + length - along
        else:
            sign = 1.0 if self.heading == "right" else -1.0
            placed[..., 0] = self.x + sign * (along - 0.5 * length)
            placed[..., 2] = self.z + 1.0 - sign * across
        return placed


@dataclass(frozen=True, slots=True, kw_only=True)
class Vehicle:
    """A profile (along from the rear, up; rear-bottom to front-bottom) swept over a width."""

    label: int
    width: float
    profile: Points
    paint: Colour
    windows: dict[int, Colour]  # colours of the profile's edges that are glass
    side: Sequence[Patch]  # corners (along, up)
    rear: Sequence[Patch]  # corners (across, up)
    front: Sequence[Patch]
    belt: float = 9.0  # metres; above it the body narrows
    texture: Texture = Texture.METAL
    parked: bool = False  # lamps off

    @property
    def length(self) -> float:
        return max(along for along, _ in self.profile)

    def draw(self, canvas: Canvas, pose: Pose) -> None:
        """Draw what the camera sees of the vehicle, far faces first, then the details."""
        length = self.length
        if not canvas.sees(pose.x, pose.z + 0.5 * length, 0.6 * length + 2.0):
            return
        low, high = (extreme(up for _, up in self.profile) for extreme in (min, max))
        base = pose.place(self._base(0.0), length)
        canvas.footprints.append((base[:, [0, 2]], high))
        near = np.argsort(base[:, 2], kind="stable")[:2]
        gap = np.concatenate([base[near], base[near[::-1]] + (0.0, low + 0.04, 0.0)])
        polygons, surfaces = [gap], [Surface(self.label, _UNDERSIDE)]
        normals: list[tuple[float, ...]] = [FACING]

        ring = self._ring()
        edges = np.stack([ring[0, :-1], ring[0, 1:], ring[1, 1:], ring[1, :-1]], axis=1)
        quads = pose.place(edges, length)
        directions, seen = _outward(canvas, quads)
        for i in np.argsort(-quads[..., 2].mean(axis=1), kind="stable").tolist():
            if seen[i]:
                polygons.append(quads[i])
                colour = self.windows.get(i, self.paint)
                surfaces.append(Surface(self.label, colour, self.texture))
                normals.append(tuple(directions[i].tolist()))
        sides = pose.place(np.stack([ring[0, ::-1], ring[1]]), length)
        directions, seen = _outward(canvas, sides)
        details = [] if pose.z > _PLAIN_FROM else self._end_details(pose)
        for i in np.flatnonzero(seen).tolist():
            polygons.append(sides[i])
            surfaces.append(Surface(self.label, self.paint, self.texture))
            normals.append(tuple(directions[i].tolist()))
            if pose.z < _PLAIN_FROM:
                details = self._side_details(-1.0 if i == 0 else 1.0) + details
        for patch, _ in details:
            glow = OFF if self.parked else patch.glow
            surfaces.append(Surface(self.label, patch.colour, Texture.FLAT, glow))
            normals.append(FACING)
        counts = [len(points) for points in polygons] + [len(points) for _, points in details]
        if details:
            local = np.array([point for _, points in details for point in points])
            polygons.append(pose.place(local, length))
        canvas.polygons(np.concatenate(polygons), counts, surfaces, normals)

    def _ring(self) -> Floats:
        """The profile's corners on the left and on the right, (2, N, 3), in local coordinates."""
        rows = [(self._half_width(up), up, along) for along, up in self.profile]
        right = np.array(rows)
        return np.stack([right * (-1.0, 1.0, 1.0), right])

    def _half_width(self, up: float) -> float:
        return 0.5 * self.width * (1.0 - 0.3 * max(up - self.belt, 0.0))

    def _base(self, up: float) -> Floats:
        a, n = 0.5 * self.width, self.length
        return np.array([(-a, up, 0.0), (a, up, 0.0), (a, up, n), (-a, up, n)])

    def _side_details(self, sign: float) -> list[tuple[Patch, list[tuple[float, float, float]]]]:
        return [
            (
                patch,
                [(sign * (self._half_width(up) + 0.01), up, along) for along, up in patch.corners],
            )
            for patch in self.side
        ]

    def _end_details(self, pose: Pose) -> list[tuple[Patch, list[tuple[float, float, float]]]]:
        ends = {"away": (self.rear, 0.0), "towards": (self.front, self.length)}
        patches, along = ends.get(pose.heading, ((), 0.0))
        return [(patch, [(x, up, along) for x, up in patch.corners]) for patch in patches]


def _outward(canvas: Canvas, rings: Floats) -> tuple[Floats, Floats]:
    """Unit normals (N, 3) of flat rings of corners, (N, K, 3), and which face the camera, (N,)."""
    world = canvas.camera.world(rings)
    x, y, z = world[..., 0], world[..., 1], world[..., 2]
    ahead = np.roll(world, -1, axis=1)
    area = np.empty((len(rings), 3))  # by Newell's method
    area[:, 0] = (y * ahead[..., 2] - z * ahead[..., 1]).sum(axis=1)
    area[:, 1] = (z * ahead[..., 0] - x * ahead[..., 2]).sum(axis=1)
    area[:, 2] = (x * ahead[..., 1] - y * ahead[..., 0]).sum(axis=1)
    towards = (0.0, canvas.camera.above_road, 0.0) - world[:, 0]
    size = np.maximum(np.sqrt((area * area).sum(axis=1, keepdims=True)), 1e-12)
    return area / size, (area * towards).sum(axis=1) > 0.0


def draw_in_line(canvas: Canvas, parts: Sequence[Vehicle], pose: Pose) -> None:
    """Draw the parts of a vehicle, rear to front, one behind the other along its heading."""
    total = sum(part.length for part in parts)
    placed, offset = [], 0.0
    for part in parts:
        behind = total - offset - part.length  # what lies between this part and the vehicle's front
        shift = {"away": offset, "towards": behind}.get(pose.heading, 0.0)
        side = {"right": 1.0, "left": -1.0}.get(pose.heading, 0.0)
        x = pose.x + side * 0.5 * (offset - behind)
        placed.append((part, Pose(x, pose.z + shift, pose.heading)))
        offset += part.length
    for part, at in sorted(placed, key=lambda pair: -pair[1].z):
        part.draw(canvas, at)


def pick(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    """One of the colours, slightly varied."""
    which, tone, *tints = rng.random(5).tolist()
    base = colours[int(which * len(colours))]
    scale = 0.88 + 0.24 * tone
    red, green, blue = (
        min(max(scale * value + 0.07 * (tint - 0.5), 0.02), 0.98)
        for value, tint in zip(base, tints, strict=True)
    )
    return (red, green, blue)


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker or, with a factor above 1, lighter."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def accent(rng: np.random.Generator) -> Colour:
    """A saturated colour: frames, helmets, emblems."""
    return pick(rng, _ACCENTS)


def window_glass(rng: np.random.Generator) -> Colour:
    """The dark bluish grey of a pane."""
    tone = float(rng.uniform(0.14, 0.34))
    return (0.82 * tone, 0.95 * tone, 1.1 * tone)


def box(left: float, right: float, low: float, high: float) -> Points:
    return ((left, low), (right, low), (right, high), (left, high))


def ellipse(x: float, y: float, across: float, up: float) -> Points:
    """Twelve corners around (x, y)."""
    return [(x + across * cosine, y + up * sine) for cosine, sine in _CIRCLE]
