"""Small camera pictures, label maps and depth maps, and folders of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

SIZE = (72, 96)
PALETTE = np.random.default_rng(7).integers(0, 256, (256, 3), dtype=np.uint8)


def camera(seed: int) -> np.ndarray:
    """Smooth colours with a sensor's noise, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    large = cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_CUBIC).astype(float)
    return np.clip(large + rng.normal(0, 4, large.shape), 0, 255).astype(np.uint8)


def regions(seed: int, classes: int = 9) -> np.ndarray:
    """Class ids in a few regions, (H, W) uint8."""
    small = np.random.default_rng(seed).integers(0, classes, (5, 6), dtype=np.uint8)
    return cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_NEAREST)


def depth(seed: int) -> np.ndarray:
    """Distances, (H, W) uint16."""
    return cv2.cvtColor(camera(seed), cv2.COLOR_BGR2GRAY).astype(np.uint16) * 200


def soft(seed: int, blur: float = 10.0, contrast: float = 1.0) -> np.ndarray:
    """Noise blurred by ``blur`` pixels, as of an uncertainty's map, (H, W) uint8."""
    field = np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)
    field = cv2.GaussianBlur(field, (0, 0), blur)
    field = (field - field.min()) / (field.max() - field.min())
    return (field * 255 * contrast).astype(np.uint8)


def infrared(seed: int, gain: float = 1.0) -> np.ndarray:
    """Warm shapes with hard edges before a gradient, under a sensor's noise, (H, W) uint8."""
    rng = np.random.default_rng(seed)
    scene = np.linspace(60, 120, SIZE[0])[:, None] + np.zeros(SIZE)
    for _ in range(8):
        x, y = int(rng.integers(SIZE[1] - 12)), int(rng.integers(SIZE[0] - 16))
        scene[y : y + 16, x : x + 12] = rng.integers(40, 250)
    return np.clip((scene + rng.normal(0, 3, SIZE)) * gain, 0, 255).astype(np.uint8)


KINDS = {
    "camera": camera,
    "grey": lambda seed: camera(seed)[..., 1],
    "night": lambda seed: (camera(seed) * 0.08).astype(np.uint8),
    "night grey": lambda seed: (camera(seed)[..., 1] * 0.08).astype(np.uint8),
    "covered": lambda _: np.zeros((*SIZE, 3), np.uint8),
    "ids": regions,
    "binary": lambda seed: (regions(seed) > 4).astype(np.uint8) * 255,
    "colours": lambda seed: PALETTE[regions(seed)],
    "depth": depth,
    "soft": soft,
    "soft colours": lambda seed: cv2.applyColorMap(soft(seed, 14), cv2.COLORMAP_BONE),
    "blurred": lambda seed: soft(seed, 3),
    "infrared": infrared,
    "dark infrared": lambda seed: infrared(seed, 1 / 4),
    "instances": lambda seed: regions(seed).astype(np.uint16) * 256 + 3,
}


def make(root: Path, files: Iterable[tuple[str, str]], count: int = 4) -> None:
    """Write ``count`` files of each (pattern with {} for the number, kind); "other" is text."""
    for pattern, kind in files:
        for i in range(count):
            path = root / pattern.format(f"{i:04d}")
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "other":
                path.write_text("x")
            else:
                assert cv2.imwrite(str(path), KINDS[kind](i))
