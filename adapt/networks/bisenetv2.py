"""BiSeNetV2: a wide, shallow branch for detail and a narrow, deep one for meaning, gating another.

Source: Yu, Gao, Wang, Yu, Shen and Sang, IJCV 2021 (arXiv:2004.02147). The names of the modules are
those of the public PyTorch version (CoinCheung/BiSeNet), whose weights load; where it says that it
departs from the paper, so do we.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.errors import NetworkError
from .base import Output, Preprocessing, SegmentationNetwork
from .layers import RectifiedConvolution, normalised

VARIANTS = ("coincheung", "mmsegmentation")
_WIDTH = 128  # channels of both branches where they meet
_HEAD = 1024  # channels of the features
_EXPANSION = 6
_PRETRAINED = ("detail.", "segment.")


class BiSeNetV2(SegmentationNetwork):
    """BiSeNetV2 with logits and features at stride 8.

    As in the public version, and unlike in the paper: the gather-and-expand layers have a ReLU
    behind their last depthwise convolution, and the context embedding normalises and activates its
    last one. One deviation from it, which changes no number at sizes that are multiples of 32: the
    deep branch is upsampled to the size of the detailed one, so that every size works. The
    auxiliary heads of training (``aux2`` to ``aux5_4``) are not built, and left out of checkpoints.

    Weights are drawn as He et al. do, by fan-out as in the public version but for the classifier:
    by its few classes, its logits would begin near 14 in deviation.

    The variant of mmsegmentation 1.2.2 has other weights: where the branches gate one another, the
    pointwise convolutions have a bias, and the deep branch is upsampled bilinearly.

    Args:
        num_classes: K.
        variant: "coincheung", the public version's, or "mmsegmentation".

    Raises:
        NetworkError: another variant.
    """

    align_corners = False
    stride = 8
    description = "A shallow branch for detail and a light deep one, each gating the other."
    paper = "Yu et al., IJCV 2021 (arXiv:2004.02147)"
    published_preprocessing = Preprocessing(
        "rgb", (83.0535, 94.095, 82.1865), (53.856, 54.774, 53.9325)
    )
    training_heads = ("aux2", "aux3", "aux4", "aux5_4")

    def __init__(self, num_classes: int, *, variant: str = "coincheung") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise NetworkError(
                f"network 'bisenetv2': variant is {variant!r:.60}; choose {' or '.join(VARIANTS)}."
            )
        self.num_classes = num_classes
        self.detail = _DetailBranch()
        self.segment = _SemanticBranch()
        self.bga = GuidedAggregation(_WIDTH, is_smooth=variant == "mmsegmentation")
        self.head = _Head(_WIDTH, _HEAD, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, GatherAndExpand):
                nn.init.zeros_(module.conv2[1].get_parameter("weight"))
        nn.init.kaiming_normal_(self.head.conv_out[1].get_parameter("weight"))

    def forward(self, images: Tensor) -> Output:
        """Segment images, (B, 3, H, W), normalised float; any H, W >= 1."""
        features = self.head.conv(self.bga(self.detail(images), self.segment(images)))
        return Output(self.head.conv_out[1](self.head.drop(features)), features)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The last 1x1 convolution."""
        return self.head.conv_out[1].parameters()

    def backbone_names(self) -> dict[str, str]:
        """Both branches, as the public version's weights of ImageNet have them."""
        return {n: n for n in self.state_dict() if n.startswith(_PRETRAINED)}


class GatherAndExpand(nn.Module):
    """Gather by a 3x3 convolution, expand six times by a depthwise one, and project linearly.

    Args:
        inputs, outputs: channels.
        stride: 1, with the input as shortcut; or 2, with two depthwise convolutions, the first of
            which strides, and a separable convolution as shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = _EXPANSION * inputs
        self.conv1 = RectifiedConvolution(inputs, inputs, 3)
        self.strides = stride == 2
        if self.strides:
            self.dwconv1 = nn.Sequential(*normalised(inputs, inner, 3, 2, groups=inputs))
            self.dwconv2 = nn.Sequential(*normalised(inner, inner, 3, groups=inner), _relu())
            self.shortcut = nn.Sequential(
                *normalised(inputs, inputs, 3, 2, groups=inputs), *normalised(inputs, outputs)
            )
        else:
            self.dwconv = nn.Sequential(*normalised(inputs, inner, 3, groups=inputs), _relu())
        self.conv2 = nn.Sequential(*normalised(inner, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, ceil(h / stride), ceil(w / stride))."""
        y = self.conv1(x)
        y = self.dwconv2(self.dwconv1(y)) if self.strides else self.dwconv(y)
        return F.relu(self.conv2(y) + (self.shortcut(x) if self.strides else x))


