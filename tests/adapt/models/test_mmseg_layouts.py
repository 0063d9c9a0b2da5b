"""The table of mmsegmentation's names: it takes each of its weights to the place of ours.

`NAMES` were taken from mmsegmentation 1.2.2's own definitions. Networks loaded by this table gave
the same logits as those, to the last bit (docs/networks.md says how that was compared).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.models.mmseg_layouts import LAYOUTS
from roadshift.adapt.models.mmsegmentation import in_our_names, recognised
from roadshift.adapt.networks import SegmentationNetwork, build_network
from roadshift.adapt.networks.bisenetv2 import GuidedAggregation
from roadshift.adapt.workflows.import_bundle import import_bundle
from roadshift.runtime.errors import NetworkError
from roadshift.runtime.labels import label_space
from torch import Tensor

NAMES = {
    "pidnet_s": "c3afa23c0fc1dadecc03a671a3fac6279a570ddb5f7abc0a1f7bf1e775623c94",
    "pidnet_m": "9a379b501412457c08b5a2c5f6c961cf304160f282db19987f73a270a445c626",
    "pidnet_l": "eb2a0c3f56e3b68926037a505061f0b0214a4855ea54e33ce5be54a434078696",
    "ddrnet23_slim": "b04ba5aa0a14229d40519cbb4c19a027a319c6a6010066b1cbb741a6a5270e83",
    "ddrnet23": "a7c9c895f2eb3de4e0817b0eb0c53e3499c8c233c7e2f570c67d1ee7ae15dff8",
    "bisenetv2": "df797a99fc59458242ec04f1e0f2ae20857f8cd6192cffa7ad6a9935baf28bac",
}
"""SHA-256 of names with shapes at 19 classes, a line each, sorted; without heads of training."""

STEM_BIASES = {"conv1.0.bias", "conv1.3.bias"}  # which theirs lack
HEADS = {
    "pidnet": {"bn1": "i_head.conv.bn", "conv1": "i_head.conv.conv", "bn2": "i_head.norm"},
    "ddrnet": {"bn1": "head.0.bn", "conv1": "head.0.conv", "bn2": "head.1"},
}
BRANCHES = {
    "pidnet": {"": "i_branch_layers", "_": "p_branch_layers", "_d": "d_branch_layers"},
    "ddrnet": {"": "context_branch_layers", "_": "spatial_branch_layers"},
}


def built(network: str) -> SegmentationNetwork:
    with torch.device("meta"):
        return build_network(network, 19, **LAYOUTS[network].arguments)


def as_theirs(network: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The table the other way, told from their source: our tensors under their names."""
    renamed = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if network == "bisenetv2":
            renamed[f"{of_bisenet(layer)}.{kind}"] = tensor
        elif name not in STEM_BIASES:
            renamed[f"{of_dual_resolution(network[:6], layer)}.{kind}"] = tensor
    return renamed


def conv_module(index: str) -> str:
    """A ConvModule's part by its place in a row of convolution, norm and activation."""
    return ("conv", "bn")[int(index) % 3]


def preactivated(index: int) -> str:
    return {0: "bn", 2: "conv"}[index]


def of_dual_resolution(family: str, layer: str) -> str:
    part, _, rest = layer.partition(".")
    if part == "final_layer":
        return f"decode_head.{HEADS[family].get(rest, 'conv_seg')}"
    if part == "conv1":
        return f"backbone.stem.{int(rest) // 3}.{conv_module(rest)}"
    if part == "spp":
        return f"backbone.spp.{of_pyramid(rest)}"
    if part == "dfm":
        inner, index = rest.split(".")
        if inner == "conv":
            return f"backbone.dfm.conv.{preactivated(int(index))}"
        return f"backbone.dfm.f_{inner[-1]}.{conv_module(index)}"
    word, number, branch = re.fullmatch(r"([a-z]+)(\d)(_?d?)", part).groups()  # type: ignore[union-attr]
    if word == "layer":
        stem = {"1": "stem.2", "2": "stem.4"}.get(number)
        stage = stem or f"{BRANCHES[family][branch]}.{int(number) - 3}"
        return f"backbone.{stage}.{of_block(family, rest)}"
    place = f"backbone.{word}_{int(number) - 2}"
    if word == "pag":
        return f"{place}.f_{'pi'['xy'.index(rest[2])]}.{conv_module(rest[4:])}"
    if part == "down4":
        return f"{place}.{int(rest) // 3}.{conv_module(rest)}"
    return f"{place}.{conv_module(rest)}"


