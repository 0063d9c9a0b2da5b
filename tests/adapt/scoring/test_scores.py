"""Label-free scores against plain NumPy in float64, and what each says of known cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from roadshift.adapt.scoring.resampling import BootstrapSums, BootstrapWeights, interval
from roadshift.adapt.scoring.scores import (
    area_lost,
    consistency,
    histogram_divergence,
    information_maximisation,
    normalised_entropy,
    soft_neighbourhood_density,
)
from roadshift.adapt.scoring.views import area, overlaps
from torch import Tensor

Array = NDArray[np.float64]
SHAPES = st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(1, 7), st.integers(1, 9))
SEEDS = st.integers(0, 2**20)


def probabilities(seed: int, *shape: int, sharp: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(*shape, generator=generator, dtype=torch.float64) * sharp
    return z.softmax(dim=1)


@settings(max_examples=25, deadline=None)
@given(SHAPES, SEEDS)
def test_normalised_entropy(shape: tuple[int, int, int, int], seed: int) -> None:
    p = probabilities(seed, *shape)
    q: Array = p.numpy()
    expected = -(q * np.log(q)).sum(axis=1) / np.log(shape[1])
    np.testing.assert_allclose(normalised_entropy(p).numpy(), expected, atol=1e-12)
    one_hot = torch.zeros(1, shape[1], 1, 1).index_fill(1, torch.tensor([0]), 1.0)
    assert float(normalised_entropy(one_hot)) == 0
    assert float(normalised_entropy(torch.full((1, shape[1], 1, 1), 1 / shape[1]))) == (
        pytest.approx(1, abs=1e-6)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 7), SEEDS)
def test_soft_neighbourhood_density(pixels: int, classes: int, seed: int) -> None:
    p = probabilities(seed, 1, classes, pixels)[0].T[None]
    f: Array = p[0].numpy() / np.linalg.norm(p[0].numpy(), axis=1, keepdims=True)
    entropies = []
    for n in range(pixels):
        row = np.delete(f @ f[n], n) / 0.05
        s = np.exp(row - row.max())
        s /= s.sum()
        entropies.append(-(s[s > 0] * np.log(s[s > 0])).sum())
    ours = soft_neighbourhood_density(p)
    np.testing.assert_allclose(ours.numpy(), [np.mean(entropies)], atol=1e-9)


def test_density_rewards_collapse_and_so_is_never_used_alone() -> None:
    constant = torch.zeros(1, 100, 19).index_fill(2, torch.tensor([3]), 1.0)
    varied = probabilities(0, 1, 19, 100).transpose(1, 2).float()
    assert float(soft_neighbourhood_density(constant)) == pytest.approx(math.log(99), abs=1e-4)
    assert float(soft_neighbourhood_density(varied)) < math.log(99)


def test_information_is_log_k_for_certain_balanced_predictions_and_zero_for_a_collapse() -> None:
    k = 5
    assert float(information_maximisation(torch.full((k,), 1 / k), 0.0)) == (
        pytest.approx(math.log(k))
    )
    collapsed = torch.zeros(k).index_fill(0, torch.tensor([0]), 1.0)
    assert float(information_maximisation(collapsed, 0.0)) == 0
    uniform = information_maximisation(torch.full((k,), 1 / k), math.log(k))
    assert float(uniform) == pytest.approx(0, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(2, 6), st.integers(1, 8), SEEDS)
def test_consistency_is_the_mean_iou_of_two_label_maps(
    frames: int, classes: int, side: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(classes, size=(2, frames, side, side))
    both, either = overlaps(torch.from_numpy(one), torch.from_numpy(other), classes)
    ious = []
    for c in range(classes):
        union = ((one == c) | (other == c)).sum()
        if union:
            ious.append(((one == c) & (other == c)).sum() / union)
    ours = consistency(both.sum(dim=0)[None], either.sum(dim=0)[None])
    assert float(ours[0]) == pytest.approx(float(np.mean(ious)))
    shares = area(torch.from_numpy(one), classes)
    expected = [[(frame == c).mean() for c in range(classes)] for frame in one]
    np.testing.assert_allclose(shares.numpy(), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), SEEDS)
def test_histogram_divergence(classes: int, seed: int) -> None:
    one, other = probabilities(seed, 2, classes)
    p, q = one.numpy(), other.numpy()
    m = (p + q) / 2
    expected = (p * np.log(p / m)).sum() / 2 + (q * np.log(q / m)).sum() / 2
    ours = histogram_divergence(one[None], other[None])
    assert float(ours[0]) == pytest.approx(expected, abs=1e-12)
    apart = histogram_divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert float(apart[0]) == pytest.approx(math.log(2))


def test_area_lost_counts_losses_alone() -> None:
    before = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
    after = torch.tensor([[0.6, 0.0, 0.1, 0.3]])
    np.testing.assert_allclose(area_lost(before, after).numpy(), [[0, 1, 0.5, 0]], atol=1e-6)


# --- the bootstrap --------------------------------------------------------------------------------


def test_sums_of_frames_one_by_one_are_those_of_all_at_once() -> None:
    values = torch.randn(7, 3, dtype=torch.float64)
    weights = BootstrapWeights(seed=4, replicates=50).draw(7)
    sums = BootstrapSums()
    for i in range(7):
        sums.add(weights[:, i : i + 1], x=values[i : i + 1])
    np.testing.assert_allclose(sums["x"].numpy(), (weights @ values).numpy(), atol=1e-12)
    np.testing.assert_allclose(sums["x"][0].numpy(), values.sum(dim=0).numpy(), atol=1e-12)


def test_interval_of_a_mean_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(3.0, 2.0, 200)
    weights, sums = BootstrapWeights(seed=2, replicates=4000), BootstrapSums()
    for value in values:
        drawn = weights.draw(1)
        sums.add(drawn, x=torch.tensor([value]), n=torch.ones(1))
    low, high = interval(sums["x"] / sums["n"])
    means = rng.choice(values, (4000, 200)).mean(axis=1)
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose([low, high], expected, atol=0.05)
