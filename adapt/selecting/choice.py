"""Ways to choose the frames to label among many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

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
    return _greedily([_Coverage(frames)], len(frames), count)


def representative(frames: Sequence[Informativeness], count: int, seed: int) -> list[int]:
    """Frames that stand for all others in what the network is unsure of.

        S <- S + argmax_j F(S + j),   F(S) = sum_i |e_i| - min(|e_i|, min_{s in S} |e_i - e_s|)

    with the content e of a frame: greedy facility location, or k-medoids with a first exemplar at
    zero, for which a frame that the network is sure of needs no label (Krause and Gomes, "Budgeted
    nonparametric learning from data streams", ICML 2010; e is ours). What many frames show counts
    often, and an odd frame counts once, where `diverse` looks for it.
    """
    del seed
    return _greedily([_Representation(frames)], len(frames), count)


def balanced(frames: Sequence[Informativeness], count: int, seed: int) -> list[int]:
    """Frames that stand for all others and hold what the network is unsure of, alike.

    F of `coverage` and of `representative`, each as a share of what all frames have, summed: a sum
    of submodular functions is one.
    """
    del seed
    return _greedily([_Coverage(frames), _Representation(frames)], len(frames), count)


class _Term(Protocol):
    """A submodular function of the frames chosen so far, 1 for all frames."""

    def gains(self) -> NDArray[np.float64]:
        """The share that each frame would add."""

    def take(self, frame: int) -> None:
        """Choose a frame."""


class _Coverage:
    """F of `coverage`."""

    def __init__(self, frames: Sequence[Informativeness]) -> None:
        self._unsure = np.stack([frame.unsure for frame in frames]).astype(np.float64)
        self._covered = np.zeros(self._unsure.shape[1])
        self._all = float(np.sqrt(self._unsure.sum(axis=0)).sum()) or 1.0

    def gains(self) -> NDArray[np.float64]:
        more = np.sqrt(self._covered + self._unsure) - np.sqrt(self._covered)
        return np.asarray(more.sum(axis=1) / self._all)

    def take(self, frame: int) -> None:
        self._covered += self._unsure[frame]


class _Representation:
    """F of `representative`."""

    def __init__(self, frames: Sequence[Informativeness]) -> None:
        content = np.stack([frame.content for frame in frames]).astype(np.float64)
        squares = (content**2).sum(axis=1)
        apart = squares[:, None] + squares - 2 * content @ content.T
        self._distance = np.sqrt(np.maximum(apart, 0))
        self._nearest = np.sqrt(squares)
        self._all = float(self._nearest.sum()) or 1.0

    def gains(self) -> NDArray[np.float64]:
        nearer = np.maximum(self._nearest - self._distance, 0)
        return np.asarray(nearer.sum(axis=1) / self._all)

    def take(self, frame: int) -> None:
        self._nearest = np.minimum(self._nearest, self._distance[frame])


def _greedily(terms: Sequence[_Term], frames: int, count: int) -> list[int]:
    """The frames that add most to the sum of the terms, one after another."""
    chosen = list[int]()
    while len(chosen) < min(count, frames):
        gains = np.sum([term.gains() for term in terms], axis=0)
        gains[chosen] = -1.0
        chosen.append(int(gains.argmax()))
        for term in terms:
            term.take(chosen[-1])
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


DEFAULT = "balanced"  # why: docs/results/selecting.md
CHOOSERS: dict[str, Chooser] = {
    "balanced": balanced,
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
