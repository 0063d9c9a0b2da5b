"""DDRNet: two branches at different resolutions that exchange what they see.

Source: Hong, Pan, Sun and Jia, arXiv:2101.06085. The widths and the names of the modules are
those of the authors' release (ydhongHIT/DDRNet), whose state dicts load.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from .base import IMAGENET_RGB, Output, SegmentationNetwork
from .dual_resolution import (
    DeepAggregationPyramid,
    SegmentationHead,
    basic_stage,
    bottleneck_stage,
    draw_weights,
    stem,
)
from .layers import normalised, resize

_PYRAMID_WIDTH = 128
_BLOCKS = 2  # of each stage
_AFTER_PRETRAINING = ("spp.", "final_layer.")


class DDRNet(SegmentationNetwork):
    """DDRNet-23 with logits and features at stride 8.

    One deviation from the release, which changes no number at sizes that are multiples of 8: maps
    are upsampled to the size of the map that they meet, so that every size works. The auxiliary
    head of training (``seghead_extra``) is not built, and left out of checkpoints.

    Args:
        num_classes: K.
        width: channels at stride 4; the deepest map has 16 times as many.
        head_width: channels of the features.
    """

    align_corners = False
    stride = 8
    paper = "Hong et al., 2021 (arXiv:2101.06085)"
    published_preprocessing = IMAGENET_RGB
    training_heads = ("seghead_extra",)

    def __init__(self, num_classes: int, width: int, head_width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        detail = 2 * width
        self.conv1 = stem(width)
        self.layer1 = basic_stage(width, width, _BLOCKS)
        self.layer2 = basic_stage(width, 2 * width, _BLOCKS, stride=2)
        self.layer3 = basic_stage(2 * width, 4 * width, _BLOCKS, stride=2)
        self.layer4 = basic_stage(4 * width, 8 * width, _BLOCKS, stride=2)
        self.layer5 = bottleneck_stage(8 * width, 8 * width, stride=2)
        self.layer3_ = basic_stage(2 * width, detail, _BLOCKS)
        self.layer4_ = basic_stage(detail, detail, _BLOCKS)
        self.layer5_ = bottleneck_stage(detail, detail)
        self.compression3 = nn.Sequential(*normalised(4 * width, detail))
        self.compression4 = nn.Sequential(*normalised(8 * width, detail))
        self.down3 = nn.Sequential(*normalised(detail, 4 * width, kernel=3, stride=2))
        self.down4 = nn.Sequential(
            *normalised(detail, 4 * width, kernel=3, stride=2),
            nn.ReLU(inplace=True),
            *normalised(4 * width, 8 * width, kernel=3, stride=2),
        )
        self.spp = DeepAggregationPyramid(16 * width, _PYRAMID_WIDTH, 4 * width)
        self.final_layer = SegmentationHead(4 * width, head_width, num_classes)
        draw_weights(self)

    def forward(self, images: Tensor) -> Output:
        """Segment images, (B, 3, H, W), normalised float; any H, W >= 1."""
        at8 = F.relu(self.layer2(F.relu(self.layer1(self.conv1(images)))))
        deep, detail = self.layer3(at8), self.layer3_(at8)
        deep, detail = (
            F.relu(deep + self.down3(F.relu(detail))),
            F.relu(detail + resize(self.compression3(F.relu(deep)), detail)),
        )
        deep, detail = self.layer4(deep), self.layer4_(detail)
        deep, detail = (
            F.relu(deep + self.down4(F.relu(detail))),
            F.relu(detail + resize(self.compression4(F.relu(deep)), detail)),
        )
        detail = self.layer5_(detail)
        features = self.final_layer.features(detail + resize(self.spp(self.layer5(deep)), detail))
        return Output(self.final_layer.conv2(features), features)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The last 1x1 convolution."""
        return self.final_layer.conv2.parameters()

    def backbone_names(self) -> dict[str, str]:
        """All but the pyramid and the head, as the release's weights of ImageNet have it."""
        return {n: n for n in self.state_dict() if not n.startswith(_AFTER_PRETRAINING)}


class DDRNet23Slim(DDRNet):
    """DDRNet-23-slim, see `DDRNet`.

    Args:
        num_classes: K.
    """

    description = "Two branches that exchange what they see; small and fast, for roads."

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, width=32, head_width=64)


class DDRNet23(DDRNet):
    """DDRNet-23, see `DDRNet`.

    Args:
        num_classes: K.
    """

    description = "Two branches that exchange what they see, twice as wide as the slim one."

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, width=64, head_width=128)
