"""Users' own networks without batch norm: a transformer of layer norms, and group norms."""

from __future__ import annotations

from torch import Tensor, nn

WIDTH = 8


def transformer(num_classes: int) -> nn.Module:
    """Patches of 4x4, two blocks of attention, a linear classifier."""
    return Transformer(num_classes)


def group_norm(num_classes: int) -> nn.Module:
    """Two strides, each with group norm."""
    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, stride=2, padding=1),
        nn.GroupNorm(2, WIDTH),
        nn.ReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1),
        nn.GroupNorm(2, WIDTH),
        nn.ReLU(),
        nn.Conv2d(WIDTH, num_classes, 1),
    )


class Block(nn.Module):
    """Attention and two linear layers, each behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Transformer(nn.Module):
    """Logits (B, K, H / 4, W / 4)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH)
        self.classifier = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images)
        height, width = x.shape[2:]
        tokens = self.norm(self.blocks(x.flatten(2).transpose(1, 2)))
        logits: Tensor = self.classifier(tokens.transpose(1, 2).unflatten(2, (height, width)))
        return logits
