"""Built-in street scenes: a seeded procedural renderer with exact labels and chosen domains.

Labels are the train ids of the 19 Cityscapes classes. The same seed gives the same street in every
domain; only "camera" looks at it from elsewhere. Needs numpy and OpenCV alone.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..runtime.atomic import output_errors
from ..runtime.errors import ConfigError
from ..runtime.frames.images import write_image
from ..runtime.words import shortened
from .canvas import Camera, Canvas
from .domains import DOMAINS, Domain
from .materials import Rng
from .shading import photograph
from .street import build_street

__all__ = ["DOMAINS", "Domain", "Scene", "render_dataset", "render_scene"]
DomainLike = Domain | str  # any domain, or the name of a built-in one


@dataclass(frozen=True, slots=True)
class Scene:
    """One frame: ``image`` (H, W, 3) uint8 RGB and ``labels`` (H, W) uint8 train ids."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def render_scene(seed: int, domain: DomainLike, width: int = 512, height: int = 256) -> Scene:
    """Render one street scene; a seed, >= 0, gives the same street and weather in every run.

    Raises:
        ConfigError: an unknown domain name, or a frame of less than 16 x 16 pixels.
    """
    if isinstance(domain, str):
        if domain not in DOMAINS:
            known = f"choose one of {', '.join(DOMAINS)}"
            raise ConfigError(f"There is no built-in domain {shortened(domain)!r}; {known}.")
        domain = DOMAINS[domain]
    if min(width, height) < 16:
        raise ConfigError(f"A scene is at least 16 x 16 pixels; got {width} x {height}.")
    street = np.random.default_rng([seed, 0])
    canvas = Canvas(_camera(street, domain, width, height))
    build_street(canvas, street)
    weather = np.random.default_rng([seed, 1])
    sun_side = weather.uniform(0.25, 1.0) * float(weather.choice([-1.0, 1.0]))
    clouds = min(1.0, domain.clouds * weather.uniform(0.6, 1.4))
    exposure = domain.exposure * weather.uniform(0.88, 1.12)
    today = replace(domain, clouds=clouds, exposure=exposure)
    return Scene(photograph(canvas, today, sun_side, weather), canvas.labels)


def render_dataset(
    folder: Path, domain: DomainLike, count: int, seed: int = 0, width: int = 512, height: int = 256
) -> list[Path]:
    """Render scenes ``seed`` to ``seed + count - 1`` into ``folder/images`` and ``folder/labels``.

    Both hold PNG files of the same names; labels are one channel of train ids. Returns the images.

    Raises:
        ConfigError: as `render_scene`.
        OutputError: a folder or file cannot be written.
    """
    name = domain if isinstance(domain, str) else domain.name
    paths = [folder / "images" / f"{name}_{seed + i:06d}.png" for i in range(count)]
    for part in (folder / "images", folder / "labels"):
        with output_errors(part):
            part.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths, start=seed):
        scene = render_scene(number, domain, width, height)
        write_image(path, scene.image)
        write_image(folder / "labels" / path.name, scene.labels)
    return paths


def _camera(rng: Rng, domain: Domain, width: int, height: int) -> Camera:
    """The domain's camera on this street; pitch and mount vary a little from scene to scene."""
    turn, bend = rng.normal(0.0, 0.03), rng.normal(0.0, 0.0004)
    pitch = math.radians(domain.camera_pitch + rng.normal(0.0, 0.5))
    focal = 0.5 * width / math.tan(math.radians(0.5 * domain.fov))
    horizon = 0.5 * height + focal * math.tan(pitch)
    above = domain.camera_height * rng.uniform(0.95, 1.05)
    return Camera(width, height, focal, horizon, above, turn, bend)
