"""DeepLabV2 over ResNet-101, in the layout of the published domain-adaptation checkpoints.

Source: Chen et al., TPAMI 2018 (arXiv:1606.00915), as AdaptSegNet (Tsai et al., CVPR 2018), AdvEnt
(Vu et al., CVPR 2019) and IAPC (Cao et al., arXiv:2306.01598) publish it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from ...runtime.errors import NetworkError
from .base import Output, Preprocessing, SegmentationNetwork

DILATIONS = (6, 12, 18, 24)
INITIAL_STD = 0.01
_DEEPEST = 100  # blocks of a stage; a manifest may ask for any number
"""Deviation of the classifiers' weights before training, here and in the published code."""


class DeepLabV2(SegmentationNetwork):
    """ResNet with dilated last stages, classified by a sum of dilated 3x3 convolutions.

    Logits and 2048-d features (the output of ``layer4``) have floor((H + 1) / 8) + 1 rows, and
    columns likewise. The residual blocks are those of the Caffe models: the first 1x1 convolution
    strides. Scale and shift of every batch normalisation are frozen; its running statistics still
    move in train mode. LD's code lets those of the shortcuts learn (``norms_of_ld``).

    Published checkpoints differ in two ways that their keys or weights show
    (``importing.detect_deeplab_arguments`` reads both):

    ============================  ===========  ========  =============
    checkpoints                   multi_level  head      aspp_branches
    ============================  ===========  ========  =============
    AdvEnt, IAPC single-level     False        layer6    4
    AdvEnt multi-level            True         layer6    4
    AdaptSegNet single-level      False        layer5    2
    AdaptSegNet multi-level       True         layer6    2
    LD                            False        layer5    4
    ============================  ===========  ========  =============

    AdaptSegNet's classifier returns from inside its loop, so that only the dilations 6 and 12 are
    summed (its issues 4 and 20); the other two were saved as initialised, and summing them adds
    noise to the logits. LD's checkpoints hold a ``layer6`` too, of 2048 channels as ``layer5``,
    which its code never asks for; it is left out.

    Args:
        num_classes: K.
        multi_level: keep the auxiliary classifier on ``layer3`` as ``layer5``. It is carried for
            its weights alone: published evaluations read ``layer6``, and so does ``Output``.
        head: name of the classifier on ``layer4``, "layer6" or "layer5".
        aspp_branches: dilated convolutions summed, 4 or 2. The others are carried, not trained.
        layers: residual blocks of the four stages; ResNet-101 by default.

    Raises:
        NetworkError: an argument is out of range.
    """

    align_corners = True
    stride = 8
    description = "The network of most domain-adaptation papers; loads their checkpoints."
    paper = "Chen et al., TPAMI 2018 (arXiv:1606.00915)"
    published_preprocessing: Preprocessing | None = Preprocessing(
        "bgr", (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0)
    )
    reference_feature_layer = "layer3"
    norms_of_ld = tuple(f"layer{stage}.0.downsample.1" for stage in (1, 2, 3, 4))

    def __init__(
        self,
        num_classes: int,
        *,
        multi_level: bool = False,
        head: str = "layer6",
        aspp_branches: int = 4,
        layers: Sequence[int] = (3, 4, 23, 3),
    ) -> None:
        super().__init__()
        _check_arguments(multi_level, head, aspp_branches, layers)
        self.num_classes = num_classes
        self.head = head
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.layer1 = _stage(64, 64, layers[0])
        self.layer2 = _stage(256, 128, layers[1], stride=2)
        self.layer3 = _stage(512, 256, layers[2], dilation=2)
        self.layer4 = _stage(1024, 512, layers[3], dilation=4)
        if multi_level:
            self.layer5 = DilatedClassifier(1024, num_classes, aspp_branches).requires_grad_(False)
        self.idle_in_checkpoints = ("layer6",) if head == "layer5" else ()
        self.add_module(head, DilatedClassifier(2048, num_classes, aspp_branches))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def forward(self, images: Tensor) -> Output:
        """Segment images, (B, 3, H, W), normalised float."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return Output(self.get_submodule(self.head)(features), features)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The dilated convolutions of the main head that are summed."""
        return (p for p in self.get_submodule(self.head).parameters() if p.requires_grad)

    def published_updates(self) -> dict[str, int]:
        """Modules that a residual stage's weight lies in, each of which lists it there."""
        stages = ("layer1.", "layer2.", "layer3.", "layer4.")
        names = (name for name, _ in self.named_parameters() if name.startswith(stages))
        return {name: name.count(".") for name in names}

    def backbone_names(self) -> dict[str, str]:
        """The residual network's names, which ImageNet's weights share."""
        return {n: n for n in self.state_dict() if not n.startswith(("layer5.", "layer6."))}


class DilatedClassifier(nn.Module):
    """logits = sum of the first ``branches`` of four 3x3 convolutions, dilated 6, 12, 18 and 24."""

    def __init__(self, channels: int, num_classes: int, branches: int) -> None:
        super().__init__()
        self.branches = branches
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 3, padding=dilation, dilation=dilation)
            for dilation in DILATIONS
        )
        for index, convolution in enumerate(self.conv2d_list):
            nn.init.normal_(convolution.get_parameter("weight"), std=INITIAL_STD)
            convolution.requires_grad_(index < branches)

    def forward(self, x: Tensor) -> Tensor:
        """Classify x, (B, D, h, w), into (B, K, h, w)."""
        logits: Tensor = self.conv2d_list[0](x)
        for index in range(1, self.branches):
            logits = logits + self.conv2d_list[index](x)
        return logits


class Bottleneck(nn.Module):
    """Residual block of width 4 x ``planes`` whose first 1x1 convolution strides."""

    def __init__(
        self, inputs: int, planes: int, stride: int, dilation: int, *, project: bool
    ) -> None:
        super().__init__()
        outputs = 4 * planes
        self.conv1 = nn.Conv2d(inputs, planes, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
            if project
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, 4 planes, ceil(h / stride), ceil(w / stride))."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        joined: Tensor = self.relu(y + shortcut)
        return joined


def _stage(
    inputs: int, planes: int, blocks: int, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """``blocks`` bottlenecks, the first of which projects its shortcut."""
    first = Bottleneck(inputs, planes, stride, dilation, project=True)
    rest = (Bottleneck(4 * planes, planes, 1, dilation, project=False) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def _check_arguments(
    multi_level: bool, head: str, aspp_branches: int, layers: Sequence[int]
) -> None:
    where = "network 'deeplab_v2_resnet101'"
    if head not in ("layer5", "layer6"):
        raise NetworkError(f"{where}: head is '{head}'; choose layer6 or layer5.")
    if multi_level and head != "layer6":
        raise NetworkError(f"{where}: a multi-level network's head is layer6, not '{head}'.")
    if aspp_branches not in (2, 4):
        raise NetworkError(f"{where}: aspp_branches is {aspp_branches}; choose 4 or 2.")
    counts = list(layers) if isinstance(layers, Sequence) else [layers]
    if len(counts) != 4 or not all(isinstance(n, int) and 1 <= n <= _DEEPEST for n in counts):
        raise NetworkError(f"{where}: layers is {layers!r:.80}; give four counts, 1 to {_DEEPEST}.")
