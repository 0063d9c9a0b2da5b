"""From surfaces to a photograph: light, air, water and the camera of a domain."""

import cv2
import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas, Floats
from .domains import Domain
from .materials import LEVELS, SIZE, TEXELS_PER_METRE, Rng, cloud_tile, sensor_grain, texture_atlas

_Light = NDArray[np.float32]  # linear until encoded; (3, H, W), or (H, W) where of one colour
_WHITE = 1.6  # linear light that saturates the sensor
_MARGIN = 97  # by how many pixels the sensor's grain is moved from frame to frame


class _View:
    """A canvas and the place of what each of its pixels shows, in camera-aligned metres."""

    def __init__(self, canvas: Canvas) -> None:
        camera = canvas.camera
        self.canvas, self.ids, self.z = canvas, canvas.ids, canvas.depth
        looks = [(*s.colour, s.texture, *s.normal, *s.glow) for s in canvas.looks]
        self.table = np.array(looks, np.float32)
        self.ground = (self.table[:, 5] > 0.99)[self.ids]  # lies on the road
        columns = (np.arange(camera.width) + 0.5 - 0.5 * camera.width) / camera.focal
        rows = (np.arange(camera.height) + 0.5 - camera.horizon) / camera.focal
        self.x = columns.astype(np.float32) * self.z
        self.y = np.float32(camera.above_road) - rows.astype(np.float32)[:, None] * self.z


def photograph(canvas: Canvas, domain: Domain, sun_side: float, rng: Rng) -> NDArray[np.uint8]:
    """The canvas under a domain's light, RGB, with the sun from -1 (left) to 1 (right)."""
    view = _View(canvas)
    light = _lit(view, domain, sun_side)
    _apply_texture(view, light)
    glow = np.take(view.table[:, 7:10].T * np.float32(domain.lamps), view.ids, axis=1)
    light += glow
    _paint_sky(view, domain, rng, light)
    seen = np.exp(view.z * np.float32(-domain.fog))
    light *= seen
    light += np.array(domain.fog_colour, np.float32)[:, None, None] * (1 - seen)
    if domain.lamps > 0.3:
        for plane, lamps in zip(light, glow, strict=True):
            plane += _halo(lamps, 0.4 + 20 * domain.fog)
    if domain.wetness > 0:
        _mirror(view, domain, light)
    return _expose(light, domain, rng)


def _lit(view: _View, domain: Domain, sun_side: float) -> _Light:
    """Reflected light without texture: sky, sun with shadows, street lamps and headlights."""
    elevation, azimuth = np.radians(domain.sun_elevation), np.radians(115.0 * sun_side)
    across, ahead = np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation)
    sun = np.array([across, np.sin(elevation), ahead])  # unit vector towards it
    albedo = np.clip(view.table[:, 0:3].T, 0, 1) ** np.float32(2.2)  # (3, N), as all per surface
    normals = view.table[:, 4:7]
    facing = np.maximum(normals @ sun.astype(np.float32), 0)
    skyward = 0.72 + 0.28 * normals[:, 1]
    from_sky = albedo * skyward * np.array(domain.ambient, np.float32)[:, None]
    from_sun = albedo * facing * np.array(domain.sun, np.float32)[:, None]
    light = np.take(from_sky + from_sun, view.ids, axis=1)
    shadow, contact = _shadows(view.canvas, sun)
    dark = np.float32(domain.shadow) * shadow * view.ground
    light -= dark * np.take(from_sun, view.ids, axis=1)
    light *= 1 - np.float32(0.55) * contact * view.ground
    if domain.headlights or domain.street_lights:
        light += np.take(albedo, view.ids, axis=1) * _lamps(view, domain)
    return light


