"""Random cases and slow loops for tests of losses: float64, one pixel and one class at a time.

The loops share no code with the package: bilinear upsampling by its definition, and a softmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

Size = tuple[int, int]  # (height, width)
Pixel = list[float]  # one value a class

SEEDS = st.integers(0, 2**31)
BATCHES = st.integers(1, 3)
CLASSES = st.integers(2, 9)
GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6))  # sizes of logits
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))  # sizes that they are upsampled to


@dataclass(frozen=True)
class Case:
    """Logits of some shape, and how they are upsampled."""

    seed: int
    batch: int
    classes: int
    grid: Size
    size: Size
    align_corners: bool
    scale: float

    @property
    def logits(self) -> Tensor:
        return random_logits(self.seed, self.batch, self.classes, *self.grid, scale=self.scale)


RANDOM_CASES = st.builds(
    Case,
    seed=SEEDS,
    batch=BATCHES,
    classes=CLASSES,
    grid=GRIDS,
    size=SIZES,
    align_corners=st.booleans(),
    scale=st.sampled_from([0.01, 2.0, 50.0]),
)


def random_logits(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_labels(
    seed: int, classes: int, shape: tuple[int, ...], unlabelled: float = 1 / 3
) -> Tensor:
    """Each of the classes as often; a share of about ``unlabelled`` is 255."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    return labels.masked_fill(torch.rand(shape, generator=generator) < unlabelled, 255)


def pixels(logits: Tensor, size: Size, align_corners: bool) -> list[Pixel]:
    """Upsampled class scores of every pixel of (B, K, h, w) logits, in the order of (B, H, W)."""
    rows = _positions(logits.shape[2], size[0], align_corners)
    columns = _positions(logits.shape[3], size[1], align_corners)
    found = []
    for image in logits.tolist():
        for top, bottom, v in rows:
            for left, right, u in columns:
                scores = []
                for z in image:
                    above = (1 - u) * z[top][left] + u * z[top][right]
                    below = (1 - u) * z[bottom][left] + u * z[bottom][right]
                    scores.append((1 - v) * above + v * below)
                found.append(scores)
    return found


def _positions(inputs: int, outputs: int, align_corners: bool) -> list[tuple[int, int, float]]:
    """Per output index: the two input indices around it and the share of the second."""
    found = []
    for i in range(outputs):
        if align_corners:  # first and last samples coincide
            x = i * (inputs - 1) / (outputs - 1) if outputs > 1 else 0.0
        else:  # pixel areas coincide; samples before the first centre take its value
            x = max(0.0, (i + 0.5) * inputs / outputs - 0.5)
        low = min(int(x), inputs - 1)
        found.append((low, min(low + 1, inputs - 1), x - low))
    return found


def softmax(scores: Pixel) -> Pixel:
    """A score of minus infinity has the probability 0."""
    highest = max(scores)
    powers = [math.exp(s - highest) for s in scores]
    total = sum(powers)
    return [power / total for power in powers]


def log_softmax(scores: Pixel) -> Pixel:
    highest = max(scores)
    total = math.log(sum(math.exp(s - highest) for s in scores))
    return [s - highest - total for s in scores]


def assert_terms(ours: dict[str, Tensor], expected: dict[str, float]) -> None:
    """The same terms, as scalars in float64, to ten digits."""
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name].dtype == torch.float64
        assert ours[name].ndim == 0
        assert ours[name].item() == pytest.approx(value, rel=1e-10, abs=1e-12), name
