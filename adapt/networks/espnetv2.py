"""ESPNetv2: a light network of depthwise dilated pyramids, with published Cityscapes weights.

Source: Mehta, Rastegari, Shapiro and Hajishirzi, CVPR 2019 (arXiv:1811.11431): the EESP unit and
its strided form in Sec. 3.2 and Fig. 1, widths in Table 1. The decoder for segmentation (efficient
pyramid pooling, from the bottom up) is that of the authors' later release, whose state dicts load
strictly: the names of the modules are theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.errors import NetworkError
from .base import IMAGENET_RGB, Output, SegmentationNetwork
from .layers import convolution, normalised
from .pooling import average_pool

_WIDTHS = {  # channels at strides 2, 4, 8, 16
    0.5: (16, 32, 64, 128),
    1.0: (32, 64, 128, 256),
    1.25: (32, 80, 160, 320),
    1.5: (32, 96, 192, 384),
    2.0: (32, 128, 256, 512),
}
_BRANCHES = 4
_UNITS = (3, 7)  # at strides 8 and 16, after the strided unit
_PYRAMID = (2.0, 1.5, 1.0, 0.5, 0.1)  # sizes relative to the map
_SMALLEST = 5  # pixels a side of a map in the pyramid


class ESPNetv2(SegmentationNetwork):
    """ESPNetv2 with logits at stride 2.

    Two deviations from the release, neither of which changes a number at sizes that are multiples
    of 16: maps are upsampled to the size of the map that they meet, not doubled, so that every
    size works; and the last upsampling, to the size of the image, is left to the caller.

    Args:
        num_classes: K. The published Cityscapes weights have 20: the 19 classes of evaluation, and
            "background" last (the label space ``cityscapes20``).
        scale: width of the encoder: 0.5, 1.0, 1.25, 1.5 or 2.0.
        decoder_width: channels of the decoder's finest map, halved; 16 in the weights published for
            Cityscapes and PASCAL VOC, 32 in those for COCO.

    Raises:
        NetworkError: no such scale.
    """

    align_corners = True
    stride = 2
    description = "Depthwise dilated pyramids; for embedded use, with published Cityscapes weights."
    paper = "Mehta et al., CVPR 2019 (arXiv:1811.11431)"
    published_preprocessing = IMAGENET_RGB

    def __init__(self, num_classes: int, scale: float = 2.0, decoder_width: int = 16) -> None:
        super().__init__()
        if scale not in _WIDTHS:
            known = ", ".join(map(str, _WIDTHS))
            raise NetworkError(f"network 'espnetv2': scale is one of {known}, not {scale}.")
        self.num_classes = num_classes
        w2, w4, w8, w16 = _WIDTHS[scale]
        d8, d4, d2 = (decoder_width * times for times in (4, 3, 2))
        inner = min(num_classes // 2, decoder_width)
        self.base_net = _ESPNetEncoder(w2, w4, w8, w16)
        self.bu_dec_l1 = EfficientPyramidPooling(w16, inner, d8)
        self.bu_dec_l2 = EfficientPyramidPooling(d8, inner, d4)
        self.bu_dec_l3 = EfficientPyramidPooling(d4, inner, d2)
        self.bu_dec_l4 = EfficientPyramidPooling(d2, inner, num_classes, classifies=True)
        self.merge_enc_dec_l2 = _Gated(w8, d8)
        self.merge_enc_dec_l3 = _Gated(w4, d4)
        self.merge_enc_dec_l4 = _Gated(w2, d2)
        self.bu_br_l2 = _normalising(d8)
        self.bu_br_l3 = _normalising(d4)
        self.bu_br_l4 = _normalising(d2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Output:
        """Segment images, (B, 3, H, W), normalised float; any H, W >= 1."""
        at2, at4, at8, at16 = self.base_net(images)
        x = self.bu_dec_l1(at16)
        x = self.bu_dec_l2(self.bu_br_l2(self.merge_enc_dec_l2(at8) + _resize(x, at8)))
        x = self.bu_dec_l3(self.bu_br_l3(self.merge_enc_dec_l3(at4) + _resize(x, at4)))
        x = self.bu_br_l4(self.merge_enc_dec_l4(at2) + _resize(x, at2))
        features = self.bu_dec_l4.features(x)
        return Output(self.bu_dec_l4.merge_layer[3](features), features)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The last 1x1 convolution."""
        return self.bu_dec_l4.merge_layer[3].parameters()


class EESP(nn.Module):
    """Reduce, split into dilated depthwise convolutions, sum them up one by one, and merge.

    Args:
        inputs, outputs: channels; ``outputs`` a multiple of four.
        stride: 1, with a residual where the channels are as many; or 2, which returns the merged
            branches before the activation (whose weights the published files hold all the same).
        field: largest receptive field of a branch, in pixels; larger ones become 3x3.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, field: int) -> None:
        super().__init__()
        width = outputs // _BRANCHES
        fields = sorted(size if size <= field else 3 for size in range(3, 3 + 2 * _BRANCHES, 2))
        self.proj_1x1 = _EncoderConvolution(inputs, width, groups=_BRANCHES)
        self.spp_dw = nn.ModuleList(
            _EncoderConvolution(
                width,
                width,
                kernel=3,
                stride=stride,
                dilation=(size - 1) // 2,
                groups=width,
                norm=False,
            )
            for size in fields
        )
        self.conv_1x1_exp = _EncoderConvolution(outputs, outputs, groups=_BRANCHES, act=False)
        self.br_after_cat = _Normalised(outputs)
        self.module_act = nn.PReLU(outputs)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, ceil(h / stride), ceil(w / stride))."""
        reduced = self.proj_1x1(x)
        fused: list[Tensor] = []
        for branch in self.spp_dw:
            y = branch(reduced)
            fused.append(y + fused[-1] if fused else y)
        merged: Tensor = self.conv_1x1_exp(self.br_after_cat(torch.cat(fused, dim=1)))
        if self.stride == 2:
            return merged
        activated: Tensor = self.module_act(merged + x if merged.shape == x.shape else merged)
        return activated