class ContextEmbedding(nn.Module):
    """The mean of the whole map, added to every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv_gap = RectifiedConvolution(channels, channels)
        self.conv_last = RectifiedConvolution(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Context for x, (B, D, h, w), in the same shape."""
        mean = self.conv_gap(self.bn(x.mean(dim=(2, 3), keepdim=True)))
        embedded: Tensor = self.conv_last(mean + x)
        return embedded


class GuidedAggregation(nn.Module):
    """Each branch weights the other, at stride 8 and at stride 32, and both products are summed.

    Args:
        channels: D, of both.
        is_smooth: the deep branch is upsampled bilinearly, not to the nearest, and pointwise
            convolutions have a bias.
    """

    def __init__(self, channels: int, *, is_smooth: bool) -> None:
        super().__init__()
        self.is_smooth = is_smooth
        self.left1 = nn.Sequential(*_separable(channels, bias=is_smooth))
        self.left2 = nn.Sequential(
            *normalised(channels, channels, 3, 2), nn.AvgPool2d(3, stride=2, padding=1)
        )
        self.right1 = nn.Sequential(*normalised(channels, channels, 3))
        self.right2 = nn.Sequential(*_separable(channels, bias=is_smooth))
        self.conv = nn.Sequential(*normalised(channels, channels, 3), _relu())

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        """Fuse detail (B, D, h, w) and semantic, at a quarter of that, into (B, D, h, w)."""
        size = detail.shape[-2:]
        fine = self.left1(detail) * torch.sigmoid(self._enlarged(self.right1(semantic), size))
        coarse = self.left2(detail) * torch.sigmoid(self.right2(semantic))
        fused: Tensor = self.conv(fine + self._enlarged(coarse, size))
        return fused

    def _enlarged(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """``x`` at (h, w)."""
        if self.is_smooth:
            return F.interpolate(x, size, mode="bilinear", align_corners=False)
        return F.interpolate(x, size, mode="nearest")


class _DetailBranch(nn.Module):
    """Plain convolutions, to 128 channels at stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.S1 = nn.Sequential(*_convolutions(3, 64, 2))
        self.S2 = nn.Sequential(*_convolutions(64, 64, 3))
        self.S3 = nn.Sequential(*_convolutions(64, _WIDTH, 3))

    def forward(self, images: Tensor) -> Tensor:
        at8: Tensor = self.S3(self.S2(self.S1(images)))
        return at8


class _SemanticBranch(nn.Module):
    """A stem, gather-and-expand layers and the context, to 128 channels at stride 32."""

    def __init__(self) -> None:
        super().__init__()
        self.S1S2 = _Stem(16)
        self.S3 = nn.Sequential(*_gather_and_expand(16, 32, 2))
        self.S4 = nn.Sequential(*_gather_and_expand(32, 64, 2))
        self.S5_4 = nn.Sequential(*_gather_and_expand(64, _WIDTH, 4))
        self.S5_5 = ContextEmbedding(_WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        at32: Tensor = self.S5_5(self.S5_4(self.S4(self.S3(self.S1S2(images)))))
        return at32


class _Stem(nn.Module):
    """A strided convolution, then another beside max pooling, joined at stride 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = RectifiedConvolution(3, width, 3, 2)
        self.left = nn.Sequential(
            RectifiedConvolution(width, width // 2), RectifiedConvolution(width // 2, width, 3, 2)
        )
        self.right = nn.MaxPool2d(3, stride=2, padding=1)
        self.fuse = RectifiedConvolution(2 * width, width, 3)

    def forward(self, images: Tensor) -> Tensor:
        at2 = self.conv(images)
        at4: Tensor = self.fuse(torch.cat([self.left(at2), self.right(at2)], dim=1))
        return at4


class _Head(nn.Module):
    """A wide convolution, dropout, and the classifier; the public version's names."""

    def __init__(self, inputs: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv = RectifiedConvolution(inputs, width, 3)
        self.drop = nn.Dropout(0.1)
        self.conv_out = nn.Sequential(nn.Identity(), nn.Conv2d(width, num_classes, 1))


def _convolutions(inputs: int, outputs: int, count: int) -> Iterator[RectifiedConvolution]:
    """3x3 convolutions, the first of which strides."""
    for index in range(count):
        yield RectifiedConvolution(outputs if index else inputs, outputs, 3, 1 if index else 2)


def _gather_and_expand(inputs: int, outputs: int, count: int) -> Iterator[GatherAndExpand]:
    """Gather-and-expand layers, the first of which strides."""
    for index in range(count):
        yield GatherAndExpand(outputs if index else inputs, outputs, 1 if index else 2)


def _separable(channels: int, *, bias: bool) -> list[nn.Module]:
    """Depthwise 3x3 convolution with batch norm, then a plain 1x1 convolution."""
    pointwise = nn.Conv2d(channels, channels, 1, bias=bias)
    return [*normalised(channels, channels, 3, groups=channels), pointwise]


def _relu() -> nn.ReLU:
    return nn.ReLU(inplace=True)
