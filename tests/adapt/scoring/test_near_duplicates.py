"""Copies of a picture are told from pictures of something else."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from roadshift.adapt.scoring.near_duplicates import DistinctFrames
from roadshift.scenes import render_scene

Image = NDArray[np.uint8]


@cache
def scene(seed: int, domain: str = "night") -> Image:
    return render_scene(seed, domain, 320, 160).image


def noisy(image: Image, seed: int) -> Image:
    noise = np.random.default_rng(seed).normal(0, 6, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def compressed(image: Image, seed: int) -> Image:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60 + seed % 40])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def exposed(image: Image, seed: int) -> Image:
    return (image * (0.8 + 0.01 * (seed % 15))).astype(np.uint8)


def new_ones(images: list[Image]) -> int:
    distinct = DistinctFrames()
    return sum(distinct.is_new(image) for image in images)


@pytest.mark.parametrize("domain", ["daylight", "night", "fog"])
def test_every_scene_is_new(domain: str) -> None:
    assert new_ones([scene(seed, domain) for seed in range(20)]) == 20


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([noisy, compressed, exposed, lambda i, _: i.copy()]))
def test_copies_are_not(seed: int, change: object) -> None:
    assert callable(change)
    image = scene(seed % 7)
    assert new_ones([image, *(change(image, seed + i) for i in range(4))]) == 1


def test_a_standing_car_between_two_drives_counts_once() -> None:
    drive = [scene(seed) for seed in range(6)]
    standing = [noisy(scene(100), seed) for seed in range(10)]
    assert new_ones([*drive[:3], *standing, *drive[3:], standing[0]]) == 7


def test_pictures_without_contrast_are_one() -> None:
    assert new_ones([np.full((64, 128, 3), grey, np.uint8) for grey in (0, 1, 3)]) == 1
