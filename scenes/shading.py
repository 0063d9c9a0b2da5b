"""From surfaces to a photograph: light, air, water and the camera of a domain.

Light is linear and planar, (3, H, W) float32, until the camera encodes it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas, Floats
from .domains import Colour, Domain
from .textures import LEVELS, SIZE, TEXELS_PER_METRE, cloud_tile, sensor_grain, texture_atlas

_Plane = NDArray[np.float32]  # (H, W)
_Light = NDArray[np.float32]  # (3, H, W)
_WHITE = 1.6  # linear light that saturates the sensor
_MARGIN = 97  # by how many pixels the sensor's grain is moved from frame to frame


def photograph(
    canvas: Canvas, domain: Domain, sun_side: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The canvas under a domain's light, (H, W, 3) uint8 RGB.

    ``sun_side``: where the sun stands, from -1 (left) to 1 (right); ``rng`` draws drops and noise.
    """
    table, ids = canvas.table(), canvas.surface_ids()
    depth = table[:, 11][ids]
    np.copyto(depth, canvas.depth, where=np.isnan(depth))
    at = (*_positions(canvas, depth), depth)
    ground = (table[:, 6] > 0.99)[ids]
    light = _lit(canvas, domain, table, ids, at, ground, _sun_direction(domain, sun_side))
    _apply_texture(canvas, table, ids, at, ground, light)
    shining = np.nonzero(np.take(table[:, 8:11].any(axis=1), ids))
    glow = table[:, 8:11][ids[shining]].T * np.float32(domain.lamps)
    light[:, shining[0], shining[1]] += glow
    _paint_sky(canvas, domain, sun_side, rng, light, ids == 0)
    if domain.fog > 0:
        seen = np.exp(depth * np.float32(-domain.fog))
        light *= seen
        light += _column(domain.fog_colour) * (1 - seen)
    if domain.lamps > 0.3:
        lamps = np.zeros_like(light)
        lamps[:, shining[0], shining[1]] = glow
        for plane, lamp in zip(light, lamps, strict=True):
            plane += _halo(lamp, 0.4 + 20 * domain.fog)
    if domain.wetness > 0:
        _mirror(canvas, domain, light, ground)
    return _expose(light, domain, rng)


def _column(colour: Colour) -> NDArray[np.float32]:
    """A colour as (3, 1, 1), to multiply or add to light."""
    return np.array(colour, np.float32)[:, None, None]


def _positions(canvas: Canvas, depth: _Plane) -> tuple[_Plane, _Plane]:
    """Camera-aligned x and height above the road of each pixel, metres."""
    camera = canvas.camera
    columns = (np.arange(camera.width) + 0.5 - 0.5 * camera.width) / camera.focal
    rows = (np.arange(camera.height) + 0.5 - camera.horizon) / camera.focal
    x = columns.astype(np.float32)[None, :] * depth
    y = np.float32(camera.above_road) - rows.astype(np.float32)[:, None] * depth
    return x, y


def _sun_direction(domain: Domain, side: float) -> Floats:
    """Unit vector towards the sun, which stands aside or, with a small ``side``, ahead."""
    elevation, azimuth = np.radians(domain.sun_elevation), np.radians(115.0 * side)
    across, ahead = np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation)
    return np.array([across, np.sin(elevation), ahead])


def _lit(
    canvas: Canvas,
    domain: Domain,
    table: NDArray[np.float32],
    ids: NDArray[np.int32],
    at: tuple[_Plane, _Plane, _Plane],
    ground: NDArray[np.bool_],
    sun: Floats,
) -> _Light:
    """Reflected light without texture: sky, sun with shadows, street lamps and headlights."""
    albedo = np.clip(table[:, 1:4].T, 0, 1) ** np.float32(2.2)  # (3, N), as all per surface here
    normals = table[:, 5:8]
    facing = np.maximum(normals @ sun.astype(np.float32), 0)
    skyward = 0.72 + 0.28 * normals[:, 1]
    from_sky = albedo * skyward * np.array(domain.ambient, np.float32)[:, None]
    from_sun = albedo * facing * np.array(domain.sun, np.float32)[:, None]
    light = np.take(from_sky + from_sun, ids, axis=1)
    shadow, contact = _shadows(canvas, domain, sun)
    first = int(np.argmax(ground.any(axis=1)))
    below, part = ground[first:], light[:, first:]
    if domain.shadow > 0:
        dark = np.float32(domain.shadow) * shadow[first:] * below
        part -= dark * np.take(from_sun, ids[first:], axis=1)
    part *= 1 - np.float32(0.55) * contact[first:] * below
    if domain.headlights or domain.street_lights:
        light += np.take(albedo, ids, axis=1) * _lamps(canvas, domain, at, ground)
    return light