def _shadows(canvas: Canvas, sun: Floats) -> tuple[_Light, _Light]:
    """Cast shadows and the dimness under things, each (H, W) in [0, 1], for the ground alone."""
    corners, heights = map(np.array, zip(*canvas.footprints, strict=True))  # (N, 4, 2) and (N,)
    tops = corners - heights[:, None, None] * sun[[0, 2]] / max(float(sun[1]), 0.12)
    x, z = np.moveaxis(np.concatenate([corners, tops], axis=1), -1, 0)
    z = np.maximum(z, 1.5)  # in front of the camera
    pixels = np.clip(canvas.camera.project(np.stack([x, 0 * z, z], axis=-1)), -30000, 30000)
    cast, contact = (np.zeros(canvas.ids.shape, np.uint8) for _ in range(2))
    for ring in np.rint(pixels).astype(np.int32):
        cv2.fillConvexPoly(contact, ring[:4], 255)
        cv2.fillConvexPoly(cast, cv2.convexHull(ring), 255)
    soft = max(3, canvas.camera.width // 170) | 1
    scale = np.float32(1 / 255)
    return cv2.blur(cast, (soft, soft)) * scale, cv2.blur(contact, (2 * soft + 1, soft)) * scale


def _lamps(view: _View, domain: Domain) -> _Light:
    """Light of the ego's low beam (white) and of the street lamps (sodium)."""
    x, y, z = view.x, view.y, view.z
    spread = x / (1.6 + 0.22 * z)
    beam = np.exp(-spread * spread) / (1 + (z / 14) ** 2)
    beam *= 1.6 / (1 + np.exp(np.minimum((y - 0.9 - 0.01 * z) * 2.2, 30.0))) + 0.12
    pool = np.zeros_like(x)
    for lamp in view.canvas.lamps:
        lamp_x, _, lamp_z = view.canvas.camera.world(lamp).astype(np.float32)
        pool += 22 / (22 + (x - lamp_x) ** 2 + (z - lamp_z) ** 2)
    pool *= np.where(view.ground, np.float32(1.0), np.float32(0.6) / (1 + np.abs(y - 2) / 6))
    colours = np.array([(1.0, 1.0), (0.96, 0.62), (0.84, 0.26)])  # white and sodium, each channel
    colours *= domain.headlights, domain.street_lights
    return np.tensordot(colours.astype(np.float32), np.stack([beam, pool]), axes=1)


def _apply_texture(view: _View, light: _Light) -> None:
    """Multiply each pixel by its surface's structure, the coarser the farther it is."""
    z, ground, camera = view.z, view.ground, view.canvas.camera
    kind = view.table[:, 3].astype(np.int32)
    density = TEXELS_PER_METRE[kind][view.ids]
    across = np.where(ground, view.x, view.x + np.float32(0.8) * z) * density
    along = np.where(ground, z, view.y) * density
    slant = np.sqrt(z * np.float32(1 / camera.above_road))
    pixel = z * np.float32(1.2 / camera.focal)  # metres on an upright surface, and a margin
    pixel *= np.where(ground, slant, np.float32(1))
    _, level = np.frexp(density * pixel)  # ceil(log2) of the texels in a pixel
    tile = (kind * LEVELS)[view.ids] + np.clip(level, 0, LEVELS - 1)
    row, column = (np.clip(at, -1e9, 1e9).astype(np.int32) & (SIZE - 1) for at in (along, across))
    factors = np.take(texture_atlas(), (tile * SIZE + row) * SIZE + column).view(np.uint8)
    light *= np.moveaxis(factors.reshape(*z.shape, 4)[..., :3], -1, 0)
    light *= np.float32(1 / 128)


def _paint_sky(view: _View, domain: Domain, rng: Rng, light: _Light) -> None:
    """Gradient from horizon to zenith, and clouds."""
    camera = view.canvas.camera
    shift = rng.integers(SIZE, size=2)
    colours = np.array((domain.sky_horizon, domain.sky_zenith, domain.sun))
    horizon, zenith, sun = colours[..., None, None]
    rise = np.maximum(camera.horizon - np.arange(camera.height) - 0.5, 0.0)[:, None] / camera.focal
    gradient = (zenith + (horizon - zenith) * np.exp(-6.0 * rise)).astype(np.float32)
    above = rise.astype(np.float32)
    columns = np.arange(camera.width, dtype=np.float32)
    across = (columns + 0.5 - 0.5 * camera.width) / np.float32(camera.focal)
    row = (60 / (above + 0.12)).astype(np.int32) + shift[0]
    column = (across * 22 / (above + 0.12)).astype(np.int32) + shift[1]
    cover = 0.5 * cloud_tile()[row % SIZE, column % SIZE] + np.float32(1.5 * domain.clouds - 0.7)
    cover = np.clip(cover, 0, 1) * np.float32(0.8 * min(1.0, 2 * domain.clouds))
    cloud = (0.75 * horizon + 0.3 * zenith + 0.4 * sun).astype(np.float32)
    np.copyto(light, gradient + (cloud - gradient) * cover, where=view.ids == 0)


def _halo(lamps: _Light, strength: float) -> _Light:
    """Light that lamps scatter into their surroundings, of one colour."""
    height, width = lamps.shape
    small = cv2.resize(lamps, (width // 4 + 1, height // 4 + 1), interpolation=cv2.INTER_AREA)
    near = cv2.GaussianBlur(small, (0, 0), width / 200)
    wide = cv2.GaussianBlur(near, (0, 0), width / 50)
    halo = cv2.resize(near + 2.0 * wide, (width, height), interpolation=cv2.INTER_LINEAR)
    return (np.float32(strength) * halo).astype(np.float32)


def _mirror(view: _View, domain: Domain, light: _Light) -> None:
    """Wet ground: darker, with a blurred image of what stands on the far side of it."""
    height, width = view.ids.shape
    horizon = int(np.clip(view.canvas.camera.horizon, 1, height - 1))
    rows = np.arange(height - horizon)
    puddle = cloud_tile()[np.ix_(rows * 2 % SIZE, np.arange(width) // 2 % SIZE)]
    share = np.clip(0.7 + 0.3 * puddle, 0, 1) * view.ground[horizon:] * np.float32(domain.wetness)
    size = max(3, width // 100), max(3, height // 12)
    for plane in light:
        image = cv2.blur(plane[np.maximum(horizon - 1 - rows, 0)], size)
        plane[horizon:] += share * (np.float32(0.75) * image - np.float32(0.45) * plane[horizon:])


def _drops(image: NDArray[np.uint8], count: int, rng: Rng) -> NDArray[np.uint8]:
    """Drops on the lens: each shows the scene upside down, small and blurred."""
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    seen_x, seen_y, wet = x.copy(), y.copy(), np.zeros((height, width), np.float32)
    for u, v, chance in rng.random((count, 3)).tolist():
        u, v, radius = u * width, v * height, width / 512 * (3.0 + 13.0 * chance**2.5)
        rows = slice(max(int(v - radius), 0), int(v + radius) + 2)
        part = rows, slice(max(int(u - radius), 0), int(u + radius) + 2)
        dx, dy = x[part] - np.float32(u), y[part] - np.float32(v)
        distance = (dx * dx + 0.8 * dy * dy) / np.float32(radius * radius)
        bend = 3.5 + 2.0 * distance
        np.copyto(seen_x[part], u - bend * dx, where=distance < 1)
        np.copyto(seen_y[part], v - bend * dy, where=distance < 1)
        np.maximum(wet[part], np.clip(4 * (1 - distance), 0, 1), out=wet[part])
    soft = cv2.GaussianBlur(image, (0, 0), width / 300)
    seen = cv2.remap(soft, seen_x, seen_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return (image + wet[..., None] * (seen * np.float32(0.97) - image)).astype(np.uint8)


def _expose(light: _Light, domain: Domain, rng: Rng) -> NDArray[np.uint8]:
    """The camera: optics, white balance, tone curve, sensor noise, sharpening."""
    _, height, width = light.shape
    x, y = (np.linspace(-1, 1, size, dtype=np.float32) for size in (width, height))
    light *= 1 - np.float32(domain.vignette) * 0.5 * (x * x + (y * y)[:, None])
    light *= np.float32(255**2 / _WHITE)
    np.clip(light, 0, 255**2, out=light)
    np.sqrt(light, out=light)  # keeps the shadows apart in eight bits
    image = cv2.merge([np.rint(plane).astype(np.uint8) for plane in light])
    if domain.drops:
        image = _drops(np.asarray(image, np.uint8), domain.drops, rng)
    if domain.blur:
        image = cv2.GaussianBlur(image, (0, 0), domain.blur * width / 512)
    grey = (1 - domain.saturation) * np.array((0.3, 0.59, 0.11))
    image = cv2.transform(image, domain.saturation * np.eye(3) + grey)
    image = cv2.LUT(image, _tone_curve(domain))
    if domain.sharpen:
        soft = cv2.GaussianBlur(image, (0, 0), 1.2)
        image = cv2.addWeighted(image, 1 + domain.sharpen, soft, -domain.sharpen, 0)
    row, column = (int(n) for n in rng.integers(_MARGIN, size=2))
    grain = sensor_grain(width + _MARGIN, height + _MARGIN, 255 * domain.noise)
    grain = np.ascontiguousarray(grain[row : row + height, column : column + width])
    return np.asarray(cv2.add(image, grain, dtype=cv2.CV_8U), np.uint8)


def _tone_curve(domain: Domain) -> NDArray[np.uint8]:
    """Encoded value of each square root of light, (256, 1, 3)."""
    light = (np.arange(256) / 255) ** 2 * _WHITE
    gains = domain.exposure * np.array(domain.cast)
    curve = (light[:, None] * gains) ** (domain.gamma / 2.2)
    curve /= 1 + 0.8 * np.maximum(curve - 0.8, 0)  # highlights roll off
    curve = 0.45 + domain.contrast * (curve - 0.45)
    curve = domain.lift + (1 - domain.lift) * curve
    return np.clip(np.rint(255 * curve), 0, 255).astype(np.uint8)[:, None, :]
