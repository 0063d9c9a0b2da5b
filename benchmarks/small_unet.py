"""A small U-Net, 1.4 M parameters: somebody's own network, as ``small_unet:build``."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 64, 128, 160)


def build(num_classes: int) -> nn.Module:
    """(B, 3, H, W) to (logits, features), both at a quarter of the size of the images."""
    return SmallUNet(num_classes)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class SmallUNet(nn.Module):
    """An encoder that halves five times and a decoder that doubles three times."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, WIDTHS[0], 3, stride=2, padding=1),
        )
        pairs = list(itertools.pairwise(WIDTHS))
        self.first = _block(WIDTHS[0], WIDTHS[0])
        self.down = nn.ModuleList(_block(a, b) for a, b in pairs)
        self.up = nn.ModuleList(_block(a + b, a) for a, b in reversed(pairs))
        self.classifier = nn.Conv2d(WIDTHS[0], num_classes, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(self.stem(images))
        skips = [x]
        for block in self.down:
            x = block(F.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for block in self.up:
            skip = skips.pop()
            x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([skip, x], dim=1))
        return self.classifier(x), x