def of_pyramid(rest: str) -> str:
    part, index = rest.split(".")
    if part == "scale_process":
        return f"processes.{preactivated(int(index))}"
    if part.startswith("process"):
        return f"processes.{int(part[-1]) - 1}.{preactivated(int(index))}"
    if part == "scale0":
        return f"scales.0.{preactivated(int(index))}"
    if part.startswith("scale"):
        return f"scales.{part[-1]}.1.{preactivated(int(index) - 1)}"
    return f"{part}.{preactivated(int(index))}"


def of_block(family: str, rest: str) -> str:
    rest = re.sub(r"conv(\d)$", r"conv\1.conv", rest)
    rest = re.sub(r"bn(\d)$", r"conv\1.bn", rest)
    if family == "pidnet":
        rest = re.sub(r"sample\.(\d)$", lambda m: f"sample.{conv_module(m.group(1))}", rest)
    return rest


def of_bisenet(layer: str) -> str:
    """Their place of a layer: each word replaced by theirs, then each index of a ConvModule."""
    index = layer.rpartition(".")[2]
    part = {"0": "conv", "1": "bn", "2": "conv", "3": "bn"}.get(index, "")
    if layer.startswith("bga."):
        inner = layer.split(".")[1]
        if inner == "conv":
            return f"backbone.bga.conv.{part}"
        theirs = {"left1": "detail_dwconv", "left2": "detail_down"}
        theirs |= {"right1": "semantic_conv", "right2": "semantic_dwconv"}
        kind = ""
        if theirs[inner].endswith("dwconv"):
            kind = "pointwise_conv." if index == "2" else "depthwise_conv."
        return f"backbone.bga.{theirs[inner]}.0.{kind}{part}"
    if found := re.fullmatch(r"detail\.S(\d)\.(.+)", layer):
        return f"backbone.detail.detail_branch.{int(found[1]) - 1}.{found[2]}"
    if found := re.fullmatch(r"segment\.S1S2\.(conv|left|fuse)\.(.+)", layer):
        word = {"conv": "conv_first", "left": "convs", "fuse": "fuse_last"}[found[1]]
        return f"backbone.semantic.stage1.{word}.{found[2]}"
    if found := re.fullmatch(r"segment\.S5_5\.(.+)", layer):
        return f"backbone.semantic.stage4_CEBlock.{'gap.1' if found[1] == 'bn' else found[1]}"
    if found := re.fullmatch(r"segment\.(S3|S4|S5_4)\.(\d)\.(\w+)\.(\w+)", layer):
        place = f"backbone.semantic.stage{int(found[1][1]) - 1}.{found[2]}"
        if found[3] == "conv1":
            return f"{place}.conv1.{found[4]}"
        if found[3] == "shortcut":
            kind = "depthwise" if int(index) < 2 else "pointwise"
            return f"{place}.shortcut.0.{kind}_conv.{part}"
        row = {"dwconv": "dwconv.0", "dwconv1": "dwconv.0", "dwconv2": "dwconv.1"}
        return f"{place}.{row.get(found[3], 'conv2.0')}.{part}"
    return layer.replace("head.conv_out.1", "decode_head.conv_seg").replace(
        "head.conv.", "decode_head.convs.0."
    )


every = pytest.mark.parametrize("network", NAMES)


