"""SegFormer, B0 to B5: a hierarchical transformer and a decoder of linear layers.

Source: Xie et al., NeurIPS 2021 (arXiv:2105.15203). Modules are named as in the published files of
Hugging Face's ``SegformerForSemanticSegmentation``, which therefore load as they are; other files'
names are told from these in `segformer_names`.

For an image of (B, 3, H, W), stage i = 1 to 4 has maps of width C_i at strides 4, 8, 16 and 32:

    x   <- LayerNorm(overlapping convolution of the stage before)
    x   <- x + Attention(LayerNorm x)          N times; keys and values of x convolved with stride
    x   <- x + MixFFN(LayerNorm x)             R_i, so that they are R_i^2 times fewer
    F_i <- LayerNorm x

    MixFFN(x) = Linear GELU Depthwise3x3 Linear x             (which takes the place of positions)
    features  = ReLU BatchNorm Linear concat over i of upsampled Linear F_i
    logits    = Linear features
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.errors import NetworkError
from .base import Output, SegmentationNetwork
from .layers import RectifiedConvolution
from .segformer_names import in_published_names
from .segformer_sizes import Size, check_shares, least_side

KERNELS = (7, 3, 3, 3)  # of the four stages; likewise below
STRIDES = (4, 2, 2, 2)
INITIAL_STD = 0.02


class SegFormer(SegmentationNetwork):
    """SegFormer of one size, a subclass each; logits have ceil(H / 4) rows, and columns likewise.

    The only batch normalisation is the decoder's. Where files differ: the authors' code normalises
    tokens with an epsilon of 1e-6 in some places, Hugging Face's with 1e-5, as here; trained
    activations do not tell the two apart.

    Args:
        num_classes: K.
        widths: C_i, each a multiple of its stage's heads.
        depths: attention blocks of each stage.
        decoder_width: D, the features' channels.
        heads: of each stage's attention.
        reductions: R_i.
        expansions: the width inside each stage's MixFFN, in C_i.
        decoder: "linear" as in the paper; "convolutions" as in mmsegmentation, whose projections of
            F_i are without bias, batch-normalised and rectified.
        drop_path: share of residual branches left out in training, at the last block; the blocks
            before have less, in proportion.
        dropout: share of feature channels left out in training, before the classifier.

    Raises:
        NetworkError: an argument is out of range.
    """

    align_corners = False
    stride = 4
    paper = "Xie et al., NeurIPS 2021 (arXiv:2105.15203)"
    idle_in_checkpoints = ("decode_head.conv_seg",)  # which the authors' decoder inherits
    size: ClassVar[Size]

    def __init__(
        self,
        num_classes: int,
        *,
        widths: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        decoder_width: int | None = None,
        heads: Sequence[int] | None = None,
        reductions: Sequence[int] | None = None,
        expansions: Sequence[int] | None = None,
        decoder: str = "linear",
        drop_path: float = 0.1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        size = self.size.changed(
            widths=widths,
            depths=depths,
            decoder_width=decoder_width,
            heads=heads,
            reductions=reductions,
            expansions=expansions,
        )
        if decoder not in ("linear", "convolutions"):
            raise NetworkError(
                f"network 'segformer': decoder is {decoder!r:.80}; choose linear, the paper's, or "
                "convolutions, mmsegmentation's."
            )
        check_shares(drop_path=drop_path, dropout=dropout)
        self.num_classes, self.least_side = num_classes, least_side(size, STRIDES)
        self.segformer = nn.ModuleDict({"encoder": _SegFormerEncoder(size, drop_path)})
        self.decode_head = _SegFormerDecoder(size, num_classes, decoder, dropout)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Output:
        """Segment images, (B, 3, H, W), H and W at least ``least_side``, normalised float.

        Raises:
            NetworkError: they are smaller.
        """
        least = self.least_side
        if min(images.shape[-2:]) < least:
            height, width = images.shape[-2:]
            raise NetworkError(
                f"SegFormer takes images of at least {least}x{least} pixels, not {width}x{height}; "
                "give larger frames or crops."
            )
        features = self.decode_head.features(self.segformer["encoder"](images))
        return Output(self.decode_head(features), features)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The last 1x1 convolution."""
        return self.decode_head.classifier.parameters()

    def backbone_names(self) -> dict[str, str]:
        """The encoder's names, which ImageNet's weights share."""
        return {n: n for n in self.state_dict() if n.startswith("segformer.")}

    def in_own_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `SegmentationNetwork.in_own_names`."""
        return in_published_names(tensors)


class _SegFormerEncoder(nn.Module):
    """Images, (B, 3, H, W), to the maps F_i, (B, C_i, h_i, w_i)."""

    def __init__(self, size: Size, drop_path: float) -> None:
        super().__init__()
        count = max(1, sum(size.depths) - 1)
        inputs, before = (3, *size.widths[:-1]), 0
        self.patch_embeddings, self.block = nn.ModuleList(), nn.ModuleList()
        self.layer_norm = nn.ModuleList(nn.LayerNorm(width) for width in size.widths)
        for i, (width, depth) in enumerate(zip(size.widths, size.depths, strict=True)):
            self.patch_embeddings.append(_Patches(inputs[i], width, KERNELS[i], STRIDES[i]))
            rates = [drop_path * (before + j) / count for j in range(depth)]
            self.block.append(nn.ModuleList(_Block(size, i, rate) for rate in rates))
            before += depth

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for embed, blocks, norm in zip(
            self.patch_embeddings, self.block, self.layer_norm, strict=True
        ):
            tokens, height, width = embed(x)
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                tokens = block(tokens, height, width)
            x = as_map(norm(tokens), height, width)
            maps.append(x)
        return maps


class _Patches(nn.Module):
    """Overlapping patches of a map as normalised tokens, (B, h * w, C), and h and w."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, kernel, stride=stride, padding=kernel // 2)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        height, width = x.shape[2:]
        return self.layer_norm(as_tokens(x)), height, width


