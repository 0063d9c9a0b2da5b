"""Photometric augmentation: colours change, geometry stays, so labels keep fitting.

The operations restate Pillow's ``ImageOps`` and ``ImageEnhance`` on arrays, mostly as look-up
tables. All take and return (H, W, 3) uint8 RGB and leave their argument alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..run.config import AugmentConfig

Image = NDArray[np.uint8]
_LEVELS = np.arange(256)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


class AugmentOperation(NamedTuple):
    """One operation of a sub-policy: applied with a probability, at a level of 0 to 9."""

    operation: str
    probability: float
    level: int


# AutoAugment's ImageNet policy (Cubuk et al., CVPR 2019, arXiv:1805.09501, Table 9) without the
# seven of its 25 sub-policies that rotate or shear, as IAPC's reference code has it. Levels of
# operations without a magnitude are the paper's and unused. Some sub-policies stand in it twice.
IMAGENET_PHOTOMETRIC: tuple[tuple[AugmentOperation, AugmentOperation], ...] = (
    (AugmentOperation("solarize", 0.6, 5), AugmentOperation("autocontrast", 0.6, 5)),
    (AugmentOperation("equalize", 0.8, 8), AugmentOperation("equalize", 0.6, 3)),
    (AugmentOperation("posterize", 0.6, 7), AugmentOperation("posterize", 0.6, 6)),
    (AugmentOperation("equalize", 0.4, 7), AugmentOperation("solarize", 0.2, 4)),
    (AugmentOperation("solarize", 0.6, 3), AugmentOperation("equalize", 0.6, 7)),
    (AugmentOperation("posterize", 0.8, 5), AugmentOperation("equalize", 1.0, 2)),
    (AugmentOperation("equalize", 0.6, 8), AugmentOperation("posterize", 0.4, 6)),
    (AugmentOperation("equalize", 0.0, 7), AugmentOperation("equalize", 0.8, 8)),
    (AugmentOperation("invert", 0.6, 4), AugmentOperation("equalize", 1.0, 8)),
    (AugmentOperation("color", 0.6, 4), AugmentOperation("contrast", 1.0, 8)),
    (AugmentOperation("color", 0.8, 8), AugmentOperation("solarize", 0.8, 7)),
    (AugmentOperation("sharpness", 0.4, 7), AugmentOperation("invert", 0.6, 8)),
    (AugmentOperation("color", 0.4, 0), AugmentOperation("equalize", 0.6, 3)),
    (AugmentOperation("equalize", 0.4, 7), AugmentOperation("solarize", 0.2, 4)),
    (AugmentOperation("solarize", 0.6, 5), AugmentOperation("autocontrast", 0.6, 5)),
    (AugmentOperation("invert", 0.6, 4), AugmentOperation("equalize", 1.0, 8)),
    (AugmentOperation("color", 0.6, 4), AugmentOperation("contrast", 1.0, 8)),
    (AugmentOperation("equalize", 0.8, 8), AugmentOperation("equalize", 0.6, 3)),
)


def photometric(image: Image, config: AugmentConfig, rng: np.random.Generator) -> Image:
    """The image under the policy of ``config``; ``rng`` draws what happens.

    ``"none"`` returns the image itself. ``"jitter"`` multiplies brightness, contrast and saturation
    (in this order) by factors drawn from 1 - a to 1 + a, with the amplitudes a of ``config``, and
    then blurs.
    ``"autoaugment"`` applies one of `IMAGENET_PHOTOMETRIC` at random. ``"daformer"`` is
    `strong_jitter`.
    """
    if config.policy == "none":
        return image
    if config.policy == "jitter":
        for operation, amplitude in (
            (brightness, config.brightness),
            (contrast, config.contrast),
            (color, config.saturation),
        ):
            image = operation(image, float(rng.uniform(1 - amplitude, 1 + amplitude)))
        return image if config.blur == 0 else blurred(image, float(rng.uniform(0, config.blur)))
    if config.policy == "daformer":
        return strong_jitter(image, rng)
    steps = IMAGENET_PHOTOMETRIC[int(rng.integers(len(IMAGENET_PHOTOMETRIC)))]
    chances, signs = rng.random(2), rng.choice([-1, 1], size=2)
    for step, chance, sign in zip(steps, chances, signs, strict=True):
        if chance < step.probability:
            image = apply_operation(image, step.operation, step.level, sign=int(sign))
    return image


def strong_jitter(image: Image, rng: np.random.Generator) -> Image:
    """Jitter of colours with probability 0.8, and blur with probability 0.5.

    Brightness, contrast and saturation by factors of 0.8 to 1.2 and the hue by up to 0.2 of a turn,
    in random order; a Gaussian of 0.15 to 1.15 pixels.

    Source: DAFormer's code (Hoyer et al., CVPR 2022, arXiv:2111.14887), after DACS (Tranheden et
    al., WACV 2021, arXiv:2007.08702); ATP's authors' code has the same. There the contrast is
    kornia's, a factor on all values; here it is Pillow's, about the mean.
    """
    if rng.random() < 0.8:
        factors, turn = rng.uniform(0.8, 1.2, 3), float(rng.uniform(-0.2, 0.2))
        for which in rng.permutation(4):
            if which == 3:
                image = hue_turned(image, turn)
            else:
                image = (brightness, contrast, color)[which](image, float(factors[which]))
    if rng.random() < 0.5:
        image = blurred(image, float(rng.uniform(0.15, 1.15)))
    return image


def hue_turned(image: Image, turn: float) -> Image:
    """The image with its hue (of HSV) turned by ``turn`` full turns."""
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)  # hue in degrees
    hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
    turned = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.asarray(np.clip(np.rint(turned), 0, 255), np.uint8)


def blurred(image: Image, sigma: float) -> Image:
    """The image under a Gaussian of ``sigma`` pixels; unchanged where that is nothing to see."""
    if sigma < 0.1:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def apply_operation(image: Image, operation: str, level: int, *, sign: int = 1) -> Image:
    """One of AutoAugment's photometric operations at a level of 0 (weakest) to 9.

    ``sign`` (1 or -1) says whether color, contrast, brightness and sharpness grow or shrink. The
    magnitudes are those of the widespread restatements: factors 1 +- level / 10, thresholds from
    256 down to 0, and 8 to 4 bits.
    """
    if operation in _ENHANCE:
        return _ENHANCE[operation](image, 1 + sign * level / 10)
    if operation == "posterize":
        return posterize(image, 8 - round(4 * level / 9))
    if operation == "solarize":
        return solarize(image, 256 * (1 - level / 9))
    return _PLAIN[operation](image)


def posterize(image: Image, bits: int) -> Image:
    """Keep the top ``bits`` (1 to 8) of each value."""
    return _look_up(image, _LEVELS & ~(2 ** (8 - bits) - 1))


def solarize(image: Image, threshold: float) -> Image:
    """Invert the values at or above ``threshold``."""
    return _look_up(image, np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS))


def invert(image: Image) -> Image:
    """255 minus each value."""
    return _look_up(image, 255 - _LEVELS)


def autocontrast(image: Image) -> Image:
    """Stretch each channel so that its darkest value is 0 and its lightest 255."""
    tables = []
    for channel in range(3):
        low, high = int(image[..., channel].min()), int(image[..., channel].max())
        if high > low:
            scale = 255 / (high - low)
            tables.append(np.trunc(np.clip(_LEVELS * scale - low * scale, 0, 255)))
        else:
            tables.append(_LEVELS)
    return _look_up(image, np.stack(tables, axis=1))


def stretched(image: Image, outliers: float = 0.01) -> Image:
    """Contrast stretched over the whole range, all channels alike.

    The darkest and the brightest ``outliers`` of all values become 0 and 255.
    """
    share = np.cumsum(np.bincount(image.ravel(), minlength=256)) / image.size
    low, high = np.searchsorted(share, [outliers, 1 - outliers])
    levels = (_LEVELS - low) * (255 / max(1, high - low))
    return _look_up(image, levels)


def equalize(image: Image) -> Image:
    """Flatten the histogram of each channel."""
    tables = []
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        used = counts[counts > 0]
        step = int(used.sum() - used[-1]) // 255
        if len(used) > 1 and step > 0:
            below = np.concatenate([[0], np.cumsum(counts)[:-1]])
            tables.append(np.minimum((step // 2 + below) // step, 255))
        else:
            tables.append(_LEVELS)
    return _look_up(image, np.stack(tables, axis=1))


def brightness(image: Image, factor: float) -> Image:
    """Blend with black: 0 is black, 1 the image."""
    return _look_up(image, factor * _LEVELS)


def contrast(image: Image, factor: float) -> Image:
    """Blend with the mean grey: 0 is grey, 1 the image."""
    mean = int(_grey(image).mean() + 0.5)
    return _look_up(image, mean + factor * (_LEVELS - mean))


def color(image: Image, factor: float) -> Image:
    """Blend with the grey image: 0 is grey, 1 the image, above 1 more saturated."""
    return _blend(np.repeat(_grey(image)[..., None], 3, axis=2), image, factor)


def sharpness(image: Image, factor: float) -> Image:
    """Blend with a smoothed image: 0 is smooth, 1 the image, above 1 sharper."""
    smooth = image.copy()
    inner = cv2.filter2D(image, -1, _SMOOTH)[1:-1, 1:-1]
    smooth[1:-1, 1:-1] = inner
    return _blend(smooth, image, factor)


_ENHANCE: dict[str, Callable[[Image, float], Image]] = {
    "brightness": brightness,
    "color": color,
    "contrast": contrast,
    "sharpness": sharpness,
}
_PLAIN: dict[str, Callable[[Image], Image]] = {
    "autocontrast": autocontrast,
    "equalize": equalize,
    "invert": invert,
}


def _look_up(image: Image, table: NDArray[np.generic]) -> Image:
    """Map values by a table, (256,) for all channels or (256, 3), clipped and truncated."""
    values = np.clip(np.asarray(table, np.float64), 0, 255).astype(np.uint8)
    if values.ndim == 2:
        values = values.reshape(256, 1, 3)
    return np.asarray(cv2.LUT(image, values), np.uint8)


def _grey(image: Image) -> Image:
    """ITU-R 601 luma in Pillow's fixed-point arithmetic, (H, W)."""
    red, green, blue = (image[..., channel].astype(np.uint32) for channel in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)


def _blend(start: Image, end: Image, factor: float) -> Image:
    """start + factor (end - start), clipped and truncated."""
    first = start.astype(np.float32)
    blended = first + np.float32(factor) * (end.astype(np.float32) - first)
    return np.clip(blended, 0, 255).astype(np.uint8)
