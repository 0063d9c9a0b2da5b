"""The drawing surface: a pinhole camera, and for each pixel which surface it shows and how far.

Street coordinates are metres: x to the right of the camera's lane, y up from the road, z ahead.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .materials import OFF, SIZE, Colour, Rng, Texture, cloud_tile

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
_Area = tuple[slice, slice]  # of the picture: rows and columns
Pattern = Callable[[Floats, Floats], Codes]
Normal = tuple[float, ...]
Pair = tuple[float, float]
Points = Sequence[Pair]  # corners in metres on the face that carries them
UNTOUCHED, SEE_THROUGH = -1, -2  # codes, besides the index of one of a panel's surfaces
FACING, UP = (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)  # normals of what faces the camera, and of the road
_FIXED = 3  # fractional bits of polygon corners
_CIRCLE = [(math.cos(turn * math.pi / 6), math.sin(turn * math.pi / 6)) for turn in range(12)]
_NEAR = 0.9  # metres; nothing nearer is drawn
_SKY_LABEL, _SKY_DEPTH = 10, 500.0  # metres of fog in front of the sky


class Surface(NamedTuple):
    """Label and look of something; ``colour`` encoded (sRGB-like) 0-1, ``glow`` in linear light."""

    label: int
    colour: Colour
    texture: Texture = Texture.FLAT
    glow: Colour = OFF
    normal: Normal = FACING  # where it faces


Surfaces = Sequence[Surface]
Face = tuple[Floats, Surface]  # a flat polygon's corners, (N, 3) in street coordinates, and look
Part = tuple[Points, Colour] | tuple[Points, Colour, Colour]  # a detail: corners, colour, glow


class Camera(NamedTuple):
    """Pinhole camera above the road; pitch moves the horizon, so that uprights stay upright."""

    width: int
    height: int
    focal: float  # pixels
    horizon: float  # row
    above_road: float  # metres
    turn: float  # with bend, where the street's axis runs: x_world = x + turn z + bend z**2
    bend: float

    def world(self, points: Floats) -> Floats:
        """Street coordinates (..., 3) as camera-aligned coordinates (..., 3)."""
        moved, z = points.copy(), points[..., 2]
        moved[..., 0] += (self.turn + self.bend * z) * z
        return moved

    def project(self, points: Floats) -> Floats:
        """Columns and rows (..., 2) of street coordinates (..., 3)."""
        pixels = self.world(points)[..., :2]
        pixels[..., 1] = self.above_road - points[..., 1]
        pixels *= self.focal / np.maximum(points[..., 2:], _NEAR)
        return np.array((0.5 * self.width, self.horizon)) + pixels


class Canvas:
    """The picture, pixel by pixel. Painter's algorithm: draw the far before the near."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.ids = np.zeros((camera.height, camera.width), np.int32)  # of a look
        self.labels = np.full(self.ids.shape, _SKY_LABEL, np.uint8)  # of a fence: its gaps, too
        self.depth = np.full(self.ids.shape, _SKY_DEPTH, np.float32)
        self.looks = [Surface(_SKY_LABEL, OFF)]
        self.footprints: list[tuple[ArrayLike, float]] = []  # corners (4, 2), height
        self.lamps: list[Floats] = []  # places of street lights, projected onto the road

    def sees(self, x: float, z: float, reach: float) -> bool:
        """Tell whether anything within ``reach`` metres of (x, z) may be in the picture."""
        camera = self.camera
        near = max(z - reach, _NEAR)
        x += (camera.turn + camera.bend * z) * z
        return abs(x) - reach < near * 0.5 * camera.width / camera.focal * 1.05 + 0.2 * reach

    def stand(self, x: float, near: float, far: float, width: float, height: float) -> None:
        """Note that something ``height`` metres high stands on the road, which it shades."""
        self.footprints.append((box(x - 0.5 * width, x + 0.5 * width, near, far), height))

    def ground(self, edges: Sequence[float], surfaces: Surfaces) -> None:
        """Paint the ground: bands along the street, ``edges`` (N - 1) between ``surfaces`` (N)."""
        camera = self.camera
        below = np.arange(camera.height) + 0.5 - camera.horizon
        first = int(np.searchsorted(below, camera.focal * camera.above_road / 400.0))
        z = camera.focal * camera.above_road / below[first:, None]
        columns = np.arange(camera.width) + 0.5 - 0.5 * camera.width
        x = columns * z / camera.focal - (camera.turn + camera.bend * z) * z
        self._stamp(np.s_[first:, :], surfaces, np.searchsorted(np.asarray(edges), x), UP, z)

    def draw(self, faces: Sequence[Face]) -> None:
        """Fill polygons in turn, at the road's depth on the road, else at that of their middle."""
        points = np.concatenate([corners for corners, _ in faces])
        counts = [len(corners) for corners, _ in faces]
        starts = np.cumsum([0, *counts[:-1]])
        depths = np.add.reduceat(points[:, 2], starts) / counts
        rings = np.split(self._pixels(points), starts[1:])
        for (corners, surface), ring, depth in zip(faces, rings, depths, strict=True):
            flat = surface.normal[1] > 0.99 and corners[0, 1] < 0.1
            for layer, value in self._layers(surface, depth)[: 2 if flat else 3]:
                cv2.fillPoly(layer, [ring], value, shift=_FIXED)

    def see_through(self, points: Floats, label: int) -> None:
        """Give what shows through a polygon (N, 3) a label without painting over it."""
        cv2.fillPoly(self.labels, [self._pixels(points)], label, shift=_FIXED)

    def stroke(self, points: Floats, thickness: float, surface: Surface) -> None:
        """A line through street coordinates (N, 3), ``thickness`` in metres, at its mean depth."""
        depth = float(points[:, 2].mean())
        width = max(1, round(thickness * self.camera.focal / depth))
        line = [self._pixels(points)]
        for layer, value in self._layers(surface, depth):
            cv2.polylines(layer, line, False, value, width, cv2.LINE_8, _FIXED)

    def _pixels(self, points: Floats) -> NDArray[np.int32]:
        """Street coordinates (N, 3) as OpenCV's fixed-point pixels, whose centres are whole."""
        limited = np.clip(self.camera.project(points) - 0.5, -30000.0, 30000.0)
        return np.asarray(np.rint(limited * 2**_FIXED), np.int32)

    def panel(
        self, x: float, near: float, far: float, height: float, surfaces: Surfaces, pattern: Pattern
    ) -> None:
        """An upright sheet along the street, from the road up.

        ``pattern(s, y)`` gets metres along the sheet (1, n) and above the road (m, n), and returns
        for each an index into ``surfaces``, `UNTOUCHED` or `SEE_THROUGH` (labelled as surface 0).
        """
        camera = self.camera
        depths = 1.0 / np.linspace(1.0 / near, 1.0 / far, 32)
        columns = camera.project(np.stack([x + 0 * depths, 0 * depths, depths], axis=1))[:, 0]
        if columns[-1] < columns[0]:
            columns, depths = columns[::-1], depths[::-1]
        left, right = np.clip(np.ceil(columns[[0, -1]] - 0.5), 0, camera.width).astype(int)
        if right <= left or np.any(np.diff(columns) <= 0):
            return
        at = np.arange(left, right) + 0.5
        z = 1.0 / np.interp(at, columns, 1.0 / depths)
        ends = camera.horizon + (camera.above_road - np.array([[height], [0.0]])) * camera.focal / z
        first, last = np.clip((ends.min(), np.ceil(ends.max()) + 1), 0, camera.height).astype(int)
        rows = np.arange(first, last)[:, None] + 0.5
        y = camera.above_road - (rows - camera.horizon) * z / camera.focal
        along = np.interp(at, columns, (depths - near) / (far - near)) * (far - near)
        codes = np.where((y < 0.0) | (y > height), UNTOUCHED, pattern(along[None, :], y))
        inwards = (-float(np.sign(x)), 0.0, 0.0)
        self._stamp(np.s_[first:last, left:right], surfaces, codes, inwards, z)

    def foliage(self, centres: Floats, radius: Pair, tones: Surfaces, phase: int) -> None:
        """A union of equal leafy ellipses, ragged by noise, at one depth; tones from dark on."""
        size = (self.camera.width, self.camera.height)
        depth = float(centres[0, 2])
        scale = self.camera.focal / depth
        middles = self.camera.project(centres)
        reach = 1.25 * scale * np.array(radius)
        left, first = np.clip(np.floor(middles.min(axis=0) - reach), 0, size).astype(int)
        right, last = np.clip(np.ceil(middles.max(axis=0) + reach), 0, size).astype(int)
        columns = (np.arange(left, right) + 0.5 - middles[0, 0]) / scale
        rows = ((middles[0, 1] - np.arange(first, last) - 0.5) / scale)[:, None]
        across, up, _ = (centres - centres[0]).T[..., None, None]
        distances = ((columns - across) / radius[0]) ** 2 + ((rows - up) / radius[1]) ** 2
        texels = [((n * rows).astype(int), (n * columns).astype(int)) for n in (90.0, 30.0)]
        fine, coarse = (cloud_tile()[(i + phase) % SIZE, (j + 3 * phase) % SIZE] for i, j in texels)
        inside = distances.min(axis=0) + 0.2 * fine + 0.2 * coarse < 1.0
        light = 0.5 * coarse + 0.25 * fine + (0.3 / radius[1]) * rows
        level = np.clip(((light + 0.8) * (len(tones) / 1.6)).astype(int), 0, len(tones) - 1)
        codes = np.where(inside, level, UNTOUCHED)
        self._stamp(np.s_[first:last, left:right], tones, codes, (0.0, 0.5, -0.6), depth)

    def _layers(self, surface: Surface, depth: float) -> list[tuple[Any, float]]:
        """The layers of the picture, each with the value that this surface has in it."""
        self.looks.append(surface)
        return [(self.ids, len(self.looks) - 1), (self.labels, surface.label), (self.depth, depth)]

    def _stamp(self, at: _Area, looks: Surfaces, codes: Codes, normal: Normal, depth: Any) -> None:
        """Paint a part of the picture by codes such as a panel's pattern returns."""
        labels = np.array([surface.label for surface in looks], np.uint8)
        which, solid = np.maximum(codes, 0), codes >= 0
        np.copyto(self.labels[at], labels[which], where=codes != UNTOUCHED)
        np.copyto(self.ids[at], which + len(self.looks), where=solid, casting="same_kind")
        np.copyto(self.depth[at], depth, where=solid, casting="same_kind")
        self.looks += [surface._replace(normal=normal) for surface in looks]


