"""DeepLabV2 against an independent restatement, driven by the names of the published weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.networks import build_network
from roadshift.adapt.networks.deeplab_v2 import DeepLabV2
from roadshift.runtime.errors import NetworkError
from torch import Tensor

SMALL = (1, 1, 2, 1)

State = Mapping[str, Tensor]


def restated_logits(state: State, images: Tensor, head: str, rates: tuple[int, ...]) -> Tensor:
    """The published forward pass, from nothing but the state dict."""

    def norm(x: Tensor, at: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{at}.{part}"].view(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def block(x: Tensor, at: str, stride: int, rate: int) -> Tensor:
        y = norm(F.conv2d(x, state[f"{at}.conv1.weight"], stride=stride), f"{at}.bn1").clamp(min=0)
        y = F.conv2d(y, state[f"{at}.conv2.weight"], padding=rate, dilation=rate)
        y = norm(y, f"{at}.bn2").clamp(min=0)
        y = norm(F.conv2d(y, state[f"{at}.conv3.weight"]), f"{at}.bn3")
        if f"{at}.downsample.0.weight" in state:
            x = F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=stride)
            x = norm(x, f"{at}.downsample.1")
        return (x + y).clamp(min=0)

    x = norm(F.conv2d(images, state["conv1.weight"], stride=2, padding=3), "bn1").clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    for stage, stride, rate in [(1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 1, 4)]:
        index = 0
        while f"layer{stage}.{index}.conv1.weight" in state:
            x = block(x, f"layer{stage}.{index}", stride if index == 0 else 1, rate)
            index += 1
    maps = [
        F.conv2d(
            x,
            state[f"{head}.conv2d_list.{i}.weight"],
            state[f"{head}.conv2d_list.{i}.bias"],
            padding=rate,
            dilation=rate,
        )
        for i, rate in enumerate(rates)
    ]
    return torch.stack(maps).sum(0)


def trained(network: DeepLabV2, seed: int = 0) -> DeepLabV2:
    """Every weight and statistic drawn at random, so that nothing agrees by being 0 or 1."""
    generator = torch.Generator().manual_seed(seed)

    def fill(value: Tensor, low: float, high: float) -> None:
        value.uniform_(low, high, generator=generator)

    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                fill(value, 0.5, 2.0)
            elif name.endswith(("running_mean", "bias")):
                fill(value, -0.2, 0.2)
            elif value.ndim == 1 and name.endswith("weight"):
                fill(value, 0.3, 0.8)
            elif value.ndim == 4:
                spread = (3 / value[0].numel()) ** 0.5
                fill(value, -spread, spread)
    return network.eval()


def assert_same_logits(network: DeepLabV2, images: Tensor, head: str, branches: int) -> None:
    with torch.no_grad():
        logits = network(images).logits
        state = network.state_dict()
        expected = restated_logits(state, images, head, (6, 12, 18, 24)[:branches])
    assert logits.shape == expected.shape
    scale = expected.abs().max()
    assert scale > 0.01
    assert (logits - expected).abs().max() < 1e-5 * max(1.0, float(scale))


@pytest.mark.parametrize("size", [(64, 96), (57, 70)], ids=str)
@pytest.mark.parametrize(
    ("arguments", "head", "branches"),
    [
        ({}, "layer6", 4),
        ({"multi_level": True}, "layer6", 4),
        ({"multi_level": True, "aspp_branches": 2}, "layer6", 2),
        ({"head": "layer5", "aspp_branches": 2}, "layer5", 2),
    ],
    ids=["AdvEnt and IAPC", "AdvEnt multi", "AdaptSegNet multi", "AdaptSegNet single"],
)
def test_logits_are_those_of_the_restated_network(
    arguments: dict[str, Any], head: str, branches: int, size: tuple[int, int]
) -> None:
    network = trained(DeepLabV2(7, layers=SMALL, **arguments))
    assert_same_logits(network, torch.randn(2, 3, *size), head, branches)


def test_the_full_resnet_101_gives_the_restated_logits() -> None:
    network = build_network("deeplab_v2_resnet101", 19)
    assert isinstance(network, DeepLabV2)
    assert_same_logits(trained(network), torch.randn(1, 3, 24, 40), "layer6", 4)


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = DeepLabV2(19, multi_level=True).state_dict()
    names = {name for name in state if not name.endswith("num_batches_tracked")}
    norm = {"weight", "bias", "running_mean", "running_var"}
    expected = {"conv1.weight"} | {f"bn1.{part}" for part in norm}
    for stage, blocks in enumerate((3, 4, 23, 3), start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            expected |= {f"{at}.conv{i}.weight" for i in (1, 2, 3)}
            expected |= {f"{at}.bn{i}.{part}" for i in (1, 2, 3) for part in norm}
        at = f"layer{stage}.0.downsample"
        expected |= {f"{at}.0.weight"} | {f"{at}.1.{part}" for part in norm}
    for head in ("layer5", "layer6"):
        expected |= {f"{head}.conv2d_list.{i}.{p}" for i in range(4) for p in ("weight", "bias")}
    assert names == expected
    assert state["layer5.conv2d_list.3.weight"].shape == (19, 1024, 3, 3)
    assert state["layer6.conv2d_list.3.weight"].shape == (19, 2048, 3, 3)
    assert state["layer4.0.conv1.weight"].shape == (512, 1024, 1, 1)


@pytest.mark.parametrize(("size", "cells"), [(512, 65), (64, 9), (63, 9), (62, 8), (9, 2), (1, 1)])
def test_the_grid_has_the_stated_size(size: int, cells: int) -> None:
    with torch.device("meta"):
        output = DeepLabV2(3, layers=SMALL)(torch.empty(1, 3, size, 64))
    assert output.logits.shape == (1, 3, cells, 9)
    assert output.features.shape == (1, 2048, cells, 9)


@pytest.mark.parametrize("arguments", [{}, {"multi_level": True, "aspp_branches": 2}], ids=str)
def test_what_learns_gets_gradient_and_normalisation_moves_but_does_not_learn(
    arguments: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    network = DeepLabV2(5, layers=SMALL, **arguments).train()
    logits = network(torch.randn(2, 3, 64, 64)).logits
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    norms = {n for n in frozen if ".bn" in n or n.startswith("bn1") or "downsample.1" in n}
    assert len(norms) == 2 * (1 + 3 * sum(SMALL) + len(SMALL))
    assert all(n.startswith("layer5.") or n > "layer6.conv2d_list.2" for n in frozen - norms)
    assert all(b.any() for n, b in network.named_buffers() if n.endswith("running_mean"))


def test_classifier_parameters_are_the_branches_that_are_summed() -> None:
    with torch.device("meta"):
        assert len(list(DeepLabV2(5, layers=SMALL).classifier_parameters())) == 8
        two = DeepLabV2(5, layers=SMALL, multi_level=True, aspp_branches=2)
    assert len(list(two.classifier_parameters())) == 4


def test_the_reference_feature_layer_is_the_third_stage() -> None:
    with torch.device("meta"):
        network = DeepLabV2(5, layers=SMALL)
        assert network.reference_feature_layer is not None
        stage = network.get_submodule(network.reference_feature_layer)
        assert stage(torch.empty(1, 512, 4, 4)).shape == (1, 1024, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"head": "layer7"}, "head is 'layer7'"),
        ({"multi_level": True, "head": "layer5"}, "head is layer6"),
        ({"aspp_branches": 3}, "aspp_branches is 3"),
        ({"layers": (3, 4, 23)}, "layers is"),
        ({"layers": (3, 4, 0, 3)}, "layers is"),
        ({"layers": 5}, "layers is"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(NetworkError, match=sentence):
        build_network("deeplab_v2_resnet101", 19, **arguments)
