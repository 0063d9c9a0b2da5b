"""Sums over the frames of an explanation, by model; memory does not grow with the frames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..losses.common import Size
from ..networks import Output
from ..scoring.views import ScoredModel
from .feature_plane import MOST_POINTS, FeatureSample
from .frame_maps import ModelMaps, ranks_in


class Totals:
    """Counts and samples of all frames together.

    Args:
        models: the teacher first.
        num_classes: K.
        frames: as many as are expected; samples of features are shared out among them.
        seed: of the samples.

    Attributes:
        pixels: pixels that each model gives each class, (K,), by model.
        ranks: pixels whose class by the last model has rank 1 to K with the first, (K,).
        samples: features, by model.
        without_features: names of the models whose network gives none.
    """

    def __init__(
        self, models: Mapping[str, ScoredModel], num_classes: int, frames: int, seed: int
    ) -> None:
        self._models, self._num_classes = models, num_classes
        a_frame = -(-MOST_POINTS // frames)
        self.pixels = {name: np.zeros(num_classes, np.int64) for name in models}
        self.ranks = np.zeros(num_classes, np.int64)
        self.samples = {name: FeatureSample(a_frame, seed) for name in models}
        self.without_features: set[str] = set()

    def add(
        self,
        frame: int,
        outputs: Mapping[str, Output],
        maps: Mapping[str, ModelMaps],
        size: Size,
    ) -> None:
        """Count frame number ``frame``, in whose maps all models have a say."""
        for name, output in outputs.items():
            align_corners = self._models[name].network.align_corners
            self.pixels[name] += self._counted(maps[name].labels)
            self.samples[name].add(frame, output, size, align_corners=align_corners)
            if output.features is None:
                self.without_features.add(name)
        first, last = next(iter(outputs)), list(outputs)[-1]
        if first != last:
            align_corners = self._models[first].network.align_corners
            ranks = ranks_in(outputs[first], maps[last].labels, align_corners=align_corners)
            self.ranks += self._counted(ranks - 1)

    def _counted(self, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
        return np.bincount(numbers.reshape(-1), minlength=self._num_classes).astype(np.int64)


def percent_of(counts: NDArray[np.int64]) -> list[float]:
    """Counts in percent of their sum."""
    found: list[float] = (100 * counts / max(1, int(counts.sum()))).tolist()
    return found