class StridedEESP(nn.Module):
    """EESP at stride 2 beside an average, with the shrunk image added to both."""

    def __init__(self, inputs: int, outputs: int, field: int) -> None:
        super().__init__()
        self.eesp = EESP(inputs, outputs - inputs, 2, field)
        self.inp_reinf = nn.Sequential(
            _EncoderConvolution(3, 3, kernel=3), _EncoderConvolution(3, outputs, act=False)
        )
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Halve x, (B, inputs, h, w), with the image at that size, (B, 3, h / 2, w / 2)."""
        both = torch.cat([_halved(x), self.eesp(x)], dim=1)
        activated: Tensor = self.act(both + self.inp_reinf(image))
        return activated


class EfficientPyramidPooling(nn.Module):
    """Depthwise convolutions over five sizes of a map, brought back to its size and merged.

    Args:
        inputs, inner, outputs: channels of the map, of each branch, and of the result.
        classifies: the result is logits: with a bias, without normalisation.
    """

    def __init__(self, inputs: int, inner: int, outputs: int, *, classifies: bool = False) -> None:
        super().__init__()
        self.projection_layer = _DecoderBlock(inputs, inner)
        self.stages = nn.ModuleList(
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False) for _ in _PYRAMID
        )
        self.merge_layer = nn.Sequential(
            _NormalisedBlock(inner * len(_PYRAMID)),
            nn.ChannelShuffle(len(_PYRAMID)),
            _DecoderBlock(inner * len(_PYRAMID), inner, kernel=3, groups=inner),
            nn.Conv2d(inner, outputs, 1, bias=classifies),
        )
        if not classifies:
            self.br = _NormalisedBlock(outputs)

    def features(self, x: Tensor) -> Tensor:
        """Merged branches, (B, inner, h, w), for x, (B, inputs, h, w)."""
        x = self.projection_layer(x)
        height, width = x.shape[-2:]
        levels = []
        for relative, stage in zip(_PYRAMID, self.stages, strict=True):
            size = (_pyramid_size(height, relative), _pyramid_size(width, relative))
            if relative < 1:
                levels.append(_resize(stage(average_pool(x, size)), x))
            elif relative > 1:
                larger = F.interpolate(x, size, mode="bilinear", align_corners=True)
                levels.append(average_pool(stage(larger), (height, width)))
            else:
                levels.append(stage(x))
        merged: Tensor = self.merge_layer[:3](torch.cat(levels, dim=1))
        return merged

    def forward(self, x: Tensor) -> Tensor:
        """Context for x, (B, inputs, h, w), as (B, outputs, h, w)."""
        result: Tensor = self.br(self.merge_layer[3](self.features(x)))
        return result


class _ESPNetEncoder(nn.Module):
    """Maps at strides 2, 4, 8 and 16."""

    def __init__(self, w2: int, w4: int, w8: int, w16: int) -> None:
        super().__init__()
        self.level1 = _EncoderConvolution(3, w2, kernel=3, stride=2)
        self.level2_0 = StridedEESP(w2, w4, 13)
        self.level3_0 = StridedEESP(w4, w8, 11)
        self.level3 = nn.ModuleList(EESP(w8, w8, 1, 9) for _ in range(_UNITS[0]))
        self.level4_0 = StridedEESP(w8, w16, 9)
        self.level4 = nn.ModuleList(EESP(w16, w16, 1, 7) for _ in range(_UNITS[1]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        at2 = self.level1(images)
        image4 = _halved(_halved(images))
        at4 = self.level2_0(at2, image4)
        image8 = _halved(image4)
        at8 = self.level3_0(at4, image8)
        for unit in self.level3:
            at8 = unit(at8)
        at16 = self.level4_0(at8, _halved(image8))
        for unit in self.level4:
            at16 = unit(at16)
        return at2, at4, at8, at16


class _Gated(nn.Module):
    """A grouped convolution whose channels are weighted by the map's mean."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.wt_layer = nn.Sequential(
            nn.Identity(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.Sigmoid()
        )
        self.expansion_layer = _DecoderBlock(
            inputs, outputs, kernel=3, groups=math.gcd(inputs, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = self.wt_layer(x.mean(dim=(2, 3), keepdim=True))
        weighted: Tensor = self.expansion_layer(x) * weights
        return weighted


class _EncoderConvolution(nn.Module):
    """ "Same" convolution, then batch norm and PReLU unless told otherwise; the encoder's names."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = convolution(inputs, outputs, kernel, stride, dilation=dilation, groups=groups)
        self.bn = nn.BatchNorm2d(outputs) if norm else None
        self.act = nn.PReLU(outputs) if norm and act else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return x if self.act is None else self.act(x)


class _Normalised(nn.Module):
    """Batch norm and PReLU; the encoder's names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.act(self.bn(x))
        return activated


class _DecoderBlock(nn.Module):
    """ "Same" convolution, batch norm and PReLU; the decoder's names."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 1, groups: int = 1) -> None:
        super().__init__()
        layers = normalised(inputs, outputs, kernel, groups=groups)
        self.cbr = nn.Sequential(*layers, nn.PReLU(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cbr(x)
        return y


class _NormalisedBlock(nn.Module):
    """Batch norm and PReLU; the decoder's names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.br = _normalising(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.br(x)
        return y


def _normalising(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=2, padding=1)


def _pyramid_size(size: int, relative: float) -> int:
    return max(_SMALLEST, math.ceil(size * relative))


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)