class Spot(NamedTuple):
    """A place in the street for something upright, with the scales of its shapes."""

    canvas: Canvas
    rng: Rng  # draws what is to stand there
    x: float
    z: float
    across: float = 1.0
    up: float = 1.0
    lift: float = 0.0  # metres above the road

    def upright(self, shape: Points) -> Floats:
        """The corners in the street, (N, 3), of a shape that faces the camera."""
        across, up = self.across, self.up
        return np.array([(self.x + across * a, self.lift + up * b, self.z) for a, b in shape])

    def draw(self, label: int, parts: Sequence[Part], texture: Texture = Texture.FLAT) -> None:
        """Draw flat shapes, one over the other."""
        if self.canvas.sees(self.x, self.z, 2.0):
            looks = (Surface(label, colour, texture, *glow) for _, colour, *glow in parts)
            shapes = (self.upright(part[0]) for part in parts)
            self.canvas.draw([*zip(shapes, looks, strict=True)])

    def stand(self, radius: float, height: float) -> None:
        """Note what stands here, which shades the road."""
        self.canvas.stand(self.x, self.z - 0.15, self.z + 0.15, 2.0 * radius, height)


def box(left: float, right: float, low: float, high: float) -> Points:
    """Four corners, from the lower left one on."""
    return ((left, low), (right, low), (right, high), (left, high))


def ellipse(x: float, y: float, across: float, up: float) -> Points:
    """Twelve corners around (x, y)."""
    return [(x + across * cosine, y + up * sine) for cosine, sine in _CIRCLE]
