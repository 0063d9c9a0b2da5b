"""Tileable textures: what besides colour tells asphalt from paving and leaves from grass."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 256  # texels along one edge of a tile
LEVELS = 6  # level L is averaged over 2**L x 2**L texels
_SEED = 20230601


class Texture(IntEnum):
    """Surface structure of a material; the value is the tile's place in the atlas."""

    FLAT = 0
    ASPHALT = 1
    PAVING = 2
    GRASS = 3
    LEAVES = 4
    PLASTER = 5
    BRICK = 6
    STONE = 7
    METAL = 8
    CLOTH = 9


# Texels per metre of each texture, in the order of `Texture`.
TEXELS_PER_METRE = np.array([1, 72, 60, 48, 34, 20, 56, 52, 16, 90], np.float32)


@lru_cache(maxsize=1)
def texture_atlas() -> NDArray[np.uint32]:
    """All tiles at all levels, (textures * LEVELS * SIZE * SIZE,) uint32.

    The low three bytes of an entry are factors of red, green and blue; 128 stands for 1. Index:
    ``((texture * LEVELS + level) * SIZE + row) * SIZE + column``; row and column wrap around.
    """
    rng = np.random.default_rng(_SEED)
    tiles = {
        Texture.FLAT: np.zeros((SIZE, SIZE, 3)),
        Texture.ASPHALT: _grey(0.22 * _white(rng) + 0.16 * noise(rng, 4, 4)),
        Texture.PAVING: _blocks(rng, 32, 32, joint=2, spread=0.14, offset=0) + _speckle(rng, 0.07),
        Texture.GRASS: _grass(rng),
        Texture.LEAVES: _leaves(rng),
        Texture.PLASTER: _grey(0.07 * noise(rng, 4, 5) + 0.03 * _white(rng)),
        Texture.BRICK: _blocks(rng, 16, 32, joint=2, spread=0.22, offset=16) + _speckle(rng, 0.06),
        Texture.STONE: _blocks(rng, 32, 64, joint=3, spread=0.25, offset=21)
        + _grey(0.22 * noise(rng, 16, 4)),
        Texture.METAL: _grey(0.06 * noise(rng, 2, 3)),
        Texture.CLOTH: _grey(0.12 * noise(rng, 8, 4) + 0.06 * _white(rng)),
    }
    atlas = np.zeros((len(Texture), LEVELS, SIZE, SIZE, 4), np.uint8)
    for texture, tile in tiles.items():
        factor = 1.0 + tile - tile.mean(axis=(0, 1))
        for level in range(LEVELS):
            edge = 2**level
            wrapped = np.pad(factor, ((edge, edge), (edge, edge), (0, 0)), mode="wrap")
            mean = cv2.blur(wrapped, (edge, edge))[edge:-edge, edge:-edge]
            atlas[texture, level, ..., :3] = np.clip(np.rint(mean * 128), 0, 255)
    return atlas.view(np.uint32).reshape(-1)


@lru_cache(maxsize=1)
def cloud_tile() -> NDArray[np.float32]:
    """Smooth noise of zero mean and unit deviation, (SIZE, SIZE), tileable: clouds, puddles."""
    return noise(np.random.default_rng(_SEED + 1), 3, 6).astype(np.float32)


@lru_cache(maxsize=8)
def sensor_grain(width: int, height: int, deviation: float) -> NDArray[np.int8]:
    """Noise in grey levels, (height, width, 3), half of its power common to the colours."""
    rng = np.random.default_rng(_SEED + 2)
    own = rng.standard_normal((height, width, 3), np.float32)
    common = rng.standard_normal((height, width, 1), np.float32)
    grain = (own + common) * np.float32(deviation * np.sqrt(0.5))
    return np.asarray(np.clip(np.rint(grain), -127, 127), np.int8)


def noise(rng: np.random.Generator, cells: int, octaves: int) -> NDArray[np.float64]:
    """Multi-octave value noise of zero mean and unit deviation, (SIZE, SIZE), tileable.

    The coarsest octave has ``cells`` x ``cells`` random values; each next one doubles the cells
    and has 0.6 of the amplitude.
    """
    total = np.zeros((SIZE, SIZE))
    for octave in range(octaves):
        count = min(cells * 2**octave, SIZE)
        grid = np.pad(rng.standard_normal((count, count)), 2, mode="wrap")
        margin = 2 * SIZE // count
        edge = SIZE + 2 * margin
        layer = cv2.resize(grid, (edge, edge), interpolation=cv2.INTER_CUBIC)
        total += 0.6**octave * layer[margin : margin + SIZE, margin : margin + SIZE]
    return np.asarray((total - total.mean()) / total.std())


def _white(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.standard_normal((SIZE, SIZE))


def _grey(tile: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.repeat(tile[..., None], 3, axis=2)


def _speckle(rng: np.random.Generator, amplitude: float) -> NDArray[np.float64]:
    return _grey(amplitude * _white(rng))


def _blocks(
    rng: np.random.Generator, height: int, width: int, *, joint: int, spread: float, offset: int
) -> NDArray[np.float64]:
    """Masonry: blocks of one tone each, dark joints, every other course shifted by ``offset``."""
    course, row = np.divmod(np.arange(SIZE), height)
    column = (np.arange(SIZE)[None, :] + offset * (course % 2)[:, None]) % SIZE
    block = column // width
    tones = spread * rng.standard_normal((SIZE // height, SIZE // width))
    tints = 0.25 * spread * rng.standard_normal((SIZE // height, SIZE // width, 3))
    tile = tones[course[:, None], block][..., None] + tints[course[:, None], block]
    tile[(row[:, None] < joint) | (column % width < joint)] = -0.3
    return np.asarray(tile)


def _grass(rng: np.random.Generator) -> NDArray[np.float64]:
    blades = cv2.blur(np.pad(_white(rng), 4, mode="wrap"), (1, 3))[4:-4, 4:-4]
    tone = 0.28 * blades + 0.2 * noise(rng, 8, 4)
    dry = 0.12 * noise(rng, 4, 3)
    return np.stack([tone + dry, tone, tone - dry], axis=2)


def _leaves(rng: np.random.Generator) -> NDArray[np.float64]:
    clumps = np.tanh(1.6 * noise(rng, 16, 3))
    tone = 0.42 * clumps + 0.16 * _white(rng)
    warm = 0.1 * noise(rng, 16, 3)
    return np.stack([tone + warm, tone, tone - warm], axis=2)
