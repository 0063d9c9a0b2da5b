"""People, two-wheelers and street furniture: flat shapes, upright, facing the camera."""

from collections.abc import Sequence

from .canvas import Part, Points, Spot, Surface, box, ellipse
from .materials import ACCENTS, Texture, palette, pick, shade

POLE, LIGHT, SIGN, PERSON, RIDER, MOTORCYCLE, BICYCLE = 5, 6, 7, 11, 12, 17, 18
_DARK, _RUBBER, _STEEL = palette("12 12 13, 8 8 8.5, 60 61 63")
_SKINS = palette("88 70 58, 72 52 38, 45 30 22")
_HAIRS = palette("12 9 7, 35 24 14, 60 50 36")
_COATS = palette("15 17 24, 60 14 14, 85 83 78, 22 40 60, 75 60 20, 30 42 26, 50 30 50, 35 35 36")
_TROUSERS = palette("14 16 24, 20 20 21, 42 38 32, 26 34 50")
_PAINTED = palette("50 51 52, 30 31 32, 24 32 28")
_RED, _BLUE, _WHITE, _YELLOW, _GREEN = palette("78 8 10, 8 28 66, 95 95 93, 95 76 10, 6 42 26")
_LENSES = palette("95 12 8, 95 70 10, 10 85 50")  # red, amber and green
_LENS_GLOWS = palette("160 10 5, 140 80 10, 10 140 80")
_DISC, _INNER_DISC = (ellipse(0, 0, r, r) for r in (1.0, 0.72))
_TRIANGLE, _INNER = (((-r, -0.8 * r), (r, -0.8 * r), (0.0, 0.95 * r)) for r in (1.0, 0.6))
_DIAMOND, _INNER_DIAMOND = (((0.0, -r), (r, 0.0), (0.0, r), (-r, 0.0)) for r in (1.0, 0.78))
# fmt: off
_SIGNS: Sequence[Sequence[Part]] = (
    [(_DISC, _RED), (_INNER_DISC, _WHITE)],
    [(_DISC, _RED), (box(-0.7, 0.7, -0.18, 0.18), _WHITE)],
    [(_TRIANGLE, _RED), (_INNER, _WHITE)],
    [(_DISC, _BLUE), (box(-0.14, 0.14, -0.6, 0.6), _WHITE)],
    [(box(-0.9, 0.9, -0.9, 0.9), _BLUE), (_INNER, _WHITE)],
    [(_DIAMOND, _WHITE), (_INNER_DIAMOND, _YELLOW)],
    [(box(-1.5, 1.5, -0.6, 0.6), _GREEN), (box(-1.1, 1.1, -0.14, 0.1), _WHITE)])
_BICYCLE_FRAME: Sequence[Points] = (
    ((-0.54, 0.36), (-0.12, 0.3), (0.4, 0.82), (-0.22, 0.78), (-0.54, 0.36)),
    ((-0.12, 0.3), (-0.27, 0.92)), ((0.54, 0.36), (0.38, 0.98), (0.5, 1.04)))


def person(spot: Spot) -> None:
    """Someone standing or walking, 1.55 to 1.9 m tall."""
    rng = spot.rng
    k = rng.uniform(1.55, 1.9) / 1.75
    step, turn = rng.uniform(0.03, 0.24), rng.uniform(0.8, 1.15)
    coat, legs = pick(rng, _COATS), pick(rng, _TROUSERS)
    hem, sleeve = (0.55 if rng.random() < 0.3 else 0.85), 0.18 + 0.4 * step
    parts: list[Part] = [
        (((-0.1, 0.9), (0.05, 0.9), (step + 0.04, 0.03), (step - 0.12, 0.03)), legs),
        (((-0.05, 0.9), (0.12, 0.9), (0.1 - step, 0.03), (-0.06 - step, 0.03)), shade(legs, 0.8)),
        (box(step - 0.12, step + 0.1, 0, 0.08), _DARK),
        (box(-0.06 - step, 0.14 - step, 0, 0.08), _DARK),
        (((-0.21, 1.45), (0.21, 1.45), (0.2, hem), (-0.2, hem)), coat),
        (((-0.21, 1.44), (-0.1, 1.44), (-sleeve, 0.82), (-sleeve - 0.1, 0.84)), shade(coat, 0.8)),
        (((0.21, 1.44), (0.1, 1.44), (sleeve, 0.82), (sleeve + 0.1, 0.84)), shade(coat, 0.87)),
        (ellipse(0, 1.6, 0.12, 0.15), pick(rng, _SKINS)),
        (ellipse(0, 1.68, 0.13, 0.09), pick(rng, _HAIRS))]
    spot._replace(across=turn * k, up=k).draw(PERSON, parts, Texture.CLOTH)
    spot.stand(0.22, 1.7 * k)


