"""ClassMix and CutMix masks, and pasting: counts, shapes, shares, draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.adapt.data.mixing import classmix_masks, cutmix_masks, paste
from torch import Tensor

CASES = settings(max_examples=60, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def random_labels(seed: int, classes: int, shape: tuple[int, int, int]) -> Tensor:
    """A fifth has none, and not every class is in every image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    missing = torch.randint(0, classes, (shape[0], 1, 1), generator=generator)
    labels[labels == missing] = 255
    return labels.masked_fill(torch.rand(shape, generator=generator) < 0.2, 255)


# --- ClassMix -----------------------------------------------------------------------------------


@CASES
@given(
    seed=seeds,
    classes=st.integers(1, 9),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    dtype=st.sampled_from([torch.int64, torch.uint8]),
)
def test_classmix_pastes_half_of_the_classes_of_each_image_rounded_up_whole_and_never_255(
    seed: int, classes: int, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    labels = random_labels(seed, classes, shape).to(dtype)
    masks = classmix_masks(labels)
    assert masks.shape == labels.shape
    assert masks.dtype == torch.bool
    for image, mask in zip(labels.tolist(), masks.tolist(), strict=True):
        present, pasted, left = set(), set(), set()
        for row, inside in zip(image, mask, strict=True):
            for label, taken in zip(row, inside, strict=True):
                (pasted if taken else left).add(label)
                present.add(label)
        present.discard(255)
        assert len(pasted) == math.ceil(len(present) / 2)
        assert 255 not in pasted
        assert not pasted & left


@pytest.mark.parametrize(("classes", "pasted"), [(1, 0), (2, 1), (5, 2)])
def test_classmix_rounds_the_half_down_where_asked(classes: int, pasted: int) -> None:
    labels = torch.arange(classes).repeat(2, 3, 1)
    for image, mask in zip(labels, classmix_masks(labels, round_up=False), strict=True):
        assert len(image[mask].unique()) == pasted


def test_classmix_without_a_label_pastes_nothing() -> None:
    assert not classmix_masks(torch.full((2, 3, 4), 255)).any()


def test_classmix_draws_every_class_alike() -> None:
    labels = torch.arange(4).view(1, 2, 2).expand(1000, 2, 2)
    torch.manual_seed(0)
    share = classmix_masks(labels).float().mean(dim=0)
    assert share.flatten().tolist() == pytest.approx([0.5] * 4, abs=0.05)


def test_classmix_draws_for_each_image_of_its_own() -> None:
    labels = torch.arange(8).view(1, 2, 4).expand(16, 2, 4)
    torch.manual_seed(0)
    assert len({tuple(mask.flatten().tolist()) for mask in classmix_masks(labels)}) > 8


# --- CutMix -------------------------------------------------------------------------------------


@CASES
@given(
    seed=seeds,
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    share=st.sampled_from([(0.25, 0.5), (0.1, 0.2), (0.9, 1.0)]),
)
def test_cutmix_is_one_rectangle_with_a_share_in_range_but_for_whole_pixels(
    seed: int, size: tuple[int, int], share: tuple[float, float]
) -> None:
    torch.manual_seed(seed)
    (mask,) = cutmix_masks(torch.zeros(1, *size, dtype=torch.int64), share)
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    assert mask.dtype == torch.bool
    assert bool(mask[top:bottom, left:right].all())
    assert int(mask.sum()) == (bottom - top) * (right - left)
    # Each side is the drawn one rounded to whole pixels, to one at least.
    sides, pixels = (bottom - top, right - left), size[0] * size[1]
    least, most = (math.prod(s + e for s in sides) for e in (-0.5, 0.5))
    assert most >= share[0] * pixels
    assert min(sides) == 1 or least <= share[1] * pixels


def test_cutmix_shares_fill_the_range_and_shapes_and_places_vary() -> None:
    torch.manual_seed(0)
    masks = cutmix_masks(torch.zeros(300, 200, 300, dtype=torch.int64))
    shares = masks.float().mean(dim=(1, 2))
    assert 0.245 < shares.min() < 0.27
    assert 0.48 < shares.max() < 0.505
    tall = masks.any(dim=2).sum(dim=1) / 200
    assert tall.min() < 0.35
    assert tall.max() > 0.9
    for axis in (1, 2):
        assert masks.any(dim=axis).any(dim=0).all()  # every row and column is under one of them
        assert not masks.any(dim=axis).all(dim=0).any()


# --- draws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [classmix_masks, cutmix_masks])
def test_the_same_seed_of_torch_gives_the_same_masks_and_another_gives_others(
    make: Callable[[Tensor], Tensor],
) -> None:
    labels = random_labels(0, 9, (4, 20, 30))
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(make(labels))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# --- paste --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [(), (3,)], ids=["labels", "images"])
def test_paste_takes_over_inside_the_mask_and_under_outside(channels: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 5, *channels)
    over = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    under = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    masks = torch.rand(2, 3, 5, generator=generator) < 0.5
    pasted = paste(masks, over, under)
    assert pasted.dtype == torch.uint8
    assert pasted.shape == shape
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)):
        wanted = over if masks[b, y, x] else under
        assert torch.equal(pasted[b, y, x], wanted[b, y, x])
