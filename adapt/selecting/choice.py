"""Ways to choose the frames to label among many."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .informativeness import Informativeness

Chooser = Callable[[Sequence[Informativeness], int, int], list[int]]


def coverage(frames: Sequence[Informativeness], count: int, seed: int) -> list[int]:
    """Frames that together hold most of what the network is unsure of, class by class.

        S <- S + argmax_i F(S + i),   F(S) = sum over classes c of sqrt(sum over i in S of u_ic)

    with the uncertain area u_ic of class c in frame i. The root makes more of the same worth less:
    few frames are taken of what many show, and a class that is rare is looked for. F is submodular
    and monotone, so that greedy steps reach at least 1 - 1/e of the best (Nemhauser, Wolsey and
    Fisher, 1978). Functions of this kind choose training data in Wei, Iyer and Bilmes,
    "Submodularity in data subset selection and active learning", ICML 2015; u is ours.
    """
    del seed
    unsure = np.stack([frame.unsure for frame in frames]).astype(np.float64)
    covered, chosen = np.zeros(unsure.shape[1]), list[int]()
    while len(chosen) < min(count, len(frames)):
        value = np.sqrt(covered + unsure).sum(axis=1)
        value[chosen] = -1.0
        chosen.append(int(value.argmax()))
        covered += unsure[chosen[-1]]
    return chosen


def representative(frames: Sequence[Informativeness], count: int, seed: int) -> list[int]:
    """Frames that stand for all others in what the network is unsure of.

        S <- S + argmin_j sum_i d(i, S + j),   d(i, S) = min(|e_i|, min_{s in S} |e_i - e_s|)

    with the content e of a frame: greedy facility location, or k-medoids with a first exemplar at
    zero, for which a frame that the network is sure of needs no label (Krause and Gomes, "Budgeted
    nonparametric learning from data streams", ICML 2010; e is ours). What many frames show counts
    often, and an odd frame counts once, where `diverse` looks for it.
    """
    del seed
    content = np.stack([frame.content for frame in frames]).astype(np.float64)
    squares = (content**2).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * content @ content.T, 0))
    nearest, chosen = np.sqrt(squares), list[int]()
    while len(chosen) < min(count, len(frames)):
        value = np.maximum(nearest - distance, 0).sum(axis=1)
        value[chosen] = -1.0
        chosen.append(int(value.argmax()))
        nearest = np.minimum(nearest, distance[chosen[-1]])
    return chosen


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


DEFAULT = "representative"  # the best where drives are mixed: docs/results/selecting.md
CHOOSERS: dict[str, Chooser] = {
    "coverage": coverage,
    "diverse": diverse,
    "entropy": entropy,
    "random": random,
    "representative": representative,
}


def _arrays(
    frames: Sequence[Informativeness],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    vectors = np.stack([frame.vector for frame in frames])
    return vectors, np.array([max(frame.uncertainty, 1e-6) for frame in frames])
