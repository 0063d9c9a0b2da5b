"""Blocks of the networks that keep a detailed branch at stride 8 beside a deep one: DDRNet, PIDNet.

Source: Hong, Pan, Sun and Jia, arXiv:2101.06085, whose blocks Xu, Xiong and Bhattacharyya,
CVPR 2023 (arXiv:2206.02066) take over. The names of the modules are those of both releases, whose
state dicts have them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import convolution, normalised, resize
from .pooling import GlobalMean

_POOLS = ((5, 2), (9, 4), (17, 8))  # kernel and stride, in positions of the deepest map


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Args:
        inputs, outputs: channels.
        stride: of the first convolution, and of the shortcut's projection.
        activates: a ReLU follows the sum; branches meet before it.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, *, activates: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)
        self.activates = activates

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, ceil(h / stride), ceil(w / stride))."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        joined: Tensor = y + (x if self.downsample is None else self.downsample(x))
        return F.relu(joined) if self.activates else joined


class DoublingBottleneck(nn.Module):
    """Reduce, filter and double the width, beside a shortcut; the sum is not activated."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = 2 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, 2 width, ceil(h / stride), ceil(w / stride))."""
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        joined: Tensor = self.bn3(self.conv3(y)) + (
            x if self.downsample is None else self.downsample(x)
        )
        return joined


class SegmentationHead(nn.Module):
    """Normalise, filter, and classify each position."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, outputs, 1)

    def features(self, x: Tensor) -> Tensor:
        """The map that is classified, (B, width, h, w), of x, (B, inputs, h, w)."""
        return F.relu(self.bn2(self.conv1(F.relu(self.bn1(x)))))


class PyramidOfAverages(nn.Module):
    """The deepest map and its averages over growing windows, each reduced to ``width`` channels."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.scale0 = nn.Sequential(*preactivated(inputs, width))
        pools: Sequence[nn.Module] = (
            *(nn.AvgPool2d(kernel, stride, kernel // 2) for kernel, stride in _POOLS),
            GlobalMean(),
        )
        self.scale1, self.scale2, self.scale3, self.scale4 = (
            nn.Sequential(pool, *preactivated(inputs, width)) for pool in pools
        )
        self.compression = nn.Sequential(*preactivated(5 * width, outputs))
        self.shortcut = nn.Sequential(*preactivated(inputs, outputs))

    def averages(self, x: Tensor) -> list[Tensor]:
        """The four averages of x, (B, inputs, h, w), at its size: (B, width, h, w) each."""
        scales = (self.scale1, self.scale2, self.scale3, self.scale4)
        return [resize(scale(x), x) for scale in scales]

    def merged(self, parts: Sequence[Tensor], x: Tensor) -> Tensor:
        """Five parts of ``width`` channels and x itself as one map, (B, outputs, h, w)."""
        together: Tensor = self.compression(torch.cat(list(parts), dim=1)) + self.shortcut(x)
        return together


class DeepAggregationPyramid(PyramidOfAverages):
    """DAPPM: each average is added to what was made of the smaller window, and filtered."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__(inputs, width, outputs)
        self.process1, self.process2, self.process3, self.process4 = (
            nn.Sequential(*preactivated(width, width, kernel=3)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Context for x, (B, inputs, h, w), as (B, outputs, h, w)."""
        parts = [self.scale0(x)]
        filters = (self.process1, self.process2, self.process3, self.process4)
        for average, process in zip(self.averages(x), filters, strict=True):
            parts.append(process(average + parts[-1]))
        return self.merged(parts, x)


def stem(width: int) -> nn.Sequential:
    """Two strided convolutions, from the image to ``width`` channels at stride 4."""
    layers: list[nn.Module] = []
    for inputs in (3, width):
        convolution = nn.Conv2d(inputs, width, 3, stride=2, padding=1)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def basic_stage(inputs: int, outputs: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Basic blocks, the first of which strides; the sum of the last is not activated."""
    return nn.Sequential(
        *(
            BasicBlock(
                outputs if index else inputs,
                outputs,
                1 if index else stride,
                activates=index < blocks - 1,
            )
            for index in range(blocks)
        )
    )


def bottleneck_stage(inputs: int, width: int, blocks: int = 1, stride: int = 1) -> nn.Sequential:
    """Bottlenecks, the first of which strides."""
    return nn.Sequential(
        *(
            DoublingBottleneck(2 * width if index else inputs, width, 1 if index else stride)
            for index in range(blocks)
        )
    )


def preactivated(inputs: int, outputs: int, *, kernel: int = 1, groups: int = 1) -> list[nn.Module]:
    """Batch norm and ReLU, then a convolution with "same" padding."""
    last = convolution(inputs, outputs, kernel, groups=groups)
    return [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), last]


def draw_weights(network: nn.Module) -> None:
    """Draw every convolution's weights as He et al. do for ReLU, by fan-out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut of a block that changes size or width; ``None``: the input itself serves."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(*normalised(inputs, outputs, stride=stride))
