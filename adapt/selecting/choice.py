"""Ways to choose the frames to label among many."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .informativeness import Informativeness

Chooser = Callable[[Sequence[Informativeness], int, int], list[int]]


def diverse(frames: Sequence[Informativeness], count: int, seed: int) -> list[int]:
    """Unsure frames that are far from one another, the most useful first.

    Greedy k-centre with weights: next is the frame whose distance from the nearest one chosen,
    times its uncertainty, is the largest; the first is the most uncertain. Source: Sener and
    Savarese, "Active learning for convolutional neural networks: a core-set approach", ICLR 2018;
    the weights are ours.
    """
    del seed
    vectors, unsure = _arrays(frames)
    chosen = [int(unsure.argmax())]
    nearest = np.linalg.norm(vectors - vectors[chosen[0]], axis=1)
    while len(chosen) < min(count, len(frames)):
        value = nearest * unsure
        value[chosen] = -1.0
        chosen.append(int(value.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(vectors - vectors[chosen[-1]], axis=1))
    return chosen


def entropy(frames: Sequence[Informativeness], count: int, seed: int) -> list[int]:
    """The most uncertain frames, whatever they show."""
    del seed
    order = np.argsort(-_arrays(frames)[1], kind="stable")
    return [int(i) for i in order[:count]]


def random(frames: Sequence[Informativeness], count: int, seed: int) -> list[int]:
    """Frames drawn without looking at them."""
    order = np.random.default_rng(seed).permutation(len(frames))
    return [int(i) for i in order[:count]]


CHOOSERS: dict[str, Chooser] = {"diverse": diverse, "entropy": entropy, "random": random}


def _arrays(
    frames: Sequence[Informativeness],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    vectors = np.stack([frame.vector for frame in frames])
    return vectors, np.array([max(frame.uncertainty, 1e-6) for frame in frames])
