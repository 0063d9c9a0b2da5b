"""Class-balanced thresholds: their bins, their error against exact quantiles, their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.adapt.pseudo_labels.thresholds import (
    BINS,
    HIGHEST,
    LOWEST,
    ConfidenceHistograms,
    confidence_bins,
)
from torch import Tensor

WIDTH = (HIGHEST - LOWEST) / BINS
ROUNDING = 3e-7  # of float32, as the module states it


def histograms_of(confidences: list[list[float]]) -> ConfidenceHistograms:
    """One list of confidences a class."""
    found = ConfidenceHistograms(len(confidences))
    for c, values in enumerate(confidences):
        found.add(torch.full((len(values),), c), confidence_bins(torch.tensor(values)))
    return found


def random_confidences(seed: int, count: int, sharpness: float) -> Tensor:
    """Softmax maxima, float32: spread out, or crowded at 1 when sharp."""
    odds = np.random.default_rng(seed).normal(sharpness, 3, count)
    return torch.sigmoid(torch.from_numpy(odds)).clamp(min=1 / 255).float()


def bin_floor(bins: Tensor) -> Tensor:
    """The lowest confidence that falls into each bin, float64; infinite above the last."""
    edges = torch.sigmoid(LOWEST + bins.double() * WIDTH).where(bins > 0, 0.0)
    return edges.where(bins < BINS, math.inf)


# --- bins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("low", [0.0, 0.9, 0.999, 0.99999])
def test_a_bin_holds_the_confidences_above_its_floor_and_below_the_next(low: float) -> None:
    confidence = torch.linspace(low, 1, 100_003, dtype=torch.float64).float()
    bins = confidence_bins(confidence)
    assert bins.dtype == torch.int64
    assert int(bins.min()) >= 0
    assert int(bins.max()) == BINS - 1
    assert bool((bins[1:] >= bins[:-1]).all())
    assert bool((bin_floor(bins) <= confidence.double() + ROUNDING).all())
    assert bool((bin_floor(bins + 1) >= confidence.double() - ROUNDING).all())


def test_what_is_no_confidence_has_a_bin_all_the_same() -> None:
    odd = torch.tensor([float("nan"), -0.1, 0.0, 1.0, 1.0000001, float("inf")])
    assert confidence_bins(odd).tolist() == [0, 0, 0, BINS - 1, BINS - 1, BINS - 1]


def test_every_width_of_float_has_the_bins_of_float32() -> None:
    confidence = random_confidences(0, 1000, 2.0)
    assert torch.equal(confidence_bins(confidence.double()), confidence_bins(confidence))
    half = confidence.bfloat16()
    assert torch.equal(confidence_bins(half), confidence_bins(half.float()))


# --- thresholds against exact quantiles ---------------------------------------------------------


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(0, 2000), min_size=1, max_size=5),
    share=st.floats(0.001, 1),
    sharpness=st.floats(-3, 9),
)
def test_a_threshold_is_within_the_stated_error_of_the_exact_quantile(
    seed: int, counts: list[int], share: float, sharpness: float
) -> None:
    classes = [random_confidences(seed + c, n, sharpness).tolist() for c, n in enumerate(counts)]
    chosen = histograms_of(classes).thresholds(share)
    for values, threshold in zip(classes, chosen, strict=True):
        if not values:
            assert int(threshold) == BINS
            continue
        rank = max(1, math.floor(len(values) * share))
        exact = sorted(values, reverse=True)[rank - 1]
        error = exact - bin_floor(threshold).item()
        assert -ROUNDING <= error <= 1.01 * exact * (1 - exact) * WIDTH + ROUNDING
        assert error <= 0.0015
        reached = sum(int(b >= threshold) for b in confidence_bins(torch.tensor(values)))
        assert reached >= rank  # no pixel of the top share is left out


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), share=st.floats(0.001, 1))
def test_the_threshold_of_all_is_that_of_one_class_that_holds_everything(
    seed: int, share: float
) -> None:
    classes = [random_confidences(seed + c, 200 * c, 2.0).tolist() for c in range(4)]
    together = histograms_of([[value for values in classes for value in values]]).thresholds(share)[
        0
    ]
    assert torch.equal(histograms_of(classes).threshold_of_all(share), together)


@pytest.mark.parametrize(
    ("count", "share", "rank"), [(3, 0.1, 1), (9, 0.1, 1), (20, 0.1, 2), (29, 0.1, 2), (5, 1.0, 5)]
)
def test_a_share_that_rounds_to_nothing_still_holds_one_pixel(
    count: int, share: float, rank: int
) -> None:
    values = [0.3 + 0.6 * i / count for i in range(count)]
    threshold = histograms_of([values]).thresholds(share)
    bins = confidence_bins(torch.tensor(values))
    assert int((bins >= threshold).sum()) == rank


def test_ties_at_the_threshold_all_pass() -> None:
    threshold = histograms_of([[0.9] * 10 + [0.5] * 10]).thresholds(0.1)
    assert threshold.tolist() == confidence_bins(torch.tensor([0.9])).tolist()


def test_nothing_at_all_has_no_threshold() -> None:
    empty = ConfidenceHistograms(3)
    assert empty.thresholds(0.5).tolist() == [BINS] * 3
    assert int(empty.threshold_of_all(0.5)) == BINS


# --- counting -----------------------------------------------------------------------------------


def test_counts_add_up_over_frames_in_any_order_and_leave_255_out() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (6, 8, 9), generator=generator)
    labels[:, 0] = 255
    bins = torch.randint(0, BINS, labels.shape, generator=generator)
    whole = ConfidenceHistograms(4)
    whole.add(labels, bins)
    piecewise = ConfidenceHistograms(4)
    for i in (3, 1, 5, 0, 2, 4):
        piecewise.add(labels[i].to(torch.uint8), bins[i])
    assert torch.equal(whole.counts, piecewise.counts)
    assert int(whole.counts.sum()) == 6 * 7 * 9
    for c in range(4):
        assert int(whole.counts[c].sum()) == int((labels == c).sum())


def test_what_is_kept_does_not_grow_with_the_number_of_frames() -> None:
    found = ConfidenceHistograms(19)
    bins = confidence_bins(random_confidences(0, 10_000, 2.0))
    for _ in range(50):
        found.add(torch.arange(10_000) % 19, bins)
    assert int(found.counts.sum()) == 50 * 10_000
    kept = [value for value in vars(found).values() if not isinstance(value, int)]
    assert [tuple(tensor.shape) for tensor in kept] == [(19, BINS)]
