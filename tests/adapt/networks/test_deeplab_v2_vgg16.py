"""DeepLabV2 over VGG-16 against an independent restatement, driven by the published names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt import load_network
from roadshift.adapt.models.importing import detect_vgg_arguments, read_checkpoint
from roadshift.adapt.networks import build_network, deeplab_v2_vgg16
from roadshift.adapt.networks.deeplab_v2_vgg16 import BLOCKS, DeepLabV2VGG16
from roadshift.adapt.workflows.import_bundle import import_bundle
from roadshift.runtime.errors import NetworkError
from roadshift.runtime.labels import label_space
from torch import Tensor

State = Mapping[str, Tensor]

# Where the published sequence has its convolutions, with what each dilates by, and its poolings:
# VGG-16 without the poolings after conv4 and conv5, then fc6 and fc7.
DILATION_AT = {
    **dict.fromkeys((0, 2, 5, 7, 10, 12, 14, 17, 19, 21), 1),
    **dict.fromkeys((23, 25, 27), 2),
    **dict.fromkeys((29, 31), 4),
}
POOLED_AFTER = (2, 7, 14)


def restated_logits(state: State, images: Tensor, rates: tuple[int, ...]) -> Tensor:
    """The published forward pass, from nothing but the state dict."""
    x = images
    for index, rate in DILATION_AT.items():
        weight, bias = (state[f"features.{index}.{part}"] for part in ("weight", "bias"))
        x = F.conv2d(x, weight, bias, padding=rate, dilation=rate).clamp(min=0)
        if index in POOLED_AFTER:
            x = F.max_pool2d(x, 2, 2)
    maps = [
        F.conv2d(
            x,
            state[f"classifier.conv2d_list.{i}.weight"],
            state[f"classifier.conv2d_list.{i}.bias"],
            padding=rate,
            dilation=rate,
        )
        for i, rate in enumerate(rates)
    ]
    return torch.stack(maps).sum(0)


def trained(network: DeepLabV2VGG16, branches: int = 4) -> DeepLabV2VGG16:
    """Every weight drawn at random, but for classifiers beyond ``branches``: those stay new."""
    generator = torch.Generator().manual_seed(0)
    unused = tuple(f"classifier.conv2d_list.{i}." for i in range(branches, 4))
    with torch.no_grad():
        for name, value in network.state_dict().items():
            spread = (6 / value[0].numel()) ** 0.5 if value.ndim == 4 else 0.2
            if not name.startswith(unused):
                value.uniform_(-spread, spread, generator=generator)
    return network.eval()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of every width, for tests that write weights."""
    blocks = tuple(block._replace(width=block.width // 8) for block in BLOCKS)
    monkeypatch.setattr(deeplab_v2_vgg16, "BLOCKS", blocks)


@pytest.mark.parametrize(
    ("branches", "size"), [(4, (64, 88)), (2, (57, 70))], ids=["all four", "AdaptSegNet"]
)
def test_logits_are_those_of_the_restated_network(branches: int, size: tuple[int, int]) -> None:
    network = trained(DeepLabV2VGG16(7, aspp_branches=branches))
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        logits = network(images).logits
        expected = restated_logits(network.state_dict(), images, (6, 12, 18, 24)[:branches])
    assert logits.shape == expected.shape
    scale = expected.abs().max()
    assert scale > 0.01
    assert (logits - expected).abs().max() < 1e-5 * max(1.0, float(scale))


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = build_network("deeplab_v2_vgg16", 19).state_dict()
    parts = ("weight", "bias")
    expected = {f"features.{index}.{part}" for index in DILATION_AT for part in parts}
    expected |= {f"classifier.conv2d_list.{i}.{part}" for i in range(4) for part in parts}
    assert set(state) == expected
    assert state["features.0.weight"].shape == (64, 3, 3, 3)
    assert state["features.27.weight"].shape == (512, 512, 3, 3)
    assert state["features.29.weight"].shape == (1024, 512, 3, 3)
    assert state["features.31.weight"].shape == (1024, 1024, 3, 3)
    assert state["classifier.conv2d_list.3.weight"].shape == (19, 1024, 3, 3)


@pytest.mark.parametrize(("size", "cells"), [(512, 64), (64, 8), (63, 7), (8, 1)])
def test_the_grid_has_the_stated_size(size: int, cells: int) -> None:
    with torch.device("meta"):
        output = DeepLabV2VGG16(3)(torch.empty(1, 3, size, 48))
    assert output.logits.shape == (1, 3, cells, 6)
    assert output.features.shape == (1, 1024, cells, 6)


@pytest.mark.usefixtures("narrow")
def test_what_learns_gets_gradient_and_only_summed_branches_are_the_classifier() -> None:
    torch.manual_seed(0)
    network = DeepLabV2VGG16(5, aspp_branches=2).train()
    logits = network(torch.randn(2, 3, 64, 64)).logits
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {
        f"classifier.conv2d_list.{i}.{part}" for i in (2, 3) for part in ("weight", "bias")
    }
    assert len(list(network.classifier_parameters())) == 4


def test_a_signal_survives_the_depth_of_an_untrained_network() -> None:
    torch.manual_seed(0)
    features = DeepLabV2VGG16(5)(torch.randn(1, 3, 64, 64)).features
    assert features is not None
    assert 0.1 < float(features.detach().std()) < 10


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("branches", [2, 4])
def test_a_published_checkpoint_is_imported_with_its_preprocessing_and_gives_its_logits(
    tmp_path: Path, branches: int
) -> None:
    torch.manual_seed(0)
    source = trained(DeepLabV2VGG16(19, aspp_branches=branches), branches)
    wrapped = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": wrapped, "iteration": 9}, tmp_path / "vgg.pth")
    bundle = import_bundle(
        tmp_path / "vgg.pth",
        "deeplab_v2_vgg16",
        label_space("cityscapes19"),
        tmp_path / "bundle",
        input_size=(1024, 512),
    )
    assert bundle.manifest.network.arguments == {"aspp_branches": branches}
    seen = bundle.manifest.input
    assert (seen.colour, seen.std) == ("bgr", (1, 1, 1))
    assert seen.mean == pytest.approx((104.00698793, 116.66876762, 122.67891434))
    network = load_network(bundle, torch.device("cpu"))
    images = torch.randn(1, 3, 40, 56)
    assert torch.equal(network(images).logits, source(images).logits)
    assert network.align_corners


@pytest.mark.usefixtures("narrow")
def test_an_untrained_network_sums_four_branches(tmp_path: Path) -> None:
    torch.save(DeepLabV2VGG16(19).state_dict(), tmp_path / "new.pth")
    state = read_checkpoint(tmp_path / "new.pth")
    assert detect_vgg_arguments(state) == {"num_classes": 19, "aspp_branches": 4}


def test_other_weights_are_not_taken_for_it(tmp_path: Path) -> None:
    torch.save(build_network("fast_scnn", 19).state_dict(), tmp_path / "other.pth")
    with pytest.raises(NetworkError, match=r"other\.pth: .* not in the layout of DeepLabV2 over"):
        import_bundle(
            tmp_path / "other.pth",
            "deeplab_v2_vgg16",
            label_space("cityscapes19"),
            tmp_path / "bundle",
            input_size=(96, 64),
        )
    assert not (tmp_path / "bundle").exists()


def test_another_number_of_branches_is_refused() -> None:
    with pytest.raises(NetworkError, match="aspp_branches is 3"):
        build_network("deeplab_v2_vgg16", 19, aspp_branches=3)
