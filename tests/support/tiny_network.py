"""A user's own network, named ``tiny_network:build``: two strides, batch norm, dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def build(num_classes: int, norm: bool = True, dropout: float = 0.2) -> nn.Module:
    """(B, 3, H, W) to logits (B, K, H / 4, W / 4); a few hundred weights."""
    return Tiny(num_classes, norm, dropout)


class Tiny(nn.Module):
    """Returns logits alone, as most people's networks do."""

    def __init__(self, num_classes: int, norm: bool, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.first_norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.second_norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.first_norm(self.first(images)))
        x = torch.relu(self.second_norm(self.second(x)))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits
