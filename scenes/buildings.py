"""Borders of the street: houses, walls, fences, hedges and trees."""

import numpy as np

from .canvas import SEE_THROUGH, UNTOUCHED, Canvas, Codes, Floats, Pattern, Spot, Surface
from .materials import OFF, SIZE, Rng, Texture, cloud_tile, palette, pick, shade, window_glass

BUILDING, WALL, FENCE, VEGETATION = 2, 3, 4, 8
_FACADES = palette("78 72 60, 62 36 28, 66 66 64, 82 80 76, 70 56 38, 56 50 46, 75 60 52, 56 62 66")
_BRICK, _ROOFS = palette("62 36 28"), palette("46 24 18, 30 30 33, 38 30 26")
_FRAMES, _SHOPS = palette("88 87 84, 40 38 36"), palette("70 20 16, 16 36 50, 85 75 50")
_WALLS = palette("60 57 52, 50 48 46, 58 40 33")
_METALS, _WOODS = palette("20 26 22, 15 15 16, 80 80 78"), palette("50 36 24")
_LEAVES = palette("25 38 14, 20 33 16, 33 42 17")
_BARK, _WINDOW_GLOW = (0.3, 0.25, 0.2), (0.75, 0.5, 0.2)
# Of each fence: height, pickets' distance and width (metres); rails as shares of the height
_FENCES = {
    "railings": (1.5, 0.3, 0.1, ((0.84, 0.92), (0.1, 0.18))),
    "planks": (1.7, 0.28, 0.2, ()),
    "rail": (1.0, 1.0, 0.0, ((0.5, 0.68), (0.84, 2.0))),
}


def house(canvas: Canvas, rng: Rng, x: float, near: float, far: float, night: float) -> None:
    """A house front along the street at ``x``, its gable end and roof; ``night``: lit windows."""
    side = float(np.sign(x))
    floor, floors = rng.uniform(2.9, 3.5), int(rng.integers(2, 6))
    height = floor * floors + rng.uniform(0.4, 1.2)
    brick = rng.random() < 0.35
    colour = pick(rng, _BRICK if brick else _FACADES)
    front = Surface(BUILDING, colour, Texture.BRICK if brick else Texture.PLASTER)
    roof = Surface(BUILDING, pick(rng, _ROOFS), Texture.STONE, OFF, (-0.45 * side, 0.85, 0.0))
    rise = float(rng.choice([0.0, 2.5, 3.2]))
    ridge, deep = x + side * 5.5, x + side * 11.0
    gable = [(x, 0, near), (deep, 0, near), (deep, height, near), (x, height, near)]
    if rise:
        top = [(ridge, height + rise, z) for z in (near, far)]
        gable.insert(3, top[0])
        canvas.draw([(np.array([gable[-1], (x, height, far), *top[::-1]]), roof)])
    canvas.draw([(np.array(gable), front)])
    surfaces = [
        front,
        Surface(BUILDING, window_glass(rng)),
        Surface(BUILDING, shade(window_glass(rng), 0.9), glow=_WINDOW_GLOW),
        Surface(BUILDING, pick(rng, _FRAMES)),
        Surface(BUILDING, shade(colour, 0.62), Texture.STONE),
        Surface(BUILDING, pick(rng, _SHOPS)),
    ]
    pattern = _house_pattern(rng, floor, floors, far - near, night)
    canvas.panel(x, near, far, height, surfaces, pattern)
    canvas.stand(ridge, near, far, 11.0, height + 0.5 * rise)


def _house_pattern(rng: Rng, floor: float, floors: int, length: float, night: float) -> Pattern:
    """Wall (0), panes (1, lit: 2), their frames and the cornice (3), base (4) and shop sign (5)."""
    bays = max(1, round(length / rng.uniform(1.9, 3.2)))
    bay = length / bays
    lit = rng.random((floors + 2, bays + 1)) < night
    left, low, high = rng.uniform((0.16, 0.2, 0.78), (0.3, 0.34, 0.9)).tolist()
    shop = rng.random() < 0.5

    def pattern(s: Floats, y: Floats) -> Codes:
        storey, column = np.floor(y / floor).astype(int), np.floor(s / bay).astype(int)
        up, across = y / floor - storey, np.abs(s / bay - column - 0.5)
        glass = 1 + lit[np.clip(storey, 0, floors + 1), np.clip(column, 0, bays)]
        ground, upper = storey < 1, (storey >= 1) & (storey < floors)
        frame = (across < 0.57 - left) & (up > low - 0.05) & (up < high + 0.04)
        pane = (across < 0.5 - left) & (across > 0.018) & (up > low) & (up < high)
        window = (across < 0.42) & (up > 0.12) & (up < 0.76) if shop else pane & (up > 0.36)
        codes = np.where(upper & frame, 3, 0)
        codes[ground & (shop | (y < 0.7))] = 4
        codes[ground & shop & (up > 0.8)] = 5
        codes = np.where((upper & pane) | (ground & window), glass, codes)
        codes[(y > floor * floors) & (y < floor * floors + 0.35)] = 3
        return codes

    return pattern


