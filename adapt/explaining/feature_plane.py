"""Features of many positions in a plane, by t-SNE of scikit-learn, which is an extra."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import MissingDependencyError
from ..losses.common import Size
from ..networks import Output
from .frame_maps import Floats, labels_of_features

MOST_POINTS = 1000  # of one model
_LEAST_POINTS = 8
_PERPLEXITY = 30.0


@dataclass
class FeatureSample:
    """Features of a model at positions drawn from each frame, with the classes predicted there.

    Args:
        a_frame: positions of each frame, at most.
        seed: two samples of one seed draw the same positions where their grids are alike.
    """

    a_frame: int
    seed: int
    _features: list[Floats] = field(default_factory=list)
    _labels: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, frame: int, output: Output, size: Size, *, align_corners: bool) -> None:
        """Draw from the answer for frame number ``frame``; without features nothing is drawn."""
        if output.features is None:
            return
        features = output.features[0].flatten(1)
        labels = labels_of_features(output, size, align_corners=align_corners).flatten()
        drawn = np.random.default_rng((self.seed, frame)).permutation(features.shape[1])
        chosen = np.sort(drawn[: self.a_frame])
        self._features.append(features.cpu().numpy()[:, chosen].T.astype(np.float32))
        self._labels.append(labels.cpu().numpy()[chosen].astype(np.uint8))

    @property
    def features(self) -> Floats:
        """(N, D)."""
        return np.concatenate(self._features) if self._features else np.zeros((0, 0), np.float32)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Classes, (N,)."""
        return np.concatenate(self._labels) if self._labels else np.zeros(0, np.uint8)


def check_scikit_learn() -> None:
    """Refuse to go on without scikit-learn.

    Raises:
        MissingDependencyError: it, or a package that it imports, is not installed.
    """
    try:
        import sklearn.manifold  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"it needs {error.name}: pip install 'roadshift[explain]'."
        ) from error


def why_not(features: Floats) -> str | None:
    """The reason why features have no place in a plane; None where they have."""
    if len(features) < _LEAST_POINTS:
        return f"{len(features)} positions are too few for t-SNE; it takes {_LEAST_POINTS}"
    if features.shape[1] < 2:
        return "features of one channel have no plane"
    if np.ptp(features, axis=0).max() == 0:
        return "all features are the same"
    return None


def plane_of(features: Floats, seed: int) -> Floats:
    """Positions of features in a plane in which near ones stay near, by t-SNE.

    Source: van der Maaten and Hinton, JMLR 2008; perplexity 30, or less for few points, begun with
    the first two principal components.

    Args:
        features: (N, D), for which `why_not` gives no reason.

    Returns:
        (N, 2).

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    check_scikit_learn()
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    centred = features - features.mean(axis=0)
    unit = centred / np.abs(centred).max()  # of features of any size
    found = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(unit)
    return np.asarray(found, np.float32)
