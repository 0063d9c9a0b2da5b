"""Ranges of a graph's values on calibration frames, by three methods from one pass.

One histogram of magnitudes a value is kept, of a fixed number of bins, so memory does not grow with
the frames, and values are looked at in groups that fit into a gigabyte. (ONNX Runtime's own
calibraters hold what every frame gave until they compute, one method a pass.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ..runtime.engines.onnx.session import session_options
from ..runtime.probes.cores import available_cores

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
PERCENTILE = 99.99
BINS = 2048
LEVELS = 128  # of magnitude that INT8 has
MOST_BYTES = 2**30  # of values in memory at a time


@dataclass(frozen=True)
class Range:
    """The values that a quantised value is to represent; those beyond saturate."""

    low: float
    high: float

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(-self.low, self.high)


class Histogram:
    """Magnitudes of one value over all frames, in ``BINS`` bins from 0, and its extremes."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.end = 0.0  # of the last bin
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count ``values``, finite, of any shape."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        largest = max(-self.low, self.high)
        if largest > 0 and self.end == 0:
            self.end = largest
        while largest > self.end > 0:  # double the range: neighbouring bins become one
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([pairs, np.zeros_like(pairs)])
            self.end *= 2
        scale = BINS / self.end if self.end else 0.0
        magnitudes = np.abs(values).ravel()
        if scale > float(np.finfo(np.float32).max):  # of values that are nearly 0, below 1e-35
            places: NDArray[np.floating[Any]] = magnitudes.astype(np.float64) * scale
        else:
            places = magnitudes * np.float32(scale)
        bins = np.minimum(places, BINS - 1).astype(np.int32)
        self.counts += np.bincount(bins, minlength=BINS)

    def range(self, method: Method) -> Range:
        """The range by ``method``; within the extremes, and with 0 in it."""
        limit = {
            "minmax": lambda: max(-self.low, self.high),
            "percentile": self._percentile,
            "entropy": self._entropy,
        }[method]()
        return Range(max(self.low, -limit), min(self.high, limit))

    def _percentile(self) -> float:
        share = np.cumsum(self.counts) / max(self.counts.sum(), 1)
        return float((np.searchsorted(share, PERCENTILE / 100) + 1) * self.end / BINS)

    def _entropy(self) -> float:
        """The limit whose quantised histogram diverges least (Migacz, GTC 2017, S7310).

            i* = argmin_i  KL(p_i || q_i),   i = 128, 136, ..., 2048 bins

        p_i: the first i bins, what lies beyond added to the last. q_i: the same bins, without what
        lies beyond, spread over 128 levels: each non-empty bin holds the mean of its level.
        """
        counts = self.counts.astype(np.float64)
        counts[0] = counts[1]  # the zeros of a ReLU are exact at any limit
        best, limit = np.inf, BINS
        for i in range(LEVELS, BINS + 1, 8):
            inside = counts[:i]
            p = inside.copy()
            p[-1] += counts[i:].sum()
            starts = np.arange(LEVELS) * i // LEVELS
            filled = np.add.reduceat((inside > 0).astype(np.float64), starts)
            level = np.add.reduceat(inside, starts) / np.maximum(filled, 1)
            q = np.repeat(level, np.diff(np.append(starts, i))) * (inside > 0)
            if not p.sum() or not q.sum():
                continue
            p, q = p / p.sum(), q / q.sum()
            here = p > 0
            divergence = float((p[here] * np.log(p[here] / np.maximum(q[here], 1e-9))).sum())
            if divergence < best:
                best, limit = divergence, i
        return limit * self.end / BINS


def collect(
    model: onnx.ModelProto,
    values: Sequence[str],
    frames: Sequence[NDArray[np.uint8]],
    report: Callable[[int, int, str], None] = lambda *_: None,
    most_bytes: int = MOST_BYTES,
) -> dict[str, Histogram]:
    """Histograms of ``values``, float32 values of ``model``, over ``frames``, uint8 (H, W, 3).

    The frames pass as often as it takes to have no more than ``most_bytes`` of values at a time.
    """
    histograms = {value: Histogram() for value in values}
    groups = _groups(model, values, most_bytes)
    steps = len(groups) * len(frames)
    for i, group in enumerate(groups):
        session = _watching(model, group)
        for j, frame in enumerate(frames):
            for value, array in zip(group, session.run(group, {"image": frame[None]}), strict=True):
                histograms[value].add(array)
            report(i * len(frames) + j + 1, steps, "calibrating")
    return histograms


def _watching(model: onnx.ModelProto, values: Sequence[str]) -> onnxruntime.InferenceSession:
    """A session that gives ``values`` beside the model's own outputs."""
    watched = deepcopy(model)
    for value in values:
        watched.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(
        watched.SerializeToString(),
        session_options(available_cores()),
        providers=["CPUExecutionProvider"],
    )


def _groups(model: onnx.ModelProto, values: Sequence[str], most_bytes: int) -> list[list[str]]:
    """The values in groups that fit into ``most_bytes``; one that does not fit is alone."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {
        info.name: 4 * math.prod(dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim)
        for info in (*graph.input, *graph.value_info, *graph.output)
    }
    groups: list[list[str]] = []
    left = 0
    for value in values:
        size = sizes.get(value, 0)
        if not groups or size > left:
            groups.append([])
            left = most_bytes
        groups[-1].append(value)
        left -= size
    return groups