def bicycle(spot: Spot, ridden: bool) -> None:
    """A bicycle seen from the side or at an angle, alone or with its rider."""
    canvas, spot = spot.canvas, _turned(spot, 0.5)
    for wheel in (-0.54, 0.54):
        disc = spot.upright(ellipse(wheel, 0.36, 0.36, 0.36))
        canvas.see_through(disc, BICYCLE)
        for spoke in (0, 2, 4):
            canvas.stroke(disc[[spoke, spoke + 6]], 0.015, Surface(BICYCLE, _STEEL))
        canvas.stroke(disc[[*range(12), 0]], 0.08, Surface(BICYCLE, _RUBBER))
    tube = Surface(BICYCLE, pick(spot.rng, ACCENTS), Texture.METAL)
    for line in _BICYCLE_FRAME:
        canvas.stroke(spot.upright(line), 0.08, tube)
    spot.draw(BICYCLE, [(box(-0.4, -0.12, 0.88, 0.97), _DARK)], Texture.CLOTH)
    if ridden:
        _rider(spot, seat=0.97, helmet=spot.rng.random() < 0.5)
    spot.stand(0.5, 1.6 if ridden else 0.9)


def motorcycle(spot: Spot, ridden: bool) -> None:
    """A motorcycle seen from the side or at an angle, alone or with its rider."""
    spot = _turned(spot, 0.55)
    paint = pick(spot.rng, ACCENTS)
    parts: list[Part] = [
        *((ellipse(wheel, 0.34, 0.34, 0.34), _RUBBER) for wheel in (-0.72, 0.72)),
        *((ellipse(wheel, 0.34, 0.17, 0.17), _STEEL) for wheel in (-0.72, 0.72)),
        (((-0.75, 0.45), (-0.1, 0.24), (0.35, 0.27), (0.42, 0.64), (-0.4, 0.72)), _DARK),
        (ellipse(0.05, 0.43, 0.26, 0.2), _STEEL),
        (((-0.95, 0.3), (-0.2, 0.28), (-0.2, 0.38), (-1, 0.44)), _STEEL),
        (((-1, 0.92), (-0.75, 0.66), (0, 0.7), (-0.02, 0.82), (-0.55, 0.84)), shade(paint, 0.7)),
        (((-0.6, 0.82), (0.02, 0.78), (0.02, 0.9), (-0.55, 0.92)), _DARK),
        (((-0.02, 0.68), (0.42, 0.6), (0.5, 0.98), (0.1, 1.04)), paint),
        (((0.4, 0.75), (0.66, 0.72), (0.74, 0.98), (0.52, 1.27), (0.44, 1)), paint),
        (((0.72, 0.34), (0.64, 0.34), (0.5, 1.08), (0.58, 1.08)), _STEEL),
        (((0.42, 0.52), (1, 0.68), (0.98, 0.76), (0.46, 0.68)), paint)]
    spot.draw(MOTORCYCLE, parts, Texture.CLOTH)
    spot.draw(MOTORCYCLE, [(box(-1.02, -0.88, 0.8, 0.93), (0.7, 0.08, 0.06), (1.1, 0.04, 0.02))])
    if ridden:
        _rider(spot, seat=0.9, helmet=True)
    spot.stand(0.6, 1.5 if ridden else 1.1)


def _turned(spot: Spot, least: float) -> Spot:
    """The spot, its shapes foreshortened to at least that share, and mirrored or not."""
    return spot._replace(across=spot.rng.uniform(least, 1.0) * float(spot.rng.choice([-1.0, 1.0])))


