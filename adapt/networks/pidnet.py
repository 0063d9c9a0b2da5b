"""PIDNet: branches for detail, context and boundaries, after the terms of a PID controller.

Source: Xu, Xiong and Bhattacharyya, CVPR 2023 (arXiv:2206.02066). The widths and depths and the
names of the modules are those of the authors' release (XuJiacong/PIDNet), whose state dicts load.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import IMAGENET_RGB, Output, SegmentationNetwork
from .dual_resolution import (
    BasicBlock,
    DeepAggregationPyramid,
    PyramidOfAverages,
    SegmentationHead,
    basic_stage,
    bottleneck_stage,
    draw_weights,
    preactivated,
    stem,
)
from .layers import normalised, resize

_PRETRAINED = tuple(
    f"{part}."
    for part in (
        *("conv1", "layer1", "layer2", "layer3", "layer4", "layer5"),
        *("compression3", "compression4", "layer3_", "layer4_", "layer5_"),
    )
)


class _Size(NamedTuple):
    """Channels at stride 4, blocks of early and late stages, widths, and form."""

    width: int
    early: int
    late: int
    pyramid: int
    head: int
    is_large: bool


class PIDNet(SegmentationNetwork):
    """PIDNet with logits and features at stride 8.

    P keeps detail, I finds context, D finds boundaries; where D sees one, P decides, elsewhere I.
    One deviation from the release, which changes no number at sizes that are multiples of 8: maps
    are upsampled to the size of the map that they meet, so that every size works. The auxiliary
    heads of training (``seghead_p``, and ``seghead_d`` for boundaries) are not built, and left out
    of checkpoints.

    Args:
        num_classes: K.
        size: widths and depths.
    """

    align_corners = False
    stride = 8
    paper = "Xu et al., CVPR 2023 (arXiv:2206.02066)"
    published_preprocessing = IMAGENET_RGB
    training_heads = ("seghead_p", "seghead_d")

    def __init__(self, num_classes: int, size: _Size) -> None:
        super().__init__()
        self.num_classes = num_classes
        width, early, late = size.width, size.early, size.late
        detail = 2 * width
        boundary = detail if size.is_large else width
        self.conv1 = stem(width)
        self.layer1 = basic_stage(width, width, early)
        self.layer2 = basic_stage(width, 2 * width, early, stride=2)
        self.layer3 = basic_stage(2 * width, 4 * width, late, stride=2)
        self.layer4 = basic_stage(4 * width, 8 * width, late, stride=2)
        self.layer5 = bottleneck_stage(8 * width, 8 * width, 2, stride=2)
        self.layer3_ = basic_stage(detail, detail, early)
        self.layer4_ = basic_stage(detail, detail, early)
        self.layer5_ = bottleneck_stage(detail, detail)
        self.compression3 = nn.Sequential(*normalised(4 * width, detail))
        self.compression4 = nn.Sequential(*normalised(8 * width, detail))
        self.pag3 = AttentionGuidedFusion(detail, width)
        self.pag4 = AttentionGuidedFusion(detail, width)
        self.layer3_d = BasicBlock(detail, boundary)
        self.layer4_d: nn.Module = (
            BasicBlock(detail, detail) if size.is_large else bottleneck_stage(width, width)
        )
        self.layer5_d = bottleneck_stage(detail, detail)
        self.diff3 = nn.Sequential(*normalised(4 * width, boundary, kernel=3))
        self.diff4 = nn.Sequential(*normalised(8 * width, detail, kernel=3))
        pyramid = DeepAggregationPyramid if size.is_large else ParallelAggregationPyramid
        self.spp = pyramid(16 * width, size.pyramid, 4 * width)
        fusion = BoundaryGuidedFusion if size.is_large else LightBoundaryGuidedFusion
        self.dfm = fusion(4 * width)
        self.final_layer = SegmentationHead(4 * width, size.head, num_classes)
        draw_weights(self)

    def forward(self, images: Tensor) -> Output:
        """Segment images, (B, 3, H, W), normalised float; any H, W >= 1."""
        at8 = F.relu(self.layer2(F.relu(self.layer1(self.conv1(images)))))
        context = F.relu(self.layer3(at8))
        detail = self.pag3(self.layer3_(at8), self.compression3(context))
        boundary = self.layer3_d(at8)
        boundary = boundary + resize(self.diff3(context), boundary)

        context = F.relu(self.layer4(context))
        detail = self.pag4(self.layer4_(F.relu(detail)), self.compression4(context))
        boundary = self.layer4_d(F.relu(boundary))
        boundary = boundary + resize(self.diff4(context), boundary)

        detail = self.layer5_(F.relu(detail))
        boundary = self.layer5_d(F.relu(boundary))
        context = resize(self.spp(self.layer5(context)), detail)
        features = self.final_layer.features(self.dfm(detail, context, boundary))
        return Output(self.final_layer.conv2(features), features)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The last 1x1 convolution."""
        return self.final_layer.conv2.parameters()

    def backbone_names(self) -> dict[str, str]:
        """The I and P branches: weights of ImageNet have no D, and nothing behind the branches."""
        return {n: n for n in self.state_dict() if n.startswith(_PRETRAINED)}


