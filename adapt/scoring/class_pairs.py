"""Confusions between the classes of a reference's labels and those of a candidate's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...runtime.labels.linear_assignment import Matrix, best_matching

PEOPLE = "person", "people", "pedestrian", "human", "child", "wheelchair", "rider"
RIDERS = "bicyclist", "cyclist", "motorcyclist", "cycle", "bicycle", "bike", "motorcycle"
VULNERABLE = frozenset((*PEOPLE, *RIDERS, "motorbike"))
LEAST_AREA = 0.005  # share of the reference's pixels of a class that is looked at
LEAST_VULNERABLE_AREA = 0.001  # the same: a pedestrian is small


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