def _rider(spot: Spot, *, seat: float, helmet: bool) -> None:
    rng = spot.rng
    coat, legs = pick(rng, _COATS), pick(rng, _TROUSERS)
    head = pick(rng, ACCENTS if helmet else _HAIRS)
    parts: list[Part] = [
        (((-0.34, 0), (-0.1, 0.12), (0.32, -0.16), (0.22, -0.32), (-0.2, -0.14)), legs),
        (((0.16, -0.3), (0.33, -0.18), (0.17, -0.62), (0.02, -0.62)), shade(legs, 0.85)),
        (box(0, 0.26, -0.68, -0.6), _DARK),
        (((-0.38, -0.06), (0, -0.02), (0.26, 0.52), (0.04, 0.62), (-0.24, 0.46)), coat),
        (((0.02, 0.54), (0.22, 0.46), (0.52, 0.14), (0.42, 0.05)), shade(coat, 0.85)),
        (ellipse(0.2, 0.73, 0.15, 0.17), pick(rng, _SKINS)),
        (ellipse(0.18, 0.79, 0.17, 0.14), head)]
    across = max(spot.across, 0.75) if spot.across > 0.0 else min(spot.across, -0.75)
    spot._replace(across=across, lift=seat).draw(RIDER, parts, Texture.CLOTH)
# fmt: on


def pole(spot: Spot, height: float, radius: float = 0.08, arm: float = 0.0) -> None:
    """A post; with ``arm`` (metres, signed) also a beam at its top over the road."""
    if not spot.canvas.sees(spot.x, spot.z, 1.0 + abs(arm)):
        return
    surface = Surface(POLE, _PAINTED[int(10.0 * height) % len(_PAINTED)], Texture.METAL)
    shape = [*box(-radius, radius, 0.0, height)]
    if arm:
        shape[2:3] = [(radius, height - 0.12), (arm, height - 0.12), (arm, height)]
    spot.canvas.draw([(spot.upright(shape), surface)])
    spot.stand(radius, height)


def street_lamp(spot: Spot, arm: float) -> None:
    """A lamp post, 7 m tall, its lantern ``arm`` metres over the road."""
    pole(spot, 7.0, radius=0.09, arm=arm)
    lantern = (box(arm - 0.4, arm + 0.4, 6.75, 6.95), (0.8, 0.78, 0.7), (3.0, 2.0, 0.9))
    spot.draw(POLE, [lantern])
    spot.canvas.lamps.append(spot.upright([(arm, 0.0)])[0])


def traffic_light(spot: Spot, arm: float = 0.0) -> None:
    """A signal with three lenses on a post, or hanging from a beam over the road."""
    state = 0 if spot.rng.random() < 0.5 else 2  # red or green
    pole(spot, 5.6 if arm else 3.4, radius=0.1, arm=arm)
    for along, top in ((0.0, 3.5), (arm, 5.7))[: 2 if arm else 1]:
        parts: list[Part] = [(box(along - 0.33, along + 0.33, top - 1.5, top), (0.1, 0.1, 0.1))]
        parts.append((box(along - 0.24, along + 0.24, top - 1.4, top - 0.1), (0.17, 0.18, 0.17)))
        for place, (colour, glow) in enumerate(zip(_LENSES, _LENS_GLOWS, strict=True)):
            lens = ellipse(along, top - 0.32 - 0.43 * place, 0.17, 0.18)
            parts.append((lens, colour, glow) if place == state else (lens, shade(colour, 0.3)))
        spot.draw(LIGHT, parts)


def traffic_sign(spot: Spot) -> None:
    """One of seven signs on a post, 0.8 to 1.2 m wide."""
    size, up = 0.5 * spot.rng.uniform(0.8, 1.2), spot.rng.uniform(2.3, 2.9)
    pole(spot, up + size, radius=0.06)
    sign = _SIGNS[int(spot.rng.integers(len(_SIGNS)))]
    spot._replace(across=size, up=size, lift=up).draw(SIGN, sign)
