"""DeepLabV3+: atrous pyramid pooling over ResNet or MobileNetV2, refined by a map at stride 4.

Source: Chen, Zhu, Papandreou, Schroff and Adam, ECCV 2018 (arXiv:1802.02611), whose pooling
is that of DeepLabV3 (arXiv:1706.05587). The names of the modules are those of the public PyTorch
version whose checkpoints are most used (VainF/DeepLabV3Plus-Pytorch): its backbones have
torchvision's names, so that torchvision's weights of ImageNet begin a training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.errors import NetworkError
from .base import IMAGENET_RGB, Output, SegmentationNetwork
from .pooling import GlobalMean

BACKBONES = ("resnet50", "resnet101", "mobilenet_v2")
RESNET_BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}  # of the pyramid, by the deepest map's stride
_WIDTH, _LOW_LEVEL_WIDTH = 256, 48
_INVERTED = (  # MobileNetV2: expansion, channels, blocks, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_LOW_LEVEL = 4  # layers of MobileNetV2 down to stride 4


class DeepLabV3Plus(SegmentationNetwork):
    """DeepLabV3+ with logits and 256-d features at stride 4.

    Logits have ceil(H / 4) rows, over MobileNetV2 ceil(floor((H - 1) / 2) / 2), which is the same
    where 4 divides H; columns likewise.

    The pyramid and the decoder convolve without splitting channels from positions, as all weights
    of the public version do; the paper's Xception variant does not.

    Args:
        num_classes: K.
        backbone: "resnet50", "resnet101" or "mobilenet_v2".
        output_stride: image pixels per position of the deepest map, 16 or 8. Weights fit both; the
            published ones were trained with 16.

    Raises:
        NetworkError: no such backbone or stride.
    """

    align_corners = False
    stride = 4
    description = "Atrous pyramid and decoder over ResNet or MobileNetV2; loads public checkpoints."
    paper = "Chen et al., ECCV 2018 (arXiv:1802.02611)"
    published_preprocessing = IMAGENET_RGB

    def __init__(
        self, num_classes: int, *, backbone: str = "resnet50", output_stride: int = 16
    ) -> None:
        super().__init__()
        where = "network 'deeplab_v3plus'"
        if backbone not in BACKBONES:
            raise NetworkError(
                f"{where}: backbone is {backbone!r:.80}; choose {', '.join(BACKBONES)}."
            )
        if output_stride not in tuple(_RATES):
            raise NetworkError(f"{where}: output_stride is {output_stride!r:.80}; choose 16 or 8.")
        self.num_classes = num_classes
        if backbone == "mobilenet_v2":
            self.backbone: nn.Module = MobileNetV2(output_stride)
            low, high = 24, 320
        else:
            self.backbone = ResNet(RESNET_BLOCKS[backbone], output_stride)
            low, high = 256, 2048
        self.classifier = _DeepLabDecoder(low, high, _RATES[output_stride], num_classes)

    def forward(self, images: Tensor) -> Output:
        """Segment images, (B, 3, H, W), normalised float; H, W >= 3 for MobileNetV2, else >= 1."""
        low, high = self.backbone(images)
        features = self.classifier.features(low, high)
        return Output(self.classifier.classifier[3](features), features)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The last 1x1 convolution."""
        return self.classifier.classifier[3].parameters()

    def backbone_names(self) -> dict[str, str]:
        """torchvision's names of the backbone, by ours."""
        return {
            f"backbone.{name}": name.replace("low_level_features.", "features.").replace(
                "high_level_features.", "features."
            )
            for name in self.backbone.state_dict()
        }