class PIDNetS(PIDNet):
    """PIDNet-S, see `PIDNet`.

    Args:
        num_classes: K.
    """

    description = "Detail, context and boundaries in three branches; small, for roads."

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, _Size(32, 2, 3, 96, 128, is_large=False))


class PIDNetM(PIDNet):
    """PIDNet-M, see `PIDNet`.

    Args:
        num_classes: K.
    """

    description = "Detail, context and boundaries in three branches; twice as wide as S."

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, _Size(64, 2, 3, 96, 128, is_large=False))


class PIDNetL(PIDNet):
    """PIDNet-L, see `PIDNet`.

    Args:
        num_classes: K.
    """

    description = "Detail, context and boundaries in three branches; deeper than M."

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, _Size(64, 3, 4, 112, 256, is_large=True))


class ParallelAggregationPyramid(PyramidOfAverages):
    """PAPPM: the averages are filtered side by side, each added to the reduced map."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__(inputs, width, outputs)
        self.scale_process = nn.Sequential(*preactivated(4 * width, 4 * width, kernel=3, groups=4))

    def forward(self, x: Tensor) -> Tensor:
        """Context for x, (B, inputs, h, w), as (B, outputs, h, w)."""
        reduced = self.scale0(x)
        added = torch.cat([average + reduced for average in self.averages(x)], dim=1)
        return self.merged([reduced, self.scale_process(added)], x)


class AttentionGuidedFusion(nn.Module):
    """Pag: each position takes from the deep branch as much as the two branches agree there.

    out = (1 - s) detail + s deep,   s = sigmoid(f_x(detail) . f_y(deep))
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.f_x = nn.Sequential(*normalised(channels, width))
        self.f_y = nn.Sequential(*normalised(channels, width))

    def forward(self, detail: Tensor, deep: Tensor) -> Tensor:
        """Fuse detail (B, D, h, w) and deep (B, D, h', w') into (B, D, h, w)."""
        agreement = self.f_x(detail) * resize(self.f_y(deep), detail)
        share = torch.sigmoid(agreement.sum(dim=1, keepdim=True))
        return (1 - share) * detail + share * resize(deep, detail)


class BoundaryGuidedFusion(nn.Module):
    """Bag: detail at boundaries, context elsewhere, then filtered."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(*preactivated(channels, channels, kernel=3))

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        """Fuse three maps of (B, D, h, w) into one."""
        share = torch.sigmoid(boundary)
        fused: Tensor = self.conv(share * detail + (1 - share) * context)
        return fused


class LightBoundaryGuidedFusion(nn.Module):
    """Light-Bag: as `BoundaryGuidedFusion`, with two 1x1 convolutions for the 3x3 one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_p = nn.Sequential(*normalised(channels, channels))
        self.conv_i = nn.Sequential(*normalised(channels, channels))

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        """Fuse three maps of (B, D, h, w) into one."""
        share = torch.sigmoid(boundary)
        of_detail = self.conv_p((1 - share) * context + detail)
        fused: Tensor = of_detail + self.conv_i(context + share * detail)
        return fused
