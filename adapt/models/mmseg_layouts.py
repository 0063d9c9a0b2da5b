"""Names of mmsegmentation's networks: by which of ours each goes, in one table.

Names were read in the public source of mmsegmentation, Fast-SCNN's in 0.x, the others' in 1.2.2.
Its first versions had other kernels in Fast-SCNN; their weights have other shapes and are refused.
Its ConvModules have a bias only where no normalisation follows, and normalise first where their
``order`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class MmsegLayout:
    """One of its networks, by the names of ours.

    Attributes:
        arguments: of our network, with which it computes what theirs does.
        rules: pattern of a layer's name there, and its name here; the first that fits is taken.
        folded: patterns of ConvModules there whose batch normalisation ours does not have, and the
            name of our convolution; scale and shift go into its weight and bias.
        without_bias: convolutions that have a bias here alone, which is 0 then.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    rules: Rules = ()
    folded: Rules = ()
    without_bias: tuple[str, ...] = ()


def _conv_modules(*rules: tuple[str, str], first: int = 0) -> Rules:
    """Rules for convolution and normalisation of ConvModules, which are Sequentials here.

    Args:
        rules: names of the modules there, and of the Sequentials.
        first: the convolution's place; the normalisation has the next.
    """
    return tuple(
        (rf"{theirs}\.{part}", f"{ours}.{first + index}")
        for theirs, ours in rules
        for index, part in enumerate(("conv", "bn"))
    )


def _preactivated(*rules: tuple[str, str], first: int = 0) -> Rules:
    """The same for ConvModules that normalise, activate and convolve, in this order."""
    return tuple(
        (rf"{theirs}\.{part}", f"{ours}.{first + index}")
        for theirs, ours in rules
        for index, part in ((0, "bn"), (2, "conv"))
    )


def _blocks(*rules: tuple[str, str]) -> Rules:
    """Rules for stages of residual blocks, and for a block alone."""
    made: list[tuple[str, str]] = []
    for theirs, ours in rules:
        block = rf"{theirs}((?:\.\d+)?)"
        made += [
            (rf"{block}\.conv(\d)\.conv", rf"{ours}\1.conv\2"),
            (rf"{block}\.conv(\d)\.bn", rf"{ours}\1.bn\2"),
            (rf"{block}\.downsample\.(?:conv|0)", rf"{ours}\1.downsample.0"),
            (rf"{block}\.downsample\.(?:bn|1)", rf"{ours}\1.downsample.1"),
        ]
    return tuple(made)


_DOWN, _DEEP, _FUSE = (
    rf"backbone\.{part}\."
    for part in ("learning_to_downsample", "global_feature_extractor", "feature_fusion")
)
_FAST_SCNN = (
    *_conv_modules(
        (rf"{_DOWN}conv", "downsample.0"),
        (rf"{_DOWN}dsconv(\d)\.depthwise_conv", r"downsample.\1.0"),
        (rf"{_DOWN}dsconv(\d)\.pointwise_conv", r"downsample.\1.1"),
        *(
            (
                rf"{_DEEP}bottleneck{stage + 1}\.{block}\.conv\.(\d)",
                rf"global_features.{3 * stage + block}.layers.\1",
            )
            for stage in range(3)
            for block in range(3)
        ),
        (rf"{_DEEP}out", "global_features.9.join"),
        (rf"{_FUSE}dwconv", "fusion.smooth"),
        (rf"{_FUSE}conv_lower_res", "fusion.deep"),
        (rf"{_FUSE}conv_higher_res", "fusion.detail"),
        (r"decode_head\.convs\.(\d)\.depthwise_conv", r"head.\1.0"),
        (r"decode_head\.convs\.(\d)\.pointwise_conv", r"head.\1.1"),
    ),
    (r"decode_head\.conv_seg", "classifier"),
)

_STEM = ("conv1.0", "conv1.3")
_DUAL_RESOLUTION = (
    *_conv_modules((r"backbone\.stem\.0", "conv1")),
    *_conv_modules((r"backbone\.stem\.1", "conv1"), first=3),
    *_blocks((r"backbone\.stem\.2", "layer1"), (r"backbone\.stem\.4", "layer2")),
    *_conv_modules(
        (r"backbone\.compression_1", "compression3"),
        (r"backbone\.compression_2", "compression4"),
    ),
    *_preactivated(
        (r"backbone\.spp\.scales\.0", "spp.scale0"),
        (r"backbone\.spp\.processes", "spp.scale_process"),
        *((rf"backbone\.spp\.processes\.{i}", f"spp.process{i + 1}") for i in range(4)),
        (r"backbone\.spp\.(compression|shortcut)", r"spp.\1"),
    ),
    *_preactivated((r"backbone\.spp\.scales\.(\d)\.1", r"spp.scale\1"), first=1),
    (r"decode_head\.conv_seg", "final_layer.conv2"),
)
_DDRNET = (
    *_DUAL_RESOLUTION,
    *_blocks(
        *((rf"backbone\.context_branch_layers\.{i}", f"layer{i + 3}") for i in range(3)),
        *((rf"backbone\.spatial_branch_layers\.{i}", f"layer{i + 3}_") for i in range(3)),
    ),
    *_conv_modules((r"backbone\.down_1", "down3"), (r"backbone\.down_2\.0", "down4")),
    *_conv_modules((r"backbone\.down_2\.1", "down4"), first=3),
    (r"decode_head\.head\.0\.bn", "final_layer.bn1"),
    (r"decode_head\.head\.0\.conv", "final_layer.conv1"),
    (r"decode_head\.head\.1", "final_layer.bn2"),
    (r"decode_head\.aux_(.+)", r"seghead_extra.\1"),
)
_PIDNET = (
    *_DUAL_RESOLUTION,
    *_blocks(
        *((rf"backbone\.i_branch_layers\.{i}", f"layer{i + 3}") for i in range(3)),
        *((rf"backbone\.p_branch_layers\.{i}", f"layer{i + 3}_") for i in range(3)),
        *((rf"backbone\.d_branch_layers\.{i}", f"layer{i + 3}_d") for i in range(3)),
    ),
    *_conv_modules(
        *((rf"backbone\.pag_{i}\.f_p", f"pag{i + 2}.f_x") for i in (1, 2)),
        *((rf"backbone\.pag_{i}\.f_i", f"pag{i + 2}.f_y") for i in (1, 2)),
        *((rf"backbone\.diff_{i}", f"diff{i + 2}") for i in (1, 2)),
        (r"backbone\.dfm\.f_(p|i)", r"dfm.conv_\1"),
    ),
    *_preactivated((r"backbone\.dfm\.conv", "dfm.conv")),
    (r"decode_head\.i_head\.conv\.bn", "final_layer.bn1"),
    (r"decode_head\.i_head\.conv\.conv", "final_layer.conv1"),
    (r"decode_head\.i_head\.norm", "final_layer.bn2"),
    (r"decode_head\.(p|d)_(.+)", r"seghead_\1.\2"),
)