@every
def test_our_tensors_under_their_names_are_those_of_their_definition(network: str) -> None:
    theirs = as_theirs(network, built(network).state_dict())
    lines = sorted(f"{name} {'x'.join(map(str, t.shape))}" for name, t in theirs.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == NAMES[network]


@every
def test_each_of_their_tensors_goes_to_its_place(network: str) -> None:
    own = built(network).state_dict()
    state = {f"state_dict.{n}": t for n, t in as_theirs(network, own).items()}
    found = recognised({}, state)
    assert found is not None
    named = in_our_names(network, state, found, "w.pth")
    assert {name.removeprefix("state_dict.") for name in named} == set(own)
    added = {name for name, tensor in own.items() if named[f"state_dict.{name}"] is not tensor}
    assert added == (set() if network == "bisenetv2" else STEM_BIASES)
    assert all(named[f"state_dict.{name}"].shape == own[name].shape for name in added)


def test_a_stem_without_bias_has_one_of_zero_here() -> None:
    state = {"backbone.stem.0.conv.weight": torch.ones(4, 3, 3, 3)}
    found = recognised({}, {**state, "decode_head.conv_seg.weight": torch.ones(1)})
    assert found is not None
    named = in_our_names("ddrnet23_slim", state, found, "w.pth")
    assert named["conv1.0.bias"].equal(torch.zeros(4))
    assert "conv1.3.bias" not in named


@pytest.mark.parametrize(
    ("network", "theirs", "ours"),
    [
        ("pidnet_s", "decode_head.p_head.conv.bn.weight", "seghead_p.head.conv.bn.weight"),
        ("pidnet_s", "decode_head.d_cls_seg.bias", "seghead_d.cls_seg.bias"),
        ("ddrnet23", "decode_head.aux_head.1.weight", "seghead_extra.head.1.weight"),
        ("bisenetv2", "auxiliary_head.3.conv_seg.bias", "aux5_4.conv_seg.bias"),
    ],
)
def test_heads_of_training_are_known_as_such(network: str, theirs: str, ours: str) -> None:
    state = {theirs: torch.ones(1), "backbone.x": torch.ones(1), "decode_head.x": torch.ones(1)}
    found = recognised({}, state)
    assert found is not None
    assert ours in in_our_names(network, state, found, "w.pth")
    assert ours.partition(".")[0] in built(network).training_heads


def test_an_import_of_bisenetv2_takes_their_variant_and_their_input(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = build_network("bisenetv2", 19, variant="mmsegmentation")
    torch.save({"state_dict": as_theirs("bisenetv2", ours.state_dict())}, tmp_path / "w.pth")
    bundle = import_bundle(
        *(tmp_path / "w.pth", "bisenetv2", label_space("cityscapes19"), tmp_path / "bundle"),
        input_size=(64, 32),
    )
    assert bundle.manifest.network.arguments == {"variant": "mmsegmentation"}
    assert bundle.manifest.input.mean == (123.675, 116.28, 103.53)


def test_gates_of_their_bisenetv2_are_smooth_and_have_biases() -> None:
    torch.manual_seed(0)
    gates = GuidedAggregation(2, is_smooth=True).eval()
    detail, semantic = torch.randn(1, 2, 8, 12), torch.randn(1, 2, 2, 3)
    weight, bias = torch.randn(2, 2, 1, 1), torch.randn(2)
    for part in (gates.left1, gates.right2):
        part[2].load_state_dict({"weight": weight, "bias": bias})

    def enlarged(x: Tensor) -> Tensor:
        return F.interpolate(x, (8, 12), mode="bilinear", align_corners=False)

    with torch.no_grad():
        fine = gates.left1(detail) * enlarged(gates.right1(semantic)).sigmoid()
        coarse = enlarged(gates.left2(detail) * gates.right2(semantic).sigmoid())
        torch.testing.assert_close(gates(detail, semantic), gates.conv(fine + coarse))
    assert GuidedAggregation(2, is_smooth=False).left1[2].bias is None


def test_another_variant_of_bisenetv2_is_refused() -> None:
    with pytest.raises(NetworkError, match="variant is 'mm'; choose coincheung or mmsegmentation"):
        build_network("bisenetv2", 19, variant="mm")
