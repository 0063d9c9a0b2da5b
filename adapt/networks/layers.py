"""Layers that several networks have: convolutions with what follows them, and resizing."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def convolution(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Conv2d:
    """A convolution with "same" padding and without bias."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)


def normalised(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
) -> list[nn.Module]:
    """A convolution with "same" padding, then batch norm."""
    first = convolution(inputs, outputs, kernel, stride, dilation=dilation, groups=groups)
    return [first, nn.BatchNorm2d(outputs)]


class RectifiedConvolution(nn.Module):
    """A convolution with "same" padding, batch norm and ReLU, named as in several releases."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv, self.bn = normalised(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def resize(x: Tensor, like: Tensor) -> Tensor:
    """``x`` at the height and width of ``like``, bilinear between centres of pixels."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
