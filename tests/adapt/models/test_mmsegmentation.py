"""Checkpoints of mmsegmentation: what they are recognised by, and that they compute the same here.

`Theirs` restates its Fast-SCNN (``mmseg/models/backbones/fast_scnn.py`` with the heads of
``configs/_base_/models/fast_scnn.py``) under the names that its files have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.models.importing import load_weights
from roadshift.adapt.models.mmseg_layouts import LAYOUTS
from roadshift.adapt.models.mmsegmentation import in_our_names, recognised
from roadshift.adapt.networks import build_network
from roadshift.adapt.workflows.import_bundle import import_bundle
from roadshift.runtime.errors import NetworkError
from roadshift.runtime.labels import label_space
from torch import Tensor, nn

K = 5


class ConvModule(nn.Module):
    def __init__(self, i: int, o: int, k: int = 1, s: int = 1, g: int = 1, act: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(o)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.relu(x) if self.act else x


class Separable(nn.Module):
    """With ``dw_act_cfg=None``, the default of its backbone and of its head since 0.15."""

    def __init__(self, i: int, o: int, s: int):
        super().__init__()
        self.depthwise_conv = ConvModule(i, i, 3, s, i, act=False)
        self.pointwise_conv = ConvModule(i, o)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))  # type: ignore[no-any-return]


class Inverted(nn.Module):
    def __init__(self, i: int, o: int, s: int):
        super().__init__()
        self.residual = s == 1 and i == o
        self.conv = nn.Sequential(
            ConvModule(i, 6 * i),
            ConvModule(6 * i, 6 * i, 3, s, 6 * i),
            ConvModule(6 * i, o, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def stage(i: int, o: int, s: int) -> nn.Sequential:
    return nn.Sequential(Inverted(i, o, s), Inverted(o, o, 1), Inverted(o, o, 1))


class Theirs(nn.Module):
    def __init__(self, classes: int = K):
        super().__init__()
        down, deep, fuse = nn.Module(), nn.Module(), nn.Module()
        down.conv, down.dsconv1 = ConvModule(3, 32, 3, 2), Separable(32, 48, 2)
        down.dsconv2 = Separable(48, 64, 2)
        deep.bottleneck1, deep.bottleneck2 = stage(64, 64, 2), stage(64, 96, 2)
        deep.bottleneck3 = stage(96, 128, 1)
        pooled = [nn.Sequential(nn.AdaptiveAvgPool2d(n), ConvModule(128, 32)) for n in (1, 2, 3, 6)]
        deep.ppm, deep.out = nn.ModuleList(pooled), ConvModule(256, 128, 3)
        fuse.dwconv = ConvModule(128, 128, 3, g=128)
        fuse.conv_lower_res = ConvModule(128, 128, act=False)
        fuse.conv_higher_res = ConvModule(64, 128, act=False)
        self.backbone, self.decode_head = nn.Module(), nn.Module()
        self.backbone.learning_to_downsample = down
        self.backbone.global_feature_extractor, self.backbone.feature_fusion = deep, fuse
        self.decode_head.convs = nn.Sequential(*(Separable(128, 128, 1) for _ in range(2)))
        self.decode_head.conv_seg = nn.Conv2d(128, classes, 1)
        aux = nn.Module()
        aux.convs, aux.conv_seg = nn.Sequential(ConvModule(128, 32, 3)), nn.Conv2d(32, classes, 1)
        self.auxiliary_head = nn.ModuleList([aux])

    def forward(self, images: Tensor) -> Tensor:
        down, deep = self.backbone.learning_to_downsample, self.backbone.global_feature_extractor
        high = down.dsconv2(down.dsconv1(down.conv(images)))
        low = deep.bottleneck3(deep.bottleneck2(deep.bottleneck1(high)))
        low = deep.out(torch.cat([low, *(resized(part(low), low) for part in deep.ppm)], 1))
        fuse = self.backbone.feature_fusion
        low = fuse.conv_lower_res(fuse.dwconv(resized(low, high)))
        logits: Tensor = self.decode_head.conv_seg(
            self.decode_head.convs(F.relu(fuse.conv_higher_res(high) + low))
        )
        return logits


def resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    """Their network with statistics, scales and shifts that are not those of its first day."""
    torch.manual_seed(0)
    network = Theirs()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, 0.5, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def content(theirs: Theirs, **meta: Any) -> dict[str, Any]:
    return {"meta": {"epoch": 3, **meta}, "state_dict": theirs.state_dict(), "optimizer": {}}


def flat(theirs: Theirs) -> dict[str, Tensor]:
    return {f"state_dict.{name}": tensor for name, tensor in theirs.state_dict().items()}


def test_fast_scnn_computes_what_theirs_does(theirs: Theirs) -> None:
    found = recognised(content(theirs), flat(theirs))
    assert found is not None
    named = in_our_names("fast_scnn", flat(theirs), found, "w.pth")
    ours = build_network("fast_scnn", K, **LAYOUTS["fast_scnn"].arguments)
    notes: list[str] = []
    load_weights(ours, named, "w.pth", note=notes.append)
    images = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        expected, logits = theirs(images), ours.eval()(images).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert "state_dict.auxiliary_head.0.convs.0.conv.weight" in notes[0]


def test_an_import_reads_classes_and_colours(theirs: Theirs, tmp_path: Path) -> None:
    names, palette = list("abcde"), [[i, 2, 3] for i in range(K)]
    torch.save(content(theirs, CLASSES=names, PALETTE=palette), tmp_path / "fast.pth")
    notes: list[str] = []
    bundle = import_bundle(
        tmp_path / "fast.pth",
        "fast_scnn",
        None,
        tmp_path / "b",
        input_size=(96, 64),
        note=notes.append,
    )
    assert bundle.label_space.classes == tuple("abcde")
    assert bundle.label_space.colours[4] == (4, 2, 3)
    assert bundle.manifest.network.arguments == {"variant": "mmsegmentation"}
    assert any("a checkpoint of mmsegmentation" in note for note in notes)
    assert any("classes in meta" in note for note in notes)


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ("road", "sky")},
        {"dataset_meta": {"classes": ["road", "sky"], "palette": [[1, 2, 3], [4, 5, 6]]}},
        {"dataset_meta": {"classes": ["road", "sky"], "palette": "unknown"}},
    ],
)
def test_classes_of_both_versions_are_read(theirs: Theirs, meta: dict[str, Any]) -> None:
    found = recognised(content(theirs, **meta), flat(theirs))
    assert found is not None
    assert (found.prefix, found.class_names) == ("state_dict.", ("road", "sky"))


def test_other_checkpoints_are_not_taken_for_theirs() -> None:
    state = build_network("fast_scnn", K).state_dict()
    assert recognised({"state_dict": state}, state) is None
    assert recognised(state, {"decode_head.conv_seg.weight": torch.ones(1)}) is None


def test_a_module_without_its_normalisation_is_refused(theirs: Theirs) -> None:
    state = flat(theirs)
    del state["state_dict.backbone.global_feature_extractor.ppm.1.1.bn.running_var"]
    found = recognised({}, state)
    assert found is not None
    with pytest.raises(NetworkError, match=r"ppm\.1\.1\.conv without its batch .*running_var"):
        in_our_names("fast_scnn", state, found, "w.pth")


def test_a_label_space_of_another_order_reorders_the_outputs(tmp_path: Path) -> None:
    space = label_space("idd7")
    torch.manual_seed(0)
    theirs = Theirs(7)
    torch.save(content(theirs, CLASSES=list(reversed(space.classes))), tmp_path / "w.pth")
    for given in (None, space):
        bundle = import_bundle(
            tmp_path / "w.pth",
            "fast_scnn",
            given,
            tmp_path / f"b{given is None}",
            input_size=(64, 32),
        )
        assert bundle.label_space == space