def wall(canvas: Canvas, rng: Rng, x: float, near: float, far: float) -> None:
    """A free-standing masonry wall with a coping."""
    height = rng.uniform(1.7, 2.9)
    colour = pick(rng, _WALLS)
    texture = Texture.BRICK if colour[0] > 1.3 * colour[1] else Texture.STONE
    surfaces = [Surface(WALL, colour, texture), Surface(WALL, shade(colour, 1.2), Texture.PLASTER)]

    def pattern(s: Floats, y: Floats) -> Codes:
        coping, pillar = y > height - 0.18, s % 4.0 < 0.4
        return np.where(coping | (pillar & (y > 0.1)), 1, 0)

    canvas.panel(x, near, far, height, surfaces, pattern)
    canvas.stand(x, near, far, 0.3, height)


def fence(canvas: Canvas, rng: Rng, x: float, near: float, far: float) -> None:
    """Railings, planks or a guard rail; one sees through the gaps, which are labelled as fence."""
    kind = str(rng.choice(list(_FENCES), p=[0.5, 0.25, 0.25]))
    height, step, width, rails = _FENCES[kind]
    height *= rng.uniform(0.9, 1.2)
    colour = pick(rng, _WOODS if kind == "planks" else _METALS)
    surfaces = [Surface(FENCE, colour, Texture.METAL), Surface(FENCE, shade(colour, 0.75))]

    def pattern(s: Floats, y: Floats) -> Codes:
        bar = s % step < width
        for low, high in rails:
            bar = bar | ((y / height > low) & (y / height < high))
        return np.where(s % 2.4 < 0.14, 1, np.where(bar, 0, SEE_THROUGH))  # posts, bars, gaps

    canvas.panel(x, near, far, height, surfaces, pattern)


def hedge(canvas: Canvas, rng: Rng, x: float, near: float, far: float) -> None:
    """A row of bushes."""
    tones, height, phase = _foliage_tones(rng), rng.uniform(1.0, 2.2), rng.integers(SIZE)

    def pattern(s: Floats, y: Floats) -> Codes:
        column = (s[0] * 30.0).astype(int) + phase
        coarse = cloud_tile()[(y * 30.0).astype(int) % SIZE, column % SIZE]
        fine = cloud_tile()[(y * 80.0).astype(int) % SIZE, (column * 3) % SIZE]
        light = 0.5 * coarse + 0.3 * fine + 0.8 * y / height - 0.3
        codes = np.clip(((light + 0.8) * 2.5).astype(np.int64), 0, len(tones) - 1)
        return np.where(y > height * (0.85 + 0.07 * coarse + 0.05 * fine), UNTOUCHED, codes)

    canvas.panel(x, near, far, 1.2 * height, tones, pattern)
    canvas.stand(x, near, far, 0.8, height)


def tree(spot: Spot) -> None:
    """A broad-leaved tree, 5 to 9 m tall; its trunk counts as vegetation."""
    canvas, rng, x, z, *_ = spot
    trunk, crown = rng.uniform(1.8, 3.0), rng.uniform(1.5, 2.6)
    top, lean = trunk + 1.2 * crown, rng.uniform(-0.2, 0.2)
    tones, phase = _foliage_tones(rng), int(rng.integers(SIZE))
    centres = np.array([x + lean, top + 0.4 * crown, z]) + np.zeros((3, 3))
    centres[:, :2] += rng.uniform(-0.45, 0.45, (3, 2)) * crown
    if not canvas.sees(x, z, 2.0 * crown):
        return
    stem = ((-0.16, 0.0), (0.16, 0.0), (0.1 + lean, top), (lean - 0.1, top))
    canvas.draw([(spot.upright(stem), Surface(VEGETATION, _BARK, Texture.LEAVES))])
    canvas.foliage(centres, (0.8 * crown, 0.72 * crown), tones, phase)
    canvas.stand(x, z - 0.6, z + 0.6, 1.2 * crown, 0.0)
    canvas.stand(x, z - 0.2, z + 0.2, 0.3, top)
    canvas.stand(x, z - 0.5 * crown, z + 0.5 * crown, 1.4 * crown, top)


def skyline(canvas: Canvas, rng: Rng) -> None:
    """Distant houses and trees where the street ends."""
    faces = []
    angles = np.linspace(0.0, np.pi, 12)
    crown = np.stack([0.5 + 0.5 * np.cos(angles), 0.6 * np.sin(angles) ** 0.5, 0 * angles], axis=1)
    block = np.array([(0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)])
    for z in (170.0, 125.0):
        x = -100.0
        while x < 100.0:
            chance, width, height, step = rng.uniform((0, 8, 5, 0.7), (1, 22, 17, 1.1)).tolist()
            if chance < 0.4:
                outline, surface = crown, Surface(VEGETATION, pick(rng, _LEAVES), Texture.LEAVES)
            else:
                outline, surface = block, Surface(BUILDING, pick(rng, _FACADES), Texture.BRICK)
            faces.append(((x, 0.0, z) + outline * (width, height, 1.0), surface))
            x += width * step
    canvas.draw(faces)


def _foliage_tones(rng: Rng) -> list[Surface]:
    base = pick(rng, _LEAVES)
    return [Surface(VEGETATION, shade(base, k), Texture.LEAVES) for k in (0.6, 0.85, 1.1, 1.4)]
