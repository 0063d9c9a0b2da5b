"""Confusions between the classes of a reference's labels and those of a candidate's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PEOPLE = "person", "people", "pedestrian", "human", "child", "wheelchair", "rider"
RIDERS = "bicyclist", "cyclist", "motorcyclist", "cycle", "bicycle", "bike", "motorcycle"
VULNERABLE = frozenset((*PEOPLE, *RIDERS, "motorbike"))
LEAST_AREA = 0.005  # share of the reference's pixels of a class that is looked at
LEAST_VULNERABLE_AREA = 0.001  # the same: a pedestrian is small
Matrix = NDArray[np.float64]


def is_vulnerable(name: str) -> bool:
    """Tell whether a class is of people on the road or what they ride, by its name.

    Case, plurals and what joins words do not count: ``Motor_Cycles``, ``bicyclist``, ``person``.
    """
    words = [word.rstrip("s") for word in re.split(r"[^a-z]+", name.lower()) if word]
    return bool(VULNERABLE & {*words, "".join(words)})


@dataclass(frozen=True)
class ClassPairs:
    """Pixels by the reference's class (row) and the candidate's (column), (K, K)."""

    counts: Matrix

    def looked_at(self, classes: Sequence[str]) -> list[int]:
        """The classes with enough of the reference's pixels to tell."""
        area = self.counts.sum(axis=1) / max(self.counts.sum(), 1)
        least = [LEAST_VULNERABLE_AREA if is_vulnerable(c) else LEAST_AREA for c in classes]
        return [int(c) for c in np.flatnonzero(area >= least)]

    def kept(self, index: int) -> float:
        """Share of a class's pixels that the candidate gives the same class; NaN of none."""
        row = self.counts[index]
        return float(row[index] / row.sum()) if row.sum() else float("nan")

    def growth(self, index: int, least: float) -> float:
        """The candidate's area of a class over the reference's, taken as ``least`` at least."""
        total = max(self.counts.sum(), 1)
        return float(self.counts[:, index].sum() / max(self.counts[index].sum(), least * total))

    def renamed(self, index: int) -> int:
        """The other class that the candidate gives most pixels of this one."""
        row = self.counts[index].copy()
        row[index] = -1
        return int(row.argmax())

    def matched(self) -> float:
        """Share of all pixels that agree when classes are renamed so that most do, 0 to 1."""
        order = best_matching(self.counts)
        return float(self.counts[range(len(order)), order].sum() / max(self.counts.sum(), 1))

    def iou(self) -> Matrix:
        """IoU of each class of the reference with each of the candidate, (K, K)."""
        rows, columns = self.counts.sum(axis=1), self.counts.sum(axis=0)
        union = rows[:, None] + columns[None] - self.counts
        return np.asarray(self.counts / np.maximum(union, 1), np.float64)

    def exchanged(self, chosen: Sequence[int]) -> tuple[float, list[int]]:
        """The cycle of classes that would gain most per class if their names were exchanged.

        Of the one-to-one matching of ``chosen`` that has the largest sum of IoUs.

        Returns:
            IoU gained per class, above 0, and the cycle: the candidate calls ``cycle[i + 1]`` what
            was ``cycle[i]``. (0, []) where every class fits itself best.
        """
        iou = self.iou()[np.ix_(chosen, chosen)] if chosen else np.zeros((0, 0))
        best: tuple[float, list[int]] = 0.0, []
        for cycle in cycles(best_matching(iou)):
            after = cycle[1:] + cycle[:1]
            gain = sum(float(iou[c, d] - iou[c, c]) for c, d in zip(cycle, after, strict=True))
            if gain / len(cycle) > best[0]:
                best = gain / len(cycle), [chosen[c] for c in cycle]
        return best


def closest(pairs: Mapping[str, ClassPairs]) -> str:
    """The reference that the candidate is most like, whatever it calls the classes.

    A candidate that was made from the incumbent is most like it with the statistics that it has
    itself, and one whose classes have changed places is, too: so the names show.
    """
    return max(pairs, key=lambda name: pairs[name].matched())


def pairs_of(reference: Tensor, candidate: Tensor, classes: int) -> Matrix:
    """Pixels by both labels, (K, K), of label maps (B, h, w)."""
    both = (reference * classes + candidate).flatten()
    counts = torch.bincount(both, minlength=classes**2).view(classes, classes)
    return np.asarray(counts.double().cpu().numpy(), np.float64)


def cycles(order: Sequence[int]) -> list[list[int]]:
    """The cycles, of two and more, of a permutation."""
    found, seen = [], set()
    for first in range(len(order)):
        cycle, at = [], first
        while at not in seen:
            seen.add(at)
            cycle.append(at)
            at = order[at]
        if len(cycle) > 1:
            found.append(cycle)
    return found


def best_matching(value: Matrix) -> list[int]:
    """The column of each row in the one-to-one matching of largest sum, of an (N, N) matrix.

    The Hungarian method with potentials (Kuhn, 1955; Jonker and Volgenant, 1987): rows are added
    one by one, each along the shortest augmenting path; exact, in time N^3.
    """
    n = len(value)
    cost = np.zeros((n + 1, n + 1))
    cost[1:, 1:] = -value
    u, v = np.zeros(n + 1), np.zeros(n + 1)
    row_of = np.zeros(n + 1, int)  # of each column; 0 is none
    for row in range(1, n + 1):
        row_of[0], column = row, 0
        least, before = np.full(n + 1, np.inf), np.zeros(n + 1, int)
        used = np.zeros(n + 1, bool)
        while row_of[column] or column == 0:
            used[column] = True
            here = row_of[column]
            reduced = cost[here] - u[here] - v
            shorter = ~used & (reduced < least)
            least[shorter], before[shorter] = reduced[shorter], column
            column_next = int(np.where(used, np.inf, least)[1:].argmin()) + 1
            delta = least[column_next]
            u[row_of[used]] += delta
            v[used] -= delta
            least[~used] -= delta
            column = column_next
        while column:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    matching = [0] * n
    for column in range(1, n + 1):
        matching[row_of[column] - 1] = column - 1
    return matching
