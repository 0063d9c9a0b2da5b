"""A small network that has learnt the built-in scenes' colours, and ways to spoil it."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import Output, SegmentationNetwork
from roadshift.adapt.scoring.views import ScoredModel
from roadshift.runtime.bundle import InputSpec
from roadshift.runtime.labels import label_space
from roadshift.scenes import render_scene
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEIGHT, CLASSES = 128, 64, 19
NAMES = label_space("cityscapes19").classes
SPEC = InputSpec(width=WIDTH, height=HEIGHT, mean=(110, 115, 120), std=(55, 60, 65))
CPU = torch.device("cpu")


class Small(SegmentationNetwork):
    """Three convolutions with batch norm at stride 4, with the row as a fourth channel."""

    num_classes, align_corners = CLASSES, False

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 24, 5, stride=4, padding=2)
        self.norm = nn.BatchNorm2d(24)
        self.middle = nn.Conv2d(24, 32, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.head = nn.Conv2d(32, CLASSES, 1)

    def forward(self, images: Tensor) -> Output:
        row = torch.linspace(-1, 1, images.shape[2], device=images.device)
        rows = row[:, None].expand(len(images), 1, -1, images.shape[3])
        x = self.norm(self.stem(torch.cat([images, rows], dim=1))).relu()
        features = self.norm2(self.middle(x)).relu()
        return Output(self.head(features), features)


@cache
def frames(domain: str, count: int, seed: int) -> list[NDArray[np.uint8]]:
    return [render_scene(seed + i, domain, WIDTH, HEIGHT).image for i in range(count)]


@cache
@torch.enable_grad()  # type: ignore[untyped-decorator]
def trained() -> Small:
    """On daylight; a few seconds."""
    torch.manual_seed(0)
    scenes = [render_scene(i, "daylight", WIDTH, HEIGHT) for i in range(16)]
    images = Normalise(SPEC)(torch.from_numpy(np.stack([scene.image for scene in scenes])))
    labels = torch.from_numpy(np.stack([scene.labels for scene in scenes])).long()
    network = Small()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(80):
        rows = torch.arange(4) + 4 * (step % 4)
        logits = functional.interpolate(network(images[rows]).logits, (HEIGHT, WIDTH))
        optimizer.zero_grad()
        functional.cross_entropy(logits, labels[rows], ignore_index=255).backward()
        optimizer.step()
    return network.eval()


def model(network: SegmentationNetwork | None = None) -> ScoredModel:
    return ScoredModel(copy.deepcopy(network or trained()), SPEC)


@torch.no_grad()
def constant() -> ScoredModel:
    """All road."""
    spoilt = model()
    assert isinstance(spoilt.network, Small)
    spoilt.network.head.weight.zero_()
    spoilt.network.head.bias.zero_()[0] = 20.0
    return spoilt


@torch.no_grad()
def uniform() -> ScoredModel:
    """Hardly more likely one than the other; the best class is what it was."""
    spoilt = model()
    assert isinstance(spoilt.network, Small)
    spoilt.network.head.weight.mul_(1e-3)
    spoilt.network.head.bias.mul_(1e-3)
    return spoilt


@torch.no_grad()
def permuted() -> ScoredModel:
    """Every class under another one's name."""
    spoilt = model()
    assert isinstance(spoilt.network, Small)
    order = torch.arange(CLASSES).roll(1)
    spoilt.network.head.weight.copy_(spoilt.network.head.weight[order])
    spoilt.network.head.bias.copy_(spoilt.network.head.bias[order])
    return spoilt


@torch.no_grad()
def without(index: int) -> ScoredModel:
    """One class is never said."""
    spoilt = model()
    assert isinstance(spoilt.network, Small)
    spoilt.network.head.bias[index] = -100.0
    return spoilt


@torch.no_grad()
def not_numbers() -> ScoredModel:
    spoilt = model()
    assert isinstance(spoilt.network, Small)
    spoilt.network.middle.weight[0, 0] = torch.nan
    return spoilt
