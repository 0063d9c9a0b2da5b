"""Crops that are drawn again, noise before the crop, and crops without their zoom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from roadshift.adapt.data.augment import photometric
from roadshift.adapt.data.context import Context, unscaled_crop
from roadshift.adapt.data.dataset import Batch, Crop, CropCondition, CropSampler
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.data.streams import Streams
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.pseudo_labels.hard_labels import count_classes
from roadshift.adapt.run.config import AugmentConfig, RunConfig, TrainingConfig
from roadshift.runtime.bundle import InputSpec

WIDTH, HEIGHT = 64, 32
PLAIN = AugmentConfig(policy="none")


def frame_set(count: int = 3) -> FrameSet:
    pixels = np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return FrameSet([f"f{i}" for i in range(count)], WIDTH, HEIGHT, pixels.__getitem__)


def sampler(augment: AugmentConfig = PLAIN, scale: tuple[float, float] = (0.8, 1.2)) -> CropSampler:
    training = TrainingConfig(crop_size=(20, 16), scale=scale, batch_size=16)
    return CropSampler(frame_set(), training, augment, seed=1)


def noting(seen: list[tuple[int, Crop]], good: Callable[[Crop], bool], draws: int) -> CropCondition:
    def of_frame(frame: int) -> Callable[[Crop], bool]:
        def holds(crop: Crop) -> bool:
            seen.append((frame, crop))
            return good(crop)

        return holds

    return CropCondition(of_frame, draws)


# --- drawn again --------------------------------------------------------------------------------


def test_a_place_is_drawn_again_until_the_condition_holds() -> None:
    seen: list[tuple[int, Crop]] = []
    draws = sampler()
    draws.draw_from(Streams((range(3),)), noting(seen, lambda crop: crop.left < 15, 50))
    batch = draws.batch(0)
    assert all(crop.left < 15 for crop in batch.crops)
    assert any(crop.left >= 15 for _, crop in seen)
    zooms = {(frame, crop.width, crop.height) for frame, crop in seen}
    taken = [(f, c.width, c.height) for f, c in zip(batch.frames, batch.crops, strict=True)]
    assert zooms == set(taken)  # one zoom for all places of a crop


def test_the_last_of_the_draws_is_taken_as_it_is() -> None:
    seen: list[tuple[int, Crop]] = []
    draws = sampler()
    draws.draw_from(Streams((range(3),)), noting(seen, lambda _: False, 10))
    batch = draws.batch(0)
    assert len(seen) == 160
    for i, (frame, crop) in enumerate(zip(batch.frames, batch.crops, strict=True)):
        asked, last = seen[10 * i + 9]
        assert asked == frame
        assert (last.left, last.top, last.width) == (crop.left, crop.top, crop.width)
    assert {crop.flip for crop in batch.crops} == {True, False}


def test_a_condition_that_always_holds_changes_nothing() -> None:
    plain, draws = sampler(), sampler()
    draws.draw_from(Streams((range(3),)), noting([], lambda _: True, 10))
    one, other = plain.batch(2), draws.batch(2)
    assert torch.equal(one.clean, other.clean)
    assert one.crops == other.crops


def test_classes_are_counted_in_the_crop_as_it_is_seen() -> None:
    classes = np.full((HEIGHT, WIDTH), 255, np.uint8)
    classes[:, :8], classes[:, 8:16], classes[0, 0] = 3, 0, 7

    def slow(crop: Crop) -> int:
        found = set()
        for y in range(crop.height):
            for x in range(crop.width):
                found.add(int(classes[crop.top + y, crop.left + x]))
        return len(found - {255})

    places = [(0, 0), (1, 1), (4, 0), (10, 0), (40, 8)]
    crops = [Crop(left, top, 20, 16, flip) for left, top in places for flip in (False, True)]
    assert [count_classes(classes, crop, 20, 16) for crop in crops] == [slow(c) for c in crops]
    assert {slow(crop) for crop in crops} == {0, 1, 2, 3}


# --- noise before the crop ----------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["jitter", "autoaugment"])
def test_noise_before_the_crop_is_that_of_the_whole_frame(policy: str) -> None:
    frames, augment = frame_set(), AugmentConfig(policy=policy, before_crop=True)  # type: ignore[arg-type]
    batch = sampler(augment, scale=(1.0, 1.0)).batch(0)
    for place, (index, crop) in enumerate(zip(batch.frames[:3], batch.crops[:3], strict=True)):
        rng = np.random.default_rng([1, 0, place])
        rng.uniform(), [rng.integers(n) for n in (WIDTH - 20 + 1, HEIGHT - 16 + 1, 2)]
        noisy = photometric(frames.image(index), augment, rng)
        window = noisy[crop.top : crop.top + 16, crop.left : crop.left + 20]
        expected = window[:, ::-1] if crop.flip else window
        assert np.array_equal(batch.augmented[place].numpy(), expected)
    after = sampler(augment.model_copy(update={"before_crop": False}), scale=(1.0, 1.0)).batch(0)
    assert torch.equal(after.clean, batch.clean)
    assert not torch.equal(after.augmented, batch.augmented)


# --- without the zoom ---------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [(0.8, 1.2), (1.0, 1.0), (0.2, 0.2)])
def test_an_unscaled_crop_lies_where_the_crop_lies(
    tmp_path: Path, scale: tuple[float, float]
) -> None:
    frames, batch = frame_set(), sampler(scale=scale).batch(0)
    spec = InputSpec(width=WIDTH, height=HEIGHT, mean=(0, 0, 0), std=(1, 1, 1))
    context = Context(
        frames, Normalise(spec), torch.device("cpu"), tmp_path, RunConfig(method="iapc"), (16, 20)
    )
    unscaled = context.unscaled(batch)
    for pixels, index, crop in zip(unscaled, batch.frames, batch.crops, strict=True):
        expected = slow_unscaled(frames.image(index), crop)
        assert np.array_equal(pixels.numpy(), expected)
    if scale == (1.0, 1.0):
        assert torch.equal(unscaled, batch.clean)
    else:
        assert not torch.equal(unscaled, batch.clean)


def slow_unscaled(image: NDArray[np.uint8], crop: Crop) -> NDArray[np.uint8]:
    """Pixel by pixel: the same share of the room that is left of the window and above it."""
    room = HEIGHT - crop.height, WIDTH - crop.width
    top = int(np.floor(crop.top * (HEIGHT - 16) / room[0])) if room[0] else 0
    left = int(np.floor(crop.left * (WIDTH - 20) / room[1])) if room[1] else 0
    rows = [[image[top + y, left + x] for x in range(20)] for y in range(16)]
    window = np.array(rows)
    return window[:, ::-1] if crop.flip else window


def test_an_unscaled_crop_keeps_to_the_frames_edges() -> None:
    whole, size = (WIDTH, HEIGHT), (20, 16)
    for side in (17, 25):
        far = Crop(WIDTH - side, HEIGHT - side, side, side, flip=True)
        assert unscaled_crop(far, whole, size) == Crop(WIDTH - 20, HEIGHT - 16, 20, 16, flip=True)
        near = Crop(0, 0, side, side, flip=False)
        assert unscaled_crop(near, whole, size) == Crop(0, 0, 20, 16, flip=False)
    everything = Crop(0, 0, WIDTH, HEIGHT, flip=False)
    assert unscaled_crop(everything, whole, size) == Crop(0, 0, 20, 16, flip=False)


def test_unscaled_crops_of_crops_without_a_zoom_are_the_batchs_own(tmp_path: Path) -> None:
    batch = sampler(scale=(1.0, 1.0)).batch(0)
    spec = InputSpec(width=WIDTH, height=HEIGHT, mean=(0, 0, 0), std=(1, 1, 1))
    nothing = FrameSet([], WIDTH, HEIGHT, lambda _: pytest.fail("no frame is to be read"))
    context = Context(
        nothing, Normalise(spec), torch.device("cpu"), tmp_path, RunConfig(method="iapc"), (16, 20)
    )
    part: Batch = batch.part(2, 5)
    assert context.unscaled(part) is part.clean