def detect_v3plus_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """``num_classes`` and ``backbone`` with which ``deeplab_v3plus`` fits ``state``.

    The output stride leaves no trace in weights; the published ones were trained with 16.

    Raises:
        NetworkError: the names are not those of a DeepLabV3+ over one of the backbones.
    """
    classifier = state.get("classifier.classifier.3.weight")
    third = {n.split(".")[2] for n in state if n.startswith("backbone.layer3.")}
    blocks = {name: counts[2] for name, counts in RESNET_BLOCKS.items()}
    fitting = [name for name, count in blocks.items() if count == len(third)]
    if any(name.startswith("backbone.high_level_features.") for name in state):
        fitting = ["mobilenet_v2"]
    if classifier is None or not fitting:
        raise NetworkError(
            "the weights are not in the layout of DeepLabV3+ (classifier.classifier.3, and "
            f"backbone.layer3 or backbone.high_level_features); found {', '.join(list(state)[:5])}."
        )
    return {"num_classes": classifier.shape[0], "backbone": fitting[0]}


class AtrousPyramid(nn.Module):
    """A 1x1 and three dilated 3x3 convolutions and the map's mean, projected together."""

    def __init__(self, inputs: int, rates: tuple[int, int, int]) -> None:
        super().__init__()
        pooled = (GlobalMean(), *_convolution(inputs, _WIDTH))
        self.convs = nn.ModuleList(
            [
                nn.Sequential(*_convolution(inputs, _WIDTH)),
                *(
                    nn.Sequential(*_convolution(inputs, _WIDTH, kernel=3, dilation=rate))
                    for rate in rates
                ),
                nn.Sequential(*pooled),
            ]
        )
        joined = _WIDTH * len(self.convs)
        self.project = nn.Sequential(*_convolution(joined, _WIDTH), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Context for x, (B, inputs, h, w), as (B, 256, h, w)."""
        parts = [_resize(branch(x), x) for branch in self.convs]
        context: Tensor = self.project(torch.cat(parts, dim=1))
        return context


class ResNet(nn.Module):
    """ResNet with bottlenecks, dilated where it would stride further; torchvision's names.

    Args:
        blocks: of the four stages.
        output_stride: 16, where the last stage is dilated, or 8, where the last two are.
    """

    def __init__(self, blocks: tuple[int, int, int, int], output_stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        third = (
            (2, 1, 1) if output_stride == 16 else (1, 1, 2)
        )  # stride, dilation of first, of rest
        fourth = (1, 1, 2) if output_stride == 16 else (1, 2, 4)
        self.layer1 = _residual_stage(64, 64, blocks[0], (1, 1, 1))
        self.layer2 = _residual_stage(256, 128, blocks[1], (2, 1, 1))
        self.layer3 = _residual_stage(512, 256, blocks[2], third)
        self.layer4 = _residual_stage(1024, 512, blocks[3], fourth)
        _draw(self)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of 256 channels at stride 4 and 2048 at the output stride, of (B, 3, H, W)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        low = self.layer1(x)
        return low, self.layer4(self.layer3(self.layer2(low)))


class ResidualBottleneck(nn.Module):
    """Residual block of width 4 x ``planes`` whose 3x3 convolution strides."""

    def __init__(
        self, inputs: int, planes: int, stride: int, dilation: int, *, project: bool
    ) -> None:
        super().__init__()
        outputs = 4 * planes
        self.conv1, self.bn1, _ = _convolution(inputs, planes)
        self.conv2, self.bn2, _ = _convolution(
            planes, planes, kernel=3, stride=stride, dilation=dilation
        )
        self.conv3, self.bn3, _ = _convolution(planes, outputs)
        self.downsample = (
            nn.Sequential(*_convolution(inputs, outputs, stride=stride)[:2]) if project else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, 4 planes, ceil(h / stride), ceil(w / stride))."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class MobileNetV2(nn.Module):
    """MobileNetV2 without its last layer, dilated where it would stride further.

    Its first convolution has no padding, and blocks are padded before they expand, so that what
    lies beyond the border is what the expansion makes of 0; as in the public version.

    Args:
        output_stride: 16 or 8.
    """

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        layers = [*_inverted_residuals(output_stride)]
        first = nn.Sequential(*_convolution(3, 32, kernel=3, stride=2, padding=0, act=nn.ReLU6))
        self.low_level_features = nn.Sequential(first, *layers[: _LOW_LEVEL - 1])
        self.high_level_features = nn.Sequential()
        for index, layer in enumerate(layers[_LOW_LEVEL - 1 :], start=_LOW_LEVEL):
            self.high_level_features.add_module(str(index), layer)
        _draw(self)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of 24 channels at stride 4 and 320 at the output stride, of (B, 3, H, W)."""
        low = self.low_level_features(images)
        return low, self.high_level_features(low)


class PaddedInvertedResidual(nn.Module):
    """Pad by the dilation, expand, filter each channel, and project linearly."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, dilation: int, expansion: int
    ) -> None:
        super().__init__()
        inner = expansion * inputs
        expand = _convolution(inputs, inner, act=nn.ReLU6)
        filter_each = _convolution(
            *(inner, inner),
            kernel=3,
            stride=stride,
            dilation=dilation,
            padding=0,
            groups=inner,
            act=nn.ReLU6,
        )
        self.conv = nn.Sequential(
            *([nn.Sequential(*expand)] if expansion > 1 else []),
            nn.Sequential(*filter_each),
            *_convolution(inner, outputs)[:2],
        )
        self.dilation = dilation
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, ceil(h / stride), ceil(w / stride))."""
        y: Tensor = self.conv(F.pad(x, (self.dilation,) * 4))
        return x + y if self.is_residual else y


class _DeepLabDecoder(nn.Module):
    """The pyramid over the deepest map, joined to the low-level one and classified."""

    def __init__(self, low: int, high: int, rates: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.project = nn.Sequential(*_convolution(low, _LOW_LEVEL_WIDTH))
        self.aspp = AtrousPyramid(high, rates)
        self.classifier = nn.Sequential(
            *_convolution(_LOW_LEVEL_WIDTH + _WIDTH, _WIDTH, kernel=3),
            nn.Conv2d(_WIDTH, num_classes, 1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def features(self, low: Tensor, high: Tensor) -> Tensor:
        """The map that is classified, (B, 256, h, w), at the size of ``low``."""
        fine = self.project(low)
        joined = torch.cat([fine, _resize(self.aspp(high), fine)], dim=1)
        merged: Tensor = self.classifier[:3](joined)
        return merged


def _residual_stage(
    inputs: int, planes: int, blocks: int, form: tuple[int, int, int]
) -> nn.Sequential:
    """Bottlenecks: ``form`` is the stride and dilation of the first, and the others' dilation."""
    stride, first, rest = form
    return nn.Sequential(
        ResidualBottleneck(inputs, planes, stride, first, project=True),
        *(
            ResidualBottleneck(4 * planes, planes, 1, rest, project=False)
            for _ in range(blocks - 1)
        ),
    )


def _inverted_residuals(output_stride: int) -> Iterator[PaddedInvertedResidual]:
    """The blocks of MobileNetV2; once the output stride is reached, they dilate instead."""
    inputs, reached, dilation = 32, 2, 1
    for expansion, outputs, blocks, stride in _INVERTED:
        before = dilation
        if reached == output_stride:
            dilation, stride = dilation * stride, 1
        reached *= stride
        for index in range(blocks):
            first = index == 0
            yield PaddedInvertedResidual(
                *(inputs, outputs, stride if first else 1),
                before if first else dilation,
                expansion,
            )
            inputs = outputs


def _convolution(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    dilation: int = 1,
    padding: int | None = None,
    groups: int = 1,
    act: type[nn.Module] = nn.ReLU,
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Convolution, "same" unless ``padding`` says otherwise, batch norm and activation."""
    pad = dilation * (kernel // 2) if padding is None else padding
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, pad, dilation, groups, bias=False)
    return convolution, nn.BatchNorm2d(outputs), act(inplace=True)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """``x`` at the size of ``like``; where it has that size, it comes back as it is."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def _draw(backbone: nn.Module) -> None:
    """Draw convolutions as He et al. do for ReLU, by fan-out; batch norm begins as the identity."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
