"""Photometric augmentation: Pillow's values, no geometry, seeded draws, the whole policy."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from roadshift.adapt.data import augment
from roadshift.adapt.data.augment import (
    IMAGENET_PHOTOMETRIC,
    apply_operation,
    blurred,
    hue_turned,
    photometric,
    stretched,
)
from roadshift.adapt.run.config import AugmentConfig

Array = NDArray[np.uint8]
OPERATIONS = (
    *("posterize", "solarize", "equalize", "autocontrast", "invert"),
    *("color", "contrast", "brightness", "sharpness"),
)


def random_image(seed: int) -> Array:
    """Odd sizes; half of them with a narrow range of values, as frames at night have."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(5, 90, size=2))
    low, high = (30, 90) if seed % 2 else (0, 256)
    return rng.integers(low, high, (height, width, 3)).astype(np.uint8)


def pillow(image: Array, operation: str, level: int, sign: int) -> Array:
    """AutoAugment's operation by Pillow, with the magnitudes of the widespread restatements."""
    source = Image.fromarray(image)
    enhancers = {
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    if operation in enhancers:
        factor = 1 + sign * np.linspace(0.0, 0.9, 10)[level]
        return np.asarray(enhancers[operation](source).enhance(float(factor)))
    if operation == "posterize":
        bits = int(np.round(np.linspace(8, 4, 10))[level])
        return np.asarray(ImageOps.posterize(source, bits))
    if operation == "solarize":
        return np.asarray(ImageOps.solarize(source, float(np.linspace(256, 0, 10)[level])))
    return np.asarray(getattr(ImageOps, operation)(source))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("seed", range(6))
def test_each_operation_is_pillows_within_one_grey_level(operation: str, seed: int) -> None:
    image = random_image(seed)
    for level in range(10):
        for sign in (-1, 1):
            ours = apply_operation(image, operation, level, sign=sign).astype(int)
            theirs = pillow(image, operation, level, sign).astype(int)
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() <= 1, (level, sign)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_constant_image_stays_constant(operation: str) -> None:
    image = np.full((7, 9, 3), (40, 130, 220), np.uint8)
    for level in range(10):
        result = apply_operation(image, operation, level)
        assert (result == result[0, 0]).all()


@pytest.mark.parametrize("operation", sorted(set(OPERATIONS) - {"sharpness"}))
def test_pointwise_operations_commute_with_a_shuffle_of_the_pixels(operation: str) -> None:
    image = random_image(3)
    order = np.random.default_rng(0).permutation(image.shape[0] * image.shape[1])

    def shuffled(pixels: Array) -> Array:
        return pixels.reshape(-1, 3)[order].reshape(pixels.shape)

    moved_first = apply_operation(shuffled(image), operation, 6)
    np.testing.assert_array_equal(moved_first, shuffled(apply_operation(image, operation, 6)))


@pytest.mark.parametrize("policy", ["none", "jitter", "autoaugment"])
def test_a_seeded_generator_decides_everything(policy: str) -> None:
    image, config = random_image(4), AugmentConfig.model_validate({"policy": policy})
    before = image.copy()
    for seed in range(20):
        first = photometric(image, config, np.random.default_rng(seed))
        again = photometric(image, config, np.random.default_rng(seed))
        np.testing.assert_array_equal(first, again)
        assert first.shape == image.shape
        assert first.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_none_changes_nothing_and_the_others_do() -> None:
    image = random_image(2)
    changed = {
        policy: sum(
            not np.array_equal(photometric(image, config, np.random.default_rng(seed)), image)
            for seed in range(40)
        )
        for policy in ("none", "jitter", "autoaugment")
        if (config := AugmentConfig.model_validate({"policy": policy}))
    }
    assert changed["none"] == 0
    assert changed["jitter"] == 40
    assert 20 < changed["autoaugment"] < 40


def test_jitter_of_amplitude_zero_is_the_identity() -> None:
    image = random_image(0)
    config = AugmentConfig(policy="jitter", brightness=0, contrast=0, saturation=0)
    result = photometric(image, config, np.random.default_rng(0))
    np.testing.assert_array_equal(result, image)


def test_jitter_keeps_to_its_brightness_range() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    config = AugmentConfig(policy="jitter", brightness=0.3, contrast=0, saturation=0)
    values = {
        int(photometric(image, config, np.random.default_rng(seed))[0, 0, 0]) for seed in range(200)
    }
    assert min(values) >= 70
    assert max(values) <= 130
    assert max(values) - min(values) > 50


def test_blur_spreads_each_pixel_by_no_more_than_its_sigma() -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    config = AugmentConfig(policy="jitter", brightness=0, contrast=0, saturation=0, blur=2.0)
    offsets = (np.arange(41) - 20.0) ** 2
    drawn = []
    for seed in range(60):
        result = photometric(image, config, np.random.default_rng(seed)).astype(float)
        assert (result[..., 0] == result[..., 1]).all()
        rows = result[..., 0].sum(axis=1)
        drawn.append(np.sqrt((rows * offsets).sum() / rows.sum()))
    assert min(drawn) < 0.4
    assert 1.5 < max(drawn) < 2.1
    flat = np.full((9, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(photometric(flat, config, np.random.default_rng(0)), flat)


@pytest.mark.parametrize("sigma", [0.5, 1.3, 3.0])
def test_blur_is_a_gaussian_of_that_sigma(sigma: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    radius = 4 * math.ceil(sigma)
    weights = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    expected = image.astype(np.float64)
    for axis in (0, 1):
        margin = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(expected, margin, mode="reflect")
        shifted = [
            np.take(padded, range(i, i + image.shape[axis]), axis) for i in range(2 * radius + 1)
        ]
        expected = sum(w * s for w, s in zip(weights / weights.sum(), shifted, strict=True))
    assert np.abs(blurred(image, sigma) - expected).max() < 2.5  # of 255; its kernel is cut short


def test_without_blur_the_draws_are_those_of_the_colours_alone() -> None:
    rng, colours = np.random.default_rng(3), np.random.default_rng(3)
    photometric(random_image(0), AugmentConfig(policy="jitter"), rng)
    colours.uniform(size=3)
    assert rng.random() == colours.random()
    image = random_image(0)
    assert blurred(image, 0.05) is image


def test_autoaugment_draws_every_sub_policy_and_both_signs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[str, int, int]] = []

    def record(image: Array, operation: str, level: int, *, sign: int = 1) -> Array:
        drawn.append((operation, level, sign))
        return image

    monkeypatch.setattr(augment, "apply_operation", record)
    rng, config = np.random.default_rng(0), AugmentConfig(policy="autoaugment")
    image, draws = random_image(0), 4000
    for _ in range(draws):
        photometric(image, config, rng)
    expected: Counter[tuple[str, int]] = Counter()
    for steps in IMAGENET_PHOTOMETRIC:
        for step in steps:
            expected[step.operation, step.level] += step.probability / len(IMAGENET_PHOTOMETRIC)
    counted = Counter((operation, level) for operation, level, _ in drawn)
    assert set(counted) == {key for key, share in expected.items() if share > 0}
    for key, share in expected.items():
        assert counted[key] / draws == pytest.approx(share, abs=0.03)
    assert {sign for _, _, sign in drawn} == {-1, 1}


def test_the_policy_holds_the_18_of_25_sub_policies_that_keep_geometry() -> None:
    assert len(IMAGENET_PHOTOMETRIC) == 18
    assert {step.operation for steps in IMAGENET_PHOTOMETRIC for step in steps} <= set(OPERATIONS)


def test_stretching_spreads_all_but_the_outliers_over_the_whole_range() -> None:
    image = np.random.default_rng(0).integers(60, 90, (50, 40, 3), np.uint8)
    image[0, 0], image[1, 1] = 0, 255
    low, high = np.quantile(image, [0.01, 0.99], method="inverted_cdf")
    expected = ((image.astype(float) - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    assert np.array_equal(stretched(image), expected)
    flat = np.full((4, 4, 3), 7, np.uint8)
    assert stretched(flat).dtype == np.uint8


# --- DAFormer's strong jitter ---------------------------------------------------------------------


def test_daformers_noise_comes_as_often_as_it_should() -> None:
    image = np.random.default_rng(0).integers(40, 200, (8, 8, 3), dtype=np.uint8)
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)  # a blur leaves it alone
    runs = 2000
    same, same_colours = 0, 0
    for seed in range(runs):
        config = AugmentConfig(policy="daformer")
        same += np.array_equal(photometric(image, config, np.random.default_rng(seed)), image)
        again = photometric(flat, config, np.random.default_rng(seed))
        assert again.shape == flat.shape
        assert (again == again[0, 0]).all()
        same_colours += np.array_equal(again, flat)
    assert same_colours / runs == pytest.approx(0.2, abs=0.03)  # no jitter
    # And no blur in half of these, or one of less than a pixel's notice.
    assert 0.08 < same / runs < 0.14


def test_daformers_noise_draws_from_its_generator_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 12, 3), dtype=np.uint8)
    before, config = image.copy(), AugmentConfig(policy="daformer")
    views = [photometric(image, config, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(image, before)
    assert np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])
    assert views[0].dtype == np.uint8


@pytest.mark.parametrize(
    ("turn", "colour"),
    [
        (0.0, (200, 100, 50)),
        (1 / 3, (50, 200, 100)),
        (-1 / 3, (100, 50, 200)),
        (1.0, (200, 100, 50)),
    ],
)
def test_hue_turns_by_thirds_from_channel_to_channel(
    turn: float, colour: tuple[int, int, int]
) -> None:
    image = np.full((2, 3, 3), (200, 100, 50), np.uint8)
    assert np.abs(hue_turned(image, turn).astype(int) - colour).max() <= 1


def test_hue_of_grey_turns_to_grey() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(hue_turned(grey, 0.17), grey)
