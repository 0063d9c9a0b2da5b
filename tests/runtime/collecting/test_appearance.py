"""Looks of frames: near for the same place, far for another, and what makes one worthless."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from night_scenes import night_scene
from roadshift.runtime.collecting.appearance import LENGTH, appearance
from roadshift.runtime.collecting.collector import BLURRED, NEARLY_THE_SAME
from roadshift.scenes import render_scene

SEEDS = range(6)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(appearance(one).descriptor - appearance(other).descriptor))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_place_in_other_light_with_noise_is_nearly_the_same(seed: int) -> None:
    scene = night_scene(seed)
    noise = np.random.default_rng(0).normal(0, 6, scene.shape)
    again = (scene * 1.15 + noise).clip(0, 255).astype(np.uint8)
    assert distance(scene, again) < NEARLY_THE_SAME


def test_other_places_are_not() -> None:
    scenes = [night_scene(seed) for seed in SEEDS]
    for i, one in enumerate(scenes):
        for other in scenes[:i]:
            assert distance(one, other) > NEARLY_THE_SAME


def test_a_road_in_a_quarter_of_the_light_is_another_frame() -> None:
    scene = render_scene(0, "daylight", 320, 160).image
    assert distance(scene, (scene // 4).astype(np.uint8)) > NEARLY_THE_SAME


def test_a_covered_lens_is_dark_and_a_fogged_one_flat() -> None:
    dark = np.random.default_rng(0).integers(0, 12, (90, 160, 3), np.uint8)
    assert appearance(dark).is_dark
    assert appearance(np.full((90, 160, 3), 180, np.uint8)).is_flat
    looks = appearance(night_scene(0))
    assert not looks.is_dark
    assert not looks.is_flat


@pytest.mark.parametrize("seed", SEEDS)
def test_a_blurred_frame_is_less_sharp_than_its_like(seed: int) -> None:
    scene = night_scene(seed)
    large = cv2.resize(scene, (640, 320), interpolation=cv2.INTER_NEAREST)
    blurred = np.asarray(cv2.GaussianBlur(large, (0, 0), 4), np.uint8)
    assert appearance(blurred).sharpness < appearance(large).sharpness - BLURRED


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_any_picture_has_finite_looks(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    looks = appearance(image)
    assert looks.descriptor.shape == (LENGTH,)
    assert np.isfinite(looks.descriptor).all()
    assert np.isfinite(looks.sharpness)
