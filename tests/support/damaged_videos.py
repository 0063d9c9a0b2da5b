"""A video for tests, and copies of it in which bytes of chosen pictures are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

FRAMES, FPS, WIDTH, HEIGHT = 24, 10, 320, 240


def write_mpeg4(path: Path, frames: int = FRAMES) -> Path:
    """An MPEG-4 video without B pictures, so that they are stored as they are shown."""
    size = WIDTH, HEIGHT
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, size)
    random = np.random.default_rng(0)
    for _ in range(frames):
        small = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        writer.write(cv2.resize(small, size))
    writer.release()
    return path


def damage_pictures(path: Path, pictures: Sequence[int], start: bytes = b"\0\0\x01\xb6") -> Path:
    """Change bytes in the middle of some pictures, each of which begins with ``start``."""
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + len(start)] == start]
    for picture in pictures:
        middle = (starts[picture] + starts[picture + 1]) // 2
        for at in range(middle, middle + 64):
            data[at] ^= 0xFF
    path.write_bytes(data)
    return path
