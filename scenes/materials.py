"""Materials: palettes, picks from them that vary a little, and tileable textures."""

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache, partial

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Rng = np.random.Generator
Colour = tuple[float, float, float]  # red, green, blue
OFF: Colour = (0.0, 0.0, 0.0)  # glow of what does not shine
SIZE = 256  # texels along one edge of a tile
LEVELS = 6  # level L is averaged over 2**L x 2**L texels
_SEED = 20230601
_Tile = NDArray[np.float64]  # (SIZE, SIZE, 1 or 3)


def palette(percents: str) -> list[Colour]:
    """Colours from their red, green and blue in percent, such as ``"82 80 76, 30 30 33"``."""
    rows = ([float(value) / 100 for value in row.split()] for row in percents.split(","))
    return [(red, green, blue) for red, green, blue in rows]


ACCENTS = palette("80 12 10, 10 30 70, 90 65 10, 10 50 30, 85 40 10")  # frames, helmets, emblems


def pick(rng: Rng, colours: Sequence[Colour]) -> Colour:
    """One of the colours, slightly varied."""
    which, tone, *tints = rng.random(5).tolist()
    base, scale = colours[int(which * len(colours))], 0.88 + 0.24 * tone
    varied = (scale * value + 0.07 * (tint - 0.5) for value, tint in zip(base, tints, strict=True))
    red, green, blue = (min(max(value, 0.02), 0.98) for value in varied)
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker or, with a factor above 1, lighter."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def window_glass(rng: Rng) -> Colour:
    """The dark bluish grey of a pane."""
    return shade((0.82, 0.95, 1.1), rng.uniform(0.14, 0.34))


class Texture(IntEnum):
    """Surface structure of a material; the value is the tile's place in the atlas."""

    FLAT, ASPHALT, PAVING, GRASS, LEAVES, PLASTER, BRICK, STONE, METAL, CLOTH = range(10)


TEXELS_PER_METRE = np.array([1, 72, 60, 48, 34, 20, 56, 52, 16, 90], np.float32)  # each `Texture`'s


@lru_cache(maxsize=1)
def texture_atlas() -> NDArray[np.uint32]:
    """All tiles at all levels, (textures * LEVELS * SIZE * SIZE,) uint32.

    The low three bytes of an entry are factors of red, green and blue; 128 stands for 1. Index:
    ``((texture * LEVELS + level) * SIZE + row) * SIZE + column``; row and column wrap around.
    """
    rng = np.random.default_rng(_SEED)
    clouds, blocks = partial(_clouds, rng), partial(_blocks, rng)
    white = partial(rng.standard_normal, (SIZE, SIZE, 1))
    warm = (1.0, 0.0, -1.0)  # more red, less blue
    tiles = {
        Texture.FLAT: np.zeros((SIZE, SIZE, 1)),
        Texture.ASPHALT: 0.22 * white() + 0.16 * clouds(4, 4),
        Texture.PAVING: blocks(32, 32, joint=2, spread=0.14) + 0.07 * white(),
        Texture.GRASS: 0.28 * _blur(white(), 1, 3) + 0.2 * clouds(8, 4) + 0.12 * clouds(4) * warm,
        Texture.LEAVES: 0.42 * np.tanh(1.6 * clouds(16)) + 0.16 * white() + 0.1 * clouds(16) * warm,
        Texture.PLASTER: 0.07 * clouds(4, 5) + 0.03 * white(),
        Texture.BRICK: blocks(16, 32, joint=2, spread=0.22, offset=16) + 0.06 * white(),
        Texture.STONE: blocks(32, 64, joint=3, spread=0.25, offset=21) + 0.22 * clouds(16, 4),
        Texture.METAL: 0.06 * clouds(2, 3),
        Texture.CLOTH: 0.12 * clouds(8, 4) + 0.06 * white(),
    }
    atlas = np.zeros((len(Texture), LEVELS, SIZE, SIZE, 4), np.uint8)
    for texture, tile in tiles.items():
        factor = 1.0 + tile - tile.mean(axis=(0, 1)) + np.zeros(3)
        for level in range(LEVELS):
            mean = _blur(factor, 2**level, 2**level)
            atlas[texture, level, ..., :3] = np.clip(np.rint(mean * 128), 0, 255)
    return atlas.view(np.uint32).reshape(-1)


@lru_cache(maxsize=1)
def cloud_tile() -> NDArray[np.float32]:
    """Smooth noise of zero mean and unit deviation, (SIZE, SIZE), tileable: clouds, puddles."""
    return _clouds(np.random.default_rng(_SEED + 1), 3, 6)[..., 0].astype(np.float32)


@lru_cache(maxsize=8)
def sensor_grain(width: int, height: int, deviation: float) -> NDArray[np.int8]:
    """Noise in grey levels, (height, width, 3), half of its power common to the colours."""
    rng = np.random.default_rng(_SEED + 2)
    own, common = (rng.standard_normal((height, width, n), np.float32) for n in (3, 1))
    grain = (own + common) * np.float32(deviation * np.sqrt(0.5))
    return np.asarray(np.clip(np.rint(grain), -127, 127), np.int8)


def _clouds(rng: Rng, cells: int, octaves: int = 3) -> _Tile:
    """Value noise of zero mean and unit deviation; each octave has twice the cells, 0.6 as high."""
    total = np.zeros((SIZE, SIZE))
    for octave in range(octaves):
        count = min(cells * 2**octave, SIZE)
        grid = np.pad(rng.standard_normal((count, count)), 2, mode="wrap")
        margin = 2 * SIZE // count
        layer = cv2.resize(grid, (SIZE + 2 * margin,) * 2, interpolation=cv2.INTER_CUBIC)
        total += 0.6**octave * layer[margin : margin + SIZE, margin : margin + SIZE]
    return np.asarray((total - total.mean()) / total.std())[..., None]


def _blur(tile: ArrayLike, width: int, height: int) -> _Tile:
    """A tile averaged over boxes of texels, beyond its edges, too."""
    edge = max(width, height)
    wrapped = np.pad(tile, ((edge, edge), (edge, edge), (0, 0)), mode="wrap")
    mean = cv2.blur(wrapped, (width, height))[edge:-edge, edge:-edge]
    return np.asarray(mean, np.float64).reshape(SIZE, SIZE, -1)


def _blocks(rng: Rng, height: int, width: int, joint: int, spread: float, offset: int = 0) -> _Tile:
    """Masonry: blocks of one tone each, dark joints, every other course shifted by ``offset``."""
    course, row = np.divmod(np.arange(SIZE)[:, None], height)
    block, column = np.divmod((np.arange(SIZE) + offset * (course % 2)) % SIZE, width)
    tones, tints = (rng.standard_normal((SIZE // height, SIZE // width, n)) for n in (1, 3))
    tile = (spread * tones + 0.25 * spread * tints)[course, block]
    tile[(row < joint) | (column < joint)] = -0.3
    return np.asarray(tile)