class _Block(nn.Module):
    """Attention and MixFFN, each on a residual branch that training may leave out."""

    def __init__(self, size: Size, stage: int, drop_path: float) -> None:
        super().__init__()
        width = size.widths[stage]
        self.layer_norm_1 = nn.LayerNorm(width)
        self.attention = _Attention(width, size.heads[stage], size.reductions[stage])
        self.layer_norm_2 = nn.LayerNorm(width)
        self.mlp = _MixFFN(width, width * size.expansions[stage])
        self.drop_path = drop_path

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self._dropped(self.attention(self.layer_norm_1(x), height, width))
        return x + self._dropped(self.mlp(self.layer_norm_2(x), height, width))

    def _dropped(self, branch: Tensor) -> Tensor:
        """The branch, in training left out of some images and scaled up in the others."""
        if not self.training or self.drop_path == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * (kept.to(branch.dtype) / (1 - self.drop_path))


class _Attention(nn.Module):
    """Attention of all tokens to keys and values that a strided convolution makes of them."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.add_module("self", _Projections(width, reduction))
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        projected = self.get_submodule("self")(x, height, width)
        query, key, value = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in projected)
        mixed = F.scaled_dot_product_attention(
            query, key, value
        )  # each (B, heads, tokens, C / heads)
        attended: Tensor = self.output["dense"](mixed.transpose(1, 2).flatten(2))
        return attended


class _Projections(nn.Module):
    """Queries, keys and values, each (B, tokens, C)."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.reduction = reduction
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, stride=reduction)
            self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        fewer = x
        if self.reduction > 1:
            fewer = self.layer_norm(as_tokens(self.sr(as_map(x, height, width))))
        return self.query(x), self.key(fewer), self.value(fewer)


class _MixFFN(nn.Module):
    """Two linear layers with a depthwise 3x3 convolution between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense1 = nn.Linear(width, inner)
        convolution = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.dwconv = nn.ModuleDict({"dwconv": convolution})
        self.dense2 = nn.Linear(inner, width)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = self.dwconv["dwconv"](as_map(self.dense1(x), height, width))
        out: Tensor = self.dense2(F.gelu(as_tokens(x)))
        return out


class _SegFormerDecoder(nn.Module):
    """The maps F_i to features, (B, D, h_1, w_1), and features to logits."""

    def __init__(self, size: Size, num_classes: int, decoder: str, dropout: float) -> None:
        super().__init__()
        channels = size.decoder_width
        project = _Linear if decoder == "linear" else RectifiedConvolution
        self.linear_c = nn.ModuleList(project(width, channels) for width in size.widths)
        self.linear_fuse = nn.Conv2d(len(size.widths) * channels, channels, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse the maps at the size of the first; the last is the first in the concatenation."""
        size = maps[0].shape[2:]
        alike = [
            F.interpolate(project(x), size, mode="bilinear", align_corners=False)
            for project, x in zip(self.linear_c, maps, strict=True)
        ]
        return F.relu(self.batch_norm(self.linear_fuse(torch.cat(alike[::-1], dim=1))))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


class _Linear(nn.Module):
    """A linear layer over the channels of a map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return as_map(self.proj(as_tokens(x)), x.shape[2], x.shape[3])


def as_tokens(x: Tensor) -> Tensor:
    """A map, (B, C, h, w), as tokens, (B, h * w, C), row by row."""
    return x.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens, (B, h * w, C), as a map, (B, C, h, w)."""
    batch, _, channels = tokens.shape
    return tokens.transpose(1, 2).reshape(batch, channels, height, width)


def _initialise(module: nn.Module) -> None:
    """Draw linear layers from a narrow normal, convolutions by their outputs, as the authors."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        outputs = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / outputs) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SegFormerB0(SegFormer):
    """SegFormer-B0."""

    size = Size((32, 64, 160, 256), (2, 2, 2, 2), 256)
    description = "The smallest SegFormer, a transformer; loads the published checkpoints."


class SegFormerB1(SegFormer):
    """SegFormer-B1."""

    size = Size((64, 128, 320, 512), (2, 2, 2, 2), 256)
    description = "SegFormer, twice as wide as B0."


class SegFormerB2(SegFormer):
    """SegFormer-B2."""

    size = Size((64, 128, 320, 512), (3, 4, 6, 3), 768)
    description = "SegFormer, as wide as B1 and deeper."


class SegFormerB3(SegFormer):
    """SegFormer-B3."""

    size = Size((64, 128, 320, 512), (3, 4, 18, 3), 768)
    description = "SegFormer, deeper than B2."


class SegFormerB4(SegFormer):
    """SegFormer-B4."""

    size = Size((64, 128, 320, 512), (3, 8, 27, 3), 768)
    description = "SegFormer, deeper than B3."


class SegFormerB5(SegFormer):
    """SegFormer-B5."""

    size = Size((64, 128, 320, 512), (3, 6, 40, 3), 768)
    description = "The largest SegFormer; DAFormer and HRDA have its encoder."