def _shadows(canvas: Canvas, domain: Domain, sun: Floats) -> tuple[_Plane, _Plane]:
    """Cast shadows and the dimness under things, each (H, W) in [0, 1], for the ground alone."""
    shape = canvas.ids.shape
    cast, contact = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    corners = np.stack([corners for corners, _ in canvas.footprints])  # (N, 4, 2)
    heights = np.array([height for _, height in canvas.footprints])[:, None, None]
    reach = sun[[0, 2]] / max(float(sun[1]), 0.12)
    for pixels in _on_ground(canvas, corners):
        cv2.fillConvexPoly(contact, pixels, 255)
    if domain.shadow > 0:
        swept = np.concatenate([corners, corners - heights * reach], axis=1)
        for pixels in _on_ground(canvas, swept):
            cv2.fillConvexPoly(cast, cv2.convexHull(pixels), 255)
    soft = max(3, shape[1] // 170) | 1
    scale = np.float32(1 / 255)
    return cv2.blur(cast, (soft, soft)) * scale, cv2.blur(contact, (2 * soft + 1, soft)) * scale


def _on_ground(canvas: Canvas, corners: Floats) -> NDArray[np.int32]:
    """Pixels (N, K, 2) of points (x, z) on the road, (N, K, 2), in front of the camera."""
    z = np.maximum(corners[..., 1], 1.5)
    pixels = canvas.camera.project(np.stack([corners[..., 0], 0 * z, z], axis=-1))
    return np.rint(np.clip(pixels, -30000, 30000)).astype(np.int32)


def _lamps(
    canvas: Canvas, domain: Domain, at: tuple[_Plane, _Plane, _Plane], ground: NDArray[np.bool_]
) -> _Light:
    """Light of the ego's low beam (white) and of the street lamps (sodium)."""
    x, y, z = at
    spread = x / (1.6 + 0.22 * z)
    beam = np.exp(-spread * spread) / (1 + (z / 14) ** 2)
    beam *= 1.6 / (1 + np.exp(np.minimum((y - 0.9 - 0.01 * z) * 2.2, 30.0))) + 0.12
    pool = np.zeros_like(x)
    for lamp_x, lamp_z in canvas.lamps:
        place = canvas.camera.world(np.array([lamp_x, 0.0, lamp_z]))
        across, along = x - np.float32(place[0]), z - np.float32(lamp_z)
        pool += 22 / (22 + across * across + along * along)
    pool *= np.where(ground, np.float32(1.0), np.float32(0.6) / (1 + np.abs(y - 2) / 6))
    white = np.array((1.0, 0.96, 0.84)) * domain.headlights
    sodium = np.array((1.0, 0.62, 0.26)) * domain.street_lights
    colours = np.stack([white, sodium], axis=1).astype(np.float32)
    return np.tensordot(colours, np.stack([beam, pool]), axes=1)


def _apply_texture(
    canvas: Canvas,
    table: NDArray[np.float32],
    ids: NDArray[np.int32],
    at: tuple[_Plane, _Plane, _Plane],
    ground: NDArray[np.bool_],
    light: _Light,
) -> None:
    """Multiply each pixel by its surface's structure, the coarser the farther it is."""
    x, y, z = at
    kind = table[:, 4].astype(np.int32)
    density = TEXELS_PER_METRE[kind][ids]
    across = np.where(ground, x, x + np.float32(0.8) * z) * density
    along = np.where(ground, z, y) * density
    slant = np.sqrt(z * np.float32(1 / canvas.camera.above_road))
    pixel = z * np.float32(1.2 / canvas.camera.focal)  # metres on an upright surface, and a margin
    pixel *= np.where(ground, slant, np.float32(1))
    _, level = np.frexp(density * pixel)  # ceil(log2) of the texels in a pixel
    tile = (kind * LEVELS)[ids] + np.clip(level, 0, LEVELS - 1)
    index = (tile * SIZE + _in_tile(along)) * SIZE + _in_tile(across)
    factors = np.take(texture_atlas(), index).view(np.uint8).reshape(*ids.shape, 4)
    for channel, plane in enumerate(light):
        plane *= factors[..., channel]
    light *= np.float32(1 / 128)


def _in_tile(position: _Plane) -> NDArray[np.int32]:
    """Place within a tile of a position in texels."""
    return np.clip(position, -1e9, 1e9).astype(np.int32) & (SIZE - 1)


def _paint_sky(
    canvas: Canvas,
    domain: Domain,
    sun_side: float,
    rng: np.random.Generator,
    light: _Light,
    sky: NDArray[np.bool_],
) -> None:
    """Gradient from horizon to zenith, clouds, and a glow on the sun's side when it is low."""
    camera = canvas.camera
    shift = rng.integers(SIZE, size=2)
    rows, columns = np.nonzero(sky)
    rise = np.maximum(camera.horizon - np.arange(camera.height) - 0.5, 0.0) / camera.focal
    horizon, zenith = np.array(domain.sky_horizon)[:, None], np.array(domain.sky_zenith)[:, None]
    gradient = zenith + (horizon - zenith) * np.exp(-6.0 * rise)
    above = rise.astype(np.float32)[rows]
    across = (columns.astype(np.float32) + 0.5 - 0.5 * camera.width) / np.float32(camera.focal)
    row = (60 / (above + 0.12)).astype(np.int32) + shift[0]
    column = (across * 22 / (above + 0.12)).astype(np.int32) + shift[1]
    cover = 0.5 * cloud_tile()[row % SIZE, column % SIZE] + np.float32(1.5 * domain.clouds - 0.7)
    cover = np.clip(cover, 0, 1) * np.float32(0.8 * min(1.0, 2 * domain.clouds))
    cloud = 0.75 * horizon + 0.3 * zenith + 0.4 * np.array(domain.sun)[:, None]
    image = gradient.astype(np.float32)[:, rows]
    image += (cloud.astype(np.float32) - image) * cover
    if domain.sun_elevation < 20 and max(domain.sun) > 0.1:
        away = (across - np.float32(0.7 * sun_side)) ** 2 + (1.4 * above) ** 2
        image += np.array((0.9, 0.5, 0.2), np.float32)[:, None] * np.exp(away / -0.12)
    light[:, rows, columns] = image


def _halo(lamps: _Plane, strength: float) -> _Plane:
    """Light that lamps scatter into their surroundings, of one colour."""
    height, width = lamps.shape
    small = cv2.resize(lamps, (width // 4 + 1, height // 4 + 1), interpolation=cv2.INTER_AREA)
    near = cv2.GaussianBlur(small, (0, 0), width / 200)
    wide = cv2.GaussianBlur(near, (0, 0), width / 50)
    halo = cv2.resize(near + 2.0 * wide, (width, height), interpolation=cv2.INTER_LINEAR)
    return (np.float32(strength) * halo).astype(np.float32)


def _mirror(canvas: Canvas, domain: Domain, light: _Light, ground: NDArray[np.bool_]) -> None:
    """Wet ground: darker, with a blurred image of what stands on the far side of it."""
    height, width = ground.shape
    horizon = int(np.clip(canvas.camera.horizon, 1, height - 1))
    rows = np.arange(height - horizon)
    puddle = cloud_tile()[np.ix_(rows * 2 % SIZE, np.arange(width) // 2 % SIZE)]
    share = np.clip(0.7 + 0.3 * puddle, 0, 1) * ground[horizon:] * np.float32(domain.wetness)
    size = max(3, width // 100), max(3, height // 12)
    for plane in light:
        image = cv2.blur(plane[np.maximum(horizon - 1 - rows, 0)], size)
        plane[horizon:] += share * (np.float32(0.75) * image - np.float32(0.45) * plane[horizon:])


def _drops(image: NDArray[np.uint8], count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Drops on the lens: each shows the scene upside down, small and blurred."""
    height, width = image.shape[:2]
    grid_x = np.arange(width, dtype=np.float32)[None, :].repeat(height, axis=0)
    grid_y = np.arange(height, dtype=np.float32)[:, None].repeat(width, axis=1)
    wet = np.zeros((height, width, 1), np.float32)
    for u, v, chance in rng.random((count, 3)).tolist():
        u, v, radius = u * width, v * height, width / 512 * (3.0 + 13.0 * chance**2.5)
        left, right = max(int(u - radius), 0), min(int(u + radius) + 2, width)
        top, bottom = max(int(v - radius), 0), min(int(v + radius) + 2, height)
        dx = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(u)
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(v)
        distance = (dx * dx + 0.8 * dy * dy) / np.float32(radius * radius)
        bend, inside = 3.5 + 2.0 * distance, distance < 1
        np.copyto(grid_x[top:bottom, left:right], u - bend * dx, where=inside)
        np.copyto(grid_y[top:bottom, left:right], v - bend * dy, where=inside)
        part = wet[top:bottom, left:right, 0]
        np.maximum(part, np.clip(4 * (1 - distance), 0, 1), out=part)
    soft = cv2.GaussianBlur(image, (0, 0), width / 300)
    seen = cv2.remap(soft, grid_x, grid_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(image + wet * (seen * np.float32(0.97) - image)).astype(np.uint8)


def _expose(light: _Light, domain: Domain, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The camera: optics, white balance, tone curve, sensor noise, sharpening."""
    _, height, width = light.shape
    if domain.vignette:
        light *= 1 - np.float32(domain.vignette) * _corners(width, height)
    light *= np.float32(255**2 / _WHITE)
    np.clip(light, 0, 255**2, out=light)
    np.sqrt(light, out=light)  # keeps the shadows apart in eight bits
    image: NDArray[Any] = cv2.merge([np.rint(plane).astype(np.uint8) for plane in light])
    if domain.drops:
        image = _drops(image, domain.drops, rng)
    if domain.blur:
        image = cv2.GaussianBlur(image, (0, 0), domain.blur * width / 512)
    if domain.saturation != 1:
        grey = (1 - domain.saturation) * np.array((0.3, 0.59, 0.11))
        image = cv2.transform(image, domain.saturation * np.eye(3) + grey)
    image = cv2.LUT(image, _tone_curve(domain))
    if domain.sharpen:
        soft = cv2.GaussianBlur(image, (0, 0), 1.2)
        image = cv2.addWeighted(image, 1 + domain.sharpen, soft, -domain.sharpen, 0)
    if domain.noise:
        row, column = (int(n) for n in rng.integers(_MARGIN, size=2))
        grain = sensor_grain(width + _MARGIN, height + _MARGIN, 255 * domain.noise)
        grain = np.ascontiguousarray(grain[row : row + height, column : column + width])
        image = cv2.add(image, grain, dtype=cv2.CV_8U)
    return np.asarray(image, np.uint8)


def _tone_curve(domain: Domain) -> NDArray[np.uint8]:
    """Encoded value of each square root of light, (256, 1, 3)."""
    light = (np.arange(256) / 255) ** 2 * _WHITE
    gains = domain.exposure * np.array(domain.cast)
    curve = (light[:, None] * gains) ** (domain.gamma / 2.2)
    curve /= 1 + 0.8 * np.maximum(curve - 0.8, 0)  # highlights roll off
    curve = 0.45 + domain.contrast * (curve - 0.45)
    curve = domain.lift + (1 - domain.lift) * curve
    return np.clip(np.rint(255 * curve), 0, 255).astype(np.uint8)[:, None, :]


@lru_cache(maxsize=4)
def _corners(width: int, height: int) -> _Plane:
    """Squared distance from the centre, 1 in the corners."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return (0.5 * (x * x + y * y)).astype(np.float32)