def _gather_and_expand(theirs: str, ours: str) -> Rules:
    """Rules for a stage of BiSeNetV2's semantic branch; its first layer strides."""
    return (
        (rf"{theirs}\.(\d)\.conv1\.(.+)", rf"{ours}.\1.conv1.\2"),
        *_conv_modules(
            (rf"{theirs}\.0\.dwconv\.0", f"{ours}.0.dwconv1"),
            (rf"{theirs}\.0\.dwconv\.1", f"{ours}.0.dwconv2"),
            (rf"{theirs}\.(\d)\.dwconv\.0", rf"{ours}.\1.dwconv"),
            (rf"{theirs}\.(\d)\.conv2\.0", rf"{ours}.\1.conv2"),
            (rf"{theirs}\.0\.shortcut\.0\.depthwise_conv", f"{ours}.0.shortcut"),
        ),
        *_conv_modules(
            (rf"{theirs}\.0\.shortcut\.0\.pointwise_conv", f"{ours}.0.shortcut"), first=2
        ),
    )


_STEM_BLOCK, _GATES = r"backbone\.semantic\.stage1\.", r"backbone\.bga\."
_BISENETV2 = (
    *((rf"backbone\.detail\.detail_branch\.{i}\.(.+)", rf"detail.S{i + 1}.\1") for i in range(3)),
    (rf"{_STEM_BLOCK}conv_first\.(.+)", r"segment.S1S2.conv.\1"),
    (rf"{_STEM_BLOCK}convs\.(.+)", r"segment.S1S2.left.\1"),
    (rf"{_STEM_BLOCK}fuse_last\.(.+)", r"segment.S1S2.fuse.\1"),
    *_gather_and_expand(r"backbone\.semantic\.stage2", "segment.S3"),
    *_gather_and_expand(r"backbone\.semantic\.stage3", "segment.S4"),
    *_gather_and_expand(r"backbone\.semantic\.stage4", "segment.S5_4"),
    (r"backbone\.semantic\.stage4_CEBlock\.gap\.1", "segment.S5_5.bn"),
    (r"backbone\.semantic\.stage4_CEBlock\.(conv_.+)", r"segment.S5_5.\1"),
    *_conv_modules(
        (rf"{_GATES}detail_dwconv\.0\.depthwise_conv", "bga.left1"),
        (rf"{_GATES}detail_down\.0", "bga.left2"),
        (rf"{_GATES}semantic_conv\.0", "bga.right1"),
        (rf"{_GATES}semantic_dwconv\.0\.depthwise_conv", "bga.right2"),
        (rf"{_GATES}conv", "bga.conv"),
    ),
    (rf"{_GATES}detail_dwconv\.0\.pointwise_conv\.conv", "bga.left1.2"),
    (rf"{_GATES}semantic_dwconv\.0\.pointwise_conv\.conv", "bga.right2.2"),
    (r"decode_head\.convs\.0\.(.+)", r"head.conv.\1"),
    (r"decode_head\.conv_seg", "head.conv_out.1"),
    *(
        (rf"auxiliary_head\.{i}\.(.+)", rf"{ours}.\1")
        for i, ours in enumerate(("aux2", "aux3", "aux4", "aux5_4"))
    ),
)

LAYOUTS: Mapping[str, MmsegLayout] = {
    "fast_scnn": MmsegLayout(
        {"variant": "mmsegmentation"},
        _FAST_SCNN,
        ((rf"{_DEEP}ppm\.(\d)\.1", r"global_features.9.branches.\1"),),
    ),
    **{
        name: MmsegLayout(rules=_PIDNET, without_bias=_STEM)
        for name in ("pidnet_s", "pidnet_m", "pidnet_l")
    },
    **{
        name: MmsegLayout(rules=_DDRNET, without_bias=_STEM)
        for name in ("ddrnet23_slim", "ddrnet23")
    },
    "bisenetv2": MmsegLayout({"variant": "mmsegmentation"}, _BISENETV2),
}
"""By the name in ``NETWORKS`` here."""
