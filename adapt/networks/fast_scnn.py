"""Fast-SCNN: a segmentation network of about 1.1 M parameters for embedded use.

Source: Poudel, Liwicki and Cipolla, BMVC 2019 (arXiv:1902.04502), Table 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.errors import NetworkError
from .base import Output, SegmentationNetwork
from .layers import normalised, resize
from .pooling import product_pool

VARIANTS = ("paper", "mmsegmentation")
_BINS = (1, 2, 3, 6)


class FastSCNN(SegmentationNetwork):
    """Fast-SCNN with logits and 128-d features at stride 8.

    Two deviations from the paper. The pooled maps are convolved without batch normalisation: a
    1x1 map gives one value per channel and frame, no statistics to normalise with at the batch
    sizes of adaptation. Bilinear upsampling is half-pixel (``align_corners=False``) throughout.

    mmsegmentation's Fast-SCNN differs: pooled maps are joined by a 3x3 convolution, and the deep
    branch is smoothed without dilation. It normalises the pooled maps too, which an import folds
    into their convolutions.

    Args:
        num_classes: K.
        variant: "paper" or "mmsegmentation".

    Raises:
        NetworkError: another variant.
    """

    align_corners = False
    stride = 8
    description = "Two branches over a shared stem; small and fast, for embedded use."
    paper = "Poudel et al., BMVC 2019 (arXiv:1902.04502)"

    def __init__(self, num_classes: int, *, variant: str = "paper") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise NetworkError(
                f"network 'fast_scnn': variant is {variant!r:.60}; choose {' or '.join(VARIANTS)}."
            )
        published = variant == "mmsegmentation"
        self.num_classes = num_classes
        self.downsample = nn.Sequential(
            _convolution(3, 32, kernel=3, stride=2), _separable(32, 48, 2), _separable(48, 64, 2)
        )
        self.global_features = nn.Sequential(
            *_bottlenecks(64, 64, 2),
            *_bottlenecks(64, 96, 2),
            *_bottlenecks(96, 128, 1),
            PyramidPooling(128, kernel=3 if published else 1),
        )
        self.fusion = FeatureFusion(64, 128, dilation=1 if published else 4)
        self.head = nn.Sequential(*(_separable(128, 128, 1) for _ in range(2)))
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Conv2d(128, num_classes, 1)

    def forward(self, images: Tensor) -> Output:
        """Segment images, (B, 3, H, W), normalised float; any H, W >= 1."""
        detail = self.downsample(images)
        features = self.head(self.fusion(detail, self.global_features(detail)))
        return Output(self.classifier(self.dropout(features)), features)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The final 1x1 convolution."""
        return self.classifier.parameters()


class PyramidPooling(nn.Module):
    """Averages over grids of 1, 2, 3 and 6 cells a side, upsampled and joined to the input."""

    def __init__(self, channels: int, kernel: int = 1) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, channels // len(_BINS), 1) for _ in _BINS)
        self.join = _convolution(2 * channels, channels, kernel=kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Context for x, (B, D, h, w), in the same shape."""
        parts = [x]
        for bins, branch in zip(_BINS, self.branches, strict=True):
            pooled = F.relu(branch(product_pool(x, (bins, bins))))
            parts.append(resize(pooled, x))
        joined: Tensor = self.join(torch.cat(parts, dim=1))
        return joined


class FeatureFusion(nn.Module):
    """The deep branch, upsampled and smoothed, added to the detailed one."""

    def __init__(self, detail_channels: int, channels: int, dilation: int) -> None:
        super().__init__()
        self.smooth = _convolution(channels, channels, kernel=3, dilation=dilation, groups=channels)
        self.deep = _convolution(channels, channels, relu=False)
        self.detail = _convolution(detail_channels, channels, relu=False)

    def forward(self, detail: Tensor, deep: Tensor) -> Tensor:
        """Fuse detail (B, D', h, w) and deep (B, D, h', w') into (B, D, h, w)."""
        return F.relu(self.detail(detail) + self.deep(self.smooth(resize(deep, detail))))


class InvertedResidual(nn.Module):
    """MobileNetV2's bottleneck: expand six times, filter each channel, project linearly."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = 6 * inputs
        self.is_residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            _convolution(inputs, inner),
            _convolution(inner, inner, kernel=3, stride=stride, groups=inner),
            _convolution(inner, outputs, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, ceil(h / stride), ceil(w / stride))."""
        y: Tensor = self.layers(x)
        return x + y if self.is_residual else y


def _convolution(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution with "same" padding, batch normalisation and, unless told otherwise, ReLU."""
    layers = normalised(inputs, outputs, kernel, stride, dilation=dilation, groups=groups)
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3 then pointwise convolution, with no ReLU between the two."""
    depthwise = _convolution(inputs, inputs, kernel=3, stride=stride, groups=inputs, relu=False)
    return nn.Sequential(depthwise, _convolution(inputs, outputs))


def _bottlenecks(inputs: int, outputs: int, stride: int) -> Iterator[InvertedResidual]:
    """Three inverted residuals, the first of which strides and changes the width."""
    yield InvertedResidual(inputs, outputs, stride)
    for _ in range(2):
        yield InvertedResidual(outputs, outputs, 1)
