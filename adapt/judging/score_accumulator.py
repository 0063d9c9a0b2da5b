"""Sums over frames of what two models and the references predict, and the scores they make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...runtime.labels.linear_assignment import Matrix
from ..scoring.class_pairs import ClassPairs, pairs_of
from ..scoring.displacement import Displacement, Move, agreements
from ..scoring.references import MIXED, OWN
from ..scoring.resampling import BootstrapSums, BootstrapWeights, interval
from ..scoring.scores import (
    CONFIDENT,
    SND_PIXELS,
    area_lost,
    consistency,
    histogram_divergence,
    information_maximisation,
    soft_neighbourhood_density,
)
from ..scoring.views import ViewPredictions, area, sums_of


@dataclass(frozen=True)
class Score:
    """A score of both models, or of the candidate against the incumbent.

    Attributes:
        incumbent: None where the score is of the pair.
        candidate: the candidate's, or the pair's.
        low, high: 95 % of the bootstrap over frames of the candidate's, or of its difference from
            the incumbent's; equal to it where a score is not a mean over frames.
    """

    incumbent: float | None
    candidate: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Candidate's minus incumbent's; the pair's own where there is no such thing."""
        return self.candidate - (self.incumbent or 0.0)


class ScoreAccumulator:
    """Sums over frames, and the scores that they make.

    Args:
        classes: how many there are.
        seed: of the pixels that densities are taken on, and of the bootstrap.
    """

    def __init__(self, classes: int, seed: int) -> None:
        self.frames, self._classes = 0, classes
        self._weights, self._seed = BootstrapWeights(seed), seed
        self._models, self._pair = (BootstrapSums(), BootstrapSums()), BootstrapSums()
        self._pixels: Tensor | None = None
        self._pairs: dict[str, Matrix] = {}
        self._moved: dict[str, BootstrapSums] = {}
        self._moves: list[Move] = []

    def add(
        self,
        old: ViewPredictions,
        new: ViewPredictions,
        referred: dict[str, Tensor],
        tried: list[Move],
    ) -> None:
        """Add a batch of frames.

        Args:
            old, new: what incumbent and candidate say of them.
            referred: probabilities of every reference by name, (B, K, h, w).
            tried: displacements to look for, the same for every batch.
        """
        count = len(old.p)
        weights = self._weights.draw(count)
        self.frames += count
        opinion = referred[MIXED]
        second = opinion.argmax(dim=1)
        for sums, said in zip(self._models, (old, new), strict=True):
            sums.add(
                weights,
                **sums_of(said),
                density=soft_neighbourhood_density(self._sampled(said.p)),
                opinion=(said.plain == second).double().mean(dim=(1, 2)),
            )
        sure = (old.p.amax(dim=1) >= CONFIDENT) & (opinion.amax(dim=1) >= CONFIDENT)
        sure &= old.plain == second
        kept = sure & (new.plain == old.plain)
        self._pair.add(
            weights,
            frames=torch.ones(count),
            sure=sure.double().sum(dim=(1, 2)),
            kept=kept.double().sum(dim=(1, 2)),
            area=area(second, self._classes),
        )
        self._moves = tried
        for name, p in referred.items():
            labels = p.argmax(dim=1)
            counts = pairs_of(labels, new.plain, self._classes)
            self._pairs[name] = self._pairs.get(name, np.zeros_like(counts)) + counts
            self._moved.setdefault(name, BootstrapSums()).add(
                weights, agreed=agreements(labels, new.plain, tried)
            )

    def pairs(self) -> dict[str, ClassPairs]:
        """Confusions of the candidate's classes with those of each reference, by its name."""
        return {name: ClassPairs(found) for name, found in self._pairs.items()}

    def displaced(self) -> dict[str, Displacement]:
        """For each reference, the move back that gains most, if one gains beyond doubt."""
        found = {}
        for name, sums in self._moved.items():
            agreed = sums["agreed"] / self._pair["frames"].clamp(min=1)[:, None]
            gains = agreed[:, 1:] - agreed[:, :1]
            if not gains.shape[1]:
                continue
            best = int(gains[0].argmax())
            low = interval(gains[:, best])[0]
            if low > 0:
                move, gain = self._moves[best], float(gains[0, best])
                found[name] = Displacement(move.pixels, move.direction, gain, low)
        return found

    def _sampled(self, p: Tensor) -> Tensor:
        """The same `SND_PIXELS` pixels of every frame and model, (B, N, K)."""
        flat = p.flatten(2).transpose(1, 2)
        if self._pixels is None:
            generator = torch.Generator().manual_seed(self._seed)
            chosen = torch.randperm(flat.shape[1], generator=generator)[:SND_PIXELS]
            self._pixels = chosen.to(p.device)
        return flat[:, self._pixels]

    def scores(self, divergences: Sequence[float]) -> dict[str, Score]:
        """All scores by name, see `gather`; ``divergences`` are of both models' batch norm."""
        frames = self._pair["frames"].clamp(min=1)
        each = [self._of_one(sums, frames) for sums in self._models]
        found = {name: _paired(each[0][name], each[1][name]) for name in each[0]}
        old, new = divergences
        found["divergence"] = Score(old, new, new - old, new - old)
        areas = [sums["area"] / frames[:, None] for sums in self._models]
        sure = self._pair["sure"]
        agreement = torch.where(sure > 0, self._pair["kept"] / sure.clamp(min=1), torch.nan)
        return found | {
            "histogram": _alone(histogram_divergence(*areas)),
            "agreement": _alone(agreement),
            "largest": _alone(areas[1].amax(dim=1)),
        }

    def _of_one(self, sums: BootstrapSums, frames: Tensor) -> dict[str, Tensor]:
        entropy = sums["entropy"] / frames
        return {
            "density": sums["density"] / frames,
            "information": information_maximisation(
                sums["p"] / frames[:, None], entropy * math.log(self._classes)
            ),
            "entropy": entropy,
            "flip": consistency(sums["flip_both"], sums["flip_either"]),
            "zoom": _zoom(sums),
            "opinion": sums["opinion"] / frames,
        }

    def lost(self) -> dict[int, float]:
        """Share of area that each class lost, of the least that a reference gives, frames alike."""
        areas = [torch.from_numpy(counts.sum(axis=1)) for counts in self._pairs.values()]
        after = torch.from_numpy(self._pairs[OWN].sum(axis=0))
        pixels = after.sum().clamp(min=1)
        before = torch.stack(areas).amin(dim=0)
        lost = area_lost(before, after)
        return {i: float(lost[i]) for i in range(self._classes) if before[i] >= LEAST_AREA * pixels}


LEAST_AREA = 0.002  # share of all pixels of a class whose loss is looked at


def _zoom(sums: BootstrapSums) -> Tensor:
    """Consistency with the smaller view; NaN where there was none."""
    if "zoom_both" not in sums:
        return torch.full_like(sums["entropy"], torch.nan)
    return consistency(sums["zoom_both"], sums["zoom_either"])


def _alone(values: Tensor) -> Score:
    return Score(None, float(values[0]), *interval(values))


def _paired(old: Tensor, new: Tensor) -> Score:
    return Score(float(old[0]), float(new[0]), *interval(new - old))
