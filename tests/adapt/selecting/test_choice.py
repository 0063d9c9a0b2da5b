"""Chosen frames are diverse and unsure, and no more than there are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.selecting.choice import CHOOSERS
from roadshift.adapt.selecting.informativeness import (
    LEAST_AREA,
    Informativeness,
    _content,
    informativeness,
)
from roadshift.runtime.bundle import InputSpec


def frame(x: float, uncertainty: float) -> Informativeness:
    unsure = np.array([uncertainty, 0, 0], np.float32)
    vector = np.array([x, 0], np.float32)
    return Informativeness(vector, uncertainty, unsure, vector * uncertainty)


def unsure_of(*classes: float) -> Informativeness:
    areas = np.array(classes, np.float32)
    return Informativeness(np.zeros(2, np.float32), 0.5, areas, areas)


def test_diverse_takes_the_least_sure_of_each_place() -> None:
    frames = [frame(place + 0.01 * i, 0.2 + 0.05 * i) for place in (0, 10, 20) for i in range(5)]
    assert sorted(CHOOSERS["diverse"](frames, 3, 0)) == [4, 9, 14]
    assert CHOOSERS["diverse"](frames, 3, 0)[0] in (4, 9, 14)


def test_coverage_takes_a_rare_class_before_more_of_a_common_one() -> None:
    frames = [unsure_of(0.30, 0, 0), unsure_of(0.29, 0, 0), unsure_of(0.28, 0.02, 0)]
    frames += [unsure_of(0.02, 0, 0.09), unsure_of(0.05, 0, 0)]
    assert CHOOSERS["coverage"](frames, 2, 0) == [2, 3]


@given(
    arrays(np.float32, (6, 3), elements=st.floats(0, 1, width=32)),
    st.integers(1, 5),
)
def test_coverage_reaches_the_share_of_the_best_that_greedy_steps_guarantee(
    areas: NDArray[np.float32], count: int
) -> None:
    def value(chosen: Sequence[int]) -> float:
        return float(np.sqrt(areas[list(chosen)].astype(np.float64).sum(axis=0)).sum())

    chosen = CHOOSERS["coverage"]([unsure_of(*row) for row in areas], count, 0)
    best = max(value(some) for some in combinations(range(6), count))
    assert value(chosen) >= (1 - 1 / np.e) * best - 1e-9


def test_representative_takes_what_many_frames_show_before_an_odd_one() -> None:
    common = [frame(place + 0.1 * i, 1.0) for place in (10, 20) for i in range(5)]
    frames = [frame(28, 1.0), *common]
    assert CHOOSERS["diverse"](frames, 2, 0)[0] == 0
    chosen = sorted(CHOOSERS["representative"](frames, 2, 0))
    assert [(i - 1) // 5 for i in chosen] == [0, 1]  # one of each place
    sure = [frame(-50, 0.0)] * 20  # far away, but the network is sure of them
    assert sorted(CHOOSERS["representative"]([*frames, *sure], 2, 0)) == chosen


@given(arrays(np.float64, (7, 2), elements=st.integers(-9, 9)), st.integers(1, 7))
def test_representative_takes_the_frame_that_brings_the_others_nearest(
    places: NDArray[np.float64], count: int
) -> None:
    frames = [Informativeness(np.zeros(2), 0.5, np.zeros(2), place) for place in places]
    kept = np.vstack([np.zeros(2)])
    for chosen in CHOOSERS["representative"](frames, count, 0):
        left = [
            np.linalg.norm(places[:, None] - np.vstack([kept, place]), axis=2).min(axis=1).sum()
            for place in places
        ]
        assert left[chosen] <= min(left) + 1e-6
        kept = np.vstack([kept, places[chosen]])


@given(
    arrays(np.float64, (6, 3), elements=st.integers(-9, 9)),
    arrays(np.float64, (6, 4), elements=st.floats(0, 1, width=32)),
    st.integers(1, 6),
)
def test_balanced_takes_what_adds_most_to_the_sum_of_both_shares(
    places: NDArray[np.float64], areas: NDArray[np.float64], count: int
) -> None:
    def value(chosen: Sequence[int]) -> float:
        kept = np.vstack([np.zeros(3), places[list(chosen)]])
        apart = np.linalg.norm(places[:, None] - kept, axis=2).min(axis=1).sum()
        most, total = np.linalg.norm(places, axis=1).sum(), np.sqrt(areas.sum(axis=0)).sum()
        covered = np.sqrt(areas[list(chosen)].sum(axis=0)).sum()
        return float((1 - apart / most if most else 0) + (covered / total if total else 0))

    frames = [
        Informativeness(np.zeros(2, np.float32), 0.5, area, place)
        for area, place in zip(areas.astype(np.float32), places.astype(np.float32), strict=True)
    ]
    chosen = list[int]()
    for taken in CHOOSERS["balanced"](frames, count, 0):
        best = max(value([*chosen, i]) for i in range(6) if i not in chosen)
        chosen.append(taken)
        assert value(chosen) >= best - 1e-6


def test_entropy_takes_the_least_sure() -> None:
    frames = [frame(0, value) for value in (0.1, 0.9, 0.5, 0.7)]
    assert CHOOSERS["entropy"](frames, 2, 0) == [1, 3]


@pytest.mark.parametrize("by", CHOOSERS)
@pytest.mark.parametrize("count", [1, 4, 7, 20])
def test_each_frame_is_chosen_once_and_at_most_all(by: str, count: int) -> None:
    frames = [frame(0, 0.0) for _ in range(7)]  # all alike, and sure
    chosen = CHOOSERS[by](frames, count, 3)
    assert len(chosen) == len(set(chosen)) == min(count, 7)
    assert set(chosen) <= set(range(7))


def test_content_keeps_the_distances_of_many_channels() -> None:
    """Projected to 16 channels, classes side by side, distances are kept within a third."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.rand(12, 4, 6, 8, generator=rng)
    features = torch.randn(12, 200, 6, 8, generator=rng)
    exact = torch.einsum("bkhw,bdhw->bkd", weight, features).flatten(1) / 48
    found = _content(weight, features)
    assert found.shape == (12, 4 * 16)
    ratio = torch.pdist(found) / torch.pdist(exact)
    assert 0.67 < float(ratio.min()) <= float(ratio.max()) < 1.33
    few = features[:, :16]
    exact = torch.einsum("bkhw,bdhw->bkd", weight, few).flatten(1) / 48
    torch.testing.assert_close(_content(weight, few), exact)


