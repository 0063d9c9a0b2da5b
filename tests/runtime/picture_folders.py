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
