"""Histograms of magnitudes: ranges by each method, bounded memory, the same answer every time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from roadshift.export.calibration import BINS, METHODS, Histogram, Range, collect


def histogram_of(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part.astype(np.float32))
    return histogram


def normal(count: int = 100_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


def test_minmax_is_the_extremes_with_zero() -> None:
    assert histogram_of(np.array([2.0, 5.0]), np.array([3.0])).range("minmax") == Range(0, 5)
    found = histogram_of(np.array([-1.5]), np.array([4.0])).range("minmax")
    assert (found.low, found.high, found.largest) == (-1.5, 4, 4)


def test_the_range_grows_and_no_count_is_lost() -> None:
    """Frames up to 1,000 times louder than the first: as many bins, and every value counted."""
    parts = [normal(1000, seed) * 10.0**seed for seed in range(4)]
    histogram = histogram_of(*parts)
    assert histogram.counts.shape == (BINS,)
    assert histogram.counts.sum() == 4000
    assert histogram.end >= max(np.abs(part).max() for part in parts)
    share = np.abs(np.concatenate(parts)) < histogram.end / BINS * 64
    assert histogram.counts[:64].sum() == pytest.approx(share.sum(), abs=2)


def test_percentile_is_that_of_the_magnitudes_within_a_bin() -> None:
    values = normal()
    histogram = histogram_of(*np.split(values, 10))
    expected = np.percentile(np.abs(values.astype(np.float32)), 99.99)
    found = histogram.range("percentile")
    assert found.high == pytest.approx(expected, abs=2 * histogram.end / BINS)
    assert found.low == -found.high


def test_entropy_cuts_a_lone_outlier_off_and_keeps_an_even_distribution() -> None:
    outlier = histogram_of(np.append(normal(), 100.0)).range("entropy")
    assert 2 < outlier.high < 15
    even = histogram_of(np.random.default_rng(0).uniform(-1, 1, 200_000)).range("entropy")
    assert even.high > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_a_value_that_is_always_zero_or_never_negative_has_such_a_range(method: str) -> None:
    assert histogram_of(np.zeros(10)).range(method) == Range(0, 0)
    found = histogram_of(np.maximum(normal(), 0)).range(method)
    assert found.low == 0
    assert found.high > 1


def test_values_are_collected_frame_by_frame_and_every_time_alike() -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["pixels"], ["negative"]),
        helper.make_node("Cast", ["negative"], ["labels"], to=TensorProto.UINT8),
    ]
    size = [1, 4, 6, 3]
    graph = helper.make_graph(
        nodes,
        "negative",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, size)],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, size)],
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    frames = [np.full((4, 6, 3), level, np.uint8) for level in (10, 200, 30)]
    seen: list[int] = []
    found = collect(model, ["pixels", "negative"], frames, lambda done, *_: seen.append(done))
    assert seen == [1, 2, 3]
    assert found["pixels"].range("minmax") == Range(0, 200)
    assert found["negative"].range("minmax") == Range(-200, 0)
    seen.clear()
    again = collect(model, ["pixels", "negative"], frames, lambda done, *_: seen.append(done), 300)
    assert seen == [1, 2, 3, 4, 5, 6]  # 288 bytes a value: one at a time
    for name, histogram in found.items():
        assert (histogram.counts == again[name].counts).all()
        assert histogram.end == again[name].end


def test_values_that_are_nearly_zero_are_counted_too() -> None:
    values = np.array([0.0, 1e-40, -5e-41], np.float32)
    histogram = Histogram()
    histogram.add(values)
    assert histogram.counts.sum() == 3
    assert histogram.counts[-1] == 1
    for method in ("minmax", "percentile", "entropy"):
        assert 0 <= histogram.range(method).largest <= 1.01e-40
