"""DeepLabV2 over VGG-16, in the layout of the published domain-adaptation checkpoints.

Source: Chen et al., TPAMI 2018 (arXiv:1606.00915), as AdaptSegNet (Tsai et al., CVPR 2018)
publishes it and ATP (Wang et al., arXiv:2106.11653, Table 7) adapts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from ...runtime.errors import NetworkError
from .base import Output, SegmentationNetwork
from .deeplab_v2 import DeepLabV2, DilatedClassifier


class VggBlock(NamedTuple):
    """``convolutions`` 3x3 convolutions and ReLUs of one width, then perhaps a 2x2 pooling."""

    width: int
    convolutions: int
    dilation: int = 1
    pooled: bool = False


BLOCKS = (
    VggBlock(64, 2, pooled=True),
    VggBlock(128, 2, pooled=True),
    VggBlock(256, 3, pooled=True),
    VggBlock(512, 3),  # conv4, whose pooling is left out
    VggBlock(512, 3, dilation=2),  # conv5, likewise
    VggBlock(1024, 2, dilation=4),  # fc6 and fc7
)


class DeepLabV2VGG16(SegmentationNetwork):
    """VGG-16 up to fc7 at stride 8, classified by a sum of dilated 3x3 convolutions.

    Logits and 1024-d features (the output of ``features``, fc7) have floor(H / 8) rows, and columns
    likewise. There is no batch normalisation.

    AdaptSegNet's classifier returns from inside its loop, so that only the dilations 6 and 12 are
    summed; ``importing.detect_vgg_arguments`` reads from the weights which ones were trained.

    Args:
        num_classes: K.
        aspp_branches: dilated convolutions summed, 4 or 2. The others are carried, not trained.

    Raises:
        NetworkError: ``aspp_branches`` is neither.
    """

    align_corners = True
    stride = 8
    description = "The older, plain network of domain-adaptation papers; loads their checkpoints."
    paper = "Chen et al., TPAMI 2018 (arXiv:1606.00915)"
    published_preprocessing = DeepLabV2.published_preprocessing

    def __init__(self, num_classes: int, *, aspp_branches: int = 4) -> None:
        super().__init__()
        if aspp_branches not in (2, 4):
            raise NetworkError(
                f"network 'deeplab_v2_vgg16': aspp_branches is {aspp_branches}; choose 4 or 2."
            )
        self.num_classes = num_classes
        self.features = _features()
        self.classifier = DilatedClassifier(BLOCKS[-1].width, num_classes, aspp_branches)

    def forward(self, images: Tensor) -> Output:
        """Segment images, (B, 3, H, W), H and W at least 8, normalised float."""
        features = self.features(images)
        return Output(self.classifier(features), features)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The dilated convolutions that are summed."""
        return (p for p in self.classifier.parameters() if p.requires_grad)

    def backbone_names(self) -> dict[str, str]:
        """Names of the 13 convolutions in VGG-16 as torchvision numbers its layers.

        There a pooling follows conv4, which is left out here; fc6 and fc7 have another shape there.
        """
        names, here, there = {}, 0, 0
        for block in BLOCKS[:-1]:
            for _ in range(block.convolutions):
                for kind in ("weight", "bias"):
                    names[f"features.{here}.{kind}"] = f"features.{there}.{kind}"
                here, there = here + 2, there + 2
            here, there = here + block.pooled, there + 1
        return names


def _features() -> nn.Sequential:
    """Convolutions, ReLUs and poolings in one sequence, whose indices the published names hold."""
    layers: list[nn.Module] = []
    channels = 3
    for block in BLOCKS:
        for _ in range(block.convolutions):
            convolution = nn.Conv2d(
                channels, block.width, 3, padding=block.dilation, dilation=block.dilation
            )
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.get_parameter("bias"))
            layers += [convolution, nn.ReLU(inplace=True)]
            channels = block.width
        if block.pooled:
            layers.append(nn.MaxPool2d(2, stride=2))
    return nn.Sequential(*layers)
