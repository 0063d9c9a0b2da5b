"""Which frames are chosen: diverse and unsure, and no more than there are."""

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
    informativeness,
)
from roadshift.runtime.bundle import InputSpec


def frame(x: float, uncertainty: float) -> Informativeness:
    unsure = np.array([uncertainty, 0, 0], np.float32)
    return Informativeness(np.array([x, 0], np.float32), uncertainty, unsure)


def unsure_of(*classes: float) -> Informativeness:
    return Informativeness(np.zeros(2, np.float32), 0.5, np.array(classes, np.float32))


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