def test_content_meets_features_of_another_stride() -> None:
    weight = torch.rand(1, 3, 8, 8)
    features = torch.ones(1, 2, 4, 4)
    expected = weight.mean(dim=(2, 3))[:, :, None].expand(-1, -1, 2).flatten(1)
    torch.testing.assert_close(_content(weight, features), expected)


def test_uncertainty_is_the_mean_over_classes_of_the_entropy_of_their_pixels() -> None:
    torch.manual_seed(0)
    spec = InputSpec(width=32, height=32, mean=(0, 0, 0), std=(1, 1, 1))
    network = _Random()
    (found,) = informativeness(network, Normalise(spec), torch.zeros(1, 32, 32, 3))
    p = network.logits[0].double().softmax(0).numpy()
    sums: dict[int, list[float]] = {}
    for y, x in np.ndindex(p.shape[1:]):
        q = p[:, y, x]
        sums.setdefault(int(q.argmax()), []).append(float(-(q * np.log(q)).sum() / np.log(len(q))))
    counted = [np.mean(v) for v in sums.values() if len(v) >= LEAST_AREA * p[0].size]
    assert found.uncertainty == pytest.approx(np.mean(counted), abs=1e-6)
    assert np.isfinite(found.vector).all()
    entropy = -(p * np.log(p)).sum(axis=0) / np.log(len(p))
    np.testing.assert_allclose(found.unsure, (p * entropy).mean(axis=(1, 2)), atol=1e-6)


class _Random(SegmentationNetwork):
    """Gives the same random logits for any image."""

    num_classes, align_corners = 5, False

    def __init__(self) -> None:
        super().__init__()
        self.logits = 2 * torch.randn(1, 5, 8, 8)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        from roadshift.adapt.networks import Output

        del images
        return Output(self.logits, None)
