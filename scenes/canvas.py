"""The drawing surface: a pinhole camera, and for each pixel which surface it shows and how far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from .domains import Colour
from .textures import SIZE, Texture, cloud_tile

Floats = NDArray[np.float64]
# Street coordinates in metres: x to the right of the camera's lane, y up from the road, z ahead.
# Codes that a panel's pattern may return besides the index of one of its surfaces:
UNTOUCHED, SEE_THROUGH = -1, -2

FACING = (0.0, 0.0, -1.0)  # normal of what faces the camera
_ID_BITS = 16  # low bits of an id: the surface; above: 1 + label where a gap is looked through
_FIXED = 3  # fractional bits of polygon corners
_NEAR = 0.9  # metres; nothing nearer is drawn
SKY_LABEL = 10
_SKY_DEPTH = 500.0  # metres of fog in front of the sky


@dataclass(frozen=True, slots=True)
class Surface:
    """Label and look of something; ``colour`` encoded (sRGB-like) 0-1, ``glow`` in linear light."""

    label: int
    colour: Colour
    texture: Texture = Texture.FLAT
    glow: Colour = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Camera:
    """Pinhole camera above the road; pitch moves the horizon, so that uprights stay upright.

    ``turn`` and ``bend`` say where the street's axis runs: x_world = x + turn z + bend z**2.
    """

    width: int
    height: int
    focal: float  # pixels
    horizon: float  # row
    above_road: float  # metres
    turn: float
    bend: float

    def world(self, points: Floats) -> Floats:
        """Street coordinates (..., 3) as camera-aligned coordinates (..., 3)."""
        moved = points.copy()
        z = points[..., 2]
        moved[..., 0] += (self.turn + self.bend * z) * z
        return moved

    def project(self, points: Floats) -> Floats:
        """Columns and rows (..., 2) of street coordinates (..., 3)."""
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        scale = self.focal / np.maximum(z, _NEAR)
        pixels = np.empty((*z.shape, 2))
        pixels[..., 0] = 0.5 * self.width + (x + (self.turn + self.bend * z) * z) * scale
        pixels[..., 1] = self.horizon + (self.above_road - y) * scale
        return pixels

    def ground_depth(self) -> Floats:
        """Distance z of the road in each row, (height,), infinite above the horizon."""
        below = np.arange(self.height) + 0.5 - self.horizon
        with np.errstate(divide="ignore"):
            return np.where(below > 0, self.focal * self.above_road / below, np.inf)


@dataclass(slots=True)
class Canvas:
    """The surface seen in each pixel. Painter's algorithm: draw the far before the near."""

    camera: Camera
    ids: NDArray[np.int32] = field(init=False)  # (H, W): index of a surface; 0 is the sky
    depth: NDArray[np.float32] = field(init=False)  # (H, W), for surfaces without a depth of theirs
    rows: list[tuple[float, ...]] = field(
        default_factory=list
    )  # label, colour, texture, normal, ...
    footprints: list[tuple[Floats, float]] = field(default_factory=list)  # corners (N, 2), height
    lamps: list[tuple[float, float]] = field(default_factory=list)  # x and z of street lights

    def __post_init__(self) -> None:
        shape = (self.camera.height, self.camera.width)
        self.ids = np.zeros(shape, np.int32)
        self.depth = np.full(shape, _SKY_DEPTH, np.float32)
        self.add(Surface(SKY_LABEL, (0.0, 0.0, 0.0)), FACING)

    def add(self, surface: Surface, normal: Sequence[float], depth: float = np.nan) -> int:
        """Register a surface under one orientation; returns its id."""
        label, texture = float(surface.label), float(surface.texture)
        self.rows.append((label, *surface.colour, texture, *normal, *surface.glow, depth))
        return len(self.rows) - 1

    def table(self) -> NDArray[np.float32]:
        """All surfaces, (N, 12): label, colour (3), texture, normal (3), glow (3), depth or nan."""
        return np.array(self.rows, np.float32)

    def surface_ids(self) -> NDArray[np.int32]:
        """The surface seen in each pixel, (H, W), gaps looked through."""
        return self.ids & ((1 << _ID_BITS) - 1)

    def labels(self) -> NDArray[np.uint8]:
        """Class of each pixel, (H, W); the gaps of a fence or a wheel count as fence or wheel."""
        table = np.array([row[0] for row in self.rows], np.uint8)
        own, gap = table[self.surface_ids()], self.ids >> _ID_BITS
        return np.where(gap > 0, gap - 1, own).astype(np.uint8)

    def ground(self, edges: Sequence[float], surfaces: Sequence[Surface]) -> None:
        """Paint the ground: bands along the street, ``edges`` (N - 1) between ``surfaces`` (N)."""
        camera = self.camera
        z = camera.ground_depth()
        first = int(np.searchsorted(-z, -400.0))
        z = z[first:, None]
        columns = np.arange(camera.width) + 0.5 - 0.5 * camera.width
        x = columns[None, :] * z / camera.focal - (camera.turn + camera.bend * z) * z
        ids = np.array([self.add(surface, (0.0, 1.0, 0.0)) for surface in surfaces], np.int32)
        self.ids[first:] = ids[np.searchsorted(np.asarray(edges), x)]
        self.depth[first:] = z

    def polygon(self, points: Floats, surface: Surface, normal: Sequence[float] = FACING) -> None:
        """Fill a polygon given in street coordinates, (N, 3), at its mean depth."""
        self.polygons(points, [len(points)], [surface], [normal])

    def polygons(
        self,
        points: Floats,
        counts: Sequence[int],
        surfaces: Sequence[Surface],
        normals: Sequence[Sequence[float]],
    ) -> None:
        """Fill several polygons one after the other; ``points`` (sum of counts, 3) holds them all.

        Those that lie on the road have the road's depth, others the mean of their corners.
        """
        corners = _fixed(self.camera.project(points))
        stops = np.cumsum(np.asarray(counts, np.int64))
        depths = np.add.reduceat(points[:, 2], stops - counts) / counts
        heights = np.maximum.reduceat(points[:, 1], stops - counts)
        for surface, normal, count, stop, depth, height in zip(
            surfaces, normals, counts, stops.tolist(), depths.tolist(), heights, strict=True
        ):
            flat = normal[1] > 0.99 and height < 0.1
            code = self.add(surface, normal, np.nan if flat else depth)
            cv2.fillPoly(self.ids, [corners[stop - count : stop]], code, shift=_FIXED)

    def sees(self, x: float, z: float, reach: float) -> bool:
        """Tell whether anything within ``reach`` metres of (x, z) may be in the picture."""
        camera = self.camera
        near = max(z - reach, _NEAR)
        x += (camera.turn + camera.bend * z) * z
        return abs(x) - reach < near * 0.5 * camera.width / camera.focal * 1.05 + 0.2 * reach

    def see_through(self, points: Floats, label: int) -> None:
        """Give what shows through a polygon (N, 3) a label without painting over it."""
        corners = self.camera.project(points)
        left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
        right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
        part = self.ids[top:bottom, left:right]
        if part.size:
            mask = np.zeros(part.shape, np.uint8)
            cv2.fillPoly(mask, [_fixed(corners - (left, top))], 1, shift=_FIXED)
            gap = (part & ((1 << _ID_BITS) - 1)) | ((label + 1) << _ID_BITS)
            np.copyto(part, gap, where=mask > 0)

    def stroke(self, points: Floats, thickness: float, surface: Surface) -> None:
        """A line through street coordinates (N, 3), ``thickness`` in metres, at its mean depth."""
        depth = float(points[:, 2].mean())
        width = max(1, round(thickness * self.camera.focal / depth))
        line = _fixed(self.camera.project(points))
        code = self.add(surface, FACING, depth)
        cv2.polylines(self.ids, [line], False, code, width, cv2.LINE_8, _FIXED)

    def panel(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        height: tuple[float, float],
        surfaces: Sequence[Surface],
        pattern: Callable[[Floats, Floats], NDArray[np.int64]],
    ) -> None:
        """An upright sheet over the ground line from ``start`` to ``end`` (x, z; start nearer).

        ``pattern(s, y)`` gets metres along the sheet (1, n) and above the road (m, n), and returns
        for each an index into ``surfaces``, `UNTOUCHED` or `SEE_THROUGH` (labelled as surface 0).
        """
        camera = self.camera
        inverse = np.linspace(1.0 / start[1], 1.0 / end[1], 32)
        depths = 1.0 / inverse
        along = (depths - start[1]) / (end[1] - start[1])
        points = np.stack([start[0] + along * (end[0] - start[0]), 0 * depths, depths], axis=1)
        columns = camera.project(points)[:, 0]
        if columns[-1] < columns[0]:
            columns, depths, along = columns[::-1], depths[::-1], along[::-1]
        left = max(int(np.ceil(columns[0] - 0.5)), 0)
        right = min(int(np.ceil(columns[-1] - 0.5)), camera.width)
        if right <= left or np.any(np.diff(columns) <= 0):
            return
        at = np.arange(left, right) + 0.5
        z = 1.0 / np.interp(at, columns, 1.0 / depths)
        top = camera.horizon + (camera.above_road - height[1]) * camera.focal / z.min()
        top = min(top, camera.horizon + (camera.above_road - height[1]) * camera.focal / z.max())
        bottom = camera.horizon + (camera.above_road - height[0]) * camera.focal / z.min()
        first, last = max(int(top), 0), min(int(np.ceil(bottom)) + 1, camera.height)
        if last <= first:
            return
        rows = np.arange(first, last)[:, None] + 0.5
        y = camera.above_road - (rows - camera.horizon) * z / camera.focal
        length = float(np.hypot(end[0] - start[0], end[1] - start[1]))
        s = (np.interp(at, columns, along) * length)[None, :]
        codes = np.broadcast_to(pattern(s, y), y.shape).copy()
        codes[(y < height[0]) | (y > height[1])] = UNTOUCHED
        normal = (-float(np.sign(start[0] + end[0])), 0.0, 0.0)
        ids = np.array([self.add(surface, normal) for surface in surfaces], np.int32)
        part = self.ids[first:last, left:right]
        gap = (part & ((1 << _ID_BITS) - 1)) | ((surfaces[0].label + 1) << _ID_BITS)
        behind = np.where(codes == SEE_THROUGH, gap, part)
        solid = codes >= 0
        part[...] = np.where(solid, ids[np.maximum(codes, 0)], behind)
        depth = self.depth[first:last, left:right]
        depth[...] = np.where(solid, z, depth)

    def foliage(
        self, centres: Floats, radius: tuple[float, float], tones: Sequence[Surface], phase: int
    ) -> None:
        """A union of leafy ellipses at one depth: ``centres`` (N, 3), ``radius`` across and up.

        ``tones`` go from dark to light; the outline is ragged by noise, at ``phase`` of its tile.
        """
        camera = self.camera
        depth = float(centres[0, 2])
        scale = camera.focal / depth
        middles = camera.project(centres)
        reach = 1.25 * scale * np.array(radius)
        left, first = np.maximum(np.floor(middles.min(axis=0) - reach), 0).astype(int)
        size = (camera.width, camera.height)
        right, last = np.minimum(np.ceil(middles.max(axis=0) + reach), size).astype(int)
        if right <= left or last <= first:
            return
        columns = (np.arange(left, right) + 0.5 - middles[0, 0]) / scale
        rows = (middles[0, 1] - np.arange(first, last) - 0.5) / scale
        distance = np.full((len(rows), len(columns)), np.inf)
        for centre in centres - centres[0]:
            across = ((columns - centre[0]) / radius[0]) ** 2
            np.minimum(
                distance, across + ((rows - centre[1]) / radius[1])[:, None] ** 2, out=distance
            )
        fine, coarse = _rough(rows, columns, 90.0, phase), _rough(rows, columns, 30.0, phase)
        inside = distance + 0.2 * fine + 0.2 * coarse < 1.0
        light = 0.5 * coarse + 0.25 * fine + (0.3 / radius[1]) * rows[:, None]
        level = np.clip(((light + 0.8) * (len(tones) / 1.6)).astype(int), 0, len(tones) - 1)
        ids = np.array([self.add(tone, (0.0, 0.5, -0.6), depth) for tone in tones], np.int32)
        np.copyto(self.ids[first:last, left:right], ids[level], where=inside)


def _rough(rows: Floats, columns: Floats, per_metre: float, phase: int) -> NDArray[np.float32]:
    """Noise over metres up (m,) and across (n,), (m, n)."""
    at = (rows * per_metre).astype(int) + phase, (columns * per_metre).astype(int) + 3 * phase
    return np.asarray(cloud_tile()[np.ix_(at[0] % SIZE, at[1] % SIZE)])


def _fixed(corners: Floats) -> NDArray[np.int32]:
    """Corners in pixels as OpenCV's fixed-point numbers, whose pixel centres are whole."""
    limited = np.minimum(np.maximum(corners - 0.5, -30000.0), 30000.0)
    return np.asarray(np.rint(limited * 2**_FIXED), np.int32)
